"""Policies on the pages: drafted, committed, and simulated for a call."""

import re
from html import unescape
from typing import Any

import httpx
import pytest

from farebox.model import Role
from tests.pages.forms import form_of
from tests.pages.people import Person, person
from tests.support import Customer, Farebox

HOSTILE = """"><script>alert(1)</script>"""
HERE = "/ui/gateways/default/policies"


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    made = person(farebox, Role.OWNER, customer.account_id)
    made.get("/ui/gateways")
    return made


def stored(customer: Customer) -> list[dict[str, Any]]:
    """The policies as the API returns them, including drafts."""
    url = f"{customer.api_url}/ai-gateway/gateways/default/policies"
    found: list[dict[str, Any]] = httpx.get(url, headers=customer.headers, params={"includeStaging": "true"}).json()[
        "result"
    ]
    return found


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_a_policy_is_drafted_simulated_committed_changed_and_deleted(owner: Person, customer: Customer) -> None:
    form = form_of(owner.get(HERE).text, name="") | {"name": HOSTILE, "action.type": "block", "actor": "all"}
    page = owner.submit(HERE, **form, do="draft")
    assert "not in force yet" in page
    assert "<script>alert" not in page
    assert customer.chat("x").status_code == 200
    tried = unescape(owner.send(f"{HERE}/simulate", model="demo/demo-1").text)
    assert f"refused by the policy {HOSTILE}" in tried
    assert form_of(tried, model="demo/demo-1")
    assert "1 policy is now in force" in owner.submit(f"{HERE}/commit")
    assert customer.chat("x").status_code == 403

    (policy,) = stored(customer)
    form = form_of(owner.get(HERE, policy=policy["id"]).text, policy=policy["id"], name=HOSTILE)
    changed = {"action.type": "limit", "action.amount": "0.5", "action.period": "weekly", "actor": "user:{user}"}
    assert "is now in force" in owner.submit(HERE, **form | changed, do="force")
    (policy,) = stored(customer)
    assert policy["action"] == {"type": "limit", "amount": 0.5, "period": "weekly", "technique": "named-interval"}
    assert customer.chat("x", user="ada").status_code == 200
    assert customer.chat("x").status_code == 403, "without a user no policy matches"
    tried = unescape(owner.send(f"{HERE}/simulate", model="demo/demo-1", **{"identity.user": "ada"}).text)
    assert "allowed" in tried
    assert "The call must fit into the budget of 0.50 USD per week for user:ada" in tried
    assert "no policy matches the call" in owner.send(f"{HERE}/simulate", model="demo/demo-1").text
    assert "Deleted" in owner.submit(f"{HERE}/delete", policy=policy["id"])
    assert stored(customer) == []


@pytest.mark.parametrize(
    ("fields", "resource", "action"),
    [
        (
            {"action.type": "except", "resource.model": "demo/*\na/b"},
            {"model": ["demo/*", "a/b"]},
            {"type": "block", "except": True},
        ),
        ({"action.type": "no-limit", "resource.provider": "demo"}, {"provider": ["demo"]}, {"type": "no-limit"}),
    ],
)
def test_the_form_matches_the_api(
    owner: Person, customer: Customer, fields: dict[str, str], resource: object, action: object
) -> None:
    form = form_of(owner.get(HERE).text, name="") | {"name": "n", "condition": 'user != "x"'} | fields
    owner.submit(HERE, **form, do="draft")
    (policy,) = stored(customer)
    assert (policy["resource"], policy["action"], policy["condition"]) == (resource, action, 'user != "x"')
    again = form_of(owner.get(HERE, policy=policy["id"]).text, policy=policy["id"], name="n")
    assert {name: again[name] for name in fields} == fields
    assert "still a draft" in unescape(owner.submit(HERE, **again, do="draft"))


@pytest.mark.parametrize(
    ("changed", "at", "said"),
    [
        ({"name": ""}, "name", "Fill this in"),
        ({"condition": "nobody"}, "condition", "The condition uses “nobody”, which does not exist"),
        ({"actor": "{nobody}"}, "actor", "Invalid actor"),
        ({"action.amount": ""}, "action.amount", "Fill this in"),
        ({"action.amount": "-1"}, "action.amount", "a number above 0"),
        ({"action.amount": "1e400"}, "action.amount", "Enter a number of at most"),
        ({"action.type": "zz"}, "action.type", "Choose one of these: allow, up to a limit; allow without a limit;"),
        ({"condition": "1"}, "condition", "The condition must be true or false"),
        ({"condition": '{"a":'}, "condition", "The condition is not complete"),
        ({"resource.provider": HOSTILE}, "resource.provider", "There is no provider"),
    ],
)
def test_policy_errors_are_shown_at_their_field(
    owner: Person, customer: Customer, changed: dict[str, str], at: str, said: str
) -> None:
    form = form_of(owner.get(HERE).text, name="") | {"name": "n", "action.amount": "1"} | changed
    page = owner.submit(HERE, **form, do="force")
    assert "<script>alert" not in page
    found = re.search(rf'<p id="{re.escape(at)}-fault" class="hint bad">([^<]*)</p>', page)
    assert found is not None, page
    assert said in unescape(found.group(1))
    assert stored(customer) == []
    assert 'id="call-model-fault"' in owner.send(f"{HERE}/simulate", model="").text
