"""What an operator does: accounts, users, grants, providers, prices, markups.

Plain functions that run inside the caller's open transaction: the command line opens one, a server sends them as jobs
of the writer. Each either completes or raises ActionRefused, and then has changed nothing that is committed. Each
action is written to the audit log in the same commit, with the operator who did it (`by`).
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from farebox.addresses import is_base
from farebox.clock import Ids
from farebox.ledger.commands import Conflict, Correct, Grant, Outcome, Verdict
from farebox.ledger.posting import apply
from farebox.model import Account, Balance, Operator
from farebox.money import AMOUNT_MAX, NANOS_PER_USD, format_usd
from farebox.operator.provider_keys import key_problem
from farebox.periods import is_zone
from farebox.quoting import quoted
from farebox.storage import account_settings, accounts, config, top_up_rules
from farebox.storage.account_settings import AccountSettings
from farebox.storage.config import ProviderKeyRow, ProviderRow
from farebox.storage.operator_actions import ActionName, State, record_action
from farebox.storage.sql import Connection
from farebox.vault import TOKEN_PREFIX, Vault

NAME_MAX = 200
"""Most characters of an account's name, which is in an index."""
_BALANCE_MAX = 5 * AMOUNT_MAX
"""To which grants can raise a balance. The databases' integers end at 9.2 billion USD."""
_ACCOUNT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CAUSE_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_PLACEHOLDER = re.compile(r"\{[a-z]+\}")


class ActionRefused(Exception):
    """Nothing was done; the message says why, and what to do about it."""

    def __init__(self, message: str, *, of: str = "", words: str = "") -> None:
        super().__init__(message)
        self.words = words or message
        """The same on a page, which has no commands."""
        self.of = of
        """The field of the API whose value is the reason; empty where that is not said."""


@dataclass(frozen=True, slots=True)
class PostingResult:
    """A grant or correction with its ID, and the ledger's verdict."""

    cause_id: str
    verdict: Verdict

    @property
    def repeated(self) -> bool:
        """Whether it had been posted before, so that nothing changed now."""
        return self.verdict.outcome is Outcome.REPEATED

    @property
    def balance(self) -> Balance:
        """The account's balance afterwards."""
        return Balance(self.verdict.posted, self.verdict.held)


# --- accounts, tokens, users ------------------------------------------------------------------------------------------


def create_account(
    connection: Connection,
    ids: Ids,
    *,
    by: Operator,
    name: str,
    at: int,
    account_id: str | None = None,
    buckets: int = 1,
) -> Account:
    """Create an account, with the given ID or a new one, in one of `buckets` buckets."""
    if not 0 < len(name.strip()) <= NAME_MAX:
        raise ActionRefused(f"an account needs a name of 1 to {NAME_MAX} characters")
    account_id = ids.account_id() if account_id is None else account_id
    if not _ACCOUNT_ID.fullmatch(account_id):
        raise ActionRefused(
            f"{quoted(account_id)} cannot be an account ID: it is part of URLs, use 1 to 64 letters, digits, - or _"
        )
    if accounts.find_account(connection, account_id) is not None:
        raise ActionRefused(
            f"the account {quoted(account_id)} already exists: choose another ID, or leave it out to get a new one"
        )
    made = accounts.add_account(connection, account_id, name.strip(), at, buckets)
    record_action(connection, by, "account.create", at, account_id=account_id, after={"name": made.name})
    return made


def set_account(
    connection: Connection,
    *,
    by: Operator,
    account_id: str,
    at: int,
    since: int | None = None,
    time_zone: str | None = None,
    spend_alerts: bool | None = None,
) -> AccountSettings:
    """Change the account's time zone, from `since` on (None: from `at`), and whether it wants alerts about its
    spending; None leaves a setting unchanged."""
    require_account(connection, account_id)
    stored = account_settings.read_settings(connection, account_id)
    if time_zone is not None and not is_zone(time_zone):
        raise ActionRefused(f"there is no time zone {quoted(time_zone)}: use an IANA name such as Europe/Berlin")
    changes = time_zone is not None and stored is not None and time_zone != stored.zone
    if changes and not account_settings.set_zone(
        connection, account_id, str(time_zone), at if since is None else since
    ):
        raise ActionRefused("the time zone was changed too often: wait some weeks")
    if spend_alerts is not None:
        account_settings.set_alerts(connection, account_id, wanted=spend_alerts)
    found = account_settings.read_settings(connection, account_id)
    assert stored is not None
    assert found is not None
    before, after = _settings(stored), _settings(found)
    if before != after:
        record_action(connection, by, "account.set", at, account_id=account_id, before=before, after=after)
    return found


def _settings(settings: AccountSettings) -> dict[str, object]:
    return {"time_zone": settings.zone, "spend_alerts": settings.spend_alerts}


