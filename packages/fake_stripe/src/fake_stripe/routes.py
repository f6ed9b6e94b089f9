"""Every call of the API on one page: method, path, the name of its parameters' row in `call_parameters`, and its
handler."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from fake_stripe import (
    catalogue,
    charges,
    checkout,
    credit_notes,
    customers,
    disputes,
    events,
    invoice_items,
    invoices,
    meters,
    other_objects,
    payment_intents,
    payment_methods,
    refunds,
    setup_intents,
)
from fake_stripe.errors import Json

Handler: TypeAlias = Callable[..., Json]


def _object(path: str, part: str, module: Any, **extra: str) -> list[tuple[str, str, str, Handler]]:
    """The four usual calls, if the module has them, and further ones: `verb="attribute"`."""
    usual = (
        ("POST", path, "create", "create"),
        ("GET", path, "list", "list_all"),
        ("GET", f"{path}/search", "search", "search_all"),
        ("GET", f"{path}/{{id}}", "retrieve", "retrieve"),
        ("POST", f"{path}/{{id}}", "update", "update"),
        ("DELETE", f"{path}/{{id}}", "delete", "delete"),
    )
    rows = [(m, p, f"{part}.{call}", getattr(module, name)) for m, p, call, name in usual if hasattr(module, name)]
    rows += [("POST", f"{path}/{{id}}/{verb}", f"{part}.{verb}", getattr(module, name)) for verb, name in extra.items()]
    return rows


_ROWS: list[tuple[str, str, str, Handler]] = [
    *_object("/v1/customers", "customers", customers),
    ("GET", "/v1/customers/{id}/payment_methods", "customers.payment_methods", payment_methods.list_of_customer),
    ("GET", "/v1/customers/{id}/payment_methods/{other}", "", payment_methods.of_customer),
    ("POST", "/v1/customers/{id}/tax_ids", "tax_ids.create", customers.create_tax_id),
    ("GET", "/v1/customers/{id}/tax_ids", "", customers.list_tax_ids),
    ("GET", "/v1/customers/{id}/tax_ids/{other}", "", customers.retrieve_tax_id),
    ("DELETE", "/v1/customers/{id}/tax_ids/{other}", "", customers.delete_tax_id),
    (
        "POST",
        "/v1/customers/{id}/balance_transactions",
        "customer_balance_transactions.create",
        customers.create_balance_transaction,
    ),
    ("GET", "/v1/customers/{id}/balance_transactions", "", customers.list_balance_transactions),
    ("GET", "/v1/customers/{id}/balance_transactions/{other}", "", customers.retrieve_balance_transaction),
    ("GET", "/v1/customers/{id}/cash_balance", "", customers.cash_balance),
    *_object("/v1/payment_methods", "payment_methods", payment_methods, attach="attach_to", detach="detach"),
    *_object("/v1/setup_intents", "setup_intents", setup_intents, confirm="confirm", cancel="cancel"),
    ("GET", "/v1/setup_attempts", "setup_attempts.list", setup_intents.list_attempts),
    *_object(
        "/v1/payment_intents", "payment_intents", payment_intents, confirm="confirm", cancel="cancel", capture="capture"
    ),
    *_object("/v1/charges", "charges", charges, capture="capture"),
    ("GET", "/v1/charges/{id}/refunds", "", refunds.list_of_charge),
    *_object("/v1/refunds", "refunds", refunds, cancel="cancel"),
    *_object("/v1/disputes", "disputes", disputes, close="close"),
    ("GET", "/v1/balance", "", charges.balance),
    ("GET", "/v1/balance_transactions", "balance_transactions.list", charges.list_balance_entries),
    ("GET", "/v1/balance_transactions/{id}", "", charges.retrieve_balance_entry),
    *_object("/v1/invoiceitems", "invoiceitems", invoice_items),
    *_object(
        "/v1/invoices",
        "invoices",
        invoices,
        finalize="finalize",
        pay="pay",
        void="void",
        send="send",
        mark_uncollectible="mark_uncollectible",
        add_lines="add_lines",
    ),
    ("GET", "/v1/invoices/{id}/lines", "", invoices.lines),
    ("GET", "/v1/invoice_payments", "invoice_payments.list", invoices.list_payments),
    ("GET", "/v1/invoice_payments/{id}", "", invoices.retrieve_payment),
    *_object("/v1/credit_notes", "credit_notes", credit_notes, void="void"),
    *_object("/v1/checkout/sessions", "checkout.sessions", checkout, expire="expire"),
    ("GET", "/v1/checkout/sessions/{id}/line_items", "", checkout.line_items),
    ("GET", "/v1/payment_pages/{id}", "", checkout.payment_page),
    ("POST", "/v1/payment_pages/{id}/confirm", "", checkout.confirm_page),
    ("POST", "/v1/products", "products.create", catalogue.create_product),
    ("GET", "/v1/products", "products.list", catalogue.list_products),
    ("POST", "/v1/products/{id}", "products.update", catalogue.update_product),
    ("DELETE", "/v1/products/{id}", "", catalogue.delete_product),
    ("POST", "/v1/prices", "prices.create", catalogue.create_price),
    ("GET", "/v1/prices", "prices.list", catalogue.list_prices),
    ("POST", "/v1/prices/{id}", "prices.update", catalogue.update_price),
    ("POST", "/v1/tax_rates", "tax_rates.create", catalogue.create_tax_rate),
    ("GET", "/v1/tax_rates", "tax_rates.list", catalogue.list_tax_rates),
    ("POST", "/v1/tax_rates/{id}", "tax_rates.update", catalogue.update_tax_rate),
    ("POST", "/v1/coupons", "coupons.create", catalogue.create_coupon),
    ("GET", "/v1/coupons", "coupons.list", catalogue.list_coupons),
    ("POST", "/v1/coupons/{id}", "coupons.update", catalogue.update_coupon),
    ("DELETE", "/v1/coupons/{id}", "", catalogue.delete_coupon),
    *((("GET", f"/v1/{kind}s/{{id}}", "", catalogue.getter(kind))) for kind in catalogue.KINDS),
    *_object("/v1/events", "events", events),
    ("POST", "/v1/webhook_endpoints", "webhook_endpoints.create", events.create_endpoint),
    ("GET", "/v1/webhook_endpoints", "", events.list_endpoints),
    ("GET", "/v1/webhook_endpoints/{id}", "", events.retrieve_endpoint),
    ("POST", "/v1/webhook_endpoints/{id}", "webhook_endpoints.update", events.update_endpoint),
    ("DELETE", "/v1/webhook_endpoints/{id}", "", events.delete_endpoint),
    ("GET", "/v1/account", "", other_objects.account),
    ("GET", "/v1/accounts", "", other_objects.accounts),
    ("GET", "/v1/accounts/{id}", "", other_objects.account_by_id),
    *_object("/v1/billing/meters", "billing.meters", meters),
    ("GET", "/v1/billing/meters/{id}/event_summaries", "billing.event_summaries.list", meters.event_summaries),
    ("POST", "/v1/billing/meter_events", "billing.meter_events.create", meters.create_event),
    ("POST", "/v1/billing_portal/sessions", "billing_portal.sessions.create", other_objects.portal_session),
    ("POST", "/v1/customer_sessions", "customer_sessions.create", other_objects.customer_session),
    ("POST", "/v1/test_helpers/test_clocks", "test_clocks.create", other_objects.create_test_clock),
    ("GET", "/v1/test_helpers/test_clocks", "", other_objects.list_test_clocks),
    ("GET", "/v1/test_helpers/test_clocks/{id}", "", other_objects.retrieve_test_clock),
    ("POST", "/v1/test_helpers/test_clocks/{id}/advance", "test_clocks.advance", other_objects.advance_test_clock),
    ("DELETE", "/v1/test_helpers/test_clocks/{id}", "", other_objects.delete_test_clock),
]


def _pattern(path: str) -> "re.Pattern[str]":
    return re.compile(re.sub(r"\{\w+\}", "([^/]+)", path))


_TABLE = [(method, _pattern(path), call, handler) for method, path, call, handler in _ROWS]


def find(method: str, path: str) -> tuple[str, Handler, tuple[str, ...]] | None:
    """The call's name, its handler and the ids in its path."""
    for wanted, pattern, call, handler in _TABLE:
        if wanted == method:
            match = pattern.fullmatch(path)
            if match is not None:
                return call, handler, match.groups()
    return None
