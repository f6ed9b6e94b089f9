"""Whatever is sent to any route, the response is in the envelope and is never an internal error."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from farebox.http.router import Access, Route, Shape
from farebox.http.routes import SERVED
from tests.http.support import http, save_card, url
from tests.support import Customer, Farebox

pytestmark = pytest.mark.slow

NONSENSE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    0.5,
    10**18,
    10**400,
    "",
    "x" * 100_000,
    "\x00",
    "🪙",
    [],
    [[]],
    {},
    {"a": {}},
)
GOOD: dict[str, Any] = {
    "amount": 1000,
    "amount_cents": 1000,
    "amount_nanos": 1,
    "threshold": 500,
    "duration": "daily",
    "strategy": "fixed",
    "mode": "setup",
    "hold_id": "h",
    "top_up_id": "none",
    "payment_intent_id": "in_none",
    "url": "https://example.com/",
    "value_grouping_window": "day",
}


@pytest.fixture(scope="module")
def owner(farebox: Farebox) -> Customer:
    customer = farebox.funded("1")
    save_card(customer)
    return customer


def fields(route: Route) -> list[str]:
    return [] if route.takes is None else [field.encode_name for field in msgspec.structs.fields(route.takes)]


def bodies(route: Route) -> Iterator[Any]:
    names = fields(route)
    good = {name: GOOD[name] for name in names if name in GOOD}
    for name in names:
        for value in NONSENSE:
            yield good | {name: value}
    yield from NONSENSE


TAKING = [route for route in SERVED if route.access is Access.ACCOUNT and route.takes is not None]
NAMED = [route for route in SERVED if route.access is Access.ACCOUNT and set(route.parameters) - {"account_id"}]


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest.mark.parametrize("route", [route for route in TAKING if route.takes_body], ids=name_of)
def test_bodies(farebox: Farebox, owner: Customer, route: Route) -> None:
    at = url(farebox, route, owner.account_id)
    for body in bodies(route):
        response = http.request(route.method, at, content=json.dumps(body), headers=owner.headers)
        assert response.status_code < 500, (body, response.text)
        assert {"result", "success", "errors", "messages"} <= set(response.json()), body


@pytest.mark.parametrize("route", [route for route in TAKING if not route.takes_body], ids=name_of)
def test_queries(farebox: Farebox, owner: Customer, route: Route) -> None:
    at = url(farebox, route, owner.account_id)
    for name in fields(route):
        for value in (
            "",
            "-1",
            "0",
            "1e999",
            "9" * 400,
            "x" * 5_000,
            "\x00",
            "🪙",
            "null",
            "true",
            "[]",
            "%ff",
            "'; --",
        ):
            good = {known: GOOD[known] for known in fields(route) if known in GOOD}
            response = http.get(at, params=good | {name: value}, headers=owner.headers)
            assert response.status_code < 500, (name, value, response.text)


@pytest.mark.parametrize("route", NAMED, ids=name_of)
def test_names_in_the_path(farebox: Farebox, owner: Customer, route: Route) -> None:
    for name in ("x", "%00", "%F0%9F%AA%99", "..%2f..", "a%2Fb", "'", "x" * 2_000, "-1", "null", "%ff"):
        parameters = dict.fromkeys(set(route.parameters) - {"account_id"}, name)
        at = url(farebox, route, owner.account_id, **parameters)
        body = None if not route.takes_body else json.dumps({key: GOOD[key] for key in fields(route) if key in GOOD})
        response = http.request(route.method, at, content=body, headers=owner.headers)
        assert response.status_code < 500 or response.status_code == 501, (name, response.text)
        if route.shape is not Shape.RAW:
            assert "success" in response.json()
