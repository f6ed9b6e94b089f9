"""The members of an account: adding them, their roles, and links for them."""

from farebox.errors import NOT_FOUND, VALIDATION_FAILED, Problem
from farebox.http.envelope import Response
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit
from farebox.identity import mailing, membership, sessions
from farebox.identity.sessions import INVITATION_MS, LinkHolder
from farebox.model import Role

_PAGE = 25
ROLES = {
    Role.OWNER: "everything",
    Role.BILLING: "money: buying, cards, invoices",
    Role.DEVELOPER: "calls, tokens and limits; no payments",
    Role.VIEWER: "read only",
}


async def member_list(visit: Visit) -> Shown:
    """The account's members."""
    found = await membership.of_account(visit.services, visit.account_id)
    return {
        **visit.part_of("members", found, _PAGE),
        "own": visit.session.sign_in.email,
        "roles": {role: f"{role}: {says}" for role, says in ROLES.items()},
    }


async def put(visit: Visit, form: Fields) -> str:
    """Invite a person, or change a member's role."""
    role = next((role for role in ROLES if role == form.get("role")), None)
    if role is None:
        raise Problem(VALIDATION_FAILED, "Choose one of the roles", path=("body", "role"))
    member = await membership.add(visit.services, visit.account_id, form.get("email", ""), role, invited=True)
    if member.accepted_at is not None:
        return f"{member.email} now has the role {member.role}."
    url = _sign_in_url(visit)
    where = f" They can accept when they sign in at {url}." if url else " Create a link for them."
    return f"{member.email} has been invited as {member.role}.{where}"


def _sign_in_url(visit: Visit) -> str:
    """Where members can sign in by themselves; empty: nowhere, because there is no way to prove an e-mail address."""
    services = visit.services
    if mailing.available(services) or services.identity_provider is not None:
        return f"{services.base_url}/ui/sign-in"
    return ""


async def remove(visit: Visit, form: Fields) -> str:
    """Remove a member, and end their sessions here."""
    email = form.get("email", "")
    await membership.remove(visit.services, visit.account_id, email)
    return f"{email} is no longer a member."


async def link(visit: Visit, form: Fields) -> Response:
    """A sign-in link for a member, shown once."""
    email = form.get("email", "")
    if email not in [member.email for member in await membership.of_account(visit.services, visit.account_id)]:
        raise Problem(NOT_FOUND, "This member does not exist")
    holder = LinkHolder(account_id=visit.account_id, email=email, vouched=True, lasts_ms=INVITATION_MS)
    made = await sessions.make_link(visit.services, holder)
    shown = {"title": f"A link for {email}", "link": made, "email": email, "sign_in_url": _sign_in_url(visit)}
    return shell(visit, "member_link.html", shown, "/ui/members")
