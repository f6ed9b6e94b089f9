"""Cards and billing profile of an account. The processor has the cards; we store what it reported last.

Card data never comes here: the owner types it into the processor's hosted page.
"""

import contextlib
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from farebox.billing import auto_top_up
from farebox.errors import (
    NOT_FOUND,
    PROCESSOR_REFUSED,
    PROCESSOR_UNAVAILABLE,
    VALIDATION_FAILED,
    Problem,
)
from farebox.model import Operator
from farebox.payments import metadata
from farebox.payments.model import Card
from farebox.payments.processor import (
    CUSTOMER_DELETED,
    MISSING,
    Checkout,
    Processor,
    ProcessorRefused,
    ProcessorUnavailable,
)
from farebox.quoting import quoted
from farebox.runtime.services import Services, processor_of
from farebox.settings import Settings
from farebox.storage import customers as store
from farebox.storage.accounts import find_account
from farebox.storage.customers import CustomerProfile
from farebox.storage.operator_actions import record_action
from farebox.storage.sql import Connection

T = TypeVar("T")

log = structlog.get_logger("farebox.cards")

RETRY_SECONDS = 2
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_COUNTRY = re.compile(r"[A-Z]{2}")
_TEXT_MAX = 1000
_TOP_UP_CENTS = (50, 99_999_999)
"""The smallest and the largest amount that the processor accepts for one charge, in US cents."""


# --- the processor's failures as problems ----------------------------------------------------------------------------


@contextlib.contextmanager
def translate_processor_errors(what: str) -> Iterator[None]:
    """For calls to the processor on behalf of a caller: turns failures into PROCESSOR_UNAVAILABLE or
    PROCESSOR_REFUSED."""
    try:
        yield
    except ProcessorUnavailable as error:
        log.warning("the processor did not respond", what=what, error=str(error))
        message = "The payment processor did not respond. Try again in a moment."
        raise Problem(PROCESSOR_UNAVAILABLE, message, retry_after=RETRY_SECONDS) from error
    except ProcessorRefused as error:
        log.warning("the processor refused", what=what, code=error.code, error=str(error))
        raise Problem(PROCESSOR_REFUSED, "The payment processor rejected the request.") from error


# --- cards ------------------------------------------------------------------------------------------------------------


async def cards(services: Services, account_id: str) -> list[Card]:
    """The account's saved cards as last reported, the default one first, then the newest."""
    return await services.database.get(partial(store.cards_of, account_id=account_id))


async def customer_of(services: Services, account_id: str) -> str:
    """The processor's customer ID for the account; the customer is created on first use, under an idempotency key.

    Raises Problem: PAYMENTS_OFF, NOT_FOUND, PROCESSOR_UNAVAILABLE, PROCESSOR_REFUSED.
    """
    customer_id = await services.database.get(partial(store.find_customer, account_id=account_id))
    return await _new_customer(services, account_id) if customer_id is None else customer_id


async def for_customer(services: Services, account_id: str, ask: Callable[[str], Awaitable[T]]) -> T:
    """Call `ask` with the account's customer ID.

    If the processor no longer has the customer (deleted there, or created in test mode), a new one is created. Raises
    what `customer_of` and `ask` raise.
    """
    customer_id = await customer_of(services, account_id)
    try:
        return await ask(customer_id)
    except ProcessorRefused as error:
        if error.code not in (CUSTOMER_DELETED, MISSING):
            raise
        log.warning("the processor does not have the customer", account=account_id, customer=customer_id)
    return await ask(await _new_customer(services, account_id, gone=customer_id))


