"""Declines: the meaning of decline codes, how long to wait after a decline, and how often the card networks allow a
retry.

Pure tables and arithmetic; times are milliseconds. README.md next to this file gives the reasons.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from farebox import backoff
from farebox.calendar import DAY_MS, HOUR_MS
from farebox.payments.charge_attempts import Attempt

DeclineClass: TypeAlias = Literal["soft", "hard", "authentication"]
"""soft: may succeed later. hard: this card must not be charged again. authentication: only with the card's owner
present.
"""

TRIES_MAX: Final = 4
"""Charges of one top-up, the first included."""
WAIT_MIN: Final = HOUR_MS
WAIT_MAX: Final = DAY_MS
"""Upper bound of our own back-off; a network's advice may be longer and is followed."""

HARD: Final[Mapping[str, str]] = {
    "lost_card": "",
    "stolen_card": "",
    "pickup_card": "",
    "restricted_card": "",
    "fraudulent": "",
    "merchant_blacklist": "",
    "security_violation": "",
    "expired_card": "The card has expired.",
    "incorrect_number": "The card number is incorrect.",
    "invalid_number": "The card number is incorrect.",
    "invalid_account": "The card, or the account it belongs to, is not valid.",
    "account_closed": "The card, or the account it belongs to, is not valid.",
    "new_account_information_available": "The card's details have changed. Save the card again.",
    "incorrect_cvc": "The card's security code is incorrect.",
    "invalid_cvc": "The card's security code is incorrect.",
    "invalid_expiry_month": "The card's expiry date is incorrect.",
    "invalid_expiry_year": "The card's expiry date is incorrect.",
    "incorrect_zip": "The card's postal code is incorrect.",
    "incorrect_address": "The card's address is incorrect.",
    "card_not_supported": "The card does not support this kind of purchase.",
    "currency_not_supported": "The card does not support US dollars.",
    "not_permitted": "The bank does not permit this payment.",
    "service_not_allowed": "The bank does not permit this payment.",
    "transaction_not_allowed": "The bank does not permit this payment.",
    "invalid_amount": "The bank does not permit a payment of this amount.",
    "do_not_try_again": "The bank asks not to charge this card again.",
    "stop_payment_order": "The cardholder has told the bank to stop these payments.",
    "revocation_of_authorization": "The cardholder has told the bank to stop these payments.",
    "revocation_of_all_authorizations": "The cardholder has told the bank to stop these payments.",
    "pin_try_exceeded": "The card's PIN was entered incorrectly too often.",
    "offline_pin_required": "The card requires a PIN, which cannot be entered online.",
    "online_or_offline_pin_required": "The card requires a PIN, which cannot be entered online.",
    "testmode_decline": "A test card was used for a real payment.",
    "test_mode_live_card": "A real card was used for a test payment.",
    "live_mode_test_card": "A test card was used for a real payment.",
    "payment_method_not_available": "The card cannot be charged.",
    "resource_missing": "The card is no longer saved.",
}
"""Code → text that may be shown to the card's owner; empty: the bank does not allow disclosure, so the general text is
used.
"""

SOFT: Final[Mapping[str, str]] = {
    "insufficient_funds": "The card has insufficient funds.",
    "withdrawal_count_limit_exceeded": "The card's credit limit is exceeded.",
    "card_velocity_exceeded": "The card's payment limit is exceeded.",
    "processing_error": "The bank could not process the payment.",
    "issuer_not_available": "The bank could not be reached.",
    "reenter_transaction": "The bank could not process the payment.",
    "try_again_later": "The bank asks to try again later.",
    "duplicate_transaction": "The bank considers this a duplicate payment.",
    "do_not_honor": "",
    "generic_decline": "",
    "card_declined": "",
    "no_action_taken": "",
    "approve_with_id": "",
    "call_issuer": "",
}

AUTHENTICATION: Final[Mapping[str, str]] = {
    "authentication_required": "The bank wants the cardholder to confirm the payment.",
    "authentication_not_handled": "The bank wants the cardholder to confirm the payment.",
    "payment_intent_authentication_failure": "The cardholder did not confirm the payment.",
    "mobile_device_authentication_required": "The bank wants the cardholder to confirm the payment.",
}

