"""What happens to an invoice after its creation: finalized, paid, failed, void."""

from fake_stripe import customers, payment_intents
from fake_stripe.errors import Json, StripeError, refused
from fake_stripe.invoice_items import add_up
from fake_stripe.object_fields import stripe_object
from fake_stripe.world import World, random_text

_ACTION = (
    "This payment requires additional user action before it can be completed successfully. Payment can be completed "
    "using the PaymentIntent associated with the invoice. For more details see: "
    "https://docs.stripe.com/billing/subscriptions/overview#requires-action"
)


def finalize(world: World, invoice: Json) -> None:
    """Give an invoice its number and collect it. An invoice with a total of zero is paid at once."""
    _apply_balance(world, invoice)
    if invoice["amount_due"] > 0:
        payment_intents.check_amount(invoice["amount_due"], invoice["currency"], "amount_due")
    before = world.snapshot(invoice)
    _number(world, invoice)
    if invoice["amount_due"] > 0:
        _ask_for_money(world, invoice)
    world.emit("invoice.finalized", invoice)
    world.emit("invoice.updated", invoice, before)
    if invoice["amount_due"] == 0:
        settle(world, invoice, None)


def record_paid(world: World, invoice: Json, intent: Json) -> None:
    """An invoice for something that has already been paid."""
    world.emit("invoice.created", invoice)
    _number(world, invoice)
    intent["_invoice"] = invoice["id"]
    world.emit("invoice.finalized", invoice)
    world.store.add(invoice_payment(world, invoice, intent))
    settle(world, invoice, intent)


def _number(world: World, invoice: Json) -> None:
    now = world.now()
    customer = world.store.find("customer", invoice["customer"])
    if customer is not None and invoice["number"] is None and not customer.get("deleted"):
        sequence = customer["next_invoice_sequence"]
        invoice["number"] = f"{customer['invoice_prefix'] or 'FAKE'}-{sequence:04}"
        customer["next_invoice_sequence"] = sequence + 1
    invoice["_secret"] = random_text(24)
    page = f"{world.public_url}/i/{invoice['id']}/{invoice['_secret']}"
    invoice.update(status="open", effective_at=now, hosted_invoice_url=page, invoice_pdf=f"{page}/pdf")
    invoice["automatically_finalizes_at"] = None
    invoice["status_transitions"]["finalized_at"] = now


def _apply_balance(world: World, invoice: Json) -> None:
    customer = world.store.find("customer", invoice["customer"])
    if customer is None or not customer.get("balance"):
        return
    start = customer["balance"]
    used = max(start, -invoice["total"])
    invoice["starting_balance"] = start
    add_up(invoice)
    moved = {"invoice": invoice["id"]}
    customers.move_balance(world, customer, -used, invoice["currency"], "applied_to_invoice", **moved)
    invoice["ending_balance"] = customer["balance"]


def _ask_for_money(world: World, invoice: Json) -> Json:
    intent = payment_intents.new_intent(
        world,
        invoice["amount_due"],
        invoice["currency"],
        invoice["customer"],
        description="Payment for Invoice",
        _invoice=invoice["id"],
    )
    world.store.add(intent)
    world.emit("payment_intent.created", intent)
    world.store.add(invoice_payment(world, invoice, intent))
    return intent


def invoice_payment(world: World, invoice: Json, intent: Json) -> Json:
    """The object that ties a payment to its invoice."""
    return stripe_object(
        "invoice_payment",
        id=world.new_id("inpay"),
        amount_requested=intent["amount"],
        created=world.now(),
        currency=invoice["currency"],
        invoice=invoice["id"],
        is_default=True,
        payment={"payment_intent": intent["id"], "type": "payment_intent"},
        status="open",
        status_transitions={"canceled_at": None, "paid_at": None},
    )


def payment_of(world: World, invoice: Json) -> Json | None:
    """The invoice's InvoicePayment."""
    for known in world.store.all("invoice_payment"):
        if known["invoice"] == invoice["id"]:
            return world.store.find("invoice_payment", known["id"])
    return None


def intent_of(world: World, invoice: Json) -> Json | None:
    """The invoice's PaymentIntent."""
    payment = payment_of(world, invoice)
    return world.store.find("payment_intent", payment["payment"]["payment_intent"]) if payment else None


