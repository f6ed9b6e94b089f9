"""The published test cards: their properties, and their behavior when saved, charged, disputed or refunded."""

from dataclasses import dataclass, field, replace

from fake_stripe.errors import Json


@dataclass(frozen=True, slots=True)
class Behavior:
    """How a card behaves."""

    decline: str | None = None
    """Decline code of every charge."""
    advice: str | None = None
    """`advice_code` of its declines, if the bank gives another one than is usual for the code."""
    attachable: bool = True
    """Whether it can be saved although it declines."""
    authenticate: str = "never"
    """`always`; `unless_set_up`: not off session once it has been set up; `on_session`: like a card that has been set
    up."""
    dispute: str | None = None
    """Reason of the dispute that its charges cause."""
    inquiry: bool = False
    refund: str = "succeeds"
    """Or `pending` (succeeds later), `fails` (later)."""
    risk: str = "normal"
    cvc_check: str = "pass"
    available_at_once: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """A test card."""

    number: str
    brand: str
    names: tuple[str, ...] = ()
    """Names in its tokens: `pm_card_{name}`, `tok_{name}`."""
    behavior: Behavior = field(default_factory=Behavior)
    funding: str = "credit"
    country: str = "US"


@dataclass(frozen=True, slots=True)
class Decline:
    """What the API says about a decline code."""

    code: str
    message: str
    advice: str | None
    network: str | None


_DECLINED = "Your card was declined."
ADVICE_CODES = ("try_again_later", "do_not_try_again", "confirm_card_data")
_AGAIN, _NEVER, _CHECK = ADVICE_CODES

DECLINES = {
    "generic_decline": Decline("card_declined", _DECLINED, _AGAIN, "01"),
    "authentication_required": Decline(
        "authentication_required",
        "Your card was declined. This transaction requires authentication.",
        None,
        "1A",
    ),
    "call_issuer": Decline("card_declined", _DECLINED, _AGAIN, "02"),
    "card_not_supported": Decline("card_declined", "Your card is not supported.", _AGAIN, "57"),
    "card_velocity_exceeded": Decline(
        "card_declined", "Your card was declined for making repeated attempts too frequently.", _AGAIN, "61"
    ),
    "do_not_honor": Decline("card_declined", _DECLINED, _AGAIN, "05"),
    "do_not_try_again": Decline("card_declined", _DECLINED, _NEVER, "05"),
    "expired_card": Decline("expired_card", "Your card has expired.", _NEVER, "54"),
    "fraudulent": Decline("card_declined", _DECLINED, _NEVER, "59"),
    "incorrect_cvc": Decline("incorrect_cvc", "Your card's security code is incorrect.", _CHECK, "N7"),
    "incorrect_number": Decline("incorrect_number", "Your card number is incorrect.", _CHECK, "14"),
    "insufficient_funds": Decline("card_declined", "Your card has insufficient funds.", _AGAIN, "51"),
    "invalid_account": Decline("card_declined", _DECLINED, _NEVER, "14"),
    "issuer_not_available": Decline("card_declined", _DECLINED, _AGAIN, "91"),
    "lost_card": Decline("card_declined", _DECLINED, _NEVER, "41"),
    "pickup_card": Decline("card_declined", _DECLINED, _NEVER, "04"),
    "processing_error": Decline(
        "processing_error", "An error occurred while processing your card. Try again in a little bit.", _AGAIN, "96"
    ),
    "reenter_transaction": Decline("card_declined", _DECLINED, _AGAIN, "19"),
    "restricted_card": Decline("card_declined", _DECLINED, _NEVER, "62"),
    "revocation_of_authorization": Decline("card_declined", _DECLINED, _NEVER, "R1"),
    "stolen_card": Decline("card_declined", _DECLINED, _NEVER, "43"),
    "transaction_not_allowed": Decline("card_declined", _DECLINED, _AGAIN, "57"),
    "try_again_later": Decline("card_declined", _DECLINED, _AGAIN, "19"),
    "withdrawal_count_limit_exceeded": Decline("card_declined", _DECLINED, _AGAIN, "65"),
}


def _declining(number: str, decline: str, *names: str, brand: str = "visa") -> Card:
    return Card(number, brand, names, Behavior(decline=decline, attachable=False))


def _card(number: str, brand: str, *names: str, funding: str = "credit", country: str = "US") -> Card:
    return Card(number, brand, names, funding=funding, country=country)


def _card_with(number: str, *names: str, brand: str = "visa", country: str = "US", **behavior: object) -> Card:
    return Card(number, brand, names, replace(Behavior(), **behavior), country=country)  # type: ignore[arg-type]


