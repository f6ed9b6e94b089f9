"""The store of members: people by e-mail address, and their role on an account or as operator."""

from dataclasses import dataclass

from farebox.model import Role
from farebox.storage.sql import Connection, row, rows

INSTALLATION = ""
"""The account of the operators' role."""


@dataclass(frozen=True, slots=True)
class Member:
    account_id: str
    email: str
    role: Role
    created_at: int


_FIELDS = "account_id, email, role, created_at"


def put_member(connection: Connection, member: Member) -> None:
    """Add somebody, or change their role."""
    connection.execute(
        f"INSERT INTO members ({_FIELDS}) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (account_id, email) DO UPDATE SET role = excluded.role",
        (member.account_id, member.email, member.role, member.created_at),
    )


def role_of(connection: Connection, account_id: str, email: str) -> Role | None:
    found = row(connection, "SELECT role FROM members WHERE account_id = ? AND email = ?", (account_id, email))
    return None if found is None else Role(found[0])


def list_members(connection: Connection, account_id: str) -> list[Member]:
    found = rows(connection, f"SELECT {_FIELDS} FROM members WHERE account_id = ? ORDER BY email", (account_id,))
    return [_member(fields) for fields in found]


def memberships(connection: Connection, email: str) -> list[Member]:
    """What somebody is a member of, in order of account; the operator's first."""
    found = rows(connection, f"SELECT {_FIELDS} FROM members WHERE email = ? ORDER BY account_id", (email,))
    return [_member(fields) for fields in found]


def remove_member(connection: Connection, account_id: str, email: str) -> None:
    connection.execute("DELETE FROM members WHERE account_id = ? AND email = ?", (account_id, email))


def _member(fields: tuple[object, ...]) -> Member:
    account_id, email, role, created_at = fields
    return Member(str(account_id), str(email), Role(str(role)), int(str(created_at)))
