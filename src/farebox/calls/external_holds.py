"""Holds for applications that do not send their calls through Farebox: reserve, work, then charge the actual cost.

The application names each hold, which makes every step safe to repeat. A hold belongs to no process of ours: only its
application or its expiry ends it, never a restart. What is settled counts in usage, statement and spending limit.

Times are milliseconds since the Unix epoch.
"""

import re
from dataclasses import dataclass
from functools import partial

from farebox.calendar import DAY_MS
from farebox.calls.spending.credit_refusal import credit_refusal
from farebox.errors import ACCOUNT_FROZEN, HOLD_REFUSED, KEY_REUSED, NOT_FOUND, RATE_LIMITED, VALIDATION_FAILED, Problem
from farebox.ledger.commands import Conflict, Extend, Hold, Outcome, Release, Settle, Verdict
from farebox.ledger.posting import apply
from farebox.model import Account
from farebox.money import AMOUNT_MAX
from farebox.quoting import quoted
from farebox.runtime.services import Services
from farebox.storage.accounts import find_account
from farebox.storage.app_holds import (
    PREFIX,
    AppHold,
    add_app_hold,
    find_app_hold,
    open_app_holds,
    settle_app_hold,
)
from farebox.storage.calls import add_usage, is_new_beyond
from farebox.storage.sql import Connection

EXPIRES_MIN_MS = 1_000
EXPIRES_MAX_MS = DAY_MS
OPEN_MAX = 10_000
"""Maximum open holds of one account: a program that never settles reaches this, and does not fill the database."""
RETRY_SECONDS = 10
PROVIDER = "application"
"""The provider that a charge is counted under if the application names none."""
MODELS_MAX = 100
"""Maximum models of an account whose charges are counted separately in an hour; those of holds that name further ones
are counted together, so that reports and spending limits read few rows."""
OTHER_MODELS = "(other)"
LABEL_MAX, PROVIDER_MAX, MODEL_MAX, NOTE_MAX = 200, 64, 200, 500
_HOLD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True, slots=True)
class _Usage:
    """The record of a settled hold (ledger.commands.Record): the provider and model that its charge is counted
    under."""

    account_id: str
    hold_id: str
    at: int
    provider: str
    model: str
    note: str

    def write(self, connection: Connection, bucket: int, verdict: Verdict) -> None:
        if not verdict.ok:
            return
        provider, model = self.provider, self.model
        if verdict.amount and is_new_beyond(connection, bucket, self.account_id, self.at, provider, model, MODELS_MAX):
            provider, model = PROVIDER, OTHER_MODELS
        settle_app_hold(connection, bucket, self.account_id, self.hold_id, self.at, provider, model, self.note)
        if verdict.amount:
            add_usage(connection, bucket, self.account_id, self.at, provider, model, verdict.amount)


async def create(
    services: Services, account_id: str, *, hold_id: str, amount: int, expires_in_ms: int, label: str = ""
) -> AppHold:
    """Reserve `amount` nano-dollars. With the same ID and amount as before, it returns the existing hold in its current
    state.

    Raises Problem: NO_CREDIT, CREDIT_HELD, TOP_UP_UNDER_WAY, SPEND_LIMITED, LIMIT_TOO_LOW, ACCOUNT_FROZEN,
    KEY_REUSED (the ID with another amount), VALIDATION_FAILED, RATE_LIMITED (too many are open).
    """
    if not _HOLD_ID.fullmatch(hold_id):
        raise _invalid("hold_id", "1 to 128 letters, digits or . _ : - and begins with a letter or a digit")
    _check_amount(amount, 1)
    _check_expiry(expires_in_ms)
    _check_text("label", label, LABEL_MAX)
    now = services.clock.now_ms()
    # Reads up to OPEN_MAX rows, so not in the transaction: holds made at the same moment may exceed the maximum.
    _check_number(await services.database.scan(partial(_other_open_holds, account_id=account_id, hold_id=hold_id)))
    command = Hold(
        account_id=account_id, hold_id=PREFIX + hold_id, amount=amount, at=now, expires_at=now + expires_in_ms
    )

    def job(connection: Connection) -> Verdict:
        account = find_account(connection, account_id)
        _check_not_frozen(account)
        verdict = apply(connection, command)
        if verdict.outcome is Outcome.DONE and account is not None:
            add_app_hold(connection, account.bucket, account_id, hold_id, label)
        return verdict

    try:
        verdict = await services.database.write(job)
    except Conflict as conflict:
        raise Problem(KEY_REUSED, f"The hold {quoted(hold_id)} was made before with another amount.") from conflict
    if not verdict.ok:
        raise await credit_refusal(services, account_id, verdict, amount)
    return await get(services, account_id, hold_id)


