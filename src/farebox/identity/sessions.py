"""How a person gets to the pages: by a single-use link or another proof of identity, and then a session.

Links and sessions are 32 random bytes that only the browser keeps; the database has keyed hashes of them. A session
ends 12 hours after it began, or after 2 hours of inactivity. Its secret changes whenever the person proves their
identity.
"""

from dataclasses import dataclass, field, replace

from farebox.calendar import DAY_MS, HOUR_MS
from farebox.clock import Ids
from farebox.errors import LINK_EXPIRED, NOT_FOUND, SIGN_IN_FAILED, VALIDATION_FAILED, Problem
from farebox.model import Operator, Permission, Role
from farebox.quoting import quoted
from farebox.runtime.services import Services
from farebox.storage import members
from farebox.storage import sessions as store
from farebox.storage.accounts import find_account, find_token
from farebox.storage.members import INSTALLATION
from farebox.storage.operator_actions import record_action
from farebox.storage.sessions import SignIn, SignInMethod
from farebox.storage.sql import Connection
from farebox.vault import Vault, same

LINK_MS = HOUR_MS
INVITATION_MS = 3 * DAY_MS
"""How long a link that is sent to an invited member is valid."""
SESSION_MS = 12 * HOUR_MS
IDLE_MS = 2 * HOUR_MS
CONFIRMED_MS = HOUR_MS
"""How long after a proof of identity actions that concern money or keys are allowed."""
_TOUCH_MS = 60_000
"""Precision of `seen_at`: most page views need no write."""
_AGENT_MAX = 200

BILLING_PATH = "/billing/open"
"""Path of a link that leads to the billing page."""
OPEN_PATH = "/ui/open"

CONFIRMING = frozenset((Permission.WRITE, Permission.BILLING_WRITE))
"""The permissions that an access token needs to prove a person's identity."""


@dataclass(frozen=True, slots=True)
class SignInSession:
    """A person who is signed in. `secret` is what the browser keeps."""

    sign_in: SignIn
    roles: frozenset[Role]
    """Their roles on the account that the session shows, and as operator."""
    account_name: str
    """Empty if the session shows no account."""
    secret: str = field(repr=False)
    frozen: bool = False
    """Whether the account is frozen."""

    @property
    def account_id(self) -> str:
        return self.sign_in.account_id


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkHolder:
    """The person whom a link signs in: a member by e-mail address, or else the person who is given the link."""

    account_id: str = INSTALLATION
    email: str | None = None
    role: Role | None = None
    operator: bool = False
    method: SignInMethod = "link"
    vouched: bool = False
    """An owner of the account creates the link, so the e-mail address that it vouches for is valid on that account
    only."""
    lasts_ms: int = LINK_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """What a request says about the browser that signs in."""

    client: str = ""
    """The client's address."""
    agent: str = ""
    before: str | None = field(default=None, repr=False)
    """The secret of the browser's current session, which ends."""


def new_link(
    connection: Connection,
    vault: Vault,
    ids: Ids,
    base_url: str,
    holder: LinkHolder,
    *,
    at: int,
    path: str = OPEN_PATH,
    by: Operator | None = None,
) -> str:
    """A link that signs a person in, once. `by` is the operator who creates it, if an operator does. Raises Problem
    (NOT_FOUND) if there is no such account."""
    if holder.account_id and find_account(connection, holder.account_id) is None:
        raise Problem(NOT_FOUND, f"There is no account {quoted(holder.account_id)}")
    secret = ids.secret()
    sign_in = SignIn(
        session_id=ids.log_id(),
        account_id=holder.account_id,
        email=holder.email,
        role=holder.role,
        operator=holder.operator,
        method=holder.method,
        vouched=holder.vouched,
        created_at=at,
        confirmed_at=at,
        seen_at=at,
        expires_at=at + holder.lasts_ms,
    )
    store.add(connection, vault.hash_token(secret), "link", sign_in)
    if by is not None:
        after = {
            "email": holder.email,
            "role": holder.role,
            "operator": holder.operator,
            "expires_at": sign_in.expires_at,
        }
        record_action(
            connection, by, "link.create", at, account_id=holder.account_id, subject=sign_in.session_id, after=after
        )
    return f"{base_url}{path}?link={secret}"


async def make_link(services: Services, holder: LinkHolder, *, path: str = OPEN_PATH) -> str:
    """Like `new_link`, in its own transaction."""
    at = services.clock.now_ms()
    return await services.database.write(
        lambda connection: new_link(
            connection, services.vault, services.ids, services.base_url, holder, at=at, path=path
        )
    )  # fmt: skip


async def billing_link(services: Services, account_id: str, role: Role = Role.OWNER) -> str:
    """A link to the account's billing page: valid for an hour, once. Raises Problem (NOT_FOUND)."""
    return await make_link(services, LinkHolder(account_id=account_id, role=role), path=BILLING_PATH)


