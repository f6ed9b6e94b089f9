"""Payment methods: cards typed in or named by a token, saved on a customer or used once."""

import hashlib
from datetime import UTC, datetime

from fake_stripe.cards import Card, behavior_of, by_number, by_token, card_error, passes_luhn
from fake_stripe.errors import Json, StripeError, missing_param, no_such, refused
from fake_stripe.listing import page
from fake_stripe.params import Params, merge_metadata, new_metadata, update_fields
from fake_stripe.world import World, address

_SPENT = (
    "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, shared with a "
    "connected account without Customer attachment, or was detached from a Customer. It may not be used again. To use "
    "a PaymentMethod multiple times, you must attach it to a Customer first."
)


def create(world: World, params: Params) -> Json:
    kind = params.need("type")
    if kind == "card":
        return _new_card(world, params)
    method = _method(world, params, kind)
    method[kind] = {"last4": (params.sub(kind).text("iban") or "")[-4:]} if kind == "sepa_debit" else {}
    return world.store.add(method)


def retrieve(world: World, params: Params, method_id: str) -> Json:
    return from_token(world, method_id) or world.store.get("payment_method", method_id)


def update(world: World, params: Params, method_id: str) -> Json:
    method = world.store.get("payment_method", method_id)
    before = world.snapshot(method)
    merge_metadata(method, params)
    update_fields(method, params, "allow_redisplay")
    if params.has("billing_details"):
        method["billing_details"] = _billing(params.sub("billing_details"))
    card = params.sub("card")
    if card.values:
        method["card"]["exp_month"] = card.integer("exp_month") or method["card"]["exp_month"]
        method["card"]["exp_year"] = card.integer("exp_year") or method["card"]["exp_year"]
    world.emit("payment_method.updated", method, before)
    return method


def list_all(world: World, params: Params) -> Json:
    if params.text("customer"):
        world.store.get("customer", params.need("customer"), param="customer")
        return page(world.store.newest("payment_method"), params, "/v1/payment_methods", "customer", "type")
    # Without a customer, the API lists only methods that are not saved on one, which nobody needs.
    return page([], params, "/v1/payment_methods")


def list_of_customer(world: World, params: Params, customer_id: str) -> Json:
    world.store.get("customer", customer_id)
    url = f"/v1/customers/{customer_id}/payment_methods"
    return page((m for m in world.store.newest("payment_method") if m["customer"] == customer_id), params, url, "type")


def of_customer(world: World, params: Params, customer_id: str, method_id: str) -> Json:
    method = world.store.get("payment_method", method_id)
    if method["customer"] != customer_id:
        raise no_such("PaymentMethod", method_id)
    return method


def attach_to(world: World, params: Params, method_id: str) -> Json:
    customer = world.store.get("customer", params.need("customer"), param="customer")
    method = usable(world, method_id, param="id")
    if method["customer"] not in (None, customer["id"]):
        raise refused("The payment method you provided has already been attached to a customer.")
    return attach(world, method, customer["id"])


def attach(world: World, method: Json, customer_id: str) -> Json:
    """Save a payment method on a customer. Raises StripeError if its card may not be saved."""
    require_usable(method)
    if method["customer"] is None:
        method["customer"] = customer_id
        world.emit("payment_method.attached", method)
    return method


def require_usable(method: Json) -> None:
    """A card that declines cannot be saved, except the test card for that purpose. Raises StripeError."""
    behavior = behavior_of(method)
    if behavior.decline is not None and not behavior.attachable:
        error = card_error(behavior.decline)
        raise StripeError(402, error.pop("type"), error.pop("message"), saved=True, **error)


def detach(world: World, params: Params, method_id: str) -> Json:
    method = world.store.get("payment_method", method_id)
    if method["customer"] is None:
        raise refused("The payment method you provided is not attached to a customer so detachment is impossible.")
    detach_from_customer(world, method)
    return method


def detach_from_customer(world: World, method: Json) -> None:
    """Remove a payment method from its customer: it cannot be used again."""
    before = world.snapshot(method)
    customer = world.store.find("customer", method["customer"])
    method["customer"], method["_spent"] = None, True
    if customer is not None and not customer.get("deleted"):
        settings = customer["invoice_settings"]
        if settings["default_payment_method"] == method["id"]:
            settings["default_payment_method"] = None
    world.emit("payment_method.detached", method, before)


def usable(world: World, method_id: str, *, param: str = "payment_method") -> Json:
    """A payment method by ID, or a new one from a token. Raises StripeError if it is gone."""
    method = from_token(world, method_id) or world.store.get("payment_method", method_id, param=param)
    if method.get("_spent"):
        raise refused(_SPENT)
    return method


