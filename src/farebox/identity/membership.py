"""Who is a member of an account, and in which role. People are known by their e-mail addresses, in lower case.

Times are milliseconds since the Unix epoch.
"""

import re
from dataclasses import dataclass
from functools import partial

from farebox.errors import LAST_OWNER, NOT_FOUND, VALIDATION_FAILED, Problem
from farebox.model import Operator, Role
from farebox.quoting import quoted
from farebox.runtime.services import Services
from farebox.storage import members, passkeys, sessions
from farebox.storage.accounts import find_account
from farebox.storage.config import lock_configuration
from farebox.storage.members import INSTALLATION, Member
from farebox.storage.operator_actions import record_action
from farebox.storage.sql import Connection

MEMBERS_MAX = 500
"""Most members of one account, including those who are invited."""
INVITATIONS_SHOWN = 50
_EMAIL = re.compile(r"[^@\s<>\",;]{1,64}@[^@\s<>\",;]{1,190}")
_INTERNET_DOMAIN = re.compile(r"([^.]+\.)+[^.]+")


def email_of(text: str) -> str:
    """An e-mail address as it is stored. Raises Problem (VALIDATION_FAILED)."""
    email = text.strip().lower()
    if not email.isprintable() or not _EMAIL.fullmatch(email):
        raise _no_email()
    return email


def _no_email() -> Problem:
    return Problem(VALIDATION_FAILED, "Enter an e-mail address, such as ada@example.com", path=("body", "email"))


def put(
    connection: Connection,
    account_id: str,
    email: str,
    role: Role,
    at: int,
    *,
    by: Operator | None = None,
    invited: bool = False,
) -> Member:
    """Add a person to an account, or as an operator; or change their role. If `invited`, they have the role once they
    accept it. `by`, as below: the operator who does it, if an operator does. Raises Problem (VALIDATION_FAILED,
    LAST_OWNER)."""
    if (role is Role.OPERATOR) != (account_id == INSTALLATION):
        raise Problem(VALIDATION_FAILED, "Choose one of the roles", path=("body", "role"))
    member = Member(account_id, email_of(email), role, at, None if invited else at)
    known = {each.email for each in members.list_members(connection, account_id)}
    if invited and member.email not in known and not _INTERNET_DOMAIN.fullmatch(member.email.partition("@")[2]):
        raise _no_email()  # a typo; an operator may still name members in a local network, such as root@localhost
    if len(known) >= MEMBERS_MAX and member.email not in known:
        raise Problem(
            VALIDATION_FAILED,
            f"An account can have at most {MEMBERS_MAX} members: remove one first",
            path=("body", "email"),
        )
    before = members.role_of(connection, account_id, member.email)
    if by is None and role is not Role.OWNER:
        _check_owner_left(connection, account_id, member.email)
    members.put_member(connection, member)
    if by is not None:
        was = None if before is None else {"role": before}
        record_action(
            connection,
            by,
            "member.set",
            at,
            account_id=account_id,
            subject=member.email,
            before=was,
            after={"role": role},
        )
    return members.find_member(connection, account_id, member.email) or member


def _check_owner_left(connection: Connection, account_id: str, email: str) -> None:
    """Raises Problem (LAST_OWNER) if the account would be without an owner, whom only the operator could replace."""
    lock_configuration(connection)  # two owners may remove each other at the same moment
    found = members.list_members(connection, account_id)
    if [each.email for each in found if each.role is Role.OWNER and each.accepted_at is not None] == [email]:
        raise Problem(LAST_OWNER, "This is the only owner of the account")


async def add(services: Services, account_id: str, email: str, role: Role, *, invited: bool = False) -> Member:
    """Like `put`, in its own transaction."""
    at = services.clock.now_ms()
    return await services.database.write(
        lambda connection: put(connection, account_id, email, role, at, invited=invited)
    )


@dataclass(frozen=True, slots=True)
class Invitation:
    """An account that a person is invited to."""

    account_id: str
    name: str
    role: Role
    at: int


async def invitations(services: Services, email: str) -> list[Invitation]:
    """A person's invitations, latest first."""

    def read(connection: Connection) -> list[Invitation]:
        found = members.invitations(connection, email, INVITATIONS_SHOWN)
        named = [(each, find_account(connection, each.account_id)) for each in found]
        return [
            Invitation(each.account_id, to.name, each.role, each.created_at) for each, to in named if to is not None
        ]

    return await services.database.scan(read)


async def accept(services: Services, email: str, account_id: str) -> None:
    """Accept an invitation. Raises Problem (NOT_FOUND)."""
    at = services.clock.now_ms()
    if not await services.database.write(lambda connection: members.accept(connection, account_id, email, at)):
        raise Problem(NOT_FOUND, "This invitation no longer exists")


async def decline(services: Services, email: str, account_id: str) -> None:
    """Decline an invitation. Raises Problem (NOT_FOUND)."""
    at = services.clock.now_ms()

    def job(connection: Connection) -> bool:
        found = members.find_member(connection, account_id, email)
        return found is not None and found.accepted_at is None and drop(connection, account_id, email, at)

    if not await services.database.write(job):
        raise Problem(NOT_FOUND, "This invitation no longer exists")


async def remove(services: Services, account_id: str, email: str) -> None:
    """Like `drop`, in its own transaction. Raises Problem (NOT_FOUND, LAST_OWNER)."""
    at = services.clock.now_ms()
    if not await services.database.write(lambda connection: drop(connection, account_id, email, at)):
        raise Problem(
            NOT_FOUND, f"{quoted(email)} is not a member of the account" if email else "Choose a member to remove"
        )


def drop(connection: Connection, account_id: str, email: str, at: int, *, by: Operator | None = None) -> bool:
    """Remove a member, or an invitation, and end their sessions on the account; if they are no longer a member of
    anything, their passkeys are removed too, because the address may belong to someone else one day. Returns whether
    there was such a member. Raises Problem (LAST_OWNER)."""
    before = members.find_member(connection, account_id, email)
    if by is None:
        _check_owner_left(connection, account_id, email)
    members.remove_member(connection, account_id, email)
    sessions.remove_of(connection, account_id, email)
    if before is not None and not members.memberships(connection, email):
        passkeys.remove_all(connection, email)
    if by is not None and before is not None:
        was = {"role": before.role}
        record_action(connection, by, "member.remove", at, account_id=account_id, subject=email, before=was)
    return before is not None


async def of_account(services: Services, account_id: str) -> list[Member]:
    """The members of an account, by e-mail address."""
    return await services.database.scan(partial(members.list_members, account_id=account_id))


async def accounts_of(services: Services, email: str) -> dict[str, str]:
    """The accounts that a person is a member of: ID → name."""

    def read(connection: Connection) -> dict[str, str]:
        ids = [each.account_id for each in members.memberships(connection, email)]
        found = (find_account(connection, account_id) for account_id in ids if account_id != INSTALLATION)
        return {account.account_id: account.name for account in found if account is not None}

    return await services.database.scan(read)
