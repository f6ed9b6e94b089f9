"""Customers, their tax ids and their credit balance."""

from fake_stripe import payment_methods
from fake_stripe.errors import Json, invalid, no_such
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata, new_metadata, update_fields
from fake_stripe.rendering import includable, list_of
from fake_stripe.search import search
from fake_stripe.store import Store
from fake_stripe.world import World, address, random_text

_PLAIN = ("description", "email", "name", "phone", "shipping", "tax_exempt", "invoice_prefix")


def create(world: World, params: Params) -> Json:
    customer = stripe_object(
        "customer",
        id=world.new_id("cus", 14),
        created=world.now(),
        balance=params.integer("balance") or 0,
        delinquent=False,
        invoice_prefix=random_text(8).upper(),
        invoice_settings={
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        metadata=new_metadata(params),
        next_invoice_sequence=1,
        preferred_locales=params.texts("preferred_locales"),
        tax_exempt="none",
    )
    _take(customer, params)
    token = params.text("payment_method") or params.text("source")
    method = payment_methods.usable(world, token) if token else None
    if method is not None:
        payment_methods.require_usable(method)
    world.store.add(customer)
    world.emit("customer.created", customer)
    if method is not None:
        payment_methods.attach(world, method, customer["id"])
        if params.text("source"):
            customer["default_source"] = method["id"]
    _set_default(world, customer, params)
    for tax_id in params.subs("tax_id_data"):
        create_tax_id(world, tax_id, customer["id"])
    return customer


def retrieve(world: World, params: Params, customer_id: str) -> Json:
    return world.store.get("customer", customer_id)


def existing_customer(world: World, customer_id: str, *, param: str = "customer") -> Json:
    """A customer who has not been deleted. Raises StripeError otherwise."""
    customer = world.store.get("customer", customer_id, param=param)
    if customer.get("deleted"):
        raise no_such("customer", customer_id, param=param)
    return customer


def update(world: World, params: Params, customer_id: str) -> Json:
    customer = existing_customer(world, customer_id, param="id")
    before = world.snapshot(customer)
    _set_default(world, customer, params)
    merge_metadata(customer, params)
    _take(customer, params)
    if params.has("balance"):
        customer["balance"] = params.integer("balance") or 0
    source = params.text("source")
    if source:
        method = payment_methods.usable(world, source, param="source")
        customer["default_source"] = payment_methods.attach(world, method, customer_id)["id"]
    world.emit("customer.updated", customer, before)
    return customer


def delete(world: World, params: Params, customer_id: str) -> Json:
    customer = existing_customer(world, customer_id, param="id")
    for known in world.store.all("payment_method"):
        if known["customer"] == customer_id:
            payment_methods.detach_from_customer(world, world.store.get("payment_method", known["id"]))
    world.emit("customer.deleted", customer)
    customer.clear()
    customer.update(id=customer_id, object="customer", deleted=True)
    return customer


def list_all(world: World, params: Params) -> Json:
    existing = (customer for customer in world.store.newest("customer") if not customer.get("deleted"))
    return page(existing, params, "/v1/customers", "email")


def search_all(world: World, params: Params) -> Json:
    return search(world.store.newest("customer"), params, "/v1/customers/search")


def _take(customer: Json, params: Params) -> None:
    update_fields(customer, params, *_PLAIN)
    if customer["tax_exempt"] is None:
        customer["tax_exempt"] = "none"
    if params.has("address"):
        customer["address"] = address(params.plain("address"))


def _set_default(world: World, customer: Json, params: Params) -> None:
    settings = params.sub("invoice_settings")
    if not settings.has("default_payment_method"):
        return
    method_id = settings.text("default_payment_method")
    if method_id is not None:
        param = settings.named("default_payment_method")
        method = world.store.get("payment_method", method_id, param=param)
        if method["customer"] != customer["id"]:
            raise invalid(
                f"The customer does not have a payment method with the ID {method_id}. The payment method must be "
                "attached to the customer.",
                param=param,
                code="resource_missing",
            )
    customer["invoice_settings"]["default_payment_method"] = method_id


# --- tax ids ----------------------------------------------------------------------------------------------------------


def create_tax_id(world: World, params: Params, customer_id: str) -> Json:
    customer = existing_customer(world, customer_id, param="id")
    value = params.need("value")
    tax_id = stripe_object(
        "tax_id",
        id=world.new_id("txi"),
        country=value[:2] if value[:2].isalpha() else None,
        created=world.now(),
        customer=customer["id"],
        owner={"type": "customer", "customer": customer["id"]},
        type=params.need("type"),
        value=value,
        verification={"status": "pending", "verified_address": None, "verified_name": None},
    )
    world.store.add(tax_id)
    world.emit("customer.tax_id.created", tax_id)
    return tax_id


def retrieve_tax_id(world: World, params: Params, customer_id: str, tax_id: str) -> Json:
    found = world.store.get("tax_id", tax_id)
    if found["customer"] != customer_id:
        raise no_such("tax_id", tax_id)
    return found


def delete_tax_id(world: World, params: Params, customer_id: str, tax_id: str) -> Json:
    found = retrieve_tax_id(world, params, customer_id, tax_id)
    world.store.remove(found)
    world.emit("customer.tax_id.deleted", found)
    return {"id": tax_id, "object": "tax_id", "deleted": True}


def list_tax_ids(world: World, params: Params, customer_id: str) -> Json:
    existing_customer(world, customer_id, param="id")
    owned = (tax_id for tax_id in world.store.newest("tax_id") if tax_id["customer"] == customer_id)
    return page(owned, params, f"/v1/customers/{customer_id}/tax_ids")


@includable("customer", "tax_ids")
def _tax_ids(store: Store, customer: Json) -> Json:
    owned = [tax_id for tax_id in store.newest("tax_id") if tax_id["customer"] == customer["id"]]
    return list_of(owned, f"/v1/customers/{customer['id']}/tax_ids")


# --- credit balance ---------------------------------------------------------------------------------------------------


def create_balance_transaction(world: World, params: Params, customer_id: str) -> Json:
    customer = existing_customer(world, customer_id, param="id")
    amount, currency = params.need_integer("amount"), params.need("currency").lower()
    made = move_balance(world, customer, amount, currency, "adjustment")
    made.update(description=params.text("description"), metadata=new_metadata(params))
    return made


def move_balance(world: World, customer: Json, amount: int, currency: str, kind: str, **fields: object) -> Json:
    """Add to what the customer owes; a balance below zero is the customer's credit."""
    before = world.snapshot(customer)
    customer["balance"] += amount
    made = stripe_object(
        "customer_balance_transaction",
        id=world.new_id("cbtxn"),
        amount=amount,
        created=world.now(),
        currency=currency,
        customer=customer["id"],
        ending_balance=customer["balance"],
        metadata={},
        type=kind,
        **fields,
    )
    world.store.add(made)
    world.emit("customer.updated", customer, before)
    return made


def list_balance_transactions(world: World, params: Params, customer_id: str) -> Json:
    existing_customer(world, customer_id, param="id")
    owned = (t for t in world.store.newest("customer_balance_transaction") if t["customer"] == customer_id)
    return page(owned, params, f"/v1/customers/{customer_id}/balance_transactions")


def retrieve_balance_transaction(world: World, params: Params, customer_id: str, transaction_id: str) -> Json:
    return world.store.get("customer_balance_transaction", transaction_id)


def cash_balance(world: World, params: Params, customer_id: str) -> Json:
    existing_customer(world, customer_id, param="id")
    settings = {"reconciliation_mode": "automatic", "using_merchant_default": True}
    cash: Json = {"object": "cash_balance", "available": None, "customer": customer_id, "livemode": False}
    return cash | {"settings": settings}
