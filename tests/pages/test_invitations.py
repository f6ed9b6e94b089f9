"""Nobody becomes a member of an account before they have accepted the invitation themselves."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from farebox.errors import LAST_OWNER, Problem
from farebox.identity import membership, sessions
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from tests.pages.people import Person, person
from tests.support import Farebox
from tests.uncommitted import uncommitted

EMAIL = "invitee@example.com"
"""Of nobody else: other tests on the same server leave members."""


def account(farebox: Farebox, name: str) -> tuple[str, Person]:
    account_id = farebox.create_account(name)
    return account_id, person(farebox, Role.OWNER, account_id)


def ada(farebox: Farebox) -> Person:
    """A user who has proved their e-mail address, on whichever page they land."""
    session = farebox.run(sessions.begin(farebox.services, EMAIL, "email", sessions.Browser()))
    who = Person(farebox, LinkHolder(operator=True))
    who.http.cookies.clear()
    who.http.cookies.set("farebox_sid", session.secret)
    return who


@pytest.mark.parametrize("email", ["a@b", "a@b.", "a@.b", "a@b..c", "a b@example.com"])
def test_an_address_without_an_internet_domain_is_not_invited(farebox: Farebox, email: str) -> None:
    _, owner = account(farebox, "Acme")
    assert "Enter an e-mail address" in owner.submit("/ui/members", email=email, role="viewer")
    assert "Choose a member to remove." in owner.submit("/ui/members/remove")
    assert "“nobody” is not a member of the account." in owner.submit("/ui/members/remove", email="nobody")


def test_an_invitation_is_accepted_by_the_invited_person(farebox: Farebox) -> None:
    account_id, owner = account(farebox, "Acme")
    assert f"{EMAIL} has been invited as developer." in owner.submit("/ui/members", email=EMAIL, role="developer")
    assert "invited</span>" in owner.get("/ui/members").text
    invited = ada(farebox)
    session = invited.session
    assert session is not None
    assert (session.account_id, session.roles) == ("", frozenset())
    for path in ("/ui/overview", "/ui/calls", "/ui/members", "/ui/sessions", "/ui/accounts"):
        response = invited.get(path)
        assert (response.status_code, response.headers["location"]) == (303, "/ui/invitations"), path
    assert invited.send("/ui/account", account=account_id).status_code == 403
    page = invited.get("/ui/invitations").text
    assert "Acme" in page
    assert "as developer" in page
    assert "Acme" in invited.submit("/ui/invitations/accept", account=account_id)
    assert [invited.get(path).status_code for path in ("/ui/tokens", "/ui/members")] == [200, 403]
    assert f"{EMAIL} now has the role viewer" in owner.submit("/ui/members", email=EMAIL, role="viewer")
    assert invited.get("/ui/tokens").status_code == 403
    assert "This invitation no longer exists" in invited.submit("/ui/invitations/accept", account=account_id)
    farebox.run(membership.remove(farebox.services, account_id, EMAIL))


def test_an_invitation_changes_nothing_for_a_member_of_another_account(farebox: Farebox) -> None:
    home, _ = account(farebox, "Home")
    account_id, owner = account(farebox, "Elsewhere")
    farebox.run(membership.add(farebox.services, home, EMAIL, Role.VIEWER))
    owner.submit("/ui/members", email=EMAIL, role="owner")
    member = ada(farebox)
    assert "Home" in member.get("/ui/overview").text
    assert "not a member of this account" in member.submit("/ui/account", account=account_id)
    assert "You are invited to an account" in member.get("/ui/sessions").text
    assert "declined" in member.submit("/ui/invitations/decline", account=account_id)
    assert EMAIL not in owner.get("/ui/members").text
    assert "invitation no longer exists" in member.submit("/ui/invitations/decline", account=home), (
        "an existing membership is not an invitation"
    )
    assert member.get("/ui/overview").status_code == 200
    farebox.run(membership.remove(farebox.services, home, EMAIL))


def test_an_account_keeps_an_owner(farebox: Farebox) -> None:
    """Only the operator can take the role of the last owner who has accepted."""
    account_id, owner = account(farebox, "Acme")
    farebox.run(membership.add(farebox.services, account_id, EMAIL, Role.OWNER))
    owner.submit("/ui/members", email="invited@example.com", role="owner")
    for path, fields in (("/ui/members", {"role": "viewer"}), ("/ui/members/remove", {})):
        assert "only owner" in owner.submit(path, email=EMAIL, **fields)
    farebox.run(membership.add(farebox.services, account_id, "second@example.com", Role.OWNER))
    assert "now has the role viewer" in owner.submit("/ui/members", email=EMAIL, role="viewer")
    assert "only owner" in owner.submit("/ui/members/remove", email="second@example.com")
    farebox.run(membership.remove(farebox.services, account_id, EMAIL))


def test_an_owners_link_proves_nobody(farebox: Farebox) -> None:
    """The link opens the account but accepts nothing, because the owner may have opened it themselves."""
    account_id, owner = account(farebox, "Acme")
    owner.submit("/ui/members", email=EMAIL, role="viewer")
    holder = LinkHolder(account_id=account_id, email=EMAIL, vouched=True)
    by_link = Person(farebox, holder)
    assert by_link.get("/ui/calls").status_code == 200
    assert "does not prove your identity" in by_link.get("/ui/invitations").text
    assert "does not prove your identity" in by_link.submit("/ui/invitations/accept", account=account_id)
    assert ada(farebox).get("/ui/calls").status_code == 303
    farebox.run(membership.remove(farebox.services, account_id, EMAIL))
    assert by_link.get("/ui/calls").headers["location"].startswith("/ui/sign-in")


@pytest.mark.parametrize("form", ["accept", "decline"])
def test_nobody_can_answer_an_invitation_for_others(farebox: Farebox, form: str) -> None:
    account_id, owner = account(farebox, "Acme")
    owner.submit("/ui/members", email=EMAIL, role="viewer")
    other_id, other = account(farebox, "Other")
    farebox.run(membership.add(farebox.services, other_id, "bob@example.com", Role.OWNER))
    bob = Person(farebox, LinkHolder(account_id=other_id, email="bob@example.com"))
    for who in (other, bob):
        response = who.send(f"/ui/invitations/{form}", account=account_id)
        assert response.headers["location"] == "/ui/invitations"
    assert "invited</span>" in owner.get("/ui/members").text
    assert httpx.post(f"{farebox.url}/ui/invitations/{form}", data={"account": account_id}).status_code == 403
    farebox.run(membership.remove(farebox.services, account_id, EMAIL))


@pytest.mark.both_engines
def test_owners_who_remove_each_other_in_two_processes_leave_one(farebox: Farebox) -> None:
    account_id, bob = farebox.create_account("Acme"), "bob@example.com"
    for email in (bob, EMAIL):
        farebox.run(membership.add(farebox.services, account_id, email, Role.OWNER))
    removing = (
        "UPDATE config_version SET version = version",  # as people.membership.drop begins
        f"DELETE FROM members WHERE account_id = '{account_id}' AND email = '{bob}'",
    )
    with ThreadPoolExecutor(1) as thread:
        with uncommitted(farebox, *removing):
            other = thread.submit(farebox.run, membership.remove(farebox.services, account_id, EMAIL))
            time.sleep(0.3)  # so that it has read who is an owner, if it reads without waiting
        with pytest.raises(Problem) as refused:
            other.result()
    assert refused.value.kind is LAST_OWNER
