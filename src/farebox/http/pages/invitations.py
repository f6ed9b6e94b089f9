"""Invitations to accounts: a person who is invited has no role until they accept."""

from farebox.errors import VALIDATION_FAILED, Problem
from farebox.http.envelope import Response
from farebox.http.pages.table import Fields, Shown
from farebox.http.pages.visit import HOME, Visit, see_other
from farebox.identity import membership, sessions


async def invitation_list(visit: Visit) -> Shown:
    """The person's invitations."""
    email = sessions.verified_email(visit.session)
    found = [] if email is None else await membership.invitations(visit.services, email)
    return {"invitations": found, "person": email}


async def accept(visit: Visit, form: Fields) -> Response:
    """Accept an invitation, and show the account."""
    account_id = form.get("account", "")
    await membership.accept(visit.services, _person(visit), account_id)
    await sessions.switch_account(visit.services, visit.session, account_id)
    return see_other(HOME)


async def decline(visit: Visit, form: Fields) -> str:
    """Decline an invitation; the owner may invite the person again."""
    await membership.decline(visit.services, _person(visit), form.get("account", ""))
    return "You have declined the invitation."


def _person(visit: Visit) -> str:
    email = sessions.verified_email(visit.session)
    if email is None:
        raise Problem(
            VALIDATION_FAILED,
            "Sign in as yourself first: this session was opened by a link, which does not prove your identity",
        )
    return email
