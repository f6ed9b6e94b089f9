"""The tester's statement: every payment, refund and dispute with its cents and metadata, to compare books with."""

from fake_stripe.errors import Json, invalid, no_such, refused
from fake_stripe.world import World


def statement(world: World) -> Json:
    """All movements of money, oldest first, and their sums."""
    payments = [_payment(world, charge) for charge in world.store.all("charge") if charge["captured"]]
    refunds = [_refund(refund) for refund in world.store.all("refund")]
    disputes = [_dispute(dispute) for dispute in world.store.all("dispute")]
    transactions = list(world.store.all("balance_transaction"))
    not_failed = [refund for refund in refunds if refund["status"] not in ("failed", "canceled")]
    return {
        "payments": payments,
        "refunds": refunds,
        "disputes": disputes,
        "totals": {
            "captured": sum(payment["amount"] for payment in payments),
            "refunded": sum(refund["amount"] for refund in not_failed),
            "withdrawn": sum(dispute["withdrawn"] for dispute in disputes),
            "fees": sum(entry["fee"] for entry in transactions),
            "net": sum(entry["net"] for entry in transactions),
        },
    }


def _payment(world: World, charge: Json) -> Json:
    intent = world.store.any(charge["payment_intent"]) or {}
    invoice = world.store.any(intent.get("_invoice") or "") or {}
    session = world.store.any(intent.get("_session") or "") or {}
    transaction = world.store.any(charge["balance_transaction"]) or {}
    return {
        "charge": charge["id"],
        "payment_intent": charge["payment_intent"],
        "invoice": invoice.get("id"),
        "checkout_session": session.get("id"),
        "customer": charge["customer"],
        "payment_method": charge["payment_method"],
        "amount": charge["amount_captured"],
        "amount_refunded": charge["amount_refunded"],
        "currency": charge["currency"],
        "fee": transaction.get("fee"),
        "disputed": charge["disputed"],
        "created": charge["created"],
        "metadata": charge["metadata"],
        "payment_intent_metadata": intent.get("metadata"),
        "invoice_metadata": invoice.get("metadata"),
        "checkout_session_metadata": session.get("metadata"),
    }


def _refund(refund: Json) -> Json:
    names = ("id", "charge", "payment_intent", "amount", "currency", "status", "reason", "created", "metadata")
    return {("refund" if name == "id" else name): refund[name] for name in names}


def _dispute(dispute: Json) -> Json:
    names = ("id", "charge", "payment_intent", "amount", "currency", "status", "reason", "created", "metadata")
    shown = {("dispute" if name == "id" else name): dispute[name] for name in names}
    moved = sum(entry["amount"] for entry in dispute["balance_transactions"])
    return shown | {"withdrawn": -moved, "fees": sum(entry["fee"] for entry in dispute["balance_transactions"])}


def charge_of(world: World, values: Json) -> Json:
    """The charge that is named directly, or by its PaymentIntent or invoice. Raises StripeError."""
    if values.get("charge"):
        return world.store.get("charge", str(values["charge"]), param="charge")
    if values.get("payment_intent"):
        intent = world.store.get("payment_intent", str(values["payment_intent"]), param="payment_intent")
    elif values.get("invoice"):
        invoice_id = str(values["invoice"])
        intents = (i for i in world.store.all("payment_intent") if i.get("_invoice") == invoice_id)
        found = next(intents, None)
        if found is None:
            raise no_such("invoice", invoice_id, param="invoice")
        intent = found
    else:
        raise invalid("Name a charge, a payment_intent or an invoice.")
    if intent["latest_charge"] is None:
        raise refused("Nothing has been charged yet.")
    return world.store.get("charge", intent["latest_charge"], param="charge")
