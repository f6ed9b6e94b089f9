"""Refunds: never more than what was captured and is neither refunded nor disputed."""

from fake_stripe import disputes
from fake_stripe.cards import behavior_of
from fake_stripe.charging import book
from fake_stripe.clock import random_bytes
from fake_stripe.errors import Json, StripeError, invalid, missing_param, refused
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata, new_metadata
from fake_stripe.world import World

LATER_SECONDS = 5
"""Seconds by the fake's clock until a refund that does not succeed at once is decided."""


def create(world: World, params: Params) -> Json:
    charge = _charge_of(world, params)
    reason = params.choice("reason", "duplicate", "fraudulent", "requested_by_customer")
    amount = params.integer("amount")
    metadata = new_metadata(params)
    return refund(world, charge, amount, reason, metadata)


def refund(world: World, charge: Json, amount: int | None, reason: str | None, metadata: Json) -> Json:
    """Refund an amount, or everything that is left if none is given. Raises StripeError."""
    left = charge["amount_captured"] - charge["amount_refunded"] if charge["captured"] else 0
    amount = _checked(world, charge, amount, left)
    behavior = behavior_of({"_number": charge["_number"]})
    made = stripe_object(
        "refund",
        id=world.new_id("re"),
        amount=amount,
        charge=charge["id"],
        created=world.now(),
        currency=charge["currency"],
        destination_details={"card": _destination(), "type": "card"},
        metadata=metadata,
        payment_intent=charge["payment_intent"],
        payment_method=charge["payment_method"],
        reason=reason,
        status="pending" if behavior.refund == "pending" else "succeeded",
        pending_reason="processing" if behavior.refund == "pending" else None,
    )
    made["balance_transaction"] = book(world, made, -amount, "refund", "refund")["id"]
    world.store.add(made)
    before = world.snapshot(charge)
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    if behavior.refund != "succeeds":
        world.later(LATER_SECONDS, behavior.refund, made["id"])
    world.emit("refund.created", made)
    world.emit("charge.refunded", charge, before)
    return made


def _destination() -> Json:
    return {
        "reference": str(int.from_bytes(random_bytes(8)))[:16],
        "reference_status": "available",
        "reference_type": "acquirer_reference_number",
        "type": "refund",
    }


def _checked(world: World, charge: Json, amount: int | None, left: int) -> int:
    charge_id = charge["id"]
    if charge["status"] != "succeeded" or not charge["captured"]:
        raise refused(f"Charge {charge_id} has not been captured: it cannot be refunded.", code="charge_not_refundable")
    if disputes.holds_back(world, charge) > 0:
        raise refused(f"Charge {charge_id} has been charged back; cannot issue a refund.", code="charge_disputed")
    if left <= 0:
        raise refused(f"Charge {charge_id} has already been refunded.", code="charge_already_refunded")
    if amount is None:
        return left
    if amount <= 0:
        raise invalid("Invalid positive integer", param="amount", code="parameter_invalid_integer")
    if amount > left:
        raise refused(
            f"Refund amount (${amount / 100:,.2f}) is greater than unrefunded amount on charge (${left / 100:,.2f})",
            param="amount",
        )
    return amount


def _charge_of(world: World, params: Params) -> Json:
    charge_id, intent_id = params.text("charge"), params.text("payment_intent")
    if charge_id is not None:
        return world.store.get("charge", charge_id, param="charge")
    if intent_id is None:
        raise missing_param("charge")
    intent = world.store.get("payment_intent", intent_id, param="payment_intent")
    charge = world.store.find("charge", intent["latest_charge"])
    if charge is None or charge["status"] != "succeeded":
        message = f"This PaymentIntent ({intent_id}) does not have a successful charge to refund."
        raise refused(message, param="payment_intent", code="payment_intent_unexpected_state")
    return charge


def retrieve(world: World, params: Params, refund_id: str) -> Json:
    return world.store.get("refund", refund_id)


def list_all(world: World, params: Params) -> Json:
    return page(world.store.newest("refund"), params, "/v1/refunds", "charge", "payment_intent")


def list_of_charge(world: World, params: Params, charge_id: str) -> Json:
    world.store.get("charge", charge_id)
    made = (refund for refund in world.store.newest("refund") if refund["charge"] == charge_id)
    return page(made, params, f"/v1/charges/{charge_id}/refunds")


def update(world: World, params: Params, refund_id: str) -> Json:
    found = world.store.get("refund", refund_id)
    before = world.snapshot(found)
    merge_metadata(found, params)
    _notify(world, found, before)
    return found


def cancel(world: World, params: Params, refund_id: str) -> Json:
    found = world.store.get("refund", refund_id)
    if found["status"] != "requires_action":
        raise _not_cancelable(found)
    return found


def _not_cancelable(found: Json) -> StripeError:
    return refused(f"Refund {found['id']} cannot be canceled: its status is {found['status']}.")


def succeed(world: World, refund_id: str) -> None:
    """A pending refund succeeds."""
    found = world.store.get("refund", refund_id)
    before = world.snapshot(found)
    found.update(status="succeeded", pending_reason=None)
    _notify(world, found, before)


def fail(world: World, refund_id: str) -> None:
    """A refund fails: the money comes back."""
    found = world.store.get("refund", refund_id)
    charge = world.store.get("charge", found["charge"])
    before, charge_before = world.snapshot(found), world.snapshot(charge)
    found.update(status="failed", failure_reason="expired_or_canceled_card")
    transaction = book(world, found, found["amount"], "refund_failure", "refund_failure")
    found["failure_balance_transaction"] = transaction["id"]
    charge["amount_refunded"] -= found["amount"]
    charge["refunded"] = False
    _notify(world, found, before)
    world.emit("refund.failed", found)
    world.emit("charge.updated", charge, charge_before)


def _notify(world: World, found: Json, before: Json) -> None:
    world.emit("refund.updated", found, before)
    world.emit("charge.refund.updated", found, before)
