"""SetupIntents: saving a card without charging it."""

from fake_stripe import customers, payment_methods
from fake_stripe.cards import behavior_of, card_error
from fake_stripe.errors import Json, StripeError, refused
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata, new_metadata, update_fields
from fake_stripe.payment_intents import payment_error
from fake_stripe.world import World, random_text

_OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")


def create(world: World, params: Params) -> Json:
    if params.text("customer"):
        customers.existing_customer(world, params.need("customer"))
    intent = new_intent(world, params.text("customer"), new_metadata(params))
    _take(world, intent, params)
    world.store.add(intent)
    world.emit("setup_intent.created", intent)
    return _confirm(world, intent, params) if params.flag("confirm") else intent


def new_intent(world: World, customer: str | None, metadata: Json) -> Json:
    """A new SetupIntent; not yet stored."""
    intent_id = world.new_id("seti")
    return stripe_object(
        "setup_intent",
        id=intent_id,
        client_secret=f"{intent_id}_secret_{random_text(25)}",
        created=world.now(),
        customer=customer,
        metadata=metadata,
        payment_method_options={
            "card": {"mandate_options": None, "network": None, "request_three_d_secure": "automatic"}
        },
        payment_method_types=["card"],
        status="requires_payment_method",
        usage="off_session",
    )


def _take(world: World, intent: Json, params: Params) -> None:
    update_fields(intent, params, "description")
    intent["usage"] = params.text("usage") or intent["usage"]
    types = params.texts("payment_method_types") or params.texts("allowed_payment_method_types")
    intent["payment_method_types"] = types or intent["payment_method_types"]
    automatic = params.sub("automatic_payment_methods")
    if automatic.values:
        redirects = automatic.text("allow_redirects") or "always"
        intent["automatic_payment_methods"] = {"allow_redirects": redirects, "enabled": bool(automatic.flag("enabled"))}
    given, data = params.text("payment_method"), params.sub("payment_method_data")
    method = None
    if given is not None:
        method = payment_methods.for_payment(world, given, intent["customer"])
    elif data.values:
        method = payment_methods.create(world, data)
    if method is not None:
        intent["payment_method"] = method["id"]
        if intent["status"] == "requires_payment_method":
            intent["status"] = "requires_confirmation"


def retrieve(world: World, params: Params, intent_id: str) -> Json:
    return world.store.get("setup_intent", intent_id)


def update(world: World, params: Params, intent_id: str) -> Json:
    intent = world.store.get("setup_intent", intent_id)
    if params.text("customer"):
        intent["customer"] = customers.existing_customer(world, params.need("customer"))["id"]
    merge_metadata(intent, params)
    _take(world, intent, params)
    return intent


def confirm(world: World, params: Params, intent_id: str) -> Json:
    return _confirm(world, world.store.get("setup_intent", intent_id), params)


def _confirm(world: World, intent: Json, params: Params) -> Json:
    if intent["status"] not in _OPEN:
        raise _unexpected(world, intent, "confirmed")
    _take(world, intent, params)
    if intent["payment_method"] is None:
        raise refused(
            "You cannot confirm this SetupIntent because it's missing a payment method. Update the SetupIntent with a "
            "payment method and then confirm it again.",
            code="setup_intent_unexpected_state",
            setup_intent=world.snapshot(intent),
        )
    method = world.store.get("payment_method", intent["payment_method"])
    error = attempt(world, intent, method)
    if error is not None:
        raise payment_error(error)
    return intent


def attempt(world: World, intent: Json, method: Json, *, authenticated: bool = False) -> Json | None:
    """Try to save a card. Returns its error; None if it was saved or waits for the cardholder."""
    intent.update(payment_method=method["id"], last_setup_error=None, next_action=None)
    behavior = behavior_of(method)
    if behavior.decline is not None and not behavior.attachable:
        return _failed(world, intent, method, card_error(behavior.decline))
    if not authenticated and behavior.authenticate not in ("never", "on_session"):
        intent["status"] = "requires_action"
        intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
        world.emit("setup_intent.requires_action", intent)
        return None
    intent["latest_attempt"] = _attempted(world, intent, method, "succeeded", None)["id"]
    if intent["customer"] is not None:
        payment_methods.attach(world, method, intent["customer"])
    method["_set_up"] = True
    intent["status"] = "succeeded"
    world.emit("setup_intent.succeeded", intent)
    return None


def authenticate(world: World, intent: Json, *, passed: bool) -> Json | None:
    """The cardholder has passed or failed the authentication. Returns the card's error; None if it was saved."""
    method = world.store.get("payment_method", intent["payment_method"])
    if passed:
        return attempt(world, intent, method, authenticated=True)
    error = {
        "type": "invalid_request_error",
        "code": "setup_intent_authentication_failure",
        "doc_url": "https://docs.stripe.com/error-codes#setup-intent-authentication-failure",
        "message": "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new "
        "PaymentMethod to attempt to fulfill this SetupIntent again.",
    }
    intent["next_action"] = None
    return _failed(world, intent, method, error)


def _failed(world: World, intent: Json, method: Json, error: Json) -> Json:
    shown = world.snapshot(method)
    failure = error | {"payment_method": shown}
    intent["latest_attempt"] = _attempted(world, intent, method, "failed", failure)["id"]
    intent.update(status="requires_payment_method", payment_method=None, last_setup_error=failure)
    world.emit("setup_intent.setup_failed", intent)
    return failure | {"setup_intent": world.snapshot(intent)}


def _attempted(world: World, intent: Json, method: Json, status: str, error: Json | None) -> Json:
    made = stripe_object(
        "setup_attempt",
        id=world.new_id("setatt"),
        created=world.now(),
        customer=intent["customer"],
        payment_method=method["id"],
        payment_method_details={"card": {"three_d_secure": None}, "type": "card"},
        setup_error=error,
        setup_intent=intent["id"],
        status=status,
        usage=intent["usage"],
    )
    return world.store.add(made)


def cancel(world: World, params: Params, intent_id: str) -> Json:
    intent = world.store.get("setup_intent", intent_id)
    reason = params.choice("cancellation_reason", "abandoned", "requested_by_customer", "duplicate")
    if intent["status"] not in _OPEN:
        raise _unexpected(world, intent, "canceled")
    return end(world, intent, reason)


def end(world: World, intent: Json, reason: str | None) -> Json:
    intent.update(status="canceled", cancellation_reason=reason, next_action=None)
    world.emit("setup_intent.canceled", intent)
    return intent


def _unexpected(world: World, intent: Json, verb: str) -> StripeError:
    return refused(
        f"This SetupIntent could not be {verb} because it has a status of {intent['status']}.",
        code="setup_intent_unexpected_state",
        setup_intent=world.snapshot(intent),
    )


def list_all(world: World, params: Params) -> Json:
    return page(world.store.newest("setup_intent"), params, "/v1/setup_intents", "customer", "payment_method")


def list_attempts(world: World, params: Params) -> Json:
    params.need("setup_intent")
    return page(world.store.newest("setup_attempt"), params, "/v1/setup_attempts", "setup_intent")