async def of_link(services: Services, link: str) -> SignIn:
    """The person whom the link signs in; the link remains unused. Raises Problem (LINK_EXPIRED)."""
    hashed, at = services.vault.hash_token(link), services.clock.now_ms()
    found = await services.database.get(lambda connection: store.find(connection, hashed, "link", at=at))
    if found is None:
        raise _used_up()
    return found


async def open_link(services: Services, link: str, browser: Browser) -> SignInSession:
    """Redeem a link: it becomes a session with a new secret, in one transaction, and the browser's previous session
    ends. Raises Problem (LINK_EXPIRED)."""
    at, secret = services.clock.now_ms(), services.ids.secret()
    link_hash, session_id = services.vault.hash_token(link), services.ids.log_id()

    def job(connection: Connection) -> SignInSession | None:
        found = store.find(connection, link_hash, "link", at=at)
        if found is None:
            return None
        store.remove(connection, link_hash)
        begun = replace(found, session_id=session_id, created_at=at, confirmed_at=at, seen_at=at)
        return _begin(connection, services.vault, begun, browser, secret)

    session = await services.database.write(job)
    if session is None:
        raise _used_up()
    return session


async def begin(services: Services, email: str, method: SignInMethod, browser: Browser) -> SignInSession:
    """Begin a session for a person who has just proved that the e-mail address is theirs. It shows the account that
    they had open, otherwise the first that they became a member of, or none if they are only invited. Raises Problem
    (SIGN_IN_FAILED) if they are neither a member nor invited."""
    at, secret, session_id = services.clock.now_ms(), services.ids.secret(), services.ids.log_id()
    before = services.vault.hash_token(browser.before) if browser.before else None

    def job(connection: Connection) -> SignInSession | None:
        shown = None if before is None else store.find(connection, before, "session", at=at, idle_since=at - IDLE_MS)
        account_id = home_of(connection, email, shown.account_id if shown is not None and shown.email == email else "")
        if account_id is None:
            return None
        begun = SignIn(
            session_id=session_id,
            account_id=account_id,
            email=email,
            method=method,
            created_at=at,
            confirmed_at=at,
            seen_at=at,
            expires_at=at,
        )
        return _begin(connection, services.vault, begun, browser, secret)

    session = await services.database.write(job)
    if session is None:
        raise Problem(
            SIGN_IN_FAILED, f"{email} is not a member of any account here: ask an owner of your account to invite you"
        )
    return session


def home_of(connection: Connection, email: str, rather: str = "") -> str | None:
    """The account that a person sees first: `rather` if they are a member of it, otherwise the first they became a
    member of; empty for an operator without an account, and for a person who is only invited. None: the person is
    neither."""
    found = members.memberships(connection, email)
    own = sorted((each.accepted_at or 0, each.account_id) for each in found if each.account_id != INSTALLATION)
    if not own:
        return INSTALLATION if found or members.invitations(connection, email, 1) else None
    ids = [account_id for _, account_id in own]
    return rather if rather in ids else ids[0]


def _begin(connection: Connection, vault: Vault, begun: SignIn, browser: Browser, secret: str) -> SignInSession:
    if browser.before:
        store.remove(connection, vault.hash_token(browser.before))
    begun = replace(
        begun, expires_at=begun.created_at + SESSION_MS, client=browser.client, agent=browser.agent[:_AGENT_MAX]
    )
    store.add(connection, vault.hash_token(secret), "session", begun)
    return _session(connection, begun, secret)


def _used_up() -> Problem:
    return Problem(LINK_EXPIRED, "This link has already been used, or is too old")


async def session(services: Services, secret: str | None, *, touches: bool = True) -> SignInSession | None:
    """The session with this secret, if it is still valid. `touches`: this look-up keeps it from ending as idle."""
    if not secret:
        return None
    hashed, at = services.vault.hash_token(secret), services.clock.now_ms()

    def read(connection: Connection) -> SignInSession | None:
        found = store.find(connection, hashed, "session", at=at, idle_since=at - IDLE_MS)
        return None if found is None else _session(connection, found, secret)

    found = await services.database.get(read)
    if touches and found is not None and found.sign_in.seen_at < at - _TOUCH_MS:
        named = found.sign_in.session_id
        await services.database.write(lambda connection: store.touch(connection, named, at))
    return found


async def unchanged(services: Services, opened: SignInSession) -> bool:
    """Whether the session is still open and has the same account and roles. This check does not keep it from ending as
    idle."""
    hashed, at = services.vault.hash_token(opened.secret), services.clock.now_ms()

    def read(connection: Connection) -> bool:
        found = store.find(connection, hashed, "session", at=at, idle_since=at - IDLE_MS)
        if found is None or found.account_id != opened.account_id:
            return False
        return _roles(connection, found) == opened.roles

    return await services.database.get(read)


