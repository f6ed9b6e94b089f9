"""PaymentIntents: created, confirmed, authenticated, captured, canceled."""

from fake_stripe import customers, disputes, payment_methods
from fake_stripe.cards import behavior_of
from fake_stripe.charging import Attempt, charge_card, fail_charge, needs_authentication
from fake_stripe.charging import capture as capture_charge
from fake_stripe.errors import Json, StripeError, invalid, refused
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata, new_metadata, update_fields
from fake_stripe.search import search
from fake_stripe.world import World, random_text

LEAST = 50
MOST = 99_999_999
_PLAIN = (
    "description", "receipt_email", "shipping", "statement_descriptor", "statement_descriptor_suffix", "transfer_group"
)  # fmt: skip
_OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")
_NO_DECIMALS = frozenset(
    ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf")
)


def create(world: World, params: Params) -> Json:
    amount, currency = params.need_integer("amount"), params.need("currency").lower()
    check_amount(amount, currency)
    if params.text("customer"):
        customers.existing_customer(world, params.need("customer"))
    confirm = params.flag("confirm") or False
    if params.flag("off_session") and not confirm:
        raise invalid("You cannot pass `off_session` unless `confirm` is true.", param="off_session")
    intent = new_intent(world, amount, currency, params.text("customer"), metadata=new_metadata(params))
    _take(world, intent, params)
    world.store.add(intent)
    world.emit("payment_intent.created", intent)
    return _confirm(world, intent, params) if confirm else intent


def new_intent(world: World, amount: int, currency: str, customer: str | None, **fields: object) -> Json:
    """A new PaymentIntent; not yet stored."""
    intent_id = world.new_id("pi")
    intent = stripe_object(
        "payment_intent",
        id=intent_id,
        amount=amount,
        amount_capturable=0,
        amount_details={"tip": {}},
        amount_received=0,
        capture_method="automatic_async",
        client_secret=f"{intent_id}_secret_{random_text(25)}",
        confirmation_method="automatic",
        created=world.now(),
        currency=currency,
        customer=customer,
        payment_method_options={"card": {"request_three_d_secure": "automatic"}},
        payment_method_types=["card"],
        status="requires_payment_method",
        metadata={},
    )
    return intent | fields


def check_amount(amount: int, currency: str, param: str = "amount") -> None:
    """Raises StripeError if the amount cannot be charged."""
    least = LEAST if currency not in _NO_DECIMALS else 1
    if amount <= 0 and amount != 0:
        raise invalid("Invalid positive integer", param=param, code="parameter_invalid_integer")
    if amount < least:
        message = (
            "The Checkout Session's total amount must convert to at least 50 cents."
            if param == "line_items"
            else "Amount must be at least $0.50 usd"
        )
        raise invalid(message, param=param, code="amount_too_small")
    if amount > MOST:
        raise invalid("Amount must be no more than $999,999.99", param=param, code="amount_too_large")


def _take(world: World, intent: Json, params: Params) -> None:
    update_fields(intent, params, *_PLAIN)
    types = params.texts("payment_method_types") or params.texts("allowed_payment_method_types")
    if types:
        intent["payment_method_types"] = types
    intent["capture_method"] = params.text("capture_method") or intent["capture_method"]
    intent["confirmation_method"] = params.text("confirmation_method") or intent["confirmation_method"]
    intent["setup_future_usage"] = params.text("setup_future_usage") or intent["setup_future_usage"]
    automatic = params.sub("automatic_payment_methods")
    if automatic.values:
        redirects = automatic.text("allow_redirects") or "always"
        intent["automatic_payment_methods"] = {"allow_redirects": redirects, "enabled": bool(automatic.flag("enabled"))}
    method = _method(world, intent, params)
    if method is not None:
        intent["payment_method"] = method["id"]
        if intent["status"] == "requires_payment_method":
            intent["status"] = "requires_confirmation"


def _method(world: World, intent: Json, params: Params) -> Json | None:
    given = params.text("payment_method")
    if given is not None:
        return payment_methods.for_payment(world, given, intent["customer"])
    data = params.sub("payment_method_data")
    return payment_methods.create(world, data) if data.values else None