CARDS = (
    _card("4242424242424242", "visa", "visa", "us"),
    _card("4000056655665556", "visa", "visa_debit", funding="debit"),
    _card("5555555555554444", "mastercard", "mastercard"),
    _card("2223003122003222", "mastercard"),
    _card("5200828282828210", "mastercard", "mastercard_debit", funding="debit"),
    _card("5105105105105100", "mastercard", "mastercard_prepaid", funding="prepaid"),
    _card("378282246310005", "amex", "amex"),
    _card("371449635398431", "amex"),
    _card("6011111111111117", "discover", "discover"),
    _card("6011000990139424", "discover"),
    _card("3056930009020004", "diners", "diners"),
    _card("36227206271667", "diners"),
    _card("3566002020360505", "jcb", "jcb"),
    _card("6200000000000005", "unionpay", "unionpay"),
    _card("4000002760000016", "visa", "de", country="DE"),
    _card("4000002500000003", "visa", "fr", country="FR"),
    _card("4000008260000000", "visa", "gb", country="GB"),
    _card("4000005280000002", "visa", "nl", country="NL"),
    _card("4000007560000009", "visa", "ch", country="CH"),
    _card("4000003800000008", "visa", "it", country="IT"),
    _card("4000001240000000", "visa", "ca", country="CA"),
    _card("4000000760000002", "visa", "br", country="BR"),
    _card("4000003920000003", "visa", "jp", country="JP"),
    _card("4000000360000006", "visa", "au", country="AU"),
    _declining(
        "4000000000000002", "generic_decline", "chargeDeclined", "visa_chargeDeclined", "chargeDeclinedGenericDecline"
    ),
    _declining(
        "4000000000009995",
        "insufficient_funds",
        "chargeDeclinedInsufficientFunds",
        "visa_chargeDeclinedInsufficientFunds",
    ),
    _declining("4000000000009987", "lost_card", "chargeDeclinedLostCard", "visa_chargeDeclinedLostCard"),
    _declining("4000000000009979", "stolen_card", "chargeDeclinedStolenCard", "visa_chargeDeclinedStolenCard"),
    _declining("4000000000000069", "expired_card", "chargeDeclinedExpiredCard", "visa_chargeDeclinedExpiredCard"),
    _declining("4000000000000127", "incorrect_cvc", "chargeDeclinedIncorrectCvc", "visa_chargeDeclinedIncorrectCvc"),
    _declining(
        "4000000000000119", "processing_error", "chargeDeclinedProcessingError", "visa_chargeDeclinedProcessingError"
    ),
    _declining(
        "4000000000006975",
        "card_velocity_exceeded",
        "chargeDeclinedVelocityLimitExceeded",
        "visa_chargeDeclinedVelocityLimitExceeded",
    ),
    _declining(
        "4100000000000019", "fraudulent", "radarBlock", "chargeDeclinedFraudulent", "visa_chargeDeclinedFraudulent"
    ),
    _card_with("4000000000000341", "chargeCustomerFail", decline="generic_decline"),
    _card_with("4000000000004954", "riskLevelHighest", risk="highest"),
    _card_with("4000000000009235", "riskLevelElevated", risk="elevated"),
    _card_with("4000000000000101", "cvcCheckFail", cvc_check="fail"),
    _card_with("4000000000000077", "bypassPending", available_at_once=True),
    _card_with("4000000000000259", "createDispute", dispute="fraudulent"),
    _card_with("4000000000002685", "createDisputeProductNotReceived", dispute="product_not_received"),
    _card_with("4000000000001976", "createDisputeInquiry", dispute="fraudulent", inquiry=True),
    _card_with("4000000000007726", "pendingRefund", refund="pending"),
    _card_with("4000000000005126", "refundFail", refund="fails"),
    _card_with("4000002500003155", "authenticationRequiredOnSetup", authenticate="unless_set_up", country="FR"),
    _card_with("4000002760003184", "authenticationRequired", authenticate="always", country="DE"),
    _card_with("4000003800000446", "authenticationRequiredSetupForOffSession", authenticate="on_session", country="IT"),
    _card_with(
        "4000008260003178",
        "authenticationRequiredChargeDeclinedInsufficientFunds",
        authenticate="unless_set_up",
        decline="insufficient_funds",
        country="GB",
    ),
    _card_with("4000000000003220", "threeDSecure2Required", authenticate="always"),
    _card_with("4000000000003063", "threeDSecureRequired", authenticate="always"),
    _card_with(
        "4000008400001629",
        "threeDSecureRequiredChargeDeclined",
        authenticate="always",
        decline="generic_decline",
    ),
    _card_with("4000000000003055", "threeDSecureOptional"),
)
_BY_NUMBER = {card.number: card for card in CARDS}
_BY_NAME = {name: card for card in CARDS for name in card.names}


def by_number(number: str) -> Card | None:
    return _BY_NUMBER.get(number)


def by_token(token: str) -> Card | None:
    """The card of `pm_card_visa` or `tok_visa`."""
    for prefix in ("pm_card_", "tok_"):
        if token.startswith(prefix):
            return _BY_NAME.get(token.removeprefix(prefix))
    return None


def passes_luhn(number: str) -> bool:
    digits = [int(digit) for digit in reversed(number)]
    total = sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return 12 <= len(number) <= 19 and total % 10 == 0


def behavior_of(method: Json) -> Behavior:
    """The current behavior of a payment method: that of its card, or what the tester has set since."""
    card = by_number(method.get("_number", ""))
    behavior = card.behavior if card is not None else Behavior()
    override = method.get("_behave")
    if override is None:
        return behavior
    if override == "authentication_required":
        return Behavior(authenticate="always")
    return Behavior(decline=None if override == "ok" else override, advice=method.get("_advice"))


def declined(decline_code: str, advice: str | None = None) -> Decline:
    """The decline of a code; a code that is not in the table is a plain card_declined. `advice` replaces the usual
    advice."""
    found = DECLINES.get(decline_code) or Decline("card_declined", _DECLINED, _AGAIN, "05")
    return found if advice is None else replace(found, advice=advice)


def card_error(decline_code: str, advice: str | None = None, **fields: object) -> Json:
    """The error object of a decline."""
    decline = declined(decline_code, advice)
    error: Json = {
        "type": "card_error",
        "code": decline.code,
        "decline_code": decline_code,
        "message": decline.message,
        "doc_url": "https://docs.stripe.com/error-codes#" + decline.code.replace("_", "-"),
        "advice_code": decline.advice,
        "network_decline_code": decline.network,
        **fields,
    }
    return {name: value for name, value in error.items() if value is not None}