async def _new_customer(services: Services, account_id: str, *, gone: str = "") -> str:
    """Create the customer and store its ID, replacing the one that is gone."""
    processor = processor_of(services)
    account = await services.database.get(partial(find_account, account_id=account_id))
    if account is None:
        raise Problem(NOT_FOUND, f"There is no account {quoted(account_id)}.")
    found = await profile(services, account_id)
    name, email = found.name or account.name, found.email
    content = hashlib.sha256(f"{name}\n{email}".encode()).hexdigest()[:16]  # each content has its own key
    with translate_processor_errors("create a customer"):
        key = f"customer:{account_id}:{content}" + (f":after:{gone}" if gone else "")
        customer_id = await processor.create_customer(account_id, name=name, email=email, key=key)
    return await services.database.write(
        partial(
            _keep_customer,
            settings=services.settings,
            account_id=account_id,
            customer_id=customer_id,
            gone=gone,
            at=services.clock.now_ms(),
        )
    )


def _keep_customer(
    connection: Connection, settings: Settings, account_id: str, customer_id: str, gone: str, at: int
) -> str:
    """Store the customer ID, replacing the one that is `gone`; from now on the owner is notified of a low balance, at
    the mark from the settings unless the account has its own.
    """
    if store.find_profile(connection, account_id).low_balance_cents is None:
        store.set_low_balance(connection, account_id, settings.low_balance_cents)
    store.forget_customer(connection, account_id, gone)
    return store.add_customer(connection, account_id, customer_id, at)


async def open_setup(services: Services, account_id: str, *, success_url: str, cancel_url: str) -> Checkout:
    """A hosted page on which the owner saves a card. Each call opens a new one; an unused one expires by itself."""
    processor = processor_of(services)

    async def ask(customer_id: str) -> Checkout:
        return await processor.open_setup(
            customer_id,
            success_url=success_url,
            cancel_url=cancel_url,
            metadata={metadata.ACCOUNT: account_id},
            key=f"setup:{services.ids.log_id()}",
        )

    with translate_processor_errors("open a page to save a card"):
        return await for_customer(services, account_id, ask)


async def refresh(services: Services, account_id: str) -> list[Card]:
    """Fetch the cards from the processor, order them, and store them.

    If a card was saved twice, the newest copy is kept, and becomes the default if the older one was. The older one is
    removed once no purchase can choose it any more. A single card is the default.

    Raises Problem: PAYMENTS_OFF, PROCESSOR_UNAVAILABLE, PROCESSOR_REFUSED.
    """
    processor = processor_of(services)
    customer_id = await services.database.get(partial(store.find_customer, account_id=account_id))
    if customer_id is None:
        return []
    with translate_processor_errors("list the cards"):
        requested_at = services.clock.now_ms()
        found = await _cards_of(processor, customer_id)
        in_order, copies = await _in_order(services, processor, account_id, customer_id, found)
    stored = await _store(services, account_id, in_order, requested_at)
    await _remove_copies(services, processor, account_id, copies)
    return stored


async def _cards_of(processor: Processor, customer_id: str) -> list[Card]:
    """The customer's cards; none if the customer was deleted at the processor."""
    try:
        return await processor.cards(customer_id)
    except ProcessorRefused as error:
        # a customer that is merely unknown there: the secret key may belong to another Stripe account
        if error.code != CUSTOMER_DELETED:
            raise
        return []


async def record_saved_card(services: Services, account_id: str, card_id: str) -> list[Card]:
    """The owner has saved this card on a hosted page: it becomes the default the first time this is reported.

    A late or repeated event does not undo the owner's later choice.
    """
    found = await refresh(services, account_id)
    new = next((card for card in found if card.card_id == card_id), None)
    known = await services.database.get(partial(store.was_default, account_id=account_id, card_id=card_id))
    if new is None or new.is_default or known:
        return found
    return await _make_default(services, account_id, card_id)


async def set_default(services: Services, account_id: str, card_id: str) -> list[Card]:
    """Make a saved card the default. Raises Problem: NOT_FOUND, and as `refresh`."""
    processor_of(services)
    await _find_card(services, account_id, card_id)
    return await _make_default(services, account_id, card_id)


