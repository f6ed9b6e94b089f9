"""How somebody gets to the pages: a single-use link, then a session.

Links and sessions are 32 random bytes that only the browser keeps; the database has keyed hashes of them. A session
ends half a day after it began, or after two hours without a visit. Its secret changes whenever somebody proves who
they are.
"""

from dataclasses import dataclass, field, replace

from farebox.calendar import DAY_MS, HOUR_MS
from farebox.clock import Ids
from farebox.errors import LINK_EXPIRED, NOT_FOUND, Problem
from farebox.model import Permission, Role
from farebox.runtime.services import Services
from farebox.storage import members
from farebox.storage import sessions as store
from farebox.storage.accounts import find_account, find_token
from farebox.storage.members import INSTALLATION
from farebox.storage.sessions import SignIn
from farebox.storage.sql import Connection
from farebox.vault import Vault, same

LINK_MS = HOUR_MS
INVITATION_MS = 3 * DAY_MS
"""How long a link is valid that is sent to a member."""
SESSION_MS = 12 * HOUR_MS
IDLE_MS = 2 * HOUR_MS
CONFIRMED_MS = HOUR_MS
"""How long after a proof of who is there money and keys may be touched."""
_TOUCH_MS = 60_000
"""How exactly `seen_at` is kept: a page is not a write."""
_AGENT_MAX = 200

BILLING_PATH = "/billing/open"
"""A link that leads to the billing page."""
OPEN_PATH = "/ui/open"

CONFIRMING = frozenset((Permission.WRITE, Permission.BILLING_WRITE))
"""What an access token may do that can prove who is there."""


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in. `secret` is what the browser keeps."""

    sign_in: SignIn
    roles: frozenset[Role]
    """On the account that the session shows, and as operator."""
    account_name: str
    """Empty where it shows none."""
    secret: str = field(repr=False)

    @property
    def account_id(self) -> str:
        return self.sign_in.account_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Whom:
    """Whom a link signs in: a member by e-mail address, or else whoever is given it."""

    account_id: str = INSTALLATION
    email: str | None = None
    role: Role | None = None
    operator: bool = False
    lasts_ms: int = LINK_MS


def new_link(
    connection: Connection, vault: Vault, ids: Ids, base_url: str, whom: Whom, *, at: int, path: str = OPEN_PATH
) -> str:
    """A link that signs somebody in, once. Raises Problem (NOT_FOUND) if there is no such account."""
    if whom.account_id and find_account(connection, whom.account_id) is None:
        raise Problem(NOT_FOUND, f"There is no account {whom.account_id!r}")
    secret = ids.secret()
    sign_in = SignIn(
        session_id=ids.log_id(),
        account_id=whom.account_id,
        email=whom.email,
        role=whom.role,
        operator=whom.operator,
        created_at=at,
        confirmed_at=at,
        seen_at=at,
        expires_at=at + whom.lasts_ms,
    )
    store.add(connection, vault.hash_token(secret), "link", sign_in)
    return f"{base_url}{path}?link={secret}"


async def make_link(services: Services, whom: Whom, *, path: str = OPEN_PATH) -> str:
    """As `new_link`, in a transaction of its own."""
    at = services.clock.now_ms()
    return await services.database.write(
        lambda connection: new_link(
            connection, services.vault, services.ids, services.base_url, whom, at=at, path=path
        )
    )  # fmt: skip


async def billing_link(services: Services, account_id: str, role: Role = Role.OWNER) -> str:
    """A link to the account's billing page: valid for an hour, once. Raises Problem (NOT_FOUND)."""
    return await make_link(services, Whom(account_id=account_id, role=role), path=BILLING_PATH)


async def of_link(services: Services, link: str) -> SignIn:
    """Whom the link signs in; it stays unused. Raises Problem (LINK_EXPIRED)."""
    hashed, at = services.vault.hash_token(link), services.clock.now_ms()
    found = await services.database.get(lambda connection: store.find(connection, hashed, "link", at=at))
    if found is None:
        raise _used_up()
    return found


async def open_link(services: Services, link: str, *, client: str, agent: str, before: str | None) -> Session:
    """Redeem a link: it becomes a session with a new secret, in one transaction, and the session that the browser had
    `before` ends. Raises Problem (LINK_EXPIRED)."""
    at, session_id, secret = services.clock.now_ms(), services.ids.log_id(), services.ids.secret()
    link_hash, session_hash = services.vault.hash_token(link), services.vault.hash_token(secret)

    def job(connection: Connection) -> Session | None:
        found = store.find(connection, link_hash, "link", at=at)
        if found is None:
            return None
        begun = replace(
            found,
            session_id=session_id,
            created_at=at,
            confirmed_at=at,
            seen_at=at,
            expires_at=at + SESSION_MS,
            client=client,
            agent=agent[:_AGENT_MAX],
        )
        store.remove(connection, link_hash)
        if before:
            store.remove(connection, services.vault.hash_token(before))
        store.add(connection, session_hash, "session", begun)
        return _session(connection, begun, secret)

    session = await services.database.write(job)
    if session is None:
        raise _used_up()
    return session


