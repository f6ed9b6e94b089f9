"""How an account's owner gets to the billing page: a single-use link, then a session of half a day.

Links and sessions are 32 random bytes that only the owner's browser keeps; the database has keyed hashes of them.
"""

from dataclasses import dataclass, field

from farebox.calendar import HOUR_MS
from farebox.errors import LINK_EXPIRED, NOT_FOUND, Problem
from farebox.runtime.services import Services
from farebox.storage import owner_sessions
from farebox.storage.accounts import find_account
from farebox.storage.sql import Connection
from farebox.vault import Vault, same

LINK_MS = HOUR_MS
SESSION_MS = 12 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Session:
    """An owner who is signed in. `secret` is what the browser keeps."""

    account_id: str
    secret: str = field(repr=False)


def new_link(connection: Connection, vault: Vault, secret: str, base_url: str, *, account_id: str, at: int) -> str:
    """A link to the account's billing page with a new secret; as `make_link`."""
    if find_account(connection, account_id) is None:
        raise Problem(NOT_FOUND, f"There is no account {account_id!r}")
    owner_sessions.add(connection, vault.hash_token(secret), "link", account_id, at=at, expires_at=at + LINK_MS)
    return f"{base_url}/billing/open?link={secret}"


async def make_link(services: Services, account_id: str) -> str:
    """A link to the account's billing page: valid for an hour, once. Raises Problem (NOT_FOUND)."""
    secret, at = services.ids.secret(), services.clock.now_ms()

    def job(connection: Connection) -> str:
        return new_link(connection, services.vault, secret, services.base_url, account_id=account_id, at=at)

    return await services.database.write(job)


async def account_of_link(services: Services, link: str) -> str:
    """The account whose billing page the link opens; the link stays unused. Raises Problem (LINK_EXPIRED)."""
    hashed, at = services.vault.hash_token(link), services.clock.now_ms()
    account_id = await services.database.get(lambda connection: owner_sessions.find(connection, hashed, "link", at))
    if account_id is None:
        raise _used_up()
    return account_id


async def open_link(services: Services, link: str) -> Session:
    """Redeem a link: it becomes a session, in one transaction. Raises Problem (LINK_EXPIRED)."""
    at = services.clock.now_ms()
    link_hash = services.vault.hash_token(link)
    secret = services.ids.secret()
    session_hash = services.vault.hash_token(secret)

    def job(connection: Connection) -> str | None:
        account_id = owner_sessions.find(connection, link_hash, "link", at)
        if account_id is None:
            return None
        owner_sessions.remove(connection, link_hash)
        owner_sessions.add(connection, session_hash, "session", account_id, at=at, expires_at=at + SESSION_MS)
        return account_id

    account_id = await services.database.write(job)
    if account_id is None:
        raise _used_up()
    return Session(account_id, secret)


def _used_up() -> Problem:
    return Problem(LINK_EXPIRED, "This link has already been used, or is older than an hour")


async def session(services: Services, secret: str | None) -> Session | None:
    """The session with this secret, if it is still valid."""
    if not secret:
        return None
    hashed, at = services.vault.hash_token(secret), services.clock.now_ms()
    account_id = await services.database.get(lambda connection: owner_sessions.find(connection, hashed, "session", at))
    return None if account_id is None else Session(account_id, secret)


async def end(services: Services, opened: Session) -> None:
    """Sign out."""
    hashed = services.vault.hash_token(opened.secret)
    await services.database.write(lambda connection: owner_sessions.remove(connection, hashed))


def seal(services: Services, opened: Session, text: str) -> str:
    """A signature that proves that a text was written by this server for this session; forms and flash messages carry
    one.
    """
    return services.vault.hash_token(f"billing page\0{opened.secret}\0{text}").hex()


def sealed(services: Services, opened: Session, text: str, given: str) -> bool:
    """Whether `given` is the seal of the text."""
    return same(seal(services, opened, text).encode(), given.encode())
