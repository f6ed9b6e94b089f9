"""Products, prices, tax rates and coupons: as far as invoices, Checkout and the usual tools need them."""

from collections.abc import Callable

from fake_stripe.errors import Json, StripeError, invalid, missing_param, refused
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata, new_metadata, update_fields
from fake_stripe.world import World

KINDS = ("product", "price", "tax_rate", "coupon")

_PRODUCT = (
    "description", "name", "statement_descriptor", "unit_label", "url", "package_dimensions", "tax_code",
    "default_price",
)  # fmt: skip


def getter(kind: str) -> Callable[[World, Params, str], Json]:
    """The call that retrieves one object of this kind."""

    def retrieve(world: World, params: Params, object_id: str) -> Json:
        return world.store.get(kind, object_id)

    return retrieve


def create_product(world: World, params: Params) -> Json:
    product = _product(world, params.need("name"), params)
    update_fields(product, params, *_PRODUCT)
    world.store.add(product)
    world.emit("product.created", product)
    if params.has("default_price_data"):
        price = _price(world, params.sub("default_price_data"), product["id"])
        product["default_price"] = world.store.add(price)["id"]
        world.emit("price.created", price)
    return product


def _product(world: World, name: str, params: Params, *, active: bool = True) -> Json:
    product_id = params.text("id") or world.new_id("prod", 14)
    if world.store.find("product", product_id) is not None:
        raise invalid(f"Product already exists: {product_id}", param="id", code="resource_already_exists")
    now, chosen = world.now(), params.flag("active")
    return stripe_object(
        "product",
        id=product_id,
        active=active if chosen is None else chosen,
        created=now,
        images=params.texts("images"),
        marketing_features=[],
        metadata=new_metadata(params),
        name=name,
        shippable=params.flag("shippable"),
        type=params.text("type") or "service",
        updated=now,
    )


def update_product(world: World, params: Params, product_id: str) -> Json:
    product = world.store.get("product", product_id)
    before = world.snapshot(product)
    merge_metadata(product, params)
    update_fields(product, params, *_PRODUCT)
    _switch(product, params)
    product["updated"] = world.now()
    world.emit("product.updated", product, before)
    return product


def delete_product(world: World, params: Params, product_id: str) -> Json:
    product = world.store.get("product", product_id)
    if any(price["product"] == product_id for price in world.store.all("price")):
        raise refused("This product cannot be deleted because it has one or more user-created prices.")
    world.store.remove(product)
    world.emit("product.deleted", product)
    return {"id": product_id, "object": "product", "deleted": True}


def list_products(world: World, params: Params) -> Json:
    return page(world.store.newest("product"), params, "/v1/products", "active", "type")


def create_price(world: World, params: Params) -> Json:
    product_id = params.text("product")
    data = params.sub("product_data")
    if product_id is None and not data.values:
        raise missing_param("product")
    if product_id is not None:
        world.store.get("product", product_id, param="product")
    price = _price(world, params, product_id or "")
    if product_id is None:
        price["product"] = create_product(world, data)["id"]
    world.store.add(price)
    world.emit("price.created", price)
    return price


def _price(world: World, params: Params, product_id: str) -> Json:
    amount, recurring, active = params.integer("unit_amount"), params.sub("recurring"), params.flag("active")
    shown = params.text("unit_amount_decimal") or (None if amount is None else str(amount))
    if shown is None:
        raise missing_param(params.named("unit_amount"))
    price = stripe_object(
        "price",
        id=world.new_id("price"),
        active=True if active is None else active,
        billing_scheme=params.text("billing_scheme") or "per_unit",
        created=world.now(),
        currency=params.need("currency").lower(),
        metadata=new_metadata(params),
        product=product_id,
        tax_behavior=params.text("tax_behavior") or "unspecified",
        type="recurring" if recurring.values else "one_time",
        unit_amount=amount if amount is not None or not shown.isdigit() else int(shown),
        unit_amount_decimal=shown,
    )
    update_fields(price, params, "lookup_key", "nickname")
    if recurring.values:
        interval = {"interval": recurring.need("interval"), "interval_count": recurring.integer("interval_count") or 1}
        price["recurring"] = interval | {"meter": None, "trial_period_days": None, "usage_type": "licensed"}
    return price


