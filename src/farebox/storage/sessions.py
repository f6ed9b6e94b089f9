"""The store of sign-in links and sessions: keyed hashes of random secrets, never the secrets."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from farebox.model import Role
from farebox.storage.sql import Connection, row, rows

Kind: TypeAlias = Literal["link", "session"]
SignInMethod: TypeAlias = Literal["link", "email", "passkey", "oidc"]
"""How a person signs in: a link that they were given or sent, a passkey, or an OpenID provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """The person whom a link signs in, or who is signed in. Times in milliseconds."""

    session_id: str
    account_id: str
    """Whose pages it shows; empty: only the operator's."""
    email: str | None = None
    """The person's roles are those of the member with this address; None: the person who was given the link, with
    the role below."""
    role: Role | None = None
    operator: bool = False
    method: SignInMethod = "link"
    vouched: bool = False
    """Only an owner of the account has vouched for the e-mail address, so it is valid on this account only."""
    created_at: int
    confirmed_at: int
    seen_at: int
    expires_at: int
    client: str = ""
    agent: str = ""


_FIELDS = (
    "session_id, account_id, email, role, operator, way, vouched, created_at, confirmed_at, seen_at, expires_at, "
    "client, agent"
)


def add(connection: Connection, secret_hash: bytes, kind: Kind, sign_in: SignIn) -> None:
    """Store a new link or session, and delete those that have expired."""
    connection.execute("DELETE FROM sessions WHERE expires_at <= ?", (sign_in.created_at,))
    connection.execute(
        f"INSERT INTO sessions (hash, kind, {_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            secret_hash,
            kind,
            sign_in.session_id,
            sign_in.account_id,
            sign_in.email,
            sign_in.role,
            int(sign_in.operator),
            sign_in.method,
            int(sign_in.vouched),
            sign_in.created_at,
            sign_in.confirmed_at,
            sign_in.seen_at,
            sign_in.expires_at,
            sign_in.client,
            sign_in.agent,
        ),
    )


def find(connection: Connection, secret_hash: bytes, kind: Kind, *, at: int, idle_since: int = 0) -> SignIn | None:
    """The link or session, if it is valid at `at` and was seen after `idle_since`."""
    found = row(
        connection,
        f"SELECT {_FIELDS} FROM sessions WHERE hash = ? AND kind = ? AND expires_at > ? AND seen_at > ?",
        (secret_hash, kind, at, idle_since),
    )
    return None if found is None else _sign_in(found)


def touch(connection: Connection, session_id: str, at: int) -> None:
    """Note that a page was opened."""
    connection.execute("UPDATE sessions SET seen_at = ? WHERE session_id = ?", (at, session_id))


def renew(connection: Connection, old_hash: bytes, new_hash: bytes, at: int) -> bool:
    """Give a session a new secret, and record that the person has just proved their identity; False if there is no such
    session."""
    found = row(connection, "SELECT session_id FROM sessions WHERE hash = ? AND kind = 'session'", (old_hash,))
    if found is None:
        return False
    connection.execute(
        "UPDATE sessions SET hash = ?, confirmed_at = ?, seen_at = ? WHERE hash = ?", (new_hash, at, at, old_hash)
    )
    return True


def switch_account(connection: Connection, secret_hash: bytes, account_id: str) -> None:
    """Switch the session to another account's pages."""
    connection.execute("UPDATE sessions SET account_id = ? WHERE hash = ?", (account_id, secret_hash))


def list_of(connection: Connection, account_id: str, *, at: int, idle_since: int) -> list[SignIn]:
    """The sessions on an account that are still open, the latest first."""
    found = rows(
        connection,
        f"SELECT {_FIELDS} FROM sessions WHERE account_id = ? AND kind = 'session' AND expires_at > ? AND seen_at > ? "
        "ORDER BY seen_at DESC, session_id LIMIT 200",
        (account_id, at, idle_since),
    )
    return [_sign_in(fields) for fields in found]


def remove(connection: Connection, secret_hash: bytes) -> None:
    connection.execute("DELETE FROM sessions WHERE hash = ?", (secret_hash,))


def remove_named(connection: Connection, account_id: str, session_id: str) -> None:
    """End a session on an account, by its ID in lists."""
    connection.execute("DELETE FROM sessions WHERE account_id = ? AND session_id = ?", (account_id, session_id))


def remove_others(connection: Connection, email: str, session_id: str) -> None:
    """End all sessions and links of a person on all accounts, except this session."""
    connection.execute("DELETE FROM sessions WHERE email = ? AND session_id <> ?", (email, session_id))


def remove_of(connection: Connection, account_id: str, email: str) -> None:
    """End a person's sessions and links on an account."""
    connection.execute("DELETE FROM sessions WHERE account_id = ? AND email = ?", (account_id, email))


def _sign_in(fields: tuple[Any, ...]) -> SignIn:
    session_id, account_id, email, role, operator, method, vouched, *rest = fields
    created_at, confirmed_at, seen_at, expires_at, client, agent = rest
    return SignIn(
        session_id=session_id,
        account_id=account_id,
        email=email,
        role=None if role is None else Role(role),
        operator=bool(operator),
        method=method,
        vouched=bool(vouched),
        created_at=created_at,
        confirmed_at=confirmed_at,
        seen_at=seen_at,
        expires_at=expires_at,
        client=client,
        agent=agent,
    )