def for_payment(world: World, method_id: str, customer_id: str | None) -> Json:
    """A payment method that this customer may pay with. Raises StripeError."""
    method = usable(world, method_id)
    owner = method["customer"]
    if owner is not None and customer_id is None:
        raise refused(
            f"The PaymentMethod supplied ({method['id']}) belongs to a Customer {owner}. Please include the Customer "
            "in the `customer` parameter on the PaymentIntent.",
            param="payment_method",
        )
    if owner not in (None, customer_id):
        raise refused(
            f"The customer does not have a payment method with the ID {method['id']}. The payment method must be "
            "attached to the customer.",
            code="resource_missing",
            param="payment_method",
        )
    return method


def from_token(world: World, token: str) -> Json | None:
    """A new payment method for a `pm_card_…` or `tok_…` name; None if there is no such name."""
    card = by_token(token)
    if card is None:
        return None
    method = _method(world, Params({}), "card")
    year = datetime.fromtimestamp(world.now(), UTC).year + 4
    return world.store.add(_with_card(method, card.number, card, 12, year))


def card_from_form(
    world: World, number: str, month: int, year: int, name: str | None, email: str | None = None
) -> Json:
    """A new payment method from the fields of a hosted page. Raises StripeError."""
    details = {"name": name or "", "email": email or ""}
    card = {"number": number, "exp_month": str(month), "exp_year": str(year)}
    return _new_card(world, Params({"type": "card", "billing_details": details, "card": card}))


def _new_card(world: World, params: Params) -> Json:
    card = params.sub("card")
    token = card.text("token")
    if token is not None:
        method = from_token(world, token)
        if method is None:
            raise no_such("token", token, param="card[token]")
        method["billing_details"] = _billing(params.sub("billing_details"))
        return method
    if not params.has("card"):
        raise missing_param("card")
    number = "".join(card.need("number").split()).replace("-", "")
    month, year = card.need_integer("exp_month"), card.need_integer("exp_year")
    year += 2000 if year < 100 else 0
    _check(world, number, month, year)
    known = by_number(number)
    if known is None:
        raise _declined_at_once(
            "card_declined",
            "Your card was declined. Your request was in test mode, but used a "
            "non test card. For a list of valid test cards, visit: "
            "https://docs.stripe.com/testing.",
            "card[number]",
            decline_code="test_mode_live_card",
        )
    return world.store.add(_with_card(_method(world, params, "card"), number, known, month, year))


def _check(world: World, number: str, month: int, year: int) -> None:
    if not (number.isdigit() and passes_luhn(number)):
        raise _declined_at_once("incorrect_number", "Your card number is incorrect.", "number")
    today = datetime.fromtimestamp(world.now(), UTC)
    if not 1 <= month <= 12:
        raise _declined_at_once("invalid_expiry_month", "Your card's expiration month is invalid.", "exp_month")
    if year > today.year + 50:
        raise _declined_at_once("invalid_expiry_year", "Your card's expiration year is invalid.", "exp_year")
    if (year, month) < (today.year, today.month):
        part = "year" if year < today.year else "month"
        raise _declined_at_once(f"invalid_expiry_{part}", f"Your card's expiration {part} is invalid.", f"exp_{part}")


def _declined_at_once(code: str, message: str, param: str, *, decline_code: str | None = None) -> StripeError:
    return StripeError(402, "card_error", message, code=code, param=param, decline_code=decline_code)


def _method(world: World, params: Params, kind: str) -> Json:
    return {
        "id": world.new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": params.text("allow_redisplay") or "unspecified",
        "billing_details": _billing(params.sub("billing_details")),
        "created": world.now(),
        "customer": None,
        "livemode": False,
        "metadata": new_metadata(params),
        "type": kind,
    }


def _billing(params: Params) -> Json:
    empty = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
    details: Json = {"address": address(params.plain("address")) or empty}
    return details | {name: params.text(name) for name in ("email", "name", "phone", "tax_id")}


def _with_card(method: Json, number: str, card: Card, month: int, year: int) -> Json:
    behavior = card.behavior
    method["card"] = {
        "brand": card.brand,
        "checks": {
            "address_line1_check": None,
            "address_postal_code_check": None,
            "cvc_check": behavior.cvc_check if behavior.decline != "incorrect_cvc" else "fail",
        },
        "country": card.country,
        "display_brand": card.brand,
        "exp_month": month,
        "exp_year": year,
        "fingerprint": _fingerprint(number),
        "funding": card.funding,
        "generated_from": None,
        "last4": number[-4:],
        "networks": {"available": [card.brand], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }
    method["_number"] = number
    return method


def _fingerprint(number: str) -> str:
    """A fingerprint: the same for the same number."""
    return hashlib.sha256(b"farebox fake stripe " + number.encode()).hexdigest()[:16]