def pay(world: World, invoice: Json, method: Json, *, off_session: bool) -> StripeError | None:
    """Try to pay an open invoice. Returns the error; None if it is paid."""
    intent = intent_of(world, invoice)
    if intent is None:
        raise refused("This invoice has no payment that could be confirmed.")
    error = payment_intents.attempt(world, intent, method, off_session=off_session, may_authenticate=True)
    if intent["status"] == "requires_action":
        code = "invoice_payment_intent_requires_action"
        return StripeError(402, "card_error", _ACTION, saved=True, code=code)
    return payment_intents.payment_error(error) if error is not None else None


def follow(world: World, intent: Json) -> None:
    """A PaymentIntent has changed its status: its invoice changes with it."""
    invoice = world.store.find("invoice", intent.get("_invoice"))
    if invoice is None or invoice["status"] not in ("open", "uncollectible"):
        return
    if intent["status"] == "succeeded":
        settle(world, invoice, intent)
    elif intent["status"] in ("requires_payment_method", "requires_action"):
        before = world.snapshot(invoice)
        invoice["attempted"] = True
        invoice["attempt_count"] += 1
        world.emit("invoice.updated", invoice, before)
        if intent["status"] == "requires_action":
            world.emit("invoice.payment_action_required", invoice)
        world.emit("invoice.payment_failed", invoice)


def settle(world: World, invoice: Json, intent: Json | None) -> None:
    """An invoice is paid: by its PaymentIntent, out of band, or because its total is zero."""
    now, before = world.now(), world.snapshot(invoice)
    if intent is not None:
        invoice["attempt_count"] += 1
    invoice.update(
        status="paid",
        attempted=True,
        auto_advance=False,
        amount_paid=invoice["amount_due"],
        amount_remaining=0,
        next_payment_attempt=None,
    )
    invoice["status_transitions"]["paid_at"] = now
    payment = payment_of(world, invoice)
    world.emit("invoice.updated", invoice, before)
    world.emit("invoice.paid", invoice)
    world.emit("invoice.payment_succeeded", invoice)
    if payment is not None and intent is not None:
        payment.update(status="paid", amount_paid=invoice["amount_paid"])
        payment["status_transitions"]["paid_at"] = now
        world.emit("invoice_payment.paid", payment)
    elif payment is not None:
        _cancel_payment(world, payment, None)


def void(world: World, invoice: Json) -> None:
    before = world.snapshot(invoice)
    invoice.update(status="void", auto_advance=False, amount_remaining=invoice["amount_due"], next_payment_attempt=None)
    invoice["status_transitions"]["voided_at"] = world.now()
    payment = payment_of(world, invoice)
    if payment is not None:
        _cancel_payment(world, payment, "void_invoice")
    customer = world.store.find("customer", invoice["customer"])
    if invoice["ending_balance"] is not None and customer is not None and not customer.get("deleted"):
        back, about = invoice["starting_balance"] - invoice["ending_balance"], {"invoice": invoice["id"]}
        customers.move_balance(world, customer, back, invoice["currency"], "unapplied_from_invoice", **about)
    world.emit("invoice.updated", invoice, before)
    world.emit("invoice.voided", invoice)


def _cancel_payment(world: World, payment: Json, reason: str | None) -> None:
    payment["status"] = "canceled"
    payment["status_transitions"]["canceled_at"] = world.now()
    intent = world.store.find("payment_intent", payment["payment"]["payment_intent"])
    if intent is not None and intent["status"] not in ("succeeded", "canceled"):
        payment_intents.end(world, intent, reason)


def advance(world: World, invoice_id: str) -> None:
    """An hour after an invoice with `auto_advance` was created: it is finalized, and its card charged."""
    invoice = world.store.find("invoice", invoice_id)
    if invoice is None or invoice["status"] != "draft" or not invoice["auto_advance"]:
        return
    try:
        finalize(world, invoice)
        method = method_of(world, invoice)
        if (
            invoice["status"] == "open"
            and invoice["collection_method"] == "charge_automatically"
            and method is not None
        ):
            pay(world, invoice, method, off_session=True)
    except StripeError as error:
        invoice["last_finalization_error"] = error.error
        world.emit("invoice.finalization_failed", invoice)


def method_of(world: World, invoice: Json) -> Json | None:
    """The payment method of an invoice if none is named."""
    customer = world.store.find("customer", invoice["customer"]) or {}
    settings = customer.get("invoice_settings") or {}
    for method_id in (
        invoice["default_payment_method"],
        settings.get("default_payment_method"),
        customer.get("default_source"),
    ):
        method = world.store.find("payment_method", method_id)
        if method is not None and not method.get("_spent"):
            return method
    return None
