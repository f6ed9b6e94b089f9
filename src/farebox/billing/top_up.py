"""Buying credit: manually with a saved card or on the processor's hosted page, and the worker that processes top-ups.

The row is committed first, then the processor is called (top_up_machine). A client that disconnects does not stop the
purchase: the charge runs in a task of the server, and after a crash another process continues it once the row's lease
has expired.
"""

import asyncio
import hashlib
from functools import partial
from typing import Final, Literal

import msgspec
import structlog

from farebox.billing.payment_results import apply_checkout as apply_checkout
from farebox.billing.payment_results import apply_invoice as apply_invoice
from farebox.billing.top_up_endings import REFUSED, UNDER_REVIEW
from farebox.billing.top_up_machine import carry_out, open_page, perform
from farebox.billing.top_up_price import limits_of, price_for
from farebox.calendar import MINUTE_MS, seconds_until
from farebox.errors import (
    ACCOUNT_FROZEN,
    CARD_DECLINED,
    KEY_REUSED,
    NO_CARD,
    NOT_FOUND,
    PROCESSOR_REFUSED,
    PROCESSOR_UNAVAILABLE,
    RATE_LIMITED,
    TOP_UP_FAILED,
    TOP_UP_IN_PROGRESS,
    VALIDATION_FAILED,
    Problem,
)
from farebox.money import NANOS_PER_CENT, format_usd
from farebox.payments.guards import HISTORY, check_manual
from farebox.payments.model import Card, TopUp, TopUpKind
from farebox.payments.purchase import Purchase
from farebox.quoting import quoted
from farebox.runtime.services import Services, processor_of
from farebox.storage import top_ups as store
from farebox.storage.accounts import find_account
from farebox.storage.customers import default_card, find_card
from farebox.storage.sql import Connection
from farebox.storage.top_up_attempts import attempts_since

SAME_MS: Final = MINUTE_MS
"""A request without a key that equals an earlier one within this time is treated as a repeat of it."""
RETRY_MS: Final = 10 * MINUTE_MS
"""The same for a request that is marked as a repeat."""
CONCURRENCY: Final = 8
DUE_MAX: Final = 64
AWAIT_SECONDS: Final = 30.0
AWAIT_STEP_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 2

log = structlog.get_logger("farebox.top_up")


class _PurchaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller requested."""

    kind: TopUpKind
    account_id: str
    credit_cents: int
    card_id: str | None = None
    request_key: str | None = None
    retry: bool = False
    pages: tuple[str, str] | None = None

    @property
    def content(self) -> str:
        """A text that is the same for equal requests."""
        parts = [self.kind, self.account_id, self.credit_cents, self.card_id, self.pages]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def top_up_id(self, new_id: str) -> str:
        """The ID, derived from the caller's key if there is one, so that any process recognizes a repeat."""
        if self.request_key is None:
            return new_id
        return "key-" + hashlib.sha256(f"{self.account_id}\n{self.request_key}".encode()).hexdigest()[:32]


# --- what it costs ----------------------------------------------------------------------------------------------------


async def limits(services: Services, account_id: str) -> tuple[int, int]:
    """The smallest and the largest single purchase, in cents of credit."""
    return await services.database.get(partial(limits_of, settings=services.settings, account_id=account_id))


async def quote(services: Services, account_id: str, credit_cents: int) -> Purchase:
    """What this amount of credit would cost the account now."""
    return await services.database.get(
        partial(price_for, settings=services.settings, account_id=account_id, credit_cents=credit_cents)
    )


async def history(
    services: Services,
    account_id: str,
    kind: Literal["all", "auto", "manual"],
    offset: int,
    limit: int,
    *,
    every: bool = False,
) -> tuple[list[TopUp], int]:
    """Paid purchases and open ones that have a payment, newest first, and their total number. With `every`, also those
    that failed or have no payment yet."""
    return await services.database.scan(
        partial(store.history, account_id=account_id, kind=kind, offset=offset, limit=limit, every=every)
    )


# --- buying -----------------------------------------------------------------------------------------------------------


