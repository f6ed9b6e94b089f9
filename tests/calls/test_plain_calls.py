"""Calls of gateways without special options take a faster path. An option that is switched on applies to the next call,
also on connections that have called before and while others call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from farebox import periodic_jobs
from farebox.gateway import ServedGateway
from farebox.storage.account_keys import key_of
from tests.calls.kit import differences, set_gateway, spend_rule
from tests.engines import looking
from tests.support import Customer, running_farebox

CARD = "4111 1111 1111 1111"
PAYMENT_CARDS = {
    "enabled": True,
    "policies": [
        {"id": "cards", "enabled": True, "action": "BLOCK", "check": ["REQUEST"], "profiles": ["payment_cards"]}
    ],
}
METER = {"authorization": "sk_test_12345678", "usage_events": [{"payload": "{}"}]}
EXPORTER = {"url": "https://otel.example.com/v1/traces", "headers": {}}
LOOKED_AT: dict[str, Any] = {
    "dlp": PAYMENT_CARDS,
    "guardrails": {"prompt": {"S1": "BLOCK"}, "response": {}},
    "log_classification": True,
    "log_management_strategy": "STOP_INSERTING",
    "logpush": True,
    "otel": [EXPORTER],
    "spend_limits": {"enabled": True, "rules": [spend_rule("small", 1_000)]},
    "stripe": METER,
}
"""Fields that some step of a call uses, each with a value that requires that step."""
OBEYED_BEFORE = {
    "frozen",  # by the permit
    *("authentication", "byok_only", "cors_origins", "store_id", "workers_ai_billing_mode", "zdr"),  # who pays
    *("rate_limiting_interval", "rate_limiting_limit", "rate_limiting_technique"),
    *("retry_backoff", "retry_delay", "retry_max_attempts", "collect_logs"),  # what the head's call says
    *("cache_coalesce", "cache_invalidate_on_update", "cache_ttl", "cache_generation"),
    *("log_management", "logpush_public_key", "zones"),  # details of those above
}


def test_each_field_of_a_gateway_is_known_to_require_a_step_or_not() -> None:
    """A new field belongs in one of the two sets."""
    assert {*LOOKED_AT, *OBEYED_BEFORE, "is_plain"} == set(ServedGateway.__struct_fields__)
    assert ServedGateway().is_plain
    for name, value in LOOKED_AT.items():
        asking = msgspec.convert({name: value}, ServedGateway)
        assert not asking.is_plain, name
        assert msgspec.structs.replace(asking, **{name: getattr(ServedGateway(), name)}).is_plain, name


@contextmanager
def calling(customer: Customer) -> Iterator[set[int]]:
    """Another client makes calls meanwhile; the statuses that it gets."""
    seen, stop = set[int](), threading.Event()

    def work() -> None:
        with httpx.Client() as client:
            while not stop.is_set():
                seen.add(call(client, customer, "Hello").status_code)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def call(client: httpx.Client, customer: Customer, text: str) -> httpx.Response:
    body = {"model": "demo-1", "messages": [{"role": "user", "content": text}]}
    return client.post(f"{customer.gateway_url}/demo/chat/completions", headers=customer.headers, json=body)


def marks_of(customer: Customer, log_id: str) -> tuple[int | None, ...]:
    """Whether a call's row is marked to be pushed, metered, and classified."""
    with looking(customer.farebox.services.settings) as connection:
        values = (*key_of(connection, customer.account_id), log_id)
        found = connection.execute(
            "SELECT push, meter, classify FROM calls WHERE bucket = ? AND account_id = ? AND log_id = ?", values
        )
        return tuple(next(iter(found)))


@pytest.mark.usefixtures("engine")
@pytest.mark.both_engines
def test_an_option_that_is_switched_on_applies_to_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's jobs, which remove the marks that are looked at, rest meanwhile."""
    for interval in ("QUEUE_SECONDS", "TICK_SECONDS", "LOG_PUSH_SECONDS"):
        monkeypatch.setattr(periodic_jobs, interval, 3_600.0)
    with running_farebox(tmp_path) as farebox:
        _switch_options(farebox.funded("5"))


def _switch_options(customer: Customer) -> None:
    with httpx.Client() as client, calling(customer) as seen:
        for _ in range(2):
            assert call(client, customer, CARD).status_code == 200
            set_gateway(customer, dlp=PAYMENT_CARDS)
            assert call(client, customer, CARD).json()["error"]["code"] == "dlp_request_blocked"
            set_gateway(customer, spend_limits=LOOKED_AT["spend_limits"])
            assert call(client, customer, CARD).json()["error"]["code"] == "limit_too_low"
            set_gateway(customer, logpush=True)
            assert marks_of(customer, call(client, customer, CARD).headers["cf-aig-log-id"]) == (1, None, None)
            set_gateway(customer, stripe=METER, log_classification=True)
            assert marks_of(customer, call(client, customer, CARD).headers["cf-aig-log-id"]) == (None, 1, 1)
            set_gateway(customer)
            plain = call(client, customer, CARD)
            assert marks_of(customer, plain.headers["cf-aig-log-id"]) == (None, None, None)
    assert 200 in seen <= {200, 402}
    assert not differences(customer.farebox)