async def extend(
    services: Services, account_id: str, hold_id: str, *, amount: int | None = None, expires_in_ms: int | None = None
) -> AppHold:
    """Raise an open hold to a total of `amount` nano-dollars, and let it expire `expires_in_ms` milliseconds from now;
    neither is ever lowered.

    Raises Problem as `create` does, ACCOUNT_FROZEN only if the amount is raised; NOT_FOUND; HOLD_REFUSED if the hold
    has ended.
    """
    hold = await get(services, account_id, hold_id)
    now = services.clock.now_ms()
    if amount is not None:
        _check_amount(amount, 1)
    if expires_in_ms is not None:
        _check_expiry(expires_in_ms)
    asked = hold.amount if amount is None else amount
    command = Extend(
        account_id=account_id,
        hold_id=PREFIX + hold_id,
        amount=asked,
        at=now,
        expires_at=hold.expires_at if expires_in_ms is None else now + expires_in_ms,
    )

    def job(connection: Connection) -> Verdict:
        if asked > hold.amount:
            _check_not_frozen(find_account(connection, account_id))
        return apply(connection, command)

    verdict = await services.database.write(job)
    _check_open(hold_id, verdict)
    if not verdict.ok:
        raise await credit_refusal(services, account_id, verdict, asked)
    return await get(services, account_id, hold_id)


async def settle(
    services: Services,
    account_id: str,
    hold_id: str,
    *,
    amount: int,
    provider: str = "",
    model: str = "",
    note: str = "",
) -> AppHold:
    """Charge `amount` nano-dollars and release the rest. Of an amount above the hold, the charge takes what else is
    available, and the rest is written off; a hold that has expired is charged the same way.

    Repeating it with the same amount changes nothing. Raises Problem: NOT_FOUND; HOLD_REFUSED if the hold was
    released, or settled with another amount; VALIDATION_FAILED.
    """
    _check_amount(amount, 0)
    _check_text("provider", provider, PROVIDER_MAX)
    _check_text("model", model, MODEL_MAX)
    _check_text("note", note, NOTE_MAX)
    await get(services, account_id, hold_id)
    now = services.clock.now_ms()
    usage = _Usage(account_id, hold_id, now, provider or PROVIDER, model, note)
    command = Settle(account_id=account_id, hold_id=PREFIX + hold_id, amount=amount, at=now, record=usage, note=note)
    try:
        verdict = await services.ledger.do(command)
    except Conflict as conflict:
        raise Problem(HOLD_REFUSED, f"The hold {quoted(hold_id)} was settled before with another amount.") from conflict
    _check_open(hold_id, verdict)
    services.waiters.wake(account_id)
    return await get(services, account_id, hold_id)


async def release(services: Services, account_id: str, hold_id: str) -> AppHold:
    """Release the hold without a charge; one that was released or has expired stays as it is.

    Raises Problem: NOT_FOUND; HOLD_REFUSED if the hold was settled.
    """
    await get(services, account_id, hold_id)
    await services.ledger.do(Release(account_id=account_id, hold_id=PREFIX + hold_id, at=services.clock.now_ms()))
    hold = await get(services, account_id, hold_id)
    if hold.state == "settled":
        raise Problem(HOLD_REFUSED, f"The hold {quoted(hold_id)} has already been settled.")
    services.waiters.wake(account_id)
    return hold


async def get(services: Services, account_id: str, hold_id: str) -> AppHold:
    """The hold in its current state. Raises Problem (NOT_FOUND)."""
    found = await services.database.get(lambda connection: find_app_hold(connection, account_id, hold_id))
    if found is None:
        raise Problem(NOT_FOUND, "There is no such hold on this account.")
    return found


def _check_open(hold_id: str, verdict: Verdict) -> None:
    if verdict.outcome is Outcome.NOT_OPEN:
        raise Problem(HOLD_REFUSED, f"The hold {quoted(hold_id)} has already ended.")


def _check_not_frozen(account: Account | None) -> None:
    if account is not None and account.frozen_at is not None:
        raise Problem(ACCOUNT_FROZEN, "The account is frozen. Nothing more is held.")


def _other_open_holds(connection: Connection, account_id: str, hold_id: str) -> int:
    """How many holds are open; 0 if this one exists already."""
    account = find_account(connection, account_id)
    if account is None or find_app_hold(connection, account_id, hold_id) is not None:
        return 0
    return open_app_holds(connection, account.bucket, account_id, OPEN_MAX)


def _check_number(already_open: int) -> None:
    if already_open >= OPEN_MAX:
        message = f"The account has {OPEN_MAX} open holds: settle or release some first."
        raise Problem(RATE_LIMITED, message, retry_after=RETRY_SECONDS)


def _check_amount(amount: int, least: int) -> None:
    if not least <= amount <= AMOUNT_MAX:
        raise _invalid("amount", f"{least} to {AMOUNT_MAX} nano-dollars")


def _check_expiry(expires_in_ms: int) -> None:
    if not EXPIRES_MIN_MS <= expires_in_ms <= EXPIRES_MAX_MS:
        raise _invalid("expires_in_ms", f"{EXPIRES_MIN_MS} to {EXPIRES_MAX_MS} milliseconds")


def _check_text(field: str, text: str, longest: int) -> None:
    if len(text) > longest or not (text.isprintable() or not text):
        raise _invalid(field, f"at most {longest} characters, all of them printable")


def _invalid(field: str, right: str) -> Problem:
    return Problem(VALIDATION_FAILED, f"`{field}` is wrong: it is {right}.", path=("body", field))