def retrieve(world: World, params: Params, intent_id: str) -> Json:
    return world.store.get("payment_intent", intent_id)


def update(world: World, params: Params, intent_id: str) -> Json:
    intent = world.store.get("payment_intent", intent_id)
    amount = params.integer("amount")
    if amount is not None and amount != intent["amount"]:
        if intent["status"] not in _OPEN:
            raise _unexpected(world, intent, "updated")
        check_amount(amount, intent["currency"])
        intent["amount"] = amount
    if params.text("customer"):
        intent["customer"] = customers.existing_customer(world, params.need("customer"))["id"]
    merge_metadata(intent, params)
    _take(world, intent, params)
    return intent


def confirm(world: World, params: Params, intent_id: str) -> Json:
    return _confirm(world, world.store.get("payment_intent", intent_id), params)


def _confirm(world: World, intent: Json, params: Params) -> Json:
    if intent["status"] not in _OPEN:
        raise _unexpected(world, intent, "confirmed")
    _take(world, intent, params)
    if intent["payment_method"] is None:
        raise refused(
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the "
            "PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a "
            "payment method or ConfirmationToken.",
            code="payment_intent_unexpected_state",
            payment_intent=world.snapshot(intent),
        )
    # Anything but false: the API also accepts words such as `one_off` here.
    off_session = params.text("off_session") not in (None, "false")
    method = world.store.get("payment_method", intent["payment_method"])
    error = attempt(
        world,
        intent,
        method,
        off_session=off_session,
        refuse_action=params.flag("error_on_requires_action") or False,
        return_url=params.url("return_url"),
    )
    if error is not None:
        raise payment_error(error)
    return intent


def attempt(
    world: World,
    intent: Json,
    method: Json,
    *,
    off_session: bool = False,
    authenticated: bool = False,
    refuse_action: bool = False,
    may_authenticate: bool = False,
    return_url: str | None = None,
) -> Json | None:
    """Try to pay a PaymentIntent. Returns the card's error; None if it was paid or waits for the cardholder.

    `may_authenticate`: although it is off session, the cardholder may be asked to authenticate later.
    """
    intent.update(payment_method=method["id"], last_payment_error=None, next_action=None)
    if method["type"] != "card":
        # Debits take days; this one stays in progress until it is canceled.
        intent["status"] = "processing"
        world.emit("payment_intent.processing", intent)
        return None
    if not authenticated and needs_authentication(method, off_session=off_session):
        if refuse_action or (off_session and not may_authenticate):
            return _failed(world, intent, method, fail_charge(world, intent, method, "authentication_required"))
        require_authentication(world, intent, return_url)
        return None
    captured = intent["capture_method"] != "manual"
    tried = charge_card(world, intent, method, authenticated=authenticated, captured=captured)
    if tried.error is not None:
        return _failed(world, intent, method, tried)
    _succeeded(world, intent, method, tried, captured=captured)
    return None


def require_authentication(world: World, intent: Json, return_url: str | None = None) -> None:
    """Require the cardholder to authenticate the payment."""
    intent["status"] = "requires_action"
    if return_url is None:
        intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
    else:
        intent["_return_url"] = return_url
        url = f"{world.public_url}/3ds/{intent['id']}/{intent['client_secret']}"
        intent["next_action"] = {"type": "redirect_to_url", "redirect_to_url": {"return_url": return_url, "url": url}}
    world.emit("payment_intent.requires_action", intent)
    world.on_payment(world, intent)


def authenticate(world: World, intent: Json, *, passed: bool) -> Json | None:
    """The cardholder has passed or failed the authentication. Returns the card's error; None if it was paid."""
    method = world.store.get("payment_method", intent["payment_method"])
    if passed:
        return attempt(world, intent, method, authenticated=True)
    error = {
        "type": "invalid_request_error",
        "code": "payment_intent_authentication_failure",
        "doc_url": "https://docs.stripe.com/error-codes#payment-intent-authentication-failure",
        "message": "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new "
        "PaymentMethod to attempt to fulfill this PaymentIntent again.",
    }
    intent["next_action"] = None
    return _failed(world, intent, method, Attempt(None, error))


