"""Invoice items, the lines that they become, and the sums of an invoice's lines."""

from decimal import ROUND_HALF_UP, Decimal

from fake_stripe import customers
from fake_stripe.catalogue import inline_price
from fake_stripe.errors import Json, StripeError, invalid, missing_param, refused
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata, new_metadata, update_fields
from fake_stripe.world import World


def create(world: World, params: Params) -> Json:
    customer = customers.existing_customer(world, params.need("customer"))
    invoice = _draft(world, params, customer["id"])
    item = _item(world, params, customer["id"], invoice["currency"] if invoice else "usd")
    item["tax_rates"] = [tax_rate(world, rate_id) for rate_id in params.texts("tax_rates")]
    world.store.add(item)
    if invoice is not None:
        take_item(world, invoice, item)
    world.emit("invoiceitem.created", item)
    return item


def _draft(world: World, params: Params, customer_id: str) -> Json | None:
    if not params.text("invoice"):
        return None
    invoice = world.store.get("invoice", params.need("invoice"), param="invoice")
    if invoice["customer"] != customer_id:
        raise refused("The invoice belongs to another customer.", param="invoice")
    require_draft(invoice)
    return invoice


def require_draft(invoice: Json) -> None:
    """Raises StripeError if the invoice can no longer be changed."""
    if invoice["status"] != "draft":
        raise refused("This invoice is no longer editable", code="invoice_not_editable")


def _item(world: World, params: Params, customer_id: str, currency: str) -> Json:
    now, quantity = world.now(), params.integer("quantity") or 1
    price = price_of(world, params, currency, params.text("description") or "Invoice item")
    amount = params.integer("amount")
    if amount is None:
        amount = price["unit_amount"] * quantity
    period = params.sub("period")
    return stripe_object(
        "invoiceitem",
        id=world.new_id("ii"),
        amount=amount,
        currency=price["currency"],
        customer=customer_id,
        date=now,
        description=params.text("description") or world.store.get("product", price["product"])["name"],
        discountable=params.flag("discountable") is not False,
        discounts=[],
        metadata=new_metadata(params),
        net_amount=amount,
        period={"start": period.integer("start") or now, "end": period.integer("end") or now},
        pricing=pricing_of(price),
        proration=False,
        quantity=quantity,
        quantity_decimal=str(quantity),
        tax_rates=[],
    )


def price_of(world: World, params: Params, currency: str, name: str) -> Json:
    """The price that is named, or one created for the given amount. Raises StripeError."""
    named = params.sub("pricing").text("price") or params.text("price")
    if named is not None:
        price = world.store.get("price", named, param="price")
        if price["unit_amount"] is None or price["type"] != "one_time":
            raise invalid("The price specified must be one-time, with an amount in whole cents.", param="price")
        return price
    data = params.sub("price_data")
    if data.values:
        product = data.sub("product_data").text("name") or _product_name(world, data)
        return inline_price(world, data.need("currency").lower(), _unit_amount(data), product or name)
    amount = params.integer("amount")
    if amount is None:
        amount = _unit_amount(params)
    return inline_price(world, (params.text("currency") or currency).lower(), amount, name)


def _product_name(world: World, data: Params) -> str | None:
    if not data.text("product"):
        return None
    return str(world.store.get("product", data.need("product"), param=data.named("product"))["name"])


def _unit_amount(params: Params) -> int:
    amount, decimal = params.integer("unit_amount"), params.text("unit_amount_decimal")
    if amount is not None:
        return amount
    if decimal is None:
        raise missing_param(params.named("amount"))
    try:
        return int(Decimal(decimal).quantize(Decimal(1), ROUND_HALF_UP))
    except ArithmeticError as error:
        raise _not_decimal(params) from error


def _not_decimal(params: Params) -> StripeError:
    return invalid("Invalid decimal", param=params.named("unit_amount_decimal"))


def pricing_of(price: Json) -> Json:
    details = {"price": price["id"], "product": price["product"]}
    return {"price_details": details, "type": "price_details", "unit_amount_decimal": price["unit_amount_decimal"]}


def tax_rate(world: World, rate_id: str) -> Json:
    return world.snapshot(world.store.get("tax_rate", rate_id, param="tax_rates"))


