"""Universal steps contain headers and endpoints in JSON, which can hold values that no HTTP request could: these are
never sent with the operator's key, and no endpoint leaves the provider's base URL."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.calls.kit import OPERATOR_KEY, set_price, set_provider
from tests.calls.upstream import Upstream, serving
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

SLUG, MODEL = "cerebras", "acme-1"
GOOD = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10}


@pytest.fixture
def upstream(farebox: Farebox) -> Iterator[Upstream]:
    """A provider whose API is at /base/v1."""
    with serving() as upstream:
        upstream.response = GOOD
        set_provider(farebox, SLUG, base_url=f"{upstream.url}/base/v1")
        set_price(farebox, SLUG, MODEL)
        yield upstream


def step(
    customer: Customer, endpoint: str = "chat/completions", headers: Any = None, *, own: bool = False
) -> httpx.Response:
    brought = {"authorization": "Bearer sk-callers-own"} if own else {}
    requested = [{"provider": SLUG, "endpoint": endpoint, "headers": brought | (headers or {}), "query": CHAT}]
    return httpx.post(customer.gateway_url, content=json.dumps(requested), headers=customer.headers)


def refused(response: httpx.Response, code: int = 2901) -> bool:
    """Check that the error has the form of this endpoint, and a remedy."""
    error = response.json()
    return (
        response.status_code == 400
        and (error["errors"][0]["code"], error["success"], error["httpCode"]) == (code, False, 400)
        and response.headers["x-should-retry"] == "false"
        and bool(error["description"])
    )


NO_NAMES = [
    "",
    " ",
    "transfer-encoding\t",
    "transfer-encoding ",
    " transfer-encoding",
    "content-length\r\nx",
    "x\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.1",
    "x\n",
    "x\r",
    "x\0",
    "x:",
    "x:y",
    "x y",
    "x\x7f",
    "x\x0b",
    "ſet-cookie",
    "tränsfer",
    "x\u2028",
    "K" + "\u212a",
    '"x"',
    "(x)",
    "x,y",
    "x/y",
    "x@y",
    "{x}",
]
NO_VALUES = [
    "a\r\nb",
    "a\nb",
    "a\rb",
    "a\0b",
    "a\x01",
    "a\x7f",
    "\x1b[0m",
    "\u20ac",
    "\u0130",
    "a\u2028b",
    "\U0001f600",
    "\ud83d",
]


def test_headers_that_cannot_be_sent_are_refused(customer: Customer, upstream: Upstream) -> None:
    for own in (False, True):
        for name in NO_NAMES:
            assert refused(step(customer, headers={name: "chunked"}, own=own)), name
        for value in NO_VALUES:
            assert refused(step(customer, headers={"x-said": value}, own=own)), value
        wrong: Any
        for wrong in (1, None, ["a"], {}):
            assert refused(step(customer, headers={"x-said": wrong}, own=own)), wrong
    assert upstream.sent == []
    assert (customer.balance.posted, customer.balance.held) == (5 * 10**9, 0)


def test_too_many_or_too_large_step_headers_are_refused(customer: Customer, upstream: Upstream) -> None:
    assert refused(step(customer, headers={f"x-{number}": "a" for number in range(101)}))
    assert refused(step(customer, headers={"x-large": "a" * 2**16}))
    assert refused(step(customer, headers={"x" * 2**16: "a"}))
    assert refused(step(customer, headers={f"x-{number}": "a" * 2**10 for number in range(64)}))
    assert upstream.sent == []
    assert step(customer, headers={f"x-{number}": "a" * 600 for number in range(80)}).status_code == 200


HOPS = [
    "connection",
    "Keep-Alive",
    "Proxy-Connection",
    "proxy-authorization",
    "proxy-authenticate",
    "TE",
    "trailer",
    "Transfer-Encoding",
    "upgrade",
    "expect",
    "Host",
    "Content-Length",
    "cookie",
    "forwarded",
    "X-Forwarded-For",
    "via",
    "Transfer_Encoding",
    "content_length",
    "x_api_key",
    "X-Api_Key",
    "x_goog_fieldmask",
    "openai_organization",
    "x-http_method-override",
    "cf_connecting_ip",
]


def test_connection_and_account_headers_of_a_step_are_not_forwarded(customer: Customer, upstream: Upstream) -> None:
    for name in HOPS:
        assert step(customer, headers={name: "chunked"}).status_code == 200, name
    for sent in upstream.sent:
        assert sent.headers["authorization"] == f"Bearer {OPERATOR_KEY}"
        assert sent.headers["content-length"] == str(len(sent.body))
        assert "chunked" not in sent.headers.values(), sent.headers
        assert sent.json() == CHAT
    assert len(upstream.sent) == len(HOPS)


@pytest.mark.parametrize("right", ["a", "", " spaced ", "tab\tbed", "\xe9", "x" * 8_000, '"quoted", list'])
def test_valid_step_headers_are_forwarded(customer: Customer, upstream: Upstream, right: str) -> None:
    assert step(customer, headers={"X-Said": right}).status_code == 200
    assert upstream.sent[-1].headers["x-said"] == right.strip()


OUTSIDE = [
    "../admin",
    "chat/../../../admin",
    "chat/completions/..",
    "./chat/completions",
    "chat/%2e%2e/%2E%2e/admin",
    "chat/%2e./admin",
    "..%2f..%2fadmin",
    "..%2Fadmin",
    "..%5cadmin",
    "..\\..\\admin",
    "chat\\..\\..\\admin",
    "..;/admin",
    "..;x=y/admin",
    "//../admin",
    "chat/completions#/../x",
    "#@127.0.0.1/",
    "chat/completions?x#y",
    "chat/completions\r\nx: y",
    "chat/completions HTTP/1.1\r\n\r\n",
    "chat/completions\t",
    "chat/complétions",
    "chat/completions?q=é",
    "chat/completions?a b",
    "chat/completions\0",
]
ELSEWHERE = [
    "https://127.0.0.1:9/x",
    "//127.0.0.1:9/x",
    "@127.0.0.1:9/x",
    ":9/x",
    "chat/completions@127.0.0.1:9",
    "chat%2fcompletions",
    "chat/completions/",
    "chat//completions",
    "chat/completions/x",
    "models/a%2fb",
    "chat\\completions",
]


def test_an_endpoint_that_leaves_the_base_url_or_is_invalid_is_refused(customer: Customer, upstream: Upstream) -> None:
    for own in (False, True):
        for endpoint in OUTSIDE:
            assert refused(step(customer, endpoint, own=own)), endpoint
    assert upstream.sent == []
    assert (customer.balance.posted, customer.balance.held) == (5 * 10**9, 0)


@pytest.mark.parametrize("own", [False, True])
def test_no_endpoint_leaves_the_base_url(customer: Customer, upstream: Upstream, own: bool) -> None:
    for endpoint in ELSEWHERE:
        response = step(customer, endpoint, own=own)
        assert response.status_code == 200 or refused(response, 2903), endpoint
    for sent in upstream.sent:
        assert sent.path.startswith("/base/v1/")
        assert own or (sent.path, sent.headers["authorization"]) == (
            "/base/v1/chat/completions",
            f"Bearer {OPERATOR_KEY}",
        )
    assert len(upstream.sent) == (len(ELSEWHERE) if own else 3), "other spellings of the same path"


def test_no_url_leaves_the_base_url(customer: Customer, upstream: Upstream) -> None:
    """The same for the URL of a call, which the gateway parses first."""
    for path in ("%2e%2e/admin", "x/%2e%2e%2fadmin", "..%5cadmin", "..%2f..%2fadmin", "..;/admin"):
        for own in (False, True):
            headers = {"cf-aig-authorization": f"Bearer {customer.token}"} | ({"x-api-key": "sk-own"} if own else {})
            url = httpx.URL(f"{customer.gateway_url}/{SLUG}/x")
            url = url.copy_with(raw_path=url.raw_path[:-1] + path.encode())
            response = httpx.post(url, json=CHAT, headers=headers)
            assert response.status_code in (400, 404), path
    assert upstream.sent == []


def test_a_query_that_hides_the_usage_is_not_forwarded(customer: Customer, upstream: Upstream) -> None:
    assert step(customer, "chat/completions?fields=x&access_token=y&ok=a%26b&$alt=x").status_code == 200
    assert upstream.sent[-1].path == "/base/v1/chat/completions?ok=a%26b"


def test_an_invalid_step_is_refused_after_any_other(customer: Customer, upstream: Upstream) -> None:
    """A step that cannot be sent ends the request, whatever the steps before it did; and it is not charged."""
    upstream.response = {"error": {"message": "no"}}
    wrong = {"provider": SLUG, "endpoint": "chat/completions", "headers": {"x\n": "y"}, "query": CHAT}
    response = httpx.post(customer.gateway_url, content=json.dumps([wrong, wrong]), headers=customer.headers)
    assert refused(response)
    assert upstream.sent == []
