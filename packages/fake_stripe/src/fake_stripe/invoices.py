"""Invoices: created, changed, finalized, paid, voided."""

from fake_stripe import customers, invoice_collection, payment_methods
from fake_stripe.errors import Json, invalid, missing_param, refused
from fake_stripe.invoice_items import add_up, require_draft, take_item, tax_rate
from fake_stripe.invoice_items import create as create_item
from fake_stripe.listing import page, within
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata, new_metadata, update_fields
from fake_stripe.rendering import includable, list_of
from fake_stripe.search import search
from fake_stripe.store import Store
from fake_stripe.world import World

_ADVANCE_SECONDS = 3600
_PLAIN = (
    "custom_fields", "description", "footer", "number", "rendering", "shipping_details", "statement_descriptor",
    "on_behalf_of",
)  # fmt: skip


def create(world: World, params: Params) -> Json:
    customer = customers.existing_customer(world, params.need("customer")) if params.text("customer") else None
    if customer is None:
        raise missing_param("customer")
    invoice = new_invoice(world, customer, (params.text("currency") or customer["currency"] or "usd").lower())
    invoice["metadata"] = new_metadata(params)
    _take(world, invoice, params)
    behavior = params.choice("pending_invoice_items_behavior", "include", "exclude", "include_and_require")
    world.store.add(invoice)
    if behavior in ("include", "include_and_require"):
        _take_pending(world, invoice)
    if invoice["auto_advance"]:
        invoice["automatically_finalizes_at"] = world.now() + _ADVANCE_SECONDS
        world.later(_ADVANCE_SECONDS, "advance", invoice["id"])
    world.emit("invoice.created", invoice)
    return invoice


