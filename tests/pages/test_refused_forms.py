"""A form that is refused is shown again with what was typed into it, and one that needs a proof says so before."""

from html import unescape

import pytest

from farebox.http.pages.form_redisplay import redisplayed_form
from farebox.identity import sessions
from farebox.model import Role
from tests.pages.forms import form_of
from tests.pages.people import Person, person
from tests.support import Farebox


@pytest.fixture
def owner(farebox: Farebox) -> Person:
    return person(farebox, Role.OWNER, farebox.create_account())


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/ui/members", {"email": 'ada" onfocus="x', "role": "billing"}),
        ("/billing/limit", {"limit-amount": "-5", "duration": "weekly", "strategy": "sliding"}),
        ("/ui/limits", {"limit": "much", "window": "week", "gateway": "default", "models": "a/b\n<c>"}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_was_typed_is_kept(owner: Person, path: str, fields: dict[str, str]) -> None:
    response = owner.send(path, **fields)
    assert response.status_code == 200
    assert 'class="note bad"' in response.text
    name, text = next(iter(fields.items()))
    kept = form_of(response.text, **{name: text})
    assert {name: kept[name] for name in fields} == fields
    assert '" onfocus="' not in response.text


def test_secrets_are_not_repeated(farebox: Farebox) -> None:
    operator = person(farebox, Role.OPERATOR, "")
    fields = {"provider": "anthropic", "api_key": "the-secret", "base_url": "nowhere"}
    page = operator.send("/ui/provider-keys", **fields).text
    assert form_of(page, base_url="nowhere")["provider"] == "anthropic"
    assert "the-secret" not in page


def test_a_refused_button_leads_back(owner: Person) -> None:
    response = owner.send("/ui/members/remove", email="nobody@example.com")
    assert (response.status_code, response.headers["location"]) == (303, "/ui/members")


def test_of_several_forms_the_one_with_the_same_hidden_values_is_filled_in() -> None:
    form = (
        '<form method="post" action="/a"><input type="hidden" name="csrf" value="s">'
        '<input type="hidden" name="row" value="{}"><input name="said" value="old">'
        '<input type="checkbox" name="on" checked>'
        "<p>1 &lt; 2 &#38; more</p></form>"
    )
    page = form.format("1") + form.format("2")
    found = redisplayed_form(page, "/a", {"csrf": "other", "row": "2", "said": "new"})
    changed = form.format("2").replace('value="old"', 'value="new"').replace(" checked", "")
    assert found == form.format("1") + changed
    assert redisplayed_form(page, "/b", {}) is None
    assert redisplayed_form(page, "/a", {"row": "3", "said": "new"}) is None


def test_a_page_whose_forms_need_a_proof_says_so_before_they_are_filled_in(farebox: Farebox, owner: Person) -> None:
    said = "need a recent confirmation that it is you"
    assert said not in owner.get("/ui/members").text
    session = owner.session
    assert session is not None
    sql, values = (
        "UPDATE sessions SET confirmed_at = confirmed_at - ? WHERE session_id = ?",
        (
            sessions.CONFIRMED_MS,
            session.sign_in.session_id,
        ),
    )
    farebox.run(farebox.services.database.write(lambda connection: connection.execute(sql, values)))
    page = owner.get("/ui/members").text
    assert said in page
    assert 'href="/ui/confirm?next=/ui/members"' in unescape(page)
    assert said not in owner.get("/ui/calls").text, "it has no such form"


def test_what_was_typed_goes_into_the_form_that_it_is_from() -> None:
    """Not into the form of another purchase, even if only that is left; the key of a form is new on each page."""

    def form(purchase: str, key: str) -> str:
        return (
            f'<form method="post" action="/refund"><input type="hidden" name="key" value="{key}">'
            f'<input type="hidden" name="top_up" value="{purchase}"><input type="text" name="reason"></form>'
        )

    sent = {"key": "old-2", "top_up": "b", "reason": "a mistake"}
    page = redisplayed_form(form("a", "new-1") + form("b", "new-2"), "/refund", sent)
    assert page is not None
    assert page.count('value="a mistake"') == 1
    assert page.index('value="b"') < page.index('value="a mistake"')
    assert redisplayed_form(form("a", "new-1"), "/refund", sent) is None