GENERAL: Final = "The card was declined."
_REVEALS_CARD: Final = re.compile(r"lost|stolen|pick_?up|fraud", re.IGNORECASE)

HARD_ADVICE: Final = frozenset({"do_not_try_again", "confirm_card_data", "03", "21"})
"""The processor's advice, or Mastercard's merchant advice codes, that mean: do not try again with these card
details."""

ADVICE_WAITS: Final[Mapping[str, int]] = {
    "try_again_later": HOUR_MS,
    "24": HOUR_MS,
    "25": DAY_MS,
    "26": 2 * DAY_MS,
    "27": 4 * DAY_MS,
    "28": 6 * DAY_MS,
    "29": 8 * DAY_MS,
    "30": 10 * DAY_MS,
}
"""Mastercard's merchant advice codes 24 to 30 say how long to wait."""


class NetworkRule(NamedTuple):
    """At most `declines` within `window` ms, for one card, or for one card and one amount."""

    declines: int
    window: int
    same_amount: bool


NETWORK_RULES: Final[Mapping[str, tuple[NetworkRule, ...]]] = {
    # newer documentation says 20; the smaller figure complies with both
    "visa": (NetworkRule(15, 30 * DAY_MS, same_amount=True),),
    "mastercard": (NetworkRule(10, DAY_MS, same_amount=False), NetworkRule(35, 30 * DAY_MS, same_amount=False)),
}
OTHER_NETWORKS: Final = (NetworkRule(10, DAY_MS, same_amount=False), NetworkRule(15, 30 * DAY_MS, same_amount=True))
"""For brands that publish no rule we know of: the strictest of the others."""


def classify(code: str, advice: str | None = None) -> DeclineClass:
    """What a decline means. An unknown code is soft: the guards limit the consequences."""
    if code in AUTHENTICATION:
        return "authentication"
    if code in HARD or advice in HARD_ADVICE:
        return "hard"
    return "soft"


def safe_text(code: str) -> str:
    """The text shown to the cardholder. That a card is reported lost or stolen, or looks like fraud, is never
    disclosed.
    """
    return HARD.get(code) or SOFT.get(code) or AUTHENTICATION.get(code) or GENERAL


def public_code(code: str | None) -> str | None:
    """The code that may be disclosed: a code without a text of its own becomes a general decline."""
    if code is None:
        return None
    public = HARD.get(code) or SOFT.get(code) or AUTHENTICATION.get(code)
    return code if public else "generic_decline"


def public_failure(reason: str | None) -> str | None:
    """Why a refund failed, as far as it may be disclosed to the account's owner."""
    return "declined" if reason is not None and _REVEALS_CARD.search(reason) else reason


def wait_after(declines_of_top_up: int, advice: str | None = None) -> int:
    """Milliseconds to wait after the nth decline of a top-up: one hour, doubled each time up to a day, or longer if
    advised."""
    assert declines_of_top_up >= 1
    return max(backoff.doubling(declines_of_top_up, WAIT_MIN, WAIT_MAX), ADVICE_WAITS.get(advice or "", 0))


def network_allows_at(attempts: Sequence[Attempt], *, brand: str, fingerprint: str, amount_cents: int, at: int) -> int:
    """When the card's network allows the next attempt: `at` itself, or later.

    Counts every attempt that was not a success, of whatever kind: the network does not know why it was made.
    """
    allowed = at
    for rule in NETWORK_RULES.get(brand.lower(), OTHER_NETWORKS):
        declined = sorted(
            attempt.started_at
            for attempt in attempts
            if attempt.fingerprint == fingerprint
            and attempt.outcome == "declined"
            and attempt.started_at > at - rule.window
            and (not rule.same_amount or attempt.amount_cents == amount_cents)
        )
        if len(declined) >= rule.declines:
            allowed = max(allowed, declined[-rule.declines] + rule.window)
    return allowed
