"""Credit notes: they reduce an open invoice, or return money for a paid one."""

from fake_stripe import customers, invoice_collection, refunds
from fake_stripe.errors import Json, invalid, refused
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata, new_metadata, update_fields
from fake_stripe.rendering import list_of
from fake_stripe.world import World


def create(world: World, params: Params) -> Json:
    invoice = world.store.get("invoice", params.need("invoice"), param="invoice")
    if invoice["status"] not in ("open", "paid"):
        raise refused(f"You can only create credit notes for open or paid invoices: this one is {invoice['status']}.")
    lines = [_line(world, line) for line in params.subs("lines")]
    amount = params.integer("amount") or sum(line["amount"] for line in lines)
    if amount <= 0:
        raise invalid("You must pass an `amount` or `lines`.", param="amount")
    paid = invoice["status"] == "paid"
    credited = invoice["post_payment_credit_notes_amount" if paid else "pre_payment_credit_notes_amount"]
    if amount > (invoice["total"] - credited if paid else invoice["amount_remaining"]):
        raise refused("The credit note is of more than the invoice.", param="amount")
    refund, balance, elsewhere = _give_back(world, params, invoice, amount) if paid else (None, None, 0)
    note_id = world.new_id("cn")
    note = stripe_object(
        "credit_note",
        id=note_id,
        amount=amount,
        amount_shipping=0,
        created=world.now(),
        currency=invoice["currency"],
        customer=invoice["customer"],
        customer_balance_transaction=balance,
        discount_amount=0,
        discount_amounts=[],
        invoice=invoice["id"],
        lines=list_of(lines, f"/v1/credit_notes/{note_id}/lines"),
        memo=params.text("memo"),
        metadata=new_metadata(params),
        number=f"{invoice['number']}-CN-{world.store.count('credit_note') + 1:02}",
        out_of_band_amount=elsewhere or None,
        pdf=invoice["invoice_pdf"],
        post_payment_amount=amount if paid else 0,
        pre_payment_amount=0 if paid else amount,
        pretax_credit_amounts=[],
        reason=params.text("reason"),
        refunds=[{"amount_refunded": amount, "refund": refund, "type": "refund"}] if refund else [],
        status="issued",
        subtotal=amount,
        subtotal_excluding_tax=amount,
        total=amount,
        total_excluding_tax=amount,
        total_taxes=[],
        type="post_payment" if paid else "pre_payment",
    )
    world.store.add(note)
    _lower(world, invoice, amount, paid=paid)
    world.emit("credit_note.created", note)
    return note


def _line(world: World, params: Params) -> Json:
    quantity = params.integer("quantity") or 1
    amount = params.integer("amount") or (params.integer("unit_amount") or 0) * quantity
    return {
        "id": world.new_id("cnli"),
        "object": "credit_note_line_item",
        "amount": amount,
        "description": params.text("description"),
        "discount_amount": 0,
        "discount_amounts": [],
        "livemode": False,
        "metadata": {},
        "pretax_credit_amounts": [],
        "quantity": quantity,
        "tax_rates": [],
        "taxes": [],
        "type": params.text("type") or "custom_line_item",
        "unit_amount": params.integer("unit_amount"),
        "unit_amount_decimal": params.text("unit_amount"),
    }


def _give_back(world: World, params: Params, invoice: Json, amount: int) -> tuple[str | None, str | None, int]:
    """Refund, credit balance and out-of-band amount. Raises StripeError if their sum is not the amount."""
    refund, credit = params.integer("refund_amount") or 0, params.integer("credit_amount") or 0
    elsewhere = params.integer("out_of_band_amount") or 0
    if refund + credit + elsewhere != amount:
        raise refused(
            "The sum of credit amount, refund amount and out of band amount "
            f"(${(refund + credit + elsewhere) / 100:,.2f}) must equal the credit note amount (${amount / 100:,.2f})."
        )
    refund_id = balance_id = None
    if refund:
        intent = invoice_collection.intent_of(world, invoice)
        if intent is None:
            raise refused("The invoice has no payment that could be refunded.")
        charge = world.store.get("charge", intent["latest_charge"])
        refund_id = refunds.refund(world, charge, refund, None, {})["id"]
    if credit:
        customer = customers.existing_customer(world, invoice["customer"])
        balance_id = customers.move_balance(world, customer, -credit, invoice["currency"], "credit_note")["id"]
    return refund_id, balance_id, elsewhere


def _lower(world: World, invoice: Json, amount: int, *, paid: bool) -> None:
    before = world.snapshot(invoice)
    if paid:
        invoice["post_payment_credit_notes_amount"] += amount
    else:
        invoice["pre_payment_credit_notes_amount"] += amount
        _owe(world, invoice, -amount)
    world.emit("invoice.updated", invoice, before)
    if not paid and invoice["amount_due"] == 0:
        invoice_collection.settle(world, invoice, None)


def _owe(world: World, invoice: Json, amount: int) -> None:
    invoice["amount_due"] += amount
    invoice["amount_remaining"] += amount
    intent = invoice_collection.intent_of(world, invoice)
    if intent is not None:
        intent["amount"] = invoice["amount_due"]


def void(world: World, params: Params, note_id: str) -> Json:
    note = world.store.get("credit_note", note_id)
    invoice = world.store.get("invoice", note["invoice"])
    if note["status"] == "void" or invoice["status"] != "open":
        raise refused("You can only void credit notes of open invoices, once.")
    before = world.snapshot(note)
    note.update(status="void", voided_at=world.now())
    invoice["pre_payment_credit_notes_amount"] -= note["amount"]
    _owe(world, invoice, note["amount"])
    world.emit("credit_note.voided", note, before)
    return note


def retrieve(world: World, params: Params, note_id: str) -> Json:
    return world.store.get("credit_note", note_id)


def update(world: World, params: Params, note_id: str) -> Json:
    note = world.store.get("credit_note", note_id)
    before = world.snapshot(note)
    merge_metadata(note, params)
    update_fields(note, params, "memo")
    world.emit("credit_note.updated", note, before)
    return note


def list_all(world: World, params: Params) -> Json:
    return page(world.store.newest("credit_note"), params, "/v1/credit_notes", "customer", "invoice")