def new_invoice(world: World, customer: Json, currency: str) -> Json:
    """A draft without lines; not yet stored."""
    now, invoice_id = world.now(), world.new_id("in")
    return stripe_object(
        "invoice",
        id=invoice_id,
        account_country="US",
        account_name="Fake Stripe",
        amount_due=0,
        amount_overpaid=0,
        amount_paid=0,
        amount_remaining=0,
        amount_shipping=0,
        attempt_count=0,
        attempted=False,
        auto_advance=False,
        automatic_tax={"disabled_reason": None, "enabled": False, "liability": None, "provider": None, "status": None},
        billing_reason="manual",
        collection_method="charge_automatically",
        created=now,
        currency=currency,
        customer=customer["id"],
        customer_address=customer["address"],
        customer_email=customer["email"],
        customer_name=customer["name"],
        customer_phone=customer["phone"],
        customer_shipping=customer["shipping"],
        customer_tax_exempt=customer["tax_exempt"],
        customer_tax_ids=_tax_ids(world, customer),
        default_tax_rates=[],
        discounts=[],
        issuer={"type": "self"},
        lines=list_of([], f"/v1/invoices/{invoice_id}/lines") | {"total_count": 0},
        metadata={},
        payment_settings={"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        period_end=now,
        period_start=now,
        post_payment_credit_notes_amount=0,
        pre_payment_credit_notes_amount=0,
        starting_balance=0,
        status="draft",
        status_transitions={"finalized_at": None, "marked_uncollectible_at": None, "paid_at": None, "voided_at": None},
        subtotal=0,
        subtotal_excluding_tax=0,
        total=0,
        total_discount_amounts=[],
        total_excluding_tax=0,
        total_pretax_credit_amounts=[],
        total_taxes=[],
    )


def _tax_ids(world: World, customer: Json) -> list[Json]:
    owned = (tax_id for tax_id in world.store.all("tax_id") if tax_id["customer"] == customer["id"])
    return [{"type": tax_id["type"], "value": tax_id["value"]} for tax_id in owned]


def _take(world: World, invoice: Json, params: Params) -> None:
    update_fields(invoice, params, *_PLAIN)
    method = params.choice("collection_method", "charge_automatically", "send_invoice")
    invoice["collection_method"] = method or invoice["collection_method"]
    advance = params.flag("auto_advance")
    if advance is not None:
        invoice["auto_advance"] = advance
    days, due = params.integer("days_until_due"), params.integer("due_date")
    if invoice["collection_method"] == "charge_automatically" and (days or due):
        raise invalid(
            "You can only set `days_until_due` or `due_date` if the collection method is `send_invoice`.",
            param="days_until_due",
        )
    if params.has("effective_at"):
        invoice["effective_at"] = params.integer("effective_at")
    if days or due:
        invoice["due_date"] = due or world.now() + (days or 0) * 86400
    if params.has("default_payment_method"):
        given = params.text("default_payment_method")
        if given is not None:
            payment_methods.for_payment(world, given, invoice["customer"])
        invoice["default_payment_method"] = given
    if params.has("default_tax_rates"):
        invoice["default_tax_rates"] = [tax_rate(world, rate_id) for rate_id in params.texts("default_tax_rates")]
        add_up(invoice)
    if params.has("payment_settings"):
        invoice["payment_settings"] = invoice["payment_settings"] | params.sub("payment_settings").values


def _take_pending(world: World, invoice: Json) -> None:
    for known in world.store.all("invoiceitem"):
        if known["invoice"] is None and known["customer"] == invoice["customer"]:
            item = world.store.get("invoiceitem", known["id"])
            if item["currency"] == invoice["currency"]:
                take_item(world, invoice, item)


def retrieve(world: World, params: Params, invoice_id: str) -> Json:
    return world.store.get("invoice", invoice_id)


def update(world: World, params: Params, invoice_id: str) -> Json:
    invoice = world.store.get("invoice", invoice_id)
    if invoice["status"] != "draft" and set(params.values) - {
        "metadata",
        "expand",
        "auto_advance",
        "default_payment_method",
    }:
        raise refused("Finalized invoices can't be updated in this way", code="invoice_not_editable")
    before = world.snapshot(invoice)
    merge_metadata(invoice, params)
    _take(world, invoice, params)
    world.emit("invoice.updated", invoice, before)
    return invoice


def delete(world: World, params: Params, invoice_id: str) -> Json:
    invoice = world.store.get("invoice", invoice_id)
    if invoice["status"] != "draft":
        raise refused("You can only delete draft invoices.", code="invoice_not_editable")
    for line in invoice["lines"]["data"]:
        item = world.store.find("invoiceitem", line["_item"])
        if item is not None:
            world.store.remove(item)
    world.store.remove(invoice)
    world.emit("invoice.deleted", invoice)
    return {"id": invoice_id, "object": "invoice", "deleted": True}


def list_all(world: World, params: Params) -> Json:
    found = world.store.newest("invoice")
    if params.has("due_date"):
        found = (invoice for invoice in found if within(invoice["due_date"], params, "due_date"))
    return page(found, params, "/v1/invoices", "customer", "status", "collection_method")


def search_all(world: World, params: Params) -> Json:
    return search(world.store.newest("invoice"), params, "/v1/invoices/search")


def finalize(world: World, params: Params, invoice_id: str) -> Json:
    invoice = world.store.get("invoice", invoice_id)
    if invoice["status"] != "draft":
        raise refused(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.", code="invoice_not_editable"
        )
    advance = params.flag("auto_advance")
    if advance is not None:
        invoice["auto_advance"] = advance
    invoice_collection.finalize(world, invoice)
    return invoice


def pay(world: World, params: Params, invoice_id: str) -> Json:
    invoice = world.store.get("invoice", invoice_id)
    if invoice["status"] == "paid":
        raise refused("Invoice is already paid")
    if invoice["status"] == "void":
        raise refused("This invoice is void: it can no longer be paid.")
    given = params.text("payment_method") or params.text("source")
    method = payment_methods.for_payment(world, given, invoice["customer"]) if given else None
    method = method or invoice_collection.method_of(world, invoice)
    by_hand = params.flag("paid_out_of_band") or False
    if method is None and not by_hand and (invoice["amount_due"] > 0):
        raise refused(
            "There is no `default_payment_method` set on this Customer or Invoice. Please set a "
            "`default_payment_method`."
        )
    if invoice["status"] == "draft":
        invoice_collection.finalize(world, invoice)
    if invoice["status"] == "paid":
        return invoice
    if by_hand:
        invoice_collection.settle(world, invoice, None)
    elif method is not None:
        error = invoice_collection.pay(world, invoice, method, off_session=params.flag("off_session") is not False)
        if error is not None:
            raise error
    return invoice


def void(world: World, params: Params, invoice_id: str) -> Json:
    invoice = world.store.get("invoice", invoice_id)
    if invoice["status"] not in ("open", "uncollectible"):
        raise refused(f"You can only void an open or uncollectible invoice: this one is {invoice['status']}.")
    invoice_collection.void(world, invoice)
    return invoice


def send(world: World, params: Params, invoice_id: str) -> Json:
    invoice = world.store.get("invoice", invoice_id)
    if invoice["collection_method"] != "send_invoice":
        raise refused("You can only manually send an invoice if its collection method is 'send_invoice'.")
    if invoice["status"] == "draft":
        invoice_collection.finalize(world, invoice)
    world.emit("invoice.sent", invoice)
    return invoice


def mark_uncollectible(world: World, params: Params, invoice_id: str) -> Json:
    invoice = world.store.get("invoice", invoice_id)
    if invoice["status"] != "open":
        raise refused(f"You can only mark an open invoice as uncollectible: this one is {invoice['status']}.")
    before = world.snapshot(invoice)
    invoice.update(status="uncollectible", auto_advance=False)
    invoice["status_transitions"]["marked_uncollectible_at"] = world.now()
    world.emit("invoice.updated", invoice, before)
    world.emit("invoice.marked_uncollectible", invoice)
    return invoice


def lines(world: World, params: Params, invoice_id: str) -> Json:
    invoice = world.store.get("invoice", invoice_id)
    return page(invoice["lines"]["data"], params, f"/v1/invoices/{invoice_id}/lines")


def add_lines(world: World, params: Params, invoice_id: str) -> Json:
    invoice = world.store.get("invoice", invoice_id)
    require_draft(invoice)
    for line in params.subs("lines"):
        create_item(world, Params({**line.values, "customer": invoice["customer"], "invoice": invoice_id}))
    return invoice


def list_payments(world: World, params: Params) -> Json:
    payment = params.sub("payment")
    intent_id = payment.text("payment_intent")
    found = world.store.newest("invoice_payment")
    if intent_id is not None:
        found = (known for known in found if known["payment"].get("payment_intent") == intent_id)
    return page(found, params, "/v1/invoice_payments", "invoice", "status")


def retrieve_payment(world: World, params: Params, payment_id: str) -> Json:
    return world.store.get("invoice_payment", payment_id)


@includable("invoice", "payments")
def _payments(store: Store, invoice: Json) -> Json:
    made = [known for known in store.newest("invoice_payment") if known["invoice"] == invoice["id"]]
    return list_of(made, "/v1/invoice_payments")


@includable("invoice", "confirmation_secret")
def _confirmation_secret(store: Store, invoice: Json) -> Json | None:
    for known in store.all("invoice_payment"):
        intent = store.find("payment_intent", known["payment"].get("payment_intent"))
        if known["invoice"] == invoice["id"] and intent is not None:
            return {"client_secret": intent["client_secret"], "type": "payment_intent"}
    return None
