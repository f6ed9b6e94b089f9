"""The store of members: people by e-mail address, and their role on an account or as operator.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass
from typing import Any

from farebox.model import Role
from farebox.storage.sql import Connection, row, rows

INSTALLATION = ""
"""The account ID under which the role of operators is stored."""


@dataclass(frozen=True, slots=True)
class Member:
    account_id: str
    email: str
    role: Role
    created_at: int
    accepted_at: int | None
    """None: they are invited, and have no role until they accept."""


_FIELDS = "account_id, email, role, created_at, accepted_at"


def put_member(connection: Connection, member: Member) -> None:
    """Add a member, or change their role; someone who has accepted stays accepted."""
    connection.execute(
        f"INSERT INTO members ({_FIELDS}) VALUES (?, ?, ?, ?, ?) ON CONFLICT (account_id, email) DO UPDATE SET "
        "role = excluded.role, accepted_at = coalesce(members.accepted_at, excluded.accepted_at)",
        (member.account_id, member.email, member.role, member.created_at, member.accepted_at),
    )


def find_member(connection: Connection, account_id: str, email: str) -> Member | None:
    """The member with this address, who may only be invited so far; None if there is none."""
    found = row(connection, f"SELECT {_FIELDS} FROM members WHERE account_id = ? AND email = ?", (account_id, email))
    return None if found is None else _member(found)


def role_of(connection: Connection, account_id: str, email: str) -> Role | None:
    """The member's role; None for someone who is only invited."""
    found = find_member(connection, account_id, email)
    return None if found is None or found.accepted_at is None else found.role


def accept(connection: Connection, account_id: str, email: str, at: int) -> bool:
    """Accept an invitation; returns whether there was one."""
    connection.execute(
        "UPDATE members SET accepted_at = ? WHERE account_id = ? AND email = ? AND accepted_at IS NULL",
        (at, account_id, email),
    )
    return connection.changes() > 0


def list_members(connection: Connection, account_id: str) -> list[Member]:
    found = rows(connection, f"SELECT {_FIELDS} FROM members WHERE account_id = ? ORDER BY email", (account_id,))
    return [_member(fields) for fields in found]


def memberships(connection: Connection, email: str) -> list[Member]:
    """What a person is a member of, in order of account; the operators' role first."""
    found = rows(
        connection,
        f"SELECT {_FIELDS} FROM members WHERE email = ? AND accepted_at IS NOT NULL ORDER BY account_id",
        (email,),
    )
    return [_member(fields) for fields in found]


def invitations(connection: Connection, email: str, limit: int) -> list[Member]:
    """The invitations that a person has not accepted, latest first."""
    found = rows(
        connection,
        f"SELECT {_FIELDS} FROM members WHERE email = ? AND accepted_at IS NULL "
        "ORDER BY created_at DESC, account_id LIMIT ?",
        (email, limit),
    )
    return [_member(fields) for fields in found]


def remove_member(connection: Connection, account_id: str, email: str) -> None:
    connection.execute("DELETE FROM members WHERE account_id = ? AND email = ?", (account_id, email))


def _member(fields: tuple[Any, ...]) -> Member:
    account_id, email, role, created_at, accepted_at = fields
    return Member(account_id, email, Role(role), created_at, accepted_at)