def _used_up() -> Problem:
    return Problem(LINK_EXPIRED, "This link has already been used, or is too old")


async def session(services: Services, secret: str | None) -> Session | None:
    """The session with this secret, if it is still valid."""
    if not secret:
        return None
    hashed, at = services.vault.hash_token(secret), services.clock.now_ms()

    def read(connection: Connection) -> Session | None:
        found = store.find(connection, hashed, "session", at=at, idle_since=at - IDLE_MS)
        return None if found is None else _session(connection, found, secret)

    found = await services.database.get(read)
    if found is not None and found.sign_in.seen_at < at - _TOUCH_MS:
        named = found.sign_in.session_id
        await services.database.write(lambda connection: store.touch(connection, named, at))
    return found


def _session(connection: Connection, sign_in: SignIn, secret: str) -> Session:
    account = find_account(connection, sign_in.account_id) if sign_in.account_id else None
    return Session(sign_in, _roles(connection, sign_in), "" if account is None else account.name, secret)


def _roles(connection: Connection, sign_in: SignIn) -> frozenset[Role]:
    """What somebody may do now: a member's role is looked up each time, so that taking it away works at once."""
    if sign_in.email is None:
        own = sign_in.role if sign_in.account_id else None
        return frozenset(filter(None, (own, Role.OPERATOR if sign_in.operator else None)))
    places = {INSTALLATION, sign_in.account_id}
    return frozenset(filter(None, [members.role_of(connection, place, sign_in.email) for place in places]))


async def end(services: Services, opened: Session) -> None:
    """Sign out."""
    hashed = services.vault.hash_token(opened.secret)
    await services.database.write(lambda connection: store.remove(connection, hashed))


async def list_open(services: Services, account_id: str) -> list[SignIn]:
    """The open sessions on an account, the latest first."""
    at = services.clock.now_ms()
    return await services.database.scan(
        lambda connection: store.list_of(connection, account_id, at=at, idle_since=at - IDLE_MS)
    )


async def end_named(services: Services, account_id: str, session_id: str) -> None:
    """End a session on an account by the ID that lists give."""
    await services.database.write(lambda connection: store.remove_named(connection, account_id, session_id))


async def turn_to(services: Services, opened: Session, account_id: str) -> None:
    """Show another account of a member's in this session. Raises Problem (NOT_FOUND) if they are no member of it."""
    email, hashed = opened.sign_in.email, services.vault.hash_token(opened.secret)

    def job(connection: Connection) -> bool:
        if email is None or not account_id or members.role_of(connection, account_id, email) is None:
            return False
        store.turn_to(connection, hashed, account_id)
        return True

    if not await services.database.write(job):
        raise Problem(NOT_FOUND, "There is no such account among yours")


# --- proofs -----------------------------------------------------------------------------------------------------------


def confirmed(services: Services, opened: Session) -> bool:
    """Whether it was proved recently who is there."""
    return services.clock.now_ms() - opened.sign_in.confirmed_at < CONFIRMED_MS


async def confirm_by_token(services: Services, opened: Session, token: str) -> Session | None:
    """Prove who is there by an access token of the account that may do everything. The session with its new secret, or
    None if the token proves nothing."""
    at, secret = services.clock.now_ms(), services.ids.secret()
    old, new, token_hash = (services.vault.hash_token(text) for text in (opened.secret, secret, token))

    def job(connection: Connection) -> bool:
        found = find_token(connection, token_hash)
        proves = found is not None and found.account_id == opened.account_id and found.active(at)
        return (
            proves and found is not None and found.permissions >= CONFIRMING and store.renew(connection, old, new, at)
        )

    return replace(opened, secret=secret) if await services.database.write(job) else None


def seal(services: Services, opened: Session, text: str) -> str:
    """A signature that proves that a text was written by this server for this session and the account it shows; forms
    and flash messages carry one.
    """
    return services.vault.hash_token(f"page\0{opened.secret}\0{opened.account_id}\0{text}").hex()


def sealed(services: Services, opened: Session, text: str, given: str) -> bool:
    """Whether `given` is the seal of the text."""
    return same(seal(services, opened, text).encode(), given.encode())
