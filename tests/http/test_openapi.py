"""The OpenAPI document and the documentation agree with the route table and the table of errors."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from farebox.http.openapi import error_kinds
from farebox.http.router import Route, Shape
from farebox.http.routes import ROUTES, SERVED
from tests.http.support import http, result, url
from tests.support import Customer, Farebox

DATA_PLANE = {
    "POST /v1/{account_id}/{gateway_id}",
    "POST /v1/{account_id}/{gateway_id}/compat/chat/completions",
    "POST /client/v4/accounts/{account_id}/ai/run",
    "POST /client/v4/accounts/{account_id}/ai/run/{model}",
    "POST /client/v4/accounts/{account_id}/ai/v1/chat/completions",
}
DOCS = Path(__file__).parents[2] / "docs"
KNOWN = {"account_id": "", "gateway_id": "default", "log_id": "", "provider": "demo", "month": "2026-11"}
"""Path parameters for which every account has an object."""


@pytest.fixture(scope="module")
def document(farebox: Farebox) -> dict[str, Any]:
    response: dict[str, Any] = http.get(f"{farebox.url}/openapi.json").json()
    return response


def test_the_document_has_every_route(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    for route in SERVED:
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["summary"] == route.summary
        named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
        assert named == set(route.parameters)
    assert {error["name"] for error in document["x-errors"]} == {kind.name for kind in error_kinds()}


def test_operations_have_unique_names(document: dict[str, Any]) -> None:
    names = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
        if "operationId" in operation
    ]
    assert len(names) == len(set(names)) == len(SERVED)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def test_every_reference_of_the_document_resolves(document: dict[str, Any]) -> None:
    references = set(_references(document))
    assert references
    for reference in references:
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_always_present_fields_are_required(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas["CreditBalance"]["required"]) == set(schemas["CreditBalance"]["properties"])
    assert "metadata" not in schemas["Log"]["required"]
    assert schemas["UsageQuery"]["required"] == ["value_grouping_window"]
    assert "zdr" not in schemas["GatewayCreate"]["required"]


@pytest.mark.parametrize(
    "route",
    [
        route
        for route in SERVED
        if route.method == "GET" and route.shape is not Shape.RAW and {*route.parameters} <= set(KNOWN)
    ],
    ids=lambda route: route.path,
)
def test_responses_match_the_documented_types(farebox: Farebox, customer: Customer, route: Route) -> None:
    known = KNOWN | {"log_id": customer.chat().headers["cf-aig-log-id"]}
    if route.path.endswith("/what-if"):  # an account has one after its first request
        body = {"from": "2026-01-01", "to": "2026-01-02", "models": {"demo/demo-1": "demo/demo-1"}}
        asked = http.post(url(farebox, route, account_id=customer.account_id), json=body, headers=customer.headers)
        assert asked.status_code == 200, asked.text
    query = {"value_grouping_window": "day"} if route.path.endswith("usage-history") else {}
    response = http.get(
        url(farebox, route, **(known | {"account_id": customer.account_id})), params=query, headers=customer.headers
    )
    found = result(response)
    kind = list[route.result] if route.shape is Shape.PAGE else route.result  # type: ignore[name-defined]
    msgspec.convert(found, kind)
    assert ("result_info" in response.json()) == (route.shape is Shape.PAGE)


def test_docs_name_every_route() -> None:
    text = (DOCS / "api.md").read_text()
    named = set(re.findall(r"^(?:\| |- )`([A-Z]+ /\S*)`", text, re.MULTILINE))
    assert named - {f"{route.method} {route.path}" for route in ROUTES} <= DATA_PLANE
    for route in SERVED:
        assert f"| `{route.method} {route.path}` | {route.summary} |" in text


def test_each_of_fareboxs_own_codes_names_one_error() -> None:
    own = [kind.code for kind in error_kinds() if 2900 <= kind.code < 3000]
    assert [code for code, times in Counter(own).items() if times > 1] == []


def test_docs_explain_every_error() -> None:
    text = (DOCS / "errors.md").read_text()
    for kind in error_kinds():
        start = f"| `{kind.name}` | {kind.status} | {kind.code} | "
        assert start in text, f"docs/errors.md lacks {start}"
        line = next(line for line in text.splitlines() if line.startswith(start))
        assert line.endswith(f"| {kind.remedy} |"), f"docs/errors.md gives another remedy for {kind.name}"
        assert line.removeprefix(start).partition(" | ")[0].strip(), f"docs/errors.md does not explain {kind.name}"
    assert set(re.findall(r"^\| `(\w+)` \| \d{3} \| ", text, re.MULTILINE)) == {kind.name for kind in error_kinds()}