def take_item(world: World, invoice: Json, item: Json) -> None:
    """Add an item to a draft as a line."""
    if item["currency"] != invoice["currency"]:
        raise refused(
            f"The invoice's currency is {invoice['currency']}, the item's {item['currency']}.", param="currency"
        )
    item["invoice"] = invoice["id"]
    line = stripe_object(
        "line_item",
        id=world.new_id("il"),
        amount=item["amount"],
        currency=item["currency"],
        description=item["description"],
        discount_amounts=[],
        discountable=item["discountable"],
        discounts=[],
        invoice=invoice["id"],
        metadata=dict(item["metadata"]),
        parent={
            "invoice_item_details": {
                "invoice_item": item["id"],
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": None,
            },
            "subscription_item_details": None,
            "type": "invoice_item_details",
        },
        period=item["period"],
        pretax_credit_amounts=[],
        pricing=item["pricing"],
        quantity=item["quantity"],
        quantity_decimal=item["quantity_decimal"],
        subtotal=item["amount"],
        taxes=[],
        _item=item["id"],
        _rates=item["tax_rates"],
    )
    invoice["lines"]["data"].insert(0, line)
    add_up(invoice)


def add_up(invoice: Json) -> None:
    """Compute the invoice's sums from its lines."""
    lines = invoice["lines"]["data"]
    invoice["lines"]["total_count"] = len(lines)
    totals: dict[str, Json] = {}
    for line in lines:
        line["taxes"] = [_tax(line["amount"], rate) for rate in line["_rates"] or invoice["default_tax_rates"]]
        for tax in line["taxes"]:
            total = totals.setdefault(tax["tax_rate_details"]["tax_rate"], tax | {"amount": 0, "taxable_amount": 0})
            total["amount"] += tax["amount"]
            total["taxable_amount"] += tax["taxable_amount"]
    subtotal = sum(line["amount"] for line in lines)
    inclusive = sum(tax["amount"] for tax in totals.values() if tax["tax_behavior"] == "inclusive")
    exclusive = sum(tax["amount"] for tax in totals.values() if tax["tax_behavior"] == "exclusive")
    invoice.update(
        subtotal=subtotal,
        subtotal_excluding_tax=subtotal - inclusive,
        total=subtotal + exclusive,
        total_excluding_tax=subtotal - inclusive,
        total_taxes=list(totals.values()),
    )
    due = max(0, invoice["total"] + invoice["starting_balance"])
    invoice.update(amount_due=due, amount_remaining=due - invoice["amount_paid"])


def _tax(amount: int, rate: Json) -> Json:
    share = Decimal(str(rate["percentage"]))
    whole = Decimal(amount) * share / (100 + share if rate["inclusive"] else 100)
    tax = int(whole.quantize(Decimal(1), ROUND_HALF_UP))
    return {
        "amount": tax,
        "tax_behavior": "inclusive" if rate["inclusive"] else "exclusive",
        "tax_rate_details": {"tax_rate": rate["id"]},
        "taxability_reason": "not_available",
        "taxable_amount": amount - tax if rate["inclusive"] else amount,
        "type": "tax_rate_details",
    }


def retrieve(world: World, params: Params, item_id: str) -> Json:
    return world.store.get("invoiceitem", item_id)


def update(world: World, params: Params, item_id: str) -> Json:
    item = world.store.get("invoiceitem", item_id)
    invoice = world.store.find("invoice", item["invoice"])
    if invoice is not None:
        require_draft(invoice)
    merge_metadata(item, params)
    update_fields(item, params, "description")
    amount = params.integer("amount")
    if amount is not None:
        item.update(amount=amount, net_amount=amount)
    if invoice is not None:
        invoice["lines"]["data"] = [line for line in invoice["lines"]["data"] if line["_item"] != item_id]
        take_item(world, invoice, item)
    return item


def delete(world: World, params: Params, item_id: str) -> Json:
    item = world.store.get("invoiceitem", item_id)
    invoice = world.store.find("invoice", item["invoice"])
    if invoice is not None:
        require_draft(invoice)
        invoice["lines"]["data"] = [line for line in invoice["lines"]["data"] if line["_item"] != item_id]
        add_up(invoice)
    world.store.remove(item)
    world.emit("invoiceitem.deleted", item)
    return {"id": item_id, "object": "invoiceitem", "deleted": True}


def list_all(world: World, params: Params) -> Json:
    items = world.store.newest("invoiceitem")
    pending = params.flag("pending")
    if pending is not None:
        items = (item for item in items if (item["invoice"] is None) is pending)
    return page(items, params, "/v1/invoiceitems", "customer", "invoice")
