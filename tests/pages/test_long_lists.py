"""Accounts with more tokens, limits, members or names than a page shows: nothing is lost, and each is found."""

import re
from html import unescape

import pytest

from farebox.http.pages import limits, members, names, token_names, tokens
from farebox.model import Permission, Role
from farebox.people import membership
from tests.pages.forms import form_of
from tests.pages.people import Person, person
from tests.support import Customer, Farebox

pytestmark = [pytest.mark.both_engines, pytest.mark.usefixtures("engine")]


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    return person(farebox, Role.OWNER, customer.account_id)


def pages(owner: Person, path: str, link: str = "page") -> list[str]:
    """The page at the path, and those that its links lead to, one after another."""
    found = [owner.get(path).text]
    while further := re.search(rf'href="([^"]*\b{link}=\d+)">Next', found[-1]):
        found.append(owner.get(unescape(further[1])).text)
    back = re.search(rf'href="([^"]*\b{link}=\d+)">Previous', found[-1])
    assert (back is not None) == (len(found) > 1)
    return found


def test_tokens(farebox: Farebox, owner: Person, customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SHOWN", 2)
    for _ in range(4):
        farebox.create_token(customer.account_id, Permission.RUN)
    listed = [re.findall(r'href="/ui/tokens/([\w-]+)" class="name"', page) for page in pages(owner, "/ui/tokens")]
    assert [len(each) for each in listed] == [2, 2, 1]
    ids = [token_id for each in listed for token_id in each]
    assert len(set(ids)) == 5
    assert f'<input type="hidden" name="token" value="{ids[0]}"' in owner.get("/ui/tokens").text
    owner.told("/ui/tokens/revoke", token=ids[0])
    assert ids[0] in pages(owner, "/ui/tokens")[-1], "those that are active come first"
    (found,) = pages(owner, "/ui/tokens?find=" + ids[3][:20].upper())
    assert re.findall(r'href="/ui/tokens/([\w-]+)" class="name"', found) == [ids[3]]
    assert "No matching tokens" in owner.get("/ui/tokens", find="100%").text
    monkeypatch.setattr(token_names, "CHOICES", 1)
    for path in ("/ui/limits", "/ui/calls"):
        assert ids[4] not in owner.get(path).text
        assert f'<option value="{ids[4]}" selected>' in owner.get(path, token=ids[4]).text


def test_limits_and_policies(owner: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_SHOWN", 2)
    owner.get("/ui/gateways")
    owner.told("/ui/gateways", name="other")
    for number, gateway in enumerate(("default", "other", "default", "other", "default"), 1):
        owner.told("/ui/limits", limit=str(number), window="day", technique="sliding", gateway=gateway)
        here = f"/ui/gateways/{gateway}/policies"
        fields = {"name": f"policy-{number}", "action.type": "block", "actor": "all"}
        page = owner.told(here, **form_of(owner.get(here).text, name="") | fields, do="draft")
        assert "not in force yet" in page
    found = pages(owner, "/ui/limits")
    listed = [re.findall(r'<strong class="rule">(\d)\.00 USD', page) for page in found]
    assert sorted(number for each in listed for number in each) == ["1", "2", "3", "4", "5"]
    assert [len(each) for each in listed] == [2, 2, 1]
    found = pages(owner, "/ui/limits", "policies")
    listed = [re.findall(r'<strong class="name">policy-(\d)', page) for page in found]
    assert sorted(number for each in listed for number in each) == ["1", "2", "3", "4", "5"]
    assert [len(each) for each in listed] == [2, 2, 1]


def test_members(farebox: Farebox, owner: Person, customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "_PAGE", 2)
    for number in range(5):
        farebox.run(membership.add(farebox.services, customer.account_id, f"long{number}@example.com", Role.VIEWER))
    listed = [re.findall(r"<strong class=\"name\">long(\d)@", page) for page in pages(owner, "/ui/members")]
    assert listed == [["0", "1"], ["2", "3"], ["4"]]


def test_aliases(owner: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_PAGE", 2)
    owner.get("/ui/gateways")
    here = "/ui/gateways/default/names"
    for number in range(3):
        owner.told(
            f"{here}/alias", alias=f"alias-{number}", scope=("gateway", "account")[number % 2], targets="demo/demo-1"
        )
    listed = [re.findall(r"<strong class=\"name\">alias-(\d)<", page) for page in pages(owner, here)]
    assert listed == [["0", "2"], ["1"]]