async def remove(services: Services, account_id: str, card_id: str) -> list[Card]:
    """Remove a card, at the processor too. If it was the default, the newest of the others becomes the default.

    Raises Problem: NOT_FOUND, and as `refresh`.
    """
    processor = processor_of(services)
    card = await _find_card(services, account_id, card_id)
    with translate_processor_errors("remove a card"):
        await processor.remove_card(card_id)
    left = await refresh(services, account_id)
    if card.is_default and left and not any(other.is_default for other in left):
        return await _make_default(services, account_id, left[0].card_id)
    return left


async def _find_card(services: Services, account_id: str, card_id: str) -> Card:
    """The account's card with this ID. Another account's card is reported as not found."""
    for known in (await cards(services, account_id), None):
        for card in known if known is not None else await refresh(services, account_id):
            if card.card_id == card_id:
                return card
    raise Problem(NOT_FOUND, f"The account has no card {quoted(card_id)}.")


async def _make_default(services: Services, account_id: str, card_id: str) -> list[Card]:
    processor = processor_of(services)
    customer_id = await customer_of(services, account_id)
    with translate_processor_errors("set the default card"):
        await processor.set_default_card(customer_id, card_id)
        requested_at = services.clock.now_ms()
        found = await processor.cards(customer_id)
    return await _store(services, account_id, found, requested_at)


async def _in_order(
    services: Services, processor: Processor, account_id: str, customer_id: str, found: Sequence[Card]
) -> tuple[list[Card], list[Card]]:
    """Choose a default. Returns the cards to store, and the older copies of the same card to remove: all but those that
    an open top-up is to be charged to."""
    in_use = await services.database.get(partial(store.cards_in_use, account_id=account_id))
    newest: dict[str, Card] = {}
    copies: list[Card] = []
    for card in sorted(found, key=lambda card: (card.created_at, card.is_default), reverse=True):
        kept = newest.setdefault(card.fingerprint, card)
        if kept is not card:
            copies.append(card)
    defaults = {card.fingerprint for card in found if card.is_default}
    chosen = next((newest[fingerprint] for fingerprint in defaults), None)
    if chosen is None and len(newest) == 1:
        chosen = next(iter(newest.values()))
    if chosen is not None and not chosen.is_default:  # before the older copy is removed, which may be the default
        await processor.set_default_card(customer_id, chosen.card_id)
    left = [*newest.values(), *(card for card in copies if card.card_id in in_use)]
    stored = [
        msgspec.structs.replace(card, is_default=chosen is not None and card.card_id == chosen.card_id) for card in left
    ]
    return stored, [card for card in copies if card.card_id not in in_use]


async def _remove_copies(services: Services, processor: Processor, account_id: str, copies: Sequence[Card]) -> None:
    """Remove copies that are no longer stored, unless a top-up has just begun with one. The next refresh removes what
    is left."""
    if not copies:
        return
    in_use = await services.database.get(partial(store.cards_in_use, account_id=account_id))
    for card in copies:
        if card.card_id not in in_use:
            try:
                await processor.remove_card(card.card_id)
            except (ProcessorUnavailable, ProcessorRefused) as error:
                log.warning("copy of a card not removed", account=account_id, card=card.card_id, error=str(error))


async def _store(services: Services, account_id: str, found: Sequence[Card], requested_at: int) -> list[Card]:
    at = services.clock.now_ms()
    await services.database.write(
        partial(_keep_cards, account_id=account_id, found=found, requested_at=requested_at, at=at)
    )
    return await cards(services, account_id)


def _keep_cards(connection: Connection, account_id: str, found: Sequence[Card], requested_at: int, at: int) -> None:
    """Store the cards. If the default has changed, a suspended auto top-up is updated in the same commit."""
    before = store.default_card(connection, account_id)
    if not store.replace_cards(connection, account_id, found, requested_at=requested_at):
        return
    now = store.default_card(connection, account_id)
    account = find_account(connection, account_id)
    if now is None or account is None:
        return
    renewed = before is not None and _same_but_renewed(before, now)
    if before is None or renewed or (before.card_id, before.fingerprint) != (now.card_id, now.fingerprint):
        auto_top_up.card_changed(connection, account.bucket, account_id, now.fingerprint, at, renewed=renewed)