async def buy(
    services: Services,
    account_id: str,
    *,
    credit_cents: int,
    card_id: str | None = None,
    request_key: str | None = None,
    retry: bool = False,
) -> TopUp:
    """Buy credit with the default card, or the one named; the same request again is the same purchase.

    The result is paid, processing, action_required (with client_secret and action_url) or unknown. Raises Problem:
    PAYMENTS_OFF, NO_CARD, VALIDATION_FAILED, CARD_DECLINED, TOP_UP_FAILED, TOP_UP_IN_PROGRESS, KEY_REUSED,
    RATE_LIMITED, PROCESSOR_UNAVAILABLE, PROCESSOR_REFUSED.
    """
    processor_of(services)
    request = _PurchaseRequest(
        kind="manual",
        account_id=account_id,
        credit_cents=credit_cents,
        card_id=card_id,
        request_key=request_key,
        retry=retry,
    )
    # From the first write on it runs in a task of the server: the client may disconnect at any time.
    return _result(await services.tasks.shared(("buy", services.ids.log_id()), lambda: _buy(services, request)))


async def _buy(services: Services, request: _PurchaseRequest) -> TopUp:
    top_up, is_new = await _begin(services, request)
    if not is_new:
        return await _repeated(services, top_up)
    return await services.tasks.shared(_task(top_up), lambda: perform(services, top_up))


async def _begin(services: Services, request: _PurchaseRequest) -> tuple[TopUp, bool]:
    new_id, at = services.ids.log_id(), services.clock.now_ms()
    return await services.database.write(
        lambda connection: _find_or_insert(connection, services, request, request.top_up_id(new_id), at)
    )


def _find_or_insert(
    connection: Connection, services: Services, request: _PurchaseRequest, top_up_id: str, at: int
) -> tuple[TopUp, bool]:
    """The row of a request, already claimed if it is new; else the one that it repeats."""
    account = find_account(connection, request.account_id)
    if account is None:
        raise Problem(NOT_FOUND, f"There is no account {quoted(request.account_id)}.")
    earlier = _repeats(connection, request, at)
    if earlier is not None:
        return earlier, False
    if account.frozen_at is not None:
        raise Problem(ACCOUNT_FROZEN, "The account is frozen. Nothing was charged.")
    _within_limits(connection, services, request)
    purchase = price_for(connection, services.settings, request.account_id, request.credit_cents)
    card = _card(connection, request, purchase, at) if request.kind == "manual" else None
    top_up = TopUp(
        account_id=request.account_id,
        top_up_id=top_up_id,
        kind=request.kind,
        state="submitting",
        credit_cents=purchase.credit_cents,
        fee_cents=purchase.fee_cents,
        tax_cents=purchase.tax_cents,
        lines=msgspec.json.encode(purchase),
        card_id=card.card_id if card else None,
        fingerprint=card.fingerprint if card else None,
        brand=card.brand if card else None,
        last4=card.last4 if card else None,
        request_key=request.request_key,
        request_hash=request.content,
        lease_owner=services.instance,
        lease_epoch=1,
        lease_until=at + store.LEASE_MS,
        next_at=at + store.LEASE_MS,
        created_at=at,
        updated_at=at,
    )
    store.insert(connection, account.bucket, top_up)
    return top_up, True


def _repeats(connection: Connection, request: _PurchaseRequest, at: int) -> TopUp | None:
    """The purchase that this request repeats. Raises Problem: KEY_REUSED, TOP_UP_IN_PROGRESS."""
    if request.request_key is not None:
        found = store.find_by_request(connection, request.account_id, request.request_key)
        if found is not None and found.request_hash != request.content:
            raise Problem(
                KEY_REUSED,
                "The Idempotency-Key was used before with a different request.",
                words=f"This purchase has already been {'made' if found.state == 'paid' else 'begun'}, "
                f"of {format_usd(found.credit_cents * NANOS_PER_CENT)} USD: open the page again to make another",
            )
        return found
    for top_up in store.latest(connection, request.account_id, request.kind, at - RETRY_MS):
        same, age = top_up.request_hash == request.content, at - top_up.created_at
        gone = ("failed", "canceled") if request.kind == "manual" else ("failed", "canceled", "paid")
        alive = top_up.state not in gone  # a page that has been paid cannot be used again
        if same and ((request.retry and age <= RETRY_MS) or (alive and age <= SAME_MS) or _still_open(top_up)):
            return top_up
        if request.kind == "manual" and not same and _still_open(top_up):
            raise Problem(TOP_UP_IN_PROGRESS, f"A purchase of {top_up.credit_cents} cents is still in progress.")
    return None


