"""The objects have exactly the fields that the official client declares."""

import inspect
import re
import typing
from typing import Any

import stripe
from stripe._object_classes import get_object_class

from fake_stripe.call_parameters import parameters_of
from fake_stripe.object_fields import stripe_object
from support import Fake

_OPTIONAL = re.compile("Optional|NoneType")
_ONLY_EXPANDED = {"invoice": {"payments", "confirmation_secret"}, "customer": {"tax_ids", "sources", "subscriptions"}}


def declared(kind: str) -> tuple[set[str], set[str]]:
    """All fields of a kind, and those that are never null."""
    made = get_object_class("V1", kind)
    hints = {
        name: text
        for part in reversed(made.__mro__)
        if part.__module__.startswith("stripe.") and part is not stripe.StripeObject
        for name, text in inspect.get_annotations(part).items()
        if not name.startswith("_") and "ClassVar" not in str(text)
    }
    return set(hints), {name for name, text in hints.items() if not _OPTIONAL.search(str(text))}


def everything(fake: Fake) -> dict[str, dict[str, Any]]:
    """One object of every kind, as an event or a list shows it."""
    customer = fake.customer("pm_card_visa")
    invoice = customer.invoice()
    fake.v1.invoices.pay(invoice.id)
    paid = customer.charge()
    fake.v1.refunds.create({"payment_intent": paid.id, "amount": 1})
    fake.control("POST", "disputes", payment_intent=paid.id)
    fake.v1.setup_intents.create({"customer": customer.id, "payment_method": customer.method, "confirm": True})
    fake.v1.credit_notes.create({"invoice": invoice.id, "amount": 100, "refund_amount": 100})
    fake.v1.tax_rates.create({"display_name": "VAT", "percentage": 19, "inclusive": True})
    fake.v1.coupons.create({"percent_off": 10})
    fake.v1.customers.tax_ids.create(customer.id, {"type": "eu_vat", "value": "DE123456789"})
    fake.v1.products.create({"name": "Credits"})
    fake.v1.prices.create({"currency": "usd", "unit_amount": 1, "product_data": {"name": "x"}})
    session = fake.v1.checkout.sessions.create(
        {"mode": "setup", "currency": "usd", "customer": customer.id, "success_url": "http://127.0.0.1/ok"}
    )
    fake.v1.checkout.sessions.expire(session.id)
    fake.v1.test_helpers.test_clocks.create({"frozen_time": 1_800_000_000})
    found: dict[str, dict[str, Any]] = {}
    for page in fake.v1.events.list({"limit": 100}).auto_paging_iter():
        shown = page.to_dict()["data"]["object"]
        found.setdefault(shown["object"], shown)
    found["event"] = fake.v1.events.list({"limit": 1}).data[0].to_dict()
    found["line_item"] = fake.v1.invoices.line_items.list(invoice.id).data[0].to_dict()
    found["balance_transaction"] = fake.v1.balance_transactions.list({"limit": 1}).data[0].to_dict()
    moved = fake.v1.customers.balance_transactions.create(customer.id, {"amount": 1, "currency": "usd"})
    found["customer_balance_transaction"] = moved.to_dict()
    portal = fake.v1.billing_portal.sessions.create({"customer": customer.id})
    found["billing_portal.session"] = portal.to_dict()
    found["balance"] = fake.v1.balance.retrieve().to_dict()
    endpoint = {"url": "http://127.0.0.1:9", "enabled_events": ["*"]}
    found["webhook_endpoint"] = fake.v1.webhook_endpoints.create(typing.cast(Any, endpoint)).to_dict()
    asked = fake.v1.customer_sessions.create(
        {"customer": customer.id, "components": {"payment_element": {"enabled": True}}}
    )
    found["customer_session"] = asked.to_dict()
    meter: typing.Any = {"display_name": "m", "event_name": "m", "default_aggregation": {"formula": "sum"}}
    found["billing.meter"] = fake.v1.billing.meters.create(meter).to_dict()
    payload = {"stripe_customer_id": customer.id, "value": "1"}
    metered = fake.v1.billing.meter_events.create({"event_name": "m", "payload": payload})
    found["billing.meter_event"] = metered.to_dict()
    summed = fake.v1.billing.meters.event_summaries.list(
        found["billing.meter"]["id"], {"customer": customer.id, "start_time": 0, "end_time": 4_000_000_000}
    )
    found["billing.meter_event_summary"] = summed.data[0].to_dict()
    return found


def test_every_object_has_the_declared_fields(fake: Fake) -> None:
    problems = []
    found = everything(fake)
    for kind, shown in found.items():
        known, needed = declared(kind)
        extra = set(shown) - known
        missing = needed - set(shown) - _ONLY_EXPANDED.get(kind, set())
        null = {name for name in needed if name in shown and shown[name] is None}
        if extra or missing or null:
            problems.append((kind, "extra", sorted(extra), "missing", sorted(missing), "null", sorted(null)))
    assert not problems, "\n".join(map(str, problems))
    assert len(found) >= 26


def test_nothing_hidden_is_shown(fake: Fake) -> None:
    def names(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*(names(item) for item in value.values()))
        return set().union(*(names(item) for item in value)) if isinstance(value, list) else set()

    assert not [name for shown in everything(fake).values() for name in names(shown) if name.startswith("_")]


def test_the_tables_know_only_what_the_client_knows() -> None:
    assert set(stripe_object("invoice")) <= declared("invoice")[0]
    create = set(stripe.params.InvoiceCreateParams.__annotations__)
    known = parameters_of("invoices.create")
    assert known is not None
    assert known <= create
