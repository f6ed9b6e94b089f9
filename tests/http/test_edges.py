"""Unknown routes, wrong methods, invalid JSON, and internal errors."""

import re
from collections.abc import Callable, Coroutine
from typing import TypeAlias

import pytest

from farebox.errors import BODY_TOO_LARGE
from farebox.http.application import Application
from farebox.http.data_plane import DataPlane
from farebox.http.exchange import ClientGone, Exchange, HeaderList, RequestHead
from farebox.http.request import BODY_MAX
from farebox.http.routes import ROUTES
from farebox.limits.byte_budget import ByteLease
from farebox.storage.sql import DatabaseUnavailable
from tests.http.support import errors, http, result
from tests.support import Customer, Farebox


class OneExchange:
    """An exchange in memory."""

    def __init__(self, path: str, method: str = "GET") -> None:
        self.method, self.path, self.query = method, path, ""
        self.headers: dict[str, str] = {}
        self.head = RequestHead(method, path, "", self.headers)
        self.client = "127.0.0.1"
        self.status, self.answered, self.sent = 0, b"", dict[str, str]()

    def hold(self, lease: ByteLease) -> None:
        """Memory is not counted."""

    async def body(self, limit: int) -> bytes:
        return b""

    def received_body(self, limit: int) -> bytes | None:
        return None

    async def content(self, limit: int) -> bytes:
        return b""

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        self.status, self.sent, self.answered = status, dict(headers), body

    async def gone(self) -> None: ...

    def when_gone(self, callback: Callable[[], None]) -> None:
        """The client never leaves."""


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/client/v4", "/client/v4/", "/client/v4/zones", "/v1", "/client/v4/accounts//ai-gateway"]
)
def test_unknown_paths(farebox: Farebox, path: str) -> None:
    response = http.get(farebox.url + path)
    assert response.status_code == 404
    assert errors(response) == [
        (7003, f"Could not route to {path}, perhaps your object identifier is invalid?"),
        (7000, "No route for that URI"),
    ]


def test_a_token_in_the_path_is_never_repeated(farebox: Farebox, customer: Customer) -> None:
    for secret in (customer.token, "x" * 33, customer.token + "%2F"):
        for path in (
            f"/client/v4/accounts/{secret}/ai-gateway",
            f"/{secret}",
            f"/client/v4/accounts/{secret}/ai-gateway/gateways",
        ):
            assert secret not in http.get(farebox.url + path, headers=customer.headers).text


def test_malformed_account_ids_are_not_found(farebox: Farebox, customer: Customer) -> None:
    for account_id in ("a" * 65, "a%20b", "ä", "a.b"):
        response = http.get(f"{farebox.url}/client/v4/accounts/{account_id}", headers=customer.headers)
        assert (response.status_code, errors(response)[0][0]) == (404, 7003)


def test_an_account_may_have_a_chosen_id(farebox: Farebox, seed_account: str) -> None:
    headers = {"authorization": f"Bearer {farebox.create_token(seed_account)}"}
    assert result(http.get(f"{farebox.url}/client/v4/accounts/account_id", headers=headers))["id"] == "account_id"


def test_wrong_methods(farebox: Farebox, customer: Customer) -> None:
    response = http.patch(f"{customer.api_url}/ai-gateway/billing/credit-balance")
    assert response.status_code == 405
    assert errors(response) == [(7001, "Method PATCH not available for that URI.")]
    assert response.headers["allow"] == "GET, HEAD"
    gateway = http.request("TRACE", f"{customer.api_url}/ai-gateway/gateways/x")
    assert gateway.headers["allow"] == "DELETE, GET, HEAD, PATCH, PUT"


def test_head_answers_like_get_without_a_body(farebox: Farebox, customer: Customer) -> None:
    url = f"{customer.api_url}/ai-gateway/billing/credit-balance"
    got, head = (http.request(method, url, headers=customer.headers) for method in ("GET", "HEAD"))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert http.head(url).status_code == 400