def _still_open(top_up: TopUp) -> bool:
    """In progress at the processor. One that waits for its owner's confirmation blocks no other: they may have changed
    their mind.
    """
    return top_up.kind == "manual" and top_up.state in ("submitting", "unknown", "processing")


def _within_limits(connection: Connection, services: Services, request: _PurchaseRequest) -> None:
    low, high = limits_of(connection, services.settings, request.account_id)
    if not low <= request.credit_cents <= high:
        raise Problem(VALIDATION_FAILED, f"The amount must be from {low} to {high} cents.", path=("body", "amount"))


def _card(connection: Connection, request: _PurchaseRequest, purchase: Purchase, at: int) -> Card:
    """The card to charge. Raises Problem: NO_CARD; RATE_LIMITED if someone seems to be testing stolen cards."""
    if request.card_id is None:
        card = default_card(connection, request.account_id)
    else:
        card = find_card(connection, request.account_id, request.card_id)
    if card is None:
        which = "no saved card" if request.card_id is None else f"no saved card {quoted(request.card_id)}"
        raise Problem(NO_CARD, f"The account has {which}.")
    wait = check_manual(
        attempts_since(connection, request.account_id, at - HISTORY),
        brand=card.brand,
        fingerprint=card.fingerprint,
        charge_cents=purchase.charge_cents,
        at=at,
    )
    if wait is not None:
        seconds, words = seconds_until(wait.until, at), "This account's cards were declined too often."
        raise Problem(RATE_LIMITED, words, retry_after=seconds, resets_at=wait.until)
    return card


async def _repeated(services: Services, top_up: TopUp) -> TopUp:
    """The result of a purchase that is requested again: awaited while it is in progress, fetched if its outcome is
    unknown.
    """
    if top_up.state == "unknown" or services.tasks.running(_task(top_up)):
        return await _poll(services, top_up)
    deadline = services.clock.monotonic() + AWAIT_SECONDS
    while top_up.state == "submitting" and services.clock.monotonic() < deadline:  # another process has it
        await services.clock.sleep(AWAIT_STEP_SECONDS)
        top_up = await _reload(services, top_up)
    return top_up


async def _poll(services: Services, top_up: TopUp) -> TopUp:
    """Poll the processor now, unless another worker is doing so; one poll at a time in this process."""

    async def fetch() -> TopUp | None:
        return await carry_out(services, top_up.account_id, top_up.top_up_id, early=True)

    found: TopUp | None = await services.tasks.shared(_task(top_up), fetch)
    return await _reload(services, top_up) if found is None else found


def _result(top_up: TopUp) -> TopUp:
    """A purchase as its caller sees it; raises Problem if it failed."""
    text = top_up.error or "The purchase failed. Nothing was charged."
    if top_up.state == "failed" and top_up.decline_code == REFUSED:
        raise Problem(PROCESSOR_REFUSED, text)
    if top_up.state == "failed" and top_up.decline_code not in (None, UNDER_REVIEW):
        raise Problem(CARD_DECLINED, text)
    if top_up.state in ("failed", "canceled"):
        raise Problem(TOP_UP_FAILED, text)
    if top_up.payment_id is None and top_up.kind == "manual":
        message = "The payment processor has not responded. Try again: nothing is charged twice."
        raise Problem(PROCESSOR_UNAVAILABLE, message, retry_after=RETRY_SECONDS)
    return top_up


