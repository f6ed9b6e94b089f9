"""The account itself, and other objects that tools request: portal and customer sessions, test clocks."""

from fake_stripe import customers
from fake_stripe.errors import Json, invalid, no_such
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params
from fake_stripe.world import ACCOUNT, World, random_text


def account(world: World, params: Params) -> Json:
    return {
        "id": ACCOUNT,
        "object": "account",
        "business_profile": {"name": "Fake Stripe", "url": None},
        "business_type": "company",
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "country": "US",
        "created": 1_600_000_000,
        "default_currency": "usd",
        "details_submitted": True,
        "email": "owner@example.com",
        "metadata": {},
        "payouts_enabled": True,
        "settings": {"dashboard": {"display_name": "Fake Stripe", "timezone": "Etc/UTC"}},
        "type": "standard",
    }


def account_by_id(world: World, params: Params, account_id: str) -> Json:
    if account_id != ACCOUNT:
        raise no_such("account", account_id)
    return account(world, params)


def accounts(world: World, params: Params) -> Json:
    return page([], params, "/v1/accounts")


def portal_session(world: World, params: Params) -> Json:
    customer = customers.existing_customer(world, params.need("customer"))
    session_id = world.new_id("bps")
    return stripe_object(
        "billing_portal.session",
        id=session_id,
        configuration="bpc_1FakeStripe",
        created=world.now(),
        customer=customer["id"],
        return_url=params.url("return_url"),
        url=f"{world.public_url}/p/session/{session_id}",
    )


def customer_session(world: World, params: Params) -> Json:
    customer, now = customers.existing_customer(world, params.need("customer")), world.now()
    if not params.sub("components").values:
        raise invalid("Missing required param: components.", param="components", code="parameter_missing")
    names = ("buy_button", "customer_sheet", "mobile_payment_element", "payment_element", "pricing_table")
    requested = params.sub("components")
    return {
        "object": "customer_session",
        "client_secret": f"_{random_text(48)}",
        "components": {name: {"enabled": bool(requested.sub(name).flag("enabled"))} for name in names},
        "created": now,
        "customer": customer["id"],
        "expires_at": now + 1800,
        "livemode": False,
    }


def create_test_clock(world: World, params: Params) -> Json:
    clock: Json = {
        "id": world.new_id("clock"),
        "object": "test_helpers.test_clock",
        "created": world.now(),
        "deletes_after": world.now() + 30 * 86400,
        "frozen_time": params.need_integer("frozen_time"),
        "livemode": False,
        "name": params.text("name"),
        "status": "ready",
        "status_details": {},
    }
    world.store.add(clock)
    world.emit("test_helpers.test_clock.created", clock)
    return clock


def retrieve_test_clock(world: World, params: Params, clock_id: str) -> Json:
    return world.store.get("test_helpers.test_clock", clock_id)


def advance_test_clock(world: World, params: Params, clock_id: str) -> Json:
    clock = world.store.get("test_helpers.test_clock", clock_id)
    then = params.need_integer("frozen_time")
    if then <= clock["frozen_time"]:
        raise invalid("The time must be after the clock's.", param="frozen_time")
    clock["status"] = "advancing"
    world.emit("test_helpers.test_clock.advancing", clock)
    clock.update(status="ready", frozen_time=then)
    world.emit("test_helpers.test_clock.ready", clock)
    return clock


def delete_test_clock(world: World, params: Params, clock_id: str) -> Json:
    clock = world.store.get("test_helpers.test_clock", clock_id)
    world.store.remove(clock)
    world.emit("test_helpers.test_clock.deleted", clock)
    return {"id": clock_id, "object": "test_helpers.test_clock", "deleted": True}


def list_test_clocks(world: World, params: Params) -> Json:
    return page(world.store.newest("test_helpers.test_clock"), params, "/v1/test_helpers/test_clocks")