def test_head_of_the_demo_provider_s_models_answers_like_get(customer: Customer) -> None:
    for path in ("demo/v1/models", "demo/v1/models/demo-1", "compat/models"):
        url = f"{customer.gateway_url}/{path}"
        got, head = (http.request(method, url, headers=customer.headers) for method in ("GET", "HEAD"))
        assert (got.status_code, head.status_code, head.content) == (200, 200, b""), path
        assert head.headers["content-length"] == str(len(got.content)), path


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (6007, "Malformed JSON in request body")),
        (b"{", (6007, "Malformed JSON in request body")),
        (b"\xff", (6007, "Malformed JSON in request body")),
        (b'{"id":"\\ud800"}', (6007, "Malformed JSON in request body")),
        (b"[" * 60_000, (6007, "Malformed JSON in request body")),
        (b"[]", (7001, "Expected object, received array")),
        (b"null", (7001, "Expected object, received null")),
        (b'"x"', (7001, "Expected object, received string")),
    ],
)
def test_bodies_that_are_not_json_objects(customer: Customer, body: bytes, expected: tuple[int, str]) -> None:
    response = http.post(f"{customer.api_url}/ai-gateway/gateways", content=body, headers=customer.headers)
    assert response.status_code == 400
    assert errors(response) == [expected]


def test_a_body_above_the_limit_is_refused(farebox: Farebox, customer: Customer) -> None:
    body = b" " * (BODY_MAX + 1)
    response = http.post(f"{customer.api_url}/ai-gateway/gateways", content=body, headers=customer.headers)
    assert (response.status_code, errors(response)[0][0]) == (BODY_TOO_LARGE.status, BODY_TOO_LARGE.code)


def test_every_response_has_its_request_id(farebox: Farebox) -> None:
    responses = [http.get(farebox.url + path) for path in ("/healthz", "/readyz", "/openapi.json", "/nope")]
    ids = [response.headers["cf-ray"] for response in responses]
    assert all(re.fullmatch(r"[0-9a-f]{16}-FBX", request_id) for request_id in ids)
    assert len(set(ids)) == len(ids)
    assert all(response.headers["content-type"] == "application/json" for response in responses)


def test_no_two_routes_are_the_same() -> None:
    assert len({(route.method, re.sub(r"\{\w+\}", "{}", route.path)) for route in ROUTES}) == len(ROUTES)


async def _control_plane_raises(error: Exception, farebox: Farebox) -> OneExchange:
    def find(method: str, path: str) -> None:
        raise error

    async def no_call(exchange: Exchange) -> None:
        raise AssertionError(exchange.path)

    exchange = OneExchange("/healthz")
    application = Application(farebox.services, no_call)
    application._router.find = find  # type: ignore[method-assign, assignment]
    left = application(exchange)  # type: ignore[arg-type]
    assert left is not None
    await left
    return exchange


async def _data_plane_raises(error: Exception, farebox: Farebox) -> OneExchange:
    async def serve(*_: object) -> None:
        raise error

    exchange = OneExchange("/v1/a/b/c")
    data_plane = DataPlane(farebox.services)
    data_plane._serve = serve  # type: ignore[method-assign, assignment]
    left = Application(farebox.services, data_plane.handle)(exchange)  # type: ignore[arg-type]
    assert left is not None
    await left
    return exchange


_raises_on_each_plane = pytest.mark.parametrize("raises", [_control_plane_raises, _data_plane_raises])
_Raises: TypeAlias = Callable[[Exception, Farebox], Coroutine[None, None, OneExchange]]


@_raises_on_each_plane
def test_internal_errors_are_not_disclosed(farebox: Farebox, raises: _Raises) -> None:
    exchange = farebox.run(raises(RuntimeError("the secret"), farebox))
    assert exchange.status == 500
    assert b"secret" not in exchange.answered
    assert b"Request ID: " + exchange.sent.get("cf-ray", "").encode() in exchange.answered


@_raises_on_each_plane
def test_an_unavailable_database_returns_a_retryable_error(farebox: Farebox, raises: _Raises) -> None:
    exchange = farebox.run(raises(DatabaseUnavailable("disk full at /secret"), farebox))
    assert (exchange.status, exchange.sent["retry-after"]) == (503, "2")
    assert b"secret" not in exchange.answered


def test_a_client_that_went_away_is_not_answered(farebox: Farebox) -> None:
    assert farebox.run(_control_plane_raises(ClientGone(), farebox)).status == 0
