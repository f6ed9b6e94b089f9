"""Meters of usage, the events that they count, and their sums for a customer.

As at Stripe, an event is partly checked on arrival, and counted afterwards: one without a valid customer or value is
accepted, but counts nothing.
"""

from decimal import Decimal, InvalidOperation

from fake_stripe.errors import Json, invalid, no_such
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params
from fake_stripe.world import World

NAME_MAX = 100
UNIQUE_SECONDS = 24 * 3600
PAST_SECONDS = 35 * 24 * 3600
FUTURE_SECONDS = 300
DECIMALS = 12
_EVENT = "billing.meter_event"


def create(world: World, params: Params) -> Json:
    name, now = params.need("event_name"), world.now()
    if any(meter["event_name"] == name and meter["status"] == "active" for meter in world.store.all("billing.meter")):
        raise invalid(f"An active meter with the event name {name} exists already.", param="event_name")
    formula = params.sub("default_aggregation").choice("formula", "count", "last", "sum")
    meter = stripe_object(
        "billing.meter",
        id=world.new_id("mtr"),
        created=now,
        customer_mapping={
            "event_payload_key": params.sub("customer_mapping").text("event_payload_key") or "stripe_customer_id",
            "type": "by_id",
        },
        default_aggregation={"formula": formula or "sum"},
        display_name=params.need("display_name"),
        event_name=name,
        status="active",
        status_transitions={"deactivated_at": None},
        updated=now,
        value_settings={"event_payload_key": params.sub("value_settings").text("event_payload_key") or "value"},
    )
    return world.store.add(meter)


def retrieve(world: World, params: Params, meter_id: str) -> Json:
    return world.store.get("billing.meter", meter_id)


def list_all(world: World, params: Params) -> Json:
    return page(list(world.store.all("billing.meter"))[::-1], params, "/v1/billing/meters")


def create_event(world: World, params: Params) -> Json:
    name, now = params.need("event_name"), world.now()
    identifier = params.text("identifier") or world.new_id("idmp")
    for what, text in (("event_name", name), ("identifier", identifier)):
        if len(text) > NAME_MAX:
            raise invalid(f"Invalid string: {what} must be at most {NAME_MAX} characters", param=what)
    payload = params.sub("payload").values
    if not payload:
        raise invalid("Missing required param: payload.", param="payload", code="parameter_missing")
    if not any(
        meter["event_name"] == name and meter["status"] == "active" for meter in world.store.all("billing.meter")
    ):
        raise invalid(f"No active meter found for event name {name}.", param="event_name")
    timestamp = params.integer("timestamp")
    at = now if timestamp is None else timestamp
    if not now - PAST_SECONDS <= at <= now + FUTURE_SECONDS:
        message = "The timestamp must be within the past 35 calendar days or up to 5 minutes in the future."
        raise invalid(message, param="timestamp")
    known = world.store.find(_EVENT, identifier)
    if known is not None and now - known["created"] < UNIQUE_SECONDS:
        raise invalid(f"An event already exists with identifier {identifier}.")
    event = stripe_object(
        _EVENT,
        id=identifier,
        created=now,
        event_name=name,
        identifier=identifier,
        payload={key: str(value) for key, value in payload.items()},
        timestamp=at,
    )
    world.store.add(event)
    return {field: value for field, value in event.items() if field != "id"}


def event_summaries(world: World, params: Params, meter_id: str) -> Json:
    """The sum of a customer's events in a period, as one summary."""
    meter = world.store.get("billing.meter", meter_id)
    customer, start, end = params.need("customer"), params.need_integer("start_time"), params.need_integer("end_time")
    if world.store.find("customer", customer) is None:
        raise no_such("customer", customer, param="customer")
    found = [
        value
        for event in world.store.all(_EVENT)
        if event["event_name"] == meter["event_name"] and start <= event["timestamp"] < end
        if (value := _counted(meter, event, customer)) is not None
    ]
    formula = meter["default_aggregation"]["formula"]
    total = Decimal(len(found)) if formula == "count" else sum(found[-1:] if formula == "last" else found, Decimal(0))
    summary = {
        "id": f"mtrusg_{meter_id.removeprefix('mtr_')}",
        "object": "billing.meter_event_summary",
        "aggregated_value": float(total),
        "end_time": end,
        "livemode": False,
        "meter": meter_id,
        "start_time": start,
    }
    return page([summary] if found else [], params, f"/v1/billing/meters/{meter_id}/event_summaries")


def _counted(meter: Json, event: Json, customer: str) -> Decimal | None:
    """What the event adds for the customer; None if nothing."""
    payload = event["payload"]
    if payload.get(meter["customer_mapping"]["event_payload_key"]) != customer:
        return None
    try:
        value = Decimal(payload.get(meter["value_settings"]["event_payload_key"], ""))
    except InvalidOperation:
        return None
    exponent = value.as_tuple().exponent
    return value if isinstance(exponent, int) and -exponent <= DECIMALS and value >= 0 else None