def _same_but_renewed(before: Card, now: Card) -> bool:
    """Whether the bank has renewed the card with another expiry date: after a decline it counts as another card."""
    expiries = (before.exp_month, before.exp_year), (now.exp_month, now.exp_year)
    return before.fingerprint == now.fingerprint and expiries[0] != expiries[1]


# --- profile ----------------------------------------------------------------------------------------------------------


async def profile(services: Services, account_id: str) -> CustomerProfile:
    """The recipient of the account's invoices, and the account's own limits."""
    return await services.database.get(partial(store.find_profile, account_id=account_id))


async def set_profile(services: Services, account_id: str, profile: CustomerProfile) -> CustomerProfile:
    """Replace the profile. Raises Problem: NOT_FOUND, VALIDATION_FAILED."""
    at = services.clock.now_ms()
    return await services.database.write(
        partial(put_profile, settings=services.settings, account_id=account_id, profile=profile, at=at)
    )


def put_profile(
    connection: Connection,
    settings: Settings,
    account_id: str,
    profile: CustomerProfile,
    at: int,
    *,
    by: Operator | None = None,
) -> CustomerProfile:
    """Replace the profile, inside the caller's transaction. Without a low-balance mark the account uses the one from
    the settings. `by` is the operator who does it, if it is one.

    Raises Problem: NOT_FOUND, VALIDATION_FAILED.
    """
    if find_account(connection, account_id) is None:
        raise Problem(NOT_FOUND, f"There is no account {quoted(account_id)}.")
    checked = _checked(profile, settings)
    if checked.low_balance_cents is None:
        checked = msgspec.structs.replace(checked, low_balance_cents=settings.low_balance_cents)
    before = store.find_profile(connection, account_id)
    store.put_profile(connection, account_id, checked, at)
    if by is not None:
        was, now = msgspec.to_builtins(before), msgspec.to_builtins(checked)
        record_action(connection, by, "profile.set", at, account_id=account_id, before=was, after=now)
    return checked


_NAMES = {"email": "e-mail address", "tax_id": "tax ID"}


def _checked(profile: CustomerProfile, settings: Settings) -> CustomerProfile:
    texts = {name: getattr(profile, name).strip() for name in ("name", "email", "address", "country", "tax_id")}
    for name, text in texts.items():
        if len(text) > _TEXT_MAX or any(ord(sign) < 32 and (sign != "\n" or name != "address") for sign in text):
            what = _NAMES.get(name, name)
            raise _invalid(name, f"The {what} can have at most {_TEXT_MAX:,} characters, and no control characters")
    if texts["email"] and not _EMAIL.fullmatch(texts["email"]):
        raise _invalid("email", "The e-mail address is not valid: write it as ada@example.com")
    texts["country"] = texts["country"].upper()
    if texts["country"] and not _COUNTRY.fullmatch(texts["country"]):
        raise _invalid("country", "The country must be a two-letter code (ISO 3166-1), such as DE")
    low, high = profile.top_up_min_cents, profile.top_up_max_cents
    for name, cents in (("top_up_min_cents", low), ("top_up_max_cents", high)):
        if cents is not None and not _TOP_UP_CENTS[0] <= cents <= _TOP_UP_CENTS[1]:
            raise _invalid(name, "From {} to {} cents".format(*_TOP_UP_CENTS))
    low = settings.topup_min_cents if low is None else low
    if low > (settings.topup_max_cents if high is None else high):
        raise _invalid("top_up_min_cents", "The smallest top-up is above the largest one")
    if profile.low_balance_cents is not None and not 0 <= profile.low_balance_cents <= 10**8:
        raise _invalid("low_balance_cents", "From 0 to 100000000 cents")
    return msgspec.structs.replace(profile, **texts)


def _invalid(field: str, message: str) -> Problem:
    return Problem(VALIDATION_FAILED, f"{message}.", path=("body", field))
