"""Guardrails on the pages: profiles, policies, and trying them on a text."""

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
HERE = "/ui/gateways/default/guardrails"
CARD = "4111 1111 1111 1111"


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    made = person(farebox, Role.OWNER, customer.account_id)
    made.get("/ui/gateways")
    return made


def dlp(customer: Customer) -> Any:
    """The DLP policies as the API returns them."""
    url = f"{customer.api_url}/ai-gateway/gateways/default"
    return httpx.get(url, headers=customer.headers).json()["result"].get("dlp")


def profiles(customer: Customer) -> list[dict[str, Any]]:
    url = f"{customer.api_url}/farebox/dlp-profiles"
    found = httpx.get(url, headers=customer.headers, params={"per_page": 100}).json()["result"]
    return [each for each in found if each["type"] == "custom"]


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_a_policy_is_set_tried_applied_and_removed(owner: Person, customer: Customer) -> None:
    assert "would pass" in owner.send(f"{HERE}/try", text=CARD).text
    form = form_of(owner.get(HERE).text, group="dlp")
    assert (form["dlp.policies.0.enabled"], form["dlp.policies.0.check:REQUEST"]) == ("on", "on")
    form |= {"dlp.enabled": "on", "dlp.policies.0.id": "no-cards", "dlp.policies.0.profiles:payment_cards": "on"}
    assert "saved" in owner.submit(HERE, **form)
    (policy,) = dlp(customer)["policies"]
    assert policy == {
        "id": "no-cards", "enabled": True, "action": "BLOCK", "check": ["REQUEST"], "profiles": ["payment_cards"],
    }  # fmt: skip
    tried = unescape(owner.send(f"{HERE}/try", text=f"<b>größer</b> {CARD}!").text)
    assert "would be blocked" in tried
    assert re.search(rf"<mark>{CARD}<", tried)
    assert "<b>größer</b> <mark>" in tried, "the text is shown unchanged"
    assert "no-cards" in tried
    assert "would pass" in owner.send(f"{HERE}/try", text=CARD, check="RESPONSE").text
    assert customer.chat(CARD).status_code == 400

    second = form_of(owner.get(HERE).text, group="dlp")
    second |= {
        "dlp.policies.1.id": "mail",
        "dlp.policies.1.action": "FLAG",
        "dlp.policies.1.profiles:email_addresses": "on",
    }
    assert "saved" in owner.submit(HERE, **second)
    assert len(dlp(customer)["policies"]) == 2
    assert "would be flagged" in owner.send(f"{HERE}/try", text="ada@example.com").text
    third = form_of(owner.get(HERE).text, group="dlp")
    gone = [name for name in third if name.startswith("dlp.policies.0.profiles")]
    third = {name: text for name, text in third.items() if name not in gone} | {"dlp.policies.0.id": ""}
    assert "saved" in owner.submit(HERE, **third)
    assert [policy["id"] for policy in dlp(customer)["policies"]] == ["mail"]


def test_the_short_form_is_shown_expanded(owner: Person, customer: Customer) -> None:
    url = f"{customer.api_url}/ai-gateway/gateways/default"
    short = {"dlp": {"enabled": True, "action": "FLAG", "profiles": ["iban"]}}
    assert httpx.patch(url, headers=customer.headers, json=short).status_code == 200
    form = form_of(owner.get(HERE).text, group="dlp")
    assert form["dlp.policies.0.profiles:iban"] == "on"
    assert "saved" in owner.submit(HERE, **form)
    (policy,) = dlp(customer)["policies"]
    assert (policy["action"], policy["check"]) == ("FLAG", ["REQUEST", "RESPONSE"])


def test_policy_errors_are_shown_at_their_field(owner: Person, customer: Customer) -> None:
    form = form_of(owner.get(HERE).text, group="dlp") | {"dlp.enabled": "on", "dlp.policies.0.profiles:iban": "on"}
    page = unescape(owner.submit(HERE, **form))
    assert "Nothing was saved" in page
    assert 'id="dlp.policies.0.id-fault"' in page
    del form["dlp.policies.0.check:REQUEST"]
    page = unescape(owner.submit(HERE, **form | {"dlp.policies.0.id": HOSTILE}))
    assert 'id="dlp.policies.0.check-fault"' in page
    assert "<script>alert" not in owner.submit(HERE, **form | {"dlp.policies.0.id": HOSTILE})
    assert dlp(customer) is None
    assert "settings do not exist" in owner.submit(HERE, group="guardrails"), "without a scorer"


def test_a_profile_is_created_searched_for_changed_and_deleted(owner: Person, customer: Customer) -> None:
    page = owner.get("/ui/dlp-profiles").text
    form = form_of(page, name="") | {
        "name": HOSTILE,
        "entries.0.name": "code name",
        "entries.0.keyword": "Blue Harvest",
        "entries.1.name": "ticket",
        "entries.1.regex": r"\bPRJ-[0-9]{3,}\b",
    }
    assert "<script>alert" not in owner.submit("/ui/dlp-profiles", **form)
    (made,) = profiles(customer)
    assert [entry.get("keyword") for entry in made["entries"]] == ["Blue Harvest", None]
    one = f"/ui/dlp-profiles/{made['id']}"
    again = form_of(owner.get(one).text, name=HOSTILE)
    assert "Saved the profile" in owner.submit(one, **again | {"name": "Projects"})
    (saved,) = profiles(customer)
    assert saved["entries"] == made["entries"], "unchanged fields stay, and it is enabled"

    policy = {"dlp.enabled": "on", "dlp.policies.0.id": "x", f"dlp.policies.0.profiles:{made['id']}": "on"}
    assert "saved" in owner.submit(HERE, **form_of(owner.get(HERE).text, group="dlp") | policy)
    tried = owner.send(f"{HERE}/try", text="PRJ-123 is blue  HARVEST").text
    assert "Projects: code name, ticket" in tried
    assert "in use by the gateways default" in owner.submit(f"{one}/delete")
    without = {name: text for name, text in policy.items() if "profiles" not in name} | {"dlp.policies.0.id": ""}
    cleared = {
        name: text for name, text in form_of(owner.get(HERE).text, group="dlp").items() if "profiles" not in name
    }
    assert "saved" in owner.submit(HERE, **cleared | without)
    assert "Deleted" in owner.submit(f"{one}/delete")
    assert owner.get(one).status_code == 404


@pytest.mark.parametrize(
    ("changed", "at", "said"),
    [
        ({"entries.0.regex": "("}, "entries.0.regex", ""),
        ({"entries.0.keyword": "x"}, "entries.0.keyword", "at least 2 characters"),
        ({"entries.0.name": "", "entries.0.keyword": "word"}, "entries.0.name", "Fill this in"),
        (
            {"entries.0.keyword": "word", "entries.0.regex": "word"},
            "entries.0.name",
            "Enter either a keyword or a pattern, and not both",
        ),
        ({"name": ""}, "name", "Fill this in"),
    ],
)
def test_profile_errors_are_shown_at_their_field(
    owner: Person, customer: Customer, changed: dict[str, str], at: str, said: str
) -> None:
    form = form_of(owner.get("/ui/dlp-profiles").text, name="") | {"name": "P", "entries.0.name": "e"}
    page = unescape(owner.submit("/ui/dlp-profiles", **form | {"entries.0.keyword": ""} | changed))
    found = re.search(rf'<p id="{re.escape(at)}-fault" class="hint bad">([^<]*)</p>', page)
    assert found is not None, page
    assert said in found.group(1)
    assert profiles(customer) == []