def inline_price(world: World, currency: str, unit_amount: int, name: str) -> Json:
    """The price for an amount that was given without a price; it cannot be used again."""
    product = world.store.add(_product(world, name, Params({}), active=False))
    values = {"currency": currency, "unit_amount": str(unit_amount), "active": "false"}
    return world.store.add(_price(world, Params(values), product["id"]))


def update_price(world: World, params: Params, price_id: str) -> Json:
    price = world.store.get("price", price_id)
    before = world.snapshot(price)
    merge_metadata(price, params)
    update_fields(price, params, "lookup_key", "nickname", "tax_behavior")
    _switch(price, params)
    world.emit("price.updated", price, before)
    return price


def _switch(resource: Json, params: Params) -> None:
    active = params.flag("active")
    if active is not None:
        resource["active"] = active


def list_prices(world: World, params: Params) -> Json:
    return page(world.store.newest("price"), params, "/v1/prices", "active", "currency", "product", "type")


def create_tax_rate(world: World, params: Params) -> Json:
    percentage = _percentage(params, "percentage")
    rate = stripe_object(
        "tax_rate",
        id=world.new_id("txr"),
        active=params.flag("active") is not False,
        created=world.now(),
        display_name=params.need("display_name"),
        effective_percentage=None,
        inclusive=bool(params.flag("inclusive")),
        metadata=new_metadata(params),
        percentage=percentage,
        rate_type="percentage",
    )
    update_fields(rate, params, "country", "description", "jurisdiction", "state", "tax_type")
    world.store.add(rate)
    world.emit("tax_rate.created", rate)
    return rate


def _percentage(params: Params, name: str) -> float:
    try:
        value = float(params.need(name))
    except ValueError as error:
        raise _not_a_percentage(name) from error
    if not 0 <= value <= 100:
        raise _not_a_percentage(name)
    return int(value) if value.is_integer() else value


def _not_a_percentage(name: str) -> StripeError:
    return invalid(f"Invalid decimal: {name} must be between 0 and 100", param=name)


def update_tax_rate(world: World, params: Params, rate_id: str) -> Json:
    rate = world.store.get("tax_rate", rate_id)
    before = world.snapshot(rate)
    merge_metadata(rate, params)
    update_fields(rate, params, "display_name", "country", "description", "jurisdiction", "state", "tax_type")
    _switch(rate, params)
    world.emit("tax_rate.updated", rate, before)
    return rate


def list_tax_rates(world: World, params: Params) -> Json:
    return page(world.store.newest("tax_rate"), params, "/v1/tax_rates", "active", "inclusive")


def create_coupon(world: World, params: Params) -> Json:
    percent = _percentage(params, "percent_off") if params.text("percent_off") else None
    amount = params.integer("amount_off")
    if (percent is None) == (amount is None):
        raise invalid("You must pass either `percent_off` or `amount_off`.", param="percent_off")
    coupon = stripe_object(
        "coupon",
        id=params.text("id") or world.new_id("co", 8)[3:],
        amount_off=amount,
        created=world.now(),
        currency=params.text("currency"),
        duration=params.text("duration") or "once",
        duration_in_months=params.integer("duration_in_months"),
        max_redemptions=params.integer("max_redemptions"),
        metadata=new_metadata(params),
        name=params.text("name"),
        percent_off=percent,
        redeem_by=params.integer("redeem_by"),
        times_redeemed=0,
        valid=True,
    )
    world.store.add(coupon)
    world.emit("coupon.created", coupon)
    return coupon


def update_coupon(world: World, params: Params, coupon_id: str) -> Json:
    coupon = world.store.get("coupon", coupon_id)
    before = world.snapshot(coupon)
    merge_metadata(coupon, params)
    update_fields(coupon, params, "name")
    world.emit("coupon.updated", coupon, before)
    return coupon


def delete_coupon(world: World, params: Params, coupon_id: str) -> Json:
    coupon = world.store.get("coupon", coupon_id)
    world.store.remove(coupon)
    world.emit("coupon.deleted", coupon)
    return {"id": coupon_id, "object": "coupon", "deleted": True}


def list_coupons(world: World, params: Params) -> Json:
    return page(world.store.newest("coupon"), params, "/v1/coupons")