def set_frozen(connection: Connection, *, by: Operator, account_id: str, frozen: bool, reason: str, at: int) -> bool:
    """Freeze an account, so that it can make no calls, holds or purchases, or unfreeze it; returns whether that changed
    anything. Calls in flight are completed and charged. Raises ActionRefused."""
    account = require_account(connection, account_id)
    if frozen is (account.frozen_at is not None):
        return False
    if frozen and not reason.strip():
        raise ActionRefused("freezing an account needs a reason: the audit log keeps it")
    accounts.set_frozen(connection, account_id, at if frozen else None)
    if not frozen:
        top_up_rules.end_pause(connection, account_id, "account_frozen", at)
    action: ActionName = "account.freeze" if frozen else "account.unfreeze"
    before, after = {"frozen_at": account.frozen_at}, {"frozen_at": at if frozen else None, "reason": reason.strip()}
    record_action(connection, by, action, at, account_id=account_id, before=before, after=after)
    return True


def require_account(connection: Connection, account_id: str) -> Account:
    """The account with this id."""
    account = accounts.find_account(connection, account_id)
    if account is None:
        raise _no_account(account_id)
    return account


def balance_of(connection: Connection, account_id: str) -> Balance:
    """The account's balance."""
    balance = accounts.read_balance(connection, account_id)
    if balance is None:
        raise _no_account(account_id)
    return balance


def create_user(
    connection: Connection, ids: Ids, vault: Vault, *, by: Operator, email: str, account_ids: Collection[str], at: int
) -> str:
    """Make the person a member of the accounts and return a new key, which cannot be shown again.

    An existing user keeps their accounts; their earlier key stops working.
    """
    if not _EMAIL.fullmatch(email):
        raise ActionRefused(f"{quoted(email)} is not an e-mail address")
    for account_id in account_ids:
        require_account(connection, account_id)
    key = TOKEN_PREFIX + ids.secret()
    before = accounts.find_user(connection, email)
    accounts.add_user(connection, email, vault.hash_token(key), list(account_ids), at)
    was = None if before is None else {"accounts": sorted(before[1])}
    now = {"accounts": sorted({*account_ids, *(() if before is None else before[1])}), "key": "new"}
    record_action(connection, by, "user.create", at, subject=email, before=was, after=now)
    return key


def _no_account(account_id: str) -> ActionRefused:
    why = f"there is no account {quoted(account_id)}"
    return ActionRefused(f"{why}: `farebox account list` shows all", words=f"{why}: see the Accounts page")


# --- money ------------------------------------------------------------------------------------------------------------


def grant(
    connection: Connection,
    ids: Ids,
    *,
    by: Operator,
    account_id: str,
    amount: int,
    at: int,
    grant_id: str | None = None,
    priority: int = 50,
    expires_at: int | None = None,
    note: str = "",
) -> PostingResult:
    """Grant the account credit. A repeat with the same grant ID changes nothing and returns the first result."""
    grant_id = ids.log_id() if grant_id is None else grant_id
    command = Grant(
        account_id=account_id,
        grant_id=grant_id,
        amount=amount,
        at=at,
        priority=priority,
        expires_at=expires_at,
        note=note,
    )
    terms = {"note": note, "priority": priority, "expires_at": expires_at}
    posted = _post(connection, by, "credit.grant", grant_id, command, terms)
    if not posted.repeated:  # a repeat may come after the expiry: the first request decides
        must_be_ahead(expires_at, at)
        if posted.balance.posted > _BALANCE_MAX:
            raise ActionRefused(f"the account would have more than {_BALANCE_MAX // NANOS_PER_USD:,} USD: grant less")
    return posted


def correct(
    connection: Connection,
    ids: Ids,
    *,
    by: Operator,
    account_id: str,
    amount: int,
    reason: str,
    at: int,
    correction_id: str | None = None,
) -> PostingResult:
    """Correct an earlier charge: a positive amount is given back, a negative one is charged. Repeats as for grants."""
    if correction_id is not None and correction_id.startswith("rerate:"):
        raise ActionRefused("IDs that begin with `rerate:` are those of `farebox rerate`: choose another ID")
    if not reason.strip():
        raise ActionRefused("a correction needs a reason: it is recorded in the books")
    correction_id = ids.log_id() if correction_id is None else correction_id
    command = Correct(account_id=account_id, correction_id=correction_id, amount=amount, at=at, reason=reason.strip())
    return _post(connection, by, "credit.correct", correction_id, command, {"reason": command.reason})