async def buy_at_checkout(
    services: Services,
    account_id: str,
    *,
    credit_cents: int,
    success_url: str,
    cancel_url: str,
    request_key: str | None = None,
) -> TopUp:
    """Open a hosted page (`action_url`) on which the owner buys and saves the card; it lives for a day.

    Raises Problem: PAYMENTS_OFF, VALIDATION_FAILED, KEY_REUSED, TOP_UP_FAILED, PROCESSOR_UNAVAILABLE or _REFUSED.
    """
    processor_of(services)
    request = _PurchaseRequest(
        kind="checkout",
        account_id=account_id,
        credit_cents=credit_cents,
        request_key=request_key,
        pages=(success_url, cancel_url),
    )
    top_up, is_new = await _begin(services, request)
    if not is_new and top_up.state == "unknown":
        claimed = await services.database.write(
            lambda connection: store.claim(
                connection,
                account_id,
                top_up.top_up_id,
                owner=services.instance,
                at=services.clock.now_ms(),
                early=True,
            )
        )
        top_up, is_new = (top_up, False) if claimed is None else (claimed, True)
    if is_new:
        opened = top_up
        return await services.tasks.shared(
            _task(top_up), lambda: open_page(services, opened, success_url=success_url, cancel_url=cancel_url)
        )
    top_up = await _repeated_page(services, top_up)
    if top_up.state in ("submitting", "unknown"):
        raise Problem(PROCESSOR_UNAVAILABLE, "The payment processor has not responded.", retry_after=RETRY_SECONDS)
    return _result(top_up)


async def _repeated_page(services: Services, top_up: TopUp) -> TopUp:
    deadline = services.clock.monotonic() + AWAIT_SECONDS
    while top_up.state == "submitting" and services.clock.monotonic() < deadline:
        await services.clock.sleep(AWAIT_STEP_SECONDS)
        top_up = await _reload(services, top_up)
    return top_up


async def status(services: Services, account_id: str, payment_id: str) -> TopUp:
    """The outcome of a purchase, fetched from the processor while it is open. Raises Problem: NOT_FOUND."""

    def find(connection: Connection) -> TopUp | None:
        return store.find_by_payment(connection, payment_id) or store.find(connection, account_id, payment_id)

    found = await services.database.get(find)
    if found is None or found.account_id != account_id:
        raise Problem(
            NOT_FOUND,
            f"The account has no purchase {quoted(payment_id)}.",
            words="This purchase does not exist",
        )
    waiting = found.state in ("unknown", "processing", "action_required")
    if waiting and services.processor is not None and (found.kind != "checkout" or found.checkout_id is not None):
        return await _poll(services, found)
    return found


# --- the worker -------------------------------------------------------------------------------------------------------


async def work(services: Services) -> int:
    """Process what is due, several at once, each under its lease. Returns how many were processed."""
    off = services.processor is None  # without a processor, requests are canceled and everything else waits
    at = services.clock.now_ms()
    found = await services.database.get(partial(store.due, at=at, limit=DUE_MAX, requests_only=off))
    semaphore = asyncio.Semaphore(CONCURRENCY)

    async def fetch(account_id: str, top_up_id: str) -> bool:
        async with semaphore:
            done = await services.tasks.shared(
                ("top_up", account_id, top_up_id), lambda: carry_out(services, account_id, top_up_id)
            )
        return done is not None

    results = await asyncio.gather(*(fetch(*key) for key in found), return_exceptions=True)
    for key, result in zip(found, results, strict=True):
        if isinstance(result, BaseException):  # its lease expires, and it is processed again
            log.error("top-up could not be processed", account=key[0], top_up=key[1], exc_info=result)
    return sum(result is True for result in results)


def _task(top_up: TopUp) -> tuple[str, str, str]:
    return "top_up", top_up.account_id, top_up.top_up_id


async def _reload(services: Services, top_up: TopUp) -> TopUp:
    found = await services.database.get(partial(store.find, account_id=top_up.account_id, top_up_id=top_up.top_up_id))
    return top_up if found is None else found