def _session(connection: Connection, sign_in: SignIn, secret: str) -> SignInSession:
    account = find_account(connection, sign_in.account_id) if sign_in.account_id else None
    roles = _roles(connection, sign_in)
    if account is None:
        return SignInSession(sign_in, roles, "", secret)
    return SignInSession(sign_in, roles, account.name, secret, frozen=account.frozen_at is not None)


def _roles(connection: Connection, sign_in: SignIn) -> frozenset[Role]:
    """The person's current roles: a member's role is looked up each time, so that taking it away works at once."""
    if sign_in.email is None:
        own = sign_in.role if sign_in.account_id else None
        return frozenset(filter(None, (own, Role.OPERATOR if sign_in.operator else None)))
    if sign_in.vouched:  # a person who opens an owner's link gets the role it offers, for this session
        invited = members.find_member(connection, sign_in.account_id, sign_in.email)
        return frozenset() if invited is None else frozenset((invited.role,))
    places = {INSTALLATION, sign_in.account_id}
    return frozenset(filter(None, [members.role_of(connection, place, sign_in.email) for place in places]))


def verified_email(opened: SignInSession) -> str | None:
    """The e-mail address of the session's person, if it is proven for all accounts: not for a link without an address,
    nor for one that an owner of an account has created."""
    return None if opened.sign_in.vouched else opened.sign_in.email


async def end(services: Services, opened: SignInSession) -> None:
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
    """End a session on an account, by its ID in lists."""
    await services.database.write(lambda connection: store.remove_named(connection, account_id, session_id))


async def end_others(services: Services, opened: SignInSession) -> None:
    """End all other sessions and links of the person whose session this is, on all their accounts. Raises Problem
    (VALIDATION_FAILED) if it is not known whose it is."""
    email, kept = verified_email(opened), opened.sign_in.session_id
    if email is None:
        raise Problem(VALIDATION_FAILED, "This session does not show who you are: end the others one by one")
    await services.database.write(lambda connection: store.remove_others(connection, email, kept))


async def switch_account(services: Services, opened: SignInSession, account_id: str) -> None:
    """Switch this session to another account of the member. Raises Problem (NOT_FOUND) if they are not a member of
    it."""
    email, hashed = verified_email(opened), services.vault.hash_token(opened.secret)

    def job(connection: Connection) -> bool:
        if email is None or not account_id or members.role_of(connection, account_id, email) is None:
            return False
        store.switch_account(connection, hashed, account_id)
        return True

    if not await services.database.write(job):
        raise Problem(NOT_FOUND, "You are not a member of this account")


# --- proofs -----------------------------------------------------------------------------------------------------------


def confirmed(services: Services, opened: SignInSession) -> bool:
    """Whether the person has proved their identity recently."""
    return services.clock.now_ms() - opened.sign_in.confirmed_at < CONFIRMED_MS


async def confirm(services: Services, opened: SignInSession) -> SignInSession | None:
    """Record that the person has proved their identity. Returns the session with its new secret; None if it has
    ended."""
    at, secret = services.clock.now_ms(), services.ids.secret()
    old, new = (services.vault.hash_token(text) for text in (opened.secret, secret))
    renewed = await services.database.write(lambda connection: store.renew(connection, old, new, at))
    return replace(opened, secret=secret) if renewed else None


async def confirm_by_token(services: Services, opened: SignInSession, token: str) -> SignInSession | None:
    """Prove the person's identity by an access token of the account with the permissions CONFIRMING, through all
    gateways. Returns the session with its new secret, or None if the token proves nothing."""
    at, secret = services.clock.now_ms(), services.ids.secret()
    old, new, token_hash = (services.vault.hash_token(text) for text in (opened.secret, secret, token))

    def job(connection: Connection) -> bool:
        found = find_token(connection, token_hash)
        if found is None or found.account_id != opened.account_id or not found.active(at):
            return False
        proves = found.permissions >= CONFIRMING and found.gateways is None
        return proves and store.renew(connection, old, new, at)

    return replace(opened, secret=secret) if await services.database.write(job) else None


def seal(services: Services, opened: SignInSession, text: str) -> str:
    """A signature that proves that a text was written by this server for this session and the account it shows; forms
    and flash messages carry one.
    """
    return services.vault.hash_token(f"page\0{opened.secret}\0{opened.account_id}\0{text}").hex()


def sealed(services: Services, opened: SignInSession, text: str, given: str) -> bool:
    """Whether `given` is the seal of the text."""
    return same(seal(services, opened, text).encode(), given.encode())