def _post(
    connection: Connection, by: Operator, action: ActionName, cause_id: str, command: Grant | Correct, terms: State
) -> PostingResult:
    """Post the command and record the action; a repeat is not an action."""
    if not _CAUSE_ID.fullmatch(cause_id):  # the ledger numbers the parts of a transfer with `/2`, `/3` after its ID
        raise ActionRefused(f"{quoted(cause_id)} cannot be an ID: use 1 to 128 letters, digits, or one of . _ : @ -")
    before = accounts.read_balance(connection, command.account_id)
    try:
        verdict = apply(connection, command)
    except Conflict as error:
        what = "grant" if isinstance(command, Grant) else "correction"
        made = f"this {what} has already been made, of {format_usd(error.amount)} USD"
        raise ActionRefused(
            f"{error}: repeat it exactly, or choose another ID", words=f"{made}: open the page again to make another"
        ) from error
    if verdict.outcome is Outcome.UNKNOWN:
        raise _no_account(command.account_id)
    if not verdict.ok:
        raise ActionRefused(
            f"account {quoted(command.account_id)} has {format_usd(verdict.available)} USD available "
            f"and {format_usd(verdict.held)} USD held, which does not cover it"
        )
    posted = PostingResult(cause_id, verdict)
    if not posted.repeated:
        record_action(
            connection,
            by,
            action,
            command.at,
            account_id=command.account_id,
            subject=cause_id,
            before=None if before is None else {"posted_usd": format_usd(before.posted)},
            after={"posted_usd": format_usd(verdict.posted), "amount_usd": format_usd(command.amount), **terms},
        )
    return posted


def must_be_ahead(expires_at: int | None, at: int) -> None:
    """Raises ActionRefused if the expiry is in the past."""
    if expires_at is not None and expires_at <= at:
        raise ActionRefused("the expiry is in the past: give a later date")


# --- configuration ----------------------------------------------------------------------------------------------------


def set_provider(
    connection: Connection,
    vault: Vault,
    *,
    by: Operator,
    name: str,
    at: int,
    base_url: str | None = None,
    api_key: str | None = None,
) -> ProviderRow:
    """Set how a provider is reached on the operator's account. None leaves a value unchanged; an
    empty key removes it.
    """
    slug, default_url = _provider(name)
    if api_key and (wrong := key_problem(slug, api_key)):
        raise ActionRefused(wrong)
    if slug == "demo":
        raise ActionRefused("the demo provider sets itself up: run `farebox serve --demo`")
    before = {row.name: row for row in config.list_providers(connection)}.get(slug)
    if base_url is None:
        url = default_url if before is None else before.base_url
    else:
        url = _checked_url(base_url)
    if not url:
        raise ActionRefused(f"{slug} is a server of your own: set its base URL, such as http://127.0.0.1:11434/v1")
    if "{account}" in url:
        raise ActionRefused(f"{slug} has a URL of your own: set the base URL {url} with your account ID in it")
    if api_key is None:
        key = None if before is None else before.api_key
    else:
        key = vault.encrypt(api_key, f"provider:{slug}") if api_key else None
    row = ProviderRow(slug, url, key, at, 1 if before is None else before.weight)
    config.set_provider(connection, row)
    was = None if before is None else provider_state(before)
    record_action(
        connection, by, "provider.set", at, subject=slug, before=was, after=provider_state(row, new_key=bool(api_key))
    )
    return row


def provider_state(row: ProviderRow | ProviderKeyRow, *, new_key: bool = False) -> State:
    """The provider's state for the audit log; of the key, only whether there is one, and whether it is new."""
    place = {"base_url": row.base_url} if isinstance(row, ProviderRow) else {}
    return {**place, "key": "new" if new_key else "stored" if row.api_key else None, "weight": row.weight}


def provider_slug(name: str) -> str:
    """The provider's own name, from its name or an alias. Raises ActionRefused."""
    return _provider(name)[0]


def _provider(name: str) -> tuple[str, str]:
    """The provider's own name and its base URL, from its name or an alias."""
    from farebox.providers.catalogue import PROVIDERS, provider_of  # here: only these commands need all the formats

    provider = provider_of(name)
    if provider is None:
        known = ", ".join(item.slug for item in PROVIDERS)
        why = f"there is no provider {quoted(name)}"
        raise ActionRefused(f"{why}: use one of {known}", words=f"{why}: use a name such as openai or anthropic")
    return provider.slug, provider.base_url


def _checked_url(text: str) -> str:
    """The base URL without trailing slashes. Those of clouds have parts of a call's path in braces."""
    wrong = f"{quoted(text)} is not a base URL: write it as https://api.example.com/v1"
    try:
        url = urlsplit(_PLACEHOLDER.sub("x", text))
    except ValueError as error:
        raise ActionRefused(wrong) from error
    if url.scheme not in ("http", "https") or not is_base(url) or re.search(r"\s", text):
        raise ActionRefused(wrong)
    if url.query or url.fragment or url.username is not None:
        raise ActionRefused("a base URL has no query, fragment or user name: store the key separately")
    return text.rstrip("/")
