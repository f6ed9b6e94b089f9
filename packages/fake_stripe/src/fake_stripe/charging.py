"""Charges and their effect on the balance: the only place where (no) money comes in."""

from dataclasses import dataclass

from fake_stripe.cards import Behavior, behavior_of, card_error, declined
from fake_stripe.errors import Json
from fake_stripe.object_fields import stripe_object
from fake_stripe.rendering import includable, list_of
from fake_stripe.store import Store
from fake_stripe.world import World

_PENDING_SECONDS = 2 * 86400
_FEE_FIXED = 30
_FEE_PER_MILLE = 29


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt to charge a card ended."""

    charge: Json | None = None
    error: Json | None = None
    """The card's error; None if it was charged, or must be authenticated first."""


def needs_authentication(method: Json, *, off_session: bool) -> bool:
    """Whether the cardholder must authenticate."""
    authentication = behavior_of(method).authenticate
    if authentication == "unless_set_up" and off_session:
        return not method.get("_set_up")
    if authentication == "on_session":
        return not off_session
    return authentication != "never"


def charge_card(world: World, intent: Json, method: Json, *, authenticated: bool, captured: bool) -> Attempt:
    """Try to charge a PaymentIntent's amount."""
    behavior = behavior_of(method)
    if behavior.decline is not None:
        return fail_charge(world, intent, method, behavior.decline)
    charge = _charge(world, intent, method, behavior, authenticated=authenticated)
    charge.update(paid=True, status="succeeded", captured=captured, amount_captured=intent["amount"] * captured)
    charge["outcome"] = _outcome(behavior, "authorized", "Payment complete.", network_status="approved_by_network")
    world.store.add(charge)
    if captured:
        book_charge(world, charge)
    world.emit("charge.succeeded", charge)
    return Attempt(charge)


def fail_charge(world: World, intent: Json, method: Json, decline_code: str) -> Attempt:
    """A charge that the card's bank declined."""
    behavior = behavior_of(method)
    decline = declined(decline_code, behavior.advice)
    charge = _charge(world, intent, method, behavior, authenticated=False)
    blocked = decline_code == "fraudulent"
    charge.update(
        paid=False, status="failed", captured=False, failure_code=decline.code, failure_message=decline.message
    )
    charge["outcome"] = _outcome(
        behavior,
        "blocked" if blocked else "issuer_declined",
        "The bank returned the decline code `" + decline_code + "`.",
        network_status="not_sent_to_network" if blocked else "declined_by_network",
        reason=decline_code,
    )
    charge["outcome"].update(advice_code=decline.advice, network_decline_code=decline.network)
    world.store.add(charge)
    world.emit("charge.failed", charge)
    return Attempt(charge, card_error(decline_code, behavior.advice, charge=charge["id"]))


def capture(world: World, charge: Json, amount: int) -> None:
    """Capture a reserved amount; the rest is released."""
    before = world.snapshot(charge)
    charge.update(captured=True, amount_captured=amount)
    book_charge(world, charge)
    world.emit("charge.captured", charge, before)


def book_charge(world: World, charge: Json) -> None:
    """Book the captured amount and Stripe's fee."""
    amount = charge["amount_captured"]
    fee = (amount * _FEE_PER_MILLE + 500) // 1000 + _FEE_FIXED
    at_once = behavior_of({"_number": charge["_number"]}).available_at_once
    transaction = book(world, charge, amount, "charge", "charge", fee=fee, at_once=at_once)
    charge["balance_transaction"] = transaction["id"]


def book(
    world: World, source: Json, amount: int, kind: str, category: str, *, fee: int = 0, at_once: bool = False
) -> Json:
    """Book a movement of the balance."""
    now = world.now()
    details = [
        {
            "amount": fee,
            "application": None,
            "currency": source["currency"],
            "description": "Dispute fee" if category == "dispute" else "Stripe processing fees",
            "type": "stripe_fee",
        }
    ]
    made = stripe_object(
        "balance_transaction",
        id=world.new_id("txn"),
        amount=amount,
        available_on=now if at_once else now + _PENDING_SECONDS,
        balance_type="payments",
        created=now,
        currency=source["currency"],
        description=source.get("description"),
        fee=fee,
        fee_details=details if fee else [],
        net=amount - fee,
        reporting_category=category,
        source=source["id"],
        status="available" if at_once else "pending",
        type=kind,
    )
    return world.store.add(made)


def _charge(world: World, intent: Json, method: Json, behavior: Behavior, *, authenticated: bool) -> Json:
    charge_id = world.new_id("ch")
    return stripe_object(
        "charge",
        id=charge_id,
        amount=intent["amount"],
        amount_captured=0,
        amount_refunded=0,
        billing_details=method["billing_details"],
        calculated_statement_descriptor="FAKE STRIPE",
        created=world.now(),
        currency=intent["currency"],
        customer=intent["customer"],
        description=intent["description"],
        disputed=False,
        fraud_details={},
        metadata=dict(intent["metadata"]),
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details=_details(intent, method, behavior, authenticated=authenticated),
        receipt_email=intent["receipt_email"],
        receipt_url=f"{world.public_url}/receipts/{charge_id}",
        refunded=False,
        shipping=intent["shipping"],
        statement_descriptor=intent["statement_descriptor"],
        statement_descriptor_suffix=intent["statement_descriptor_suffix"],
        _number=method.get("_number", ""),
    )


def _details(intent: Json, method: Json, behavior: Behavior, *, authenticated: bool) -> Json:
    kind = method["type"]
    if kind != "card":
        return {"type": kind, kind: dict(method.get(kind) or {})}
    card = method["card"]
    secure = {
        "authentication_flow": "challenge",
        "electronic_commerce_indicator": "05",
        "exemption_indicator": None,
        "exemption_indicator_applied": None,
        "result": "authenticated",
        "result_reason": None,
        "transaction_id": _authentication_id(intent["id"]),
        "version": "2.2.0",
    }
    return {
        "type": "card",
        "card": {
            "amount_authorized": intent["amount"],
            "authorization_code": "123456",
            "brand": card["brand"],
            "capture_before": None,
            "checks": card["checks"] | {"cvc_check": behavior.cvc_check},
            "country": card["country"],
            "exp_month": card["exp_month"],
            "exp_year": card["exp_year"],
            "extended_authorization": {"status": "disabled"},
            "fingerprint": card["fingerprint"],
            "funding": card["funding"],
            "incremental_authorization": {"status": "unavailable"},
            "installments": None,
            "last4": card["last4"],
            "mandate": None,
            "multicapture": {"status": "unavailable"},
            "network": card["brand"],
            "network_token": {"used": False},
            "network_transaction_id": "792104101110210",
            "overcapture": {"maximum_amount_capturable": intent["amount"], "status": "unavailable"},
            "regulated_status": "unregulated",
            "three_d_secure": secure if authenticated else None,
            "wallet": None,
        },
    }


def _authentication_id(seed: str) -> str:
    """The bank's ID for the authentication of this payment."""
    return f"3ds-{seed[-16:]}"


def _outcome(behavior: Behavior, kind: str, message: str, *, network_status: str, reason: str | None = None) -> Json:
    scores = {"normal": 32, "elevated": 74, "highest": 92}
    return {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": network_status,
        "reason": reason,
        "risk_level": behavior.risk,
        "risk_score": scores[behavior.risk],
        "seller_message": message,
        "type": kind,
    }


@includable("charge", "refunds")
def _refunds(store: Store, charge: Json) -> Json:
    made = [refund for refund in store.newest("refund") if refund["charge"] == charge["id"]]
    return list_of(made, f"/v1/charges/{charge['id']}/refunds")
