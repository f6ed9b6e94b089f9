"""Disputes: charges that the cardholder reverses or questions."""

from fake_stripe.charging import book
from fake_stripe.errors import Json, refused
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata
from fake_stripe.world import World

FEE = 1500
_RESPONSE_SECONDS = 9 * 86400
_EVIDENCE = (
    "access_activity_log", "billing_address", "cancellation_policy", "cancellation_policy_disclosure",
    "cancellation_rebuttal", "customer_communication", "customer_email_address", "customer_name",
    "customer_purchase_ip", "customer_signature", "duplicate_charge_documentation", "duplicate_charge_explanation",
    "duplicate_charge_id", "product_description", "receipt", "refund_policy", "refund_policy_disclosure",
    "refund_refusal_explanation", "service_date", "service_documentation", "shipping_address", "shipping_carrier",
    "shipping_date", "shipping_documentation", "shipping_tracking_number", "uncategorized_file", "uncategorized_text",
)  # fmt: skip
REASONS = {
    "fraudulent": "10.4",
    "product_not_received": "13.1",
    "product_unacceptable": "13.3",
    "duplicate": "12.6.1",
    "subscription_canceled": "13.2",
    "credit_not_processed": "13.6",
    "unrecognized": "10.4",
    "general": "10.4",
}
_ENDED = ("won", "lost", "warning_closed")


def open_dispute(world: World, charge: Json, reason: str, *, inquiry: bool) -> Json:
    """Dispute what is left of a charge. Raises StripeError if nothing is left, or it is already disputed."""
    amount = charge["amount_captured"] - charge["amount_refunded"]
    if charge["disputed"] or amount <= 0:
        raise refused(f"Charge {charge['id']} cannot be disputed: it is disputed already, or nothing of it is left.")
    now = world.now()
    dispute = stripe_object(
        "dispute",
        id=world.new_id("du"),
        amount=amount,
        balance_transactions=[],
        charge=charge["id"],
        created=now,
        currency=charge["currency"],
        enhanced_eligibility_types=[],
        evidence=dict.fromkeys(_EVIDENCE) | {"enhanced_evidence": {}},
        evidence_details={
            "due_by": now + _RESPONSE_SECONDS,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        is_charge_refundable=inquiry,
        metadata={},
        network_reason_code=REASONS.get(reason, "10.4"),
        payment_intent=charge["payment_intent"],
        payment_method_details=_paid_with(charge, reason, inquiry=inquiry),
        reason=reason,
        status="warning_needs_response" if inquiry else "needs_response",
        _inquiry=inquiry,
    )
    world.store.add(dispute)
    before = world.snapshot(charge)
    charge["disputed"] = True
    world.emit("charge.dispute.created", dispute)
    world.emit("charge.updated", charge, before)
    if not inquiry:
        _book(world, dispute, -amount, "dispute", fee=FEE)
        world.emit("charge.dispute.funds_withdrawn", dispute)
    return dispute


def _paid_with(charge: Json, reason: str, *, inquiry: bool) -> Json:
    card = charge["payment_method_details"].get("card") or {"brand": "visa"}
    details = {
        "brand": card["brand"],
        "case_type": "inquiry" if inquiry else "chargeback",
        "network_reason_code": REASONS.get(reason, "10.4"),
    }
    return {"type": "card", "card": details}


def _book(world: World, dispute: Json, amount: int, category: str, *, fee: int = 0) -> None:
    transaction = book(world, dispute, amount, "adjustment", category, fee=fee)
    dispute["balance_transactions"] = [*dispute["balance_transactions"], transaction]


def close_as(world: World, dispute: Json, status: str) -> Json:
    """End a dispute: `won` gives the money back, `lost` does not; an inquiry that is won is closed."""
    if dispute["status"] in _ENDED:
        raise refused(f"This dispute is already closed: its status is {dispute['status']}.")
    before = world.snapshot(dispute)
    if dispute["_inquiry"]:
        dispute["status"] = "warning_closed" if status == "won" else "lost"
        if status == "lost":
            _book(world, dispute, -dispute["amount"], "dispute", fee=FEE)
            world.emit("charge.dispute.funds_withdrawn", dispute)
    else:
        dispute["status"] = status
        if status == "won":
            _book(world, dispute, dispute["amount"], "dispute_reversal")
            world.emit("charge.dispute.funds_reinstated", dispute)
    if dispute["status"] != "lost":
        charge = world.store.get("charge", dispute["charge"])
        charge["_dispute_over"] = True
    world.emit("charge.dispute.updated", dispute, before)
    world.emit("charge.dispute.closed", dispute)
    return dispute


def holds_back(world: World, charge: Json) -> int:
    """How much of a charge cannot be refunded because it is disputed."""
    disputed = (d for d in world.store.all("dispute") if d["charge"] == charge["id"])
    return sum(d["amount"] for d in disputed if not d["status"].startswith("warning") and d["status"] != "won")


def retrieve(world: World, params: Params, dispute_id: str) -> Json:
    return world.store.get("dispute", dispute_id)


def list_all(world: World, params: Params) -> Json:
    return page(world.store.newest("dispute"), params, "/v1/disputes", "charge", "payment_intent")


def update(world: World, params: Params, dispute_id: str) -> Json:
    """Evidence `winning_evidence` or `losing_evidence` in `uncategorized_text` decides it, as in Stripe's test mode."""
    dispute = world.store.get("dispute", dispute_id)
    if params.has("evidence") and dispute["status"] in _ENDED:
        raise refused("This dispute is closed: its evidence can no longer be changed.")
    before = world.snapshot(dispute)
    merge_metadata(dispute, params)
    evidence = params.sub("evidence")
    for name in evidence.values:
        dispute["evidence"] = dispute["evidence"] | {name: evidence.plain(name)}
    details = dict(dispute["evidence_details"])
    details["has_evidence"] = details["has_evidence"] or bool(evidence.values)
    submit = params.flag("submit")
    if evidence.values and submit is not False:
        details["submission_count"] += 1
        dispute["status"] = "warning_under_review" if dispute["_inquiry"] else "under_review"
    dispute["evidence_details"] = details
    world.emit("charge.dispute.updated", dispute, before)
    verdicts = {"winning_evidence": "won", "losing_evidence": "lost"}
    verdict = verdicts.get(evidence.text("uncategorized_text") or "")
    if verdict is not None and submit is not False:
        close_as(world, dispute, "won" if dispute["_inquiry"] else verdict)
    return dispute


def close(world: World, params: Params, dispute_id: str) -> Json:
    """Accept the dispute: it is lost, or for an inquiry, closed."""
    dispute = world.store.get("dispute", dispute_id)
    return close_as(world, dispute, "won" if dispute["_inquiry"] else "lost")