def _failed(world: World, intent: Json, method: Json, tried: Attempt) -> Json:
    error = dict(tried.error or {})
    if tried.charge is not None:
        intent["latest_charge"] = tried.charge["id"]
    shown = world.snapshot(method)
    intent.update(
        status="requires_payment_method", payment_method=None, last_payment_error=error | {"payment_method": shown}
    )
    world.emit("payment_intent.payment_failed", intent)
    world.on_payment(world, intent)
    return error | {"payment_intent": world.snapshot(intent), "payment_method": shown}


def _succeeded(world: World, intent: Json, method: Json, tried: Attempt, *, captured: bool) -> None:
    charge = tried.charge or {}
    intent["latest_charge"] = charge["id"]
    if intent["setup_future_usage"] is not None:
        method["_set_up"] = True
        if intent["customer"] is not None:
            payment_methods.attach(world, method, intent["customer"])
    if captured:
        intent.update(status="succeeded", amount_received=intent["amount"])
        world.emit("payment_intent.succeeded", intent)
    else:
        intent.update(status="requires_capture", amount_capturable=intent["amount"])
        world.emit("payment_intent.amount_capturable_updated", intent)
    world.on_payment(world, intent)
    behavior = behavior_of(method)
    if behavior.dispute is not None and captured:
        disputes.open_dispute(world, charge, behavior.dispute, inquiry=behavior.inquiry)


def payment_error(error: Json) -> StripeError:
    """The 402 response of a failed payment."""
    fields = dict(error)
    return StripeError(402, fields.pop("type"), fields.pop("message"), saved=True, **fields)


def cancel(world: World, params: Params, intent_id: str) -> Json:
    intent = world.store.get("payment_intent", intent_id)
    reason = params.choice("cancellation_reason", "duplicate", "fraudulent", "requested_by_customer", "abandoned")
    if intent["status"] not in (*_OPEN, "requires_capture", "processing"):
        raise _unexpected(world, intent, "canceled")
    if intent.get("_invoice") or intent.get("_session"):
        raise refused(
            "You cannot cancel this PaymentIntent: it belongs to an invoice or a Checkout Session.",
            code="payment_intent_unexpected_state",
            payment_intent=world.snapshot(intent),
        )
    return end(world, intent, reason)


def end(world: World, intent: Json, reason: str | None) -> Json:
    """Cancel a PaymentIntent; a reserved amount is released."""
    charge = world.store.find("charge", intent["latest_charge"])
    if intent["status"] == "requires_capture" and charge is not None:
        charge.update(refunded=True, amount_refunded=charge["amount"])
        world.emit("charge.refunded", charge)
    intent.update(
        status="canceled", canceled_at=world.now(), cancellation_reason=reason, amount_capturable=0, next_action=None
    )
    world.emit("payment_intent.canceled", intent)
    return intent


def capture(world: World, params: Params, intent_id: str) -> Json:
    intent = world.store.get("payment_intent", intent_id)
    if intent["status"] != "requires_capture":
        raise _unexpected(world, intent, "captured")
    amount = params.integer("amount_to_capture") or intent["amount_capturable"]
    if not 0 < amount <= intent["amount_capturable"]:
        message = f"The requested capture amount is greater than the amount you can capture for this charge: {amount}."
        raise refused(message, param="amount_to_capture", code="amount_too_large")
    merge_metadata(intent, params)
    charge = world.store.get("charge", intent["latest_charge"])
    capture_charge(world, charge, amount)
    intent.update(status="succeeded", amount_received=amount, amount_capturable=0)
    world.emit("payment_intent.succeeded", intent)
    world.on_payment(world, intent)
    return intent


def _unexpected(world: World, intent: Json, verb: str) -> StripeError:
    return refused(
        f"This PaymentIntent could not be {verb} because it has a status of {intent['status']}.",
        code="payment_intent_unexpected_state",
        payment_intent=world.snapshot(intent),
    )


def list_all(world: World, params: Params) -> Json:
    return page(world.store.newest("payment_intent"), params, "/v1/payment_intents", "customer")


def search_all(world: World, params: Params) -> Json:
    return search(world.store.newest("payment_intent"), params, "/v1/payment_intents/search")
