"""Problems with the operator's key are the operator's: tenants get our own 503, the operator an alarm."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.errors import PROVIDER_UNAVAILABLE, Problem
from farebox.http.exchange import Exchange
from farebox.http.provider_errors import error_headers
from farebox.http.server import RunningServer, serve
from farebox.money import parse_usd
from farebox.runtime import operator_alarms
from farebox.storage.operator_alarms import Alarm, open_alarms, resolve_alarms
from tests.calls.kit import differences, log_row, log_rows, set_price, set_provider
from tests.engines import ON_BOTH_ENGINES, read_now
from tests.support import Customer, Farebox
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES

SLUG, MODEL = "cerebras", "acme-1"
KEY = "sk-operators-0123456789-wxyz"
MASKED = "sk-op***********************wxyz"
FIVE = parse_usd("5")


class Provider:
    """Answers every request as the test sets; runs on the server's loop."""

    def __init__(self, farebox: Farebox) -> None:
        self.status = 200
        self.kind = "application/json"
        self.encoding = ""
        self.headers: list[tuple[str, str]] = []
        self.pieces: list[bytes] = []
        self.seen: list[dict[str, str]] = []
        self.server: RunningServer = farebox.run(serve(self._handle, "127.0.0.1", 0))
        self.url = f"http://{self.server.host}:{self.server.port}"

    def says(self, status: int, document: object) -> None:
        self.status, self.kind = status, "application/json"
        self.pieces = [json.dumps(document, ensure_ascii=False).encode()]

    def streams(self, *events: object) -> None:
        self.status, self.kind = 200, "text/event-stream"
        self.pieces = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]

    async def _handle(self, exchange: Exchange) -> None:
        await exchange.body(2**20)
        self.seen.append(dict(exchange.headers.items()))
        headers = [("content-type", self.kind), *self.headers]
        headers += [("content-encoding", self.encoding)] if self.encoding else []
        stream = exchange.start(self.status, headers)
        for piece in self.pieces:
            await stream.send(piece)


@pytest.fixture
def provider(farebox: Farebox) -> Iterator[Provider]:
    made = Provider(farebox)
    set_provider(farebox, SLUG, base_url=made.url, api_key=KEY)
    set_price(farebox, SLUG, MODEL)
    farebox.run(operator_alarms.work(farebox.services))  # drop pending alarms of the previous test
    farebox.run(farebox.services.database.write(lambda c: resolve_alarms(c, 1)))
    yield made
    farebox.run(made.server.close())


def call(customer: Customer, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return httpx.post(
        f"{customer.gateway_url}/{SLUG}/chat/completions",
        json={"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10, **body},
        headers=customer.headers if headers is None else headers,
    )


def alarms(farebox: Farebox) -> list[Alarm]:
    return [alarm for alarm in read_now(farebox.services.database, open_alarms) if alarm.about == SLUG]


def alarmed(farebox: Farebox) -> Alarm:
    farebox.run(operator_alarms.work(farebox.services))  # as the periodic job does
    until(lambda: alarms(farebox), "the alarm is kept")
    (alarm,) = alarms(farebox)
    return alarm


def stored_body(customer: Customer, log_id: str) -> str:
    url = f"{customer.api_url}/ai-gateway/gateways/default/logs/{log_id}/response"
    return httpx.get(url, headers=customer.headers).text


TROUBLE = [
    (401, "key_refused", {"error": {"message": f"Incorrect API key provided: {MASKED}.", "code": "invalid_api_key"}}),
    (400, "key_refused", {"code": "x", "error": f"Incorrect API key provided: {MASKED}."}),
    (402, "no_credit", {"error": {"message": "Insufficient Balance", "type": "unknown_error"}}),
    (403, "key_refused", {"error": {"message": f"Permission denied: Consumer 'api_key:{KEY}' has been suspended."}}),
    (429, "no_credit", {"error": {"message": "No quota.", "type": "insufficient_quota", "code": "insufficient_quota"}}),
    (500, "no_credit", {"error": {"message": "No quota.", "code": "credit_balance_exhausted"}}),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("status", "reason", "document"), TROUBLE)
def test_a_tenant_sees_our_error_text(
    customer: Customer, provider: Provider, status: int, reason: str, document: Any, stream: bool
) -> None:
    provider.says(status, document)
    response = call(customer, stream=stream)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (503, PROVIDER_UNAVAILABLE.code)
    assert response.headers["retry-after"] == "30"
    assert "x-should-retry" not in response.headers
    for secret in (KEY, MASKED, "wxyz", "quota", "Balance", "api_key"):
        assert secret not in response.text
    assert (customer.balance.posted, customer.balance.held) == (FIVE, 0)
    row = log_row(customer, response.headers["cf-aig-log-id"])
    assert (row["status_code"], row["success"]) == (503, False)
    assert row["farebox"]["error"] == f"provider_unavailable ({reason}, answered {status})"
    assert "wxyz" not in json.dumps(row) + stored_body(customer, response.headers["cf-aig-log-id"])
    alarm = alarmed(customer.farebox)
    assert (alarm.kind, alarm.content["reason"], alarm.content["status"]) == ("provider_key_trouble", reason, status)
    assert "wxyz" not in str(alarm.content)
    assert differences(customer.farebox) == []


def test_free_paths_are_handled_too(customer: Customer, provider: Provider) -> None:
    provider.says(401, {"error": {"message": f"Incorrect API key provided: {MASKED}."}})
    response = httpx.get(f"{customer.gateway_url}/{SLUG}/models", headers=customer.headers)
    assert response.status_code == 503
    assert "wxyz" not in response.text
    assert alarmed(customer.farebox).content["status"] == 401


@pytest.mark.parametrize(("status", "reason", "document"), TROUBLE)
def test_errors_on_the_callers_own_key_pass_unchanged(
    customer: Customer, provider: Provider, status: int, reason: str, document: Any
) -> None:
    provider.says(status, document)
    own = {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "Bearer sk-callers-own"}
    response = call(customer, own)
    assert (response.status_code, response.content) == (status, provider.pieces[0])
    assert "retry-after" not in response.headers
    assert alarms(customer.farebox) == []


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (400, {"error": {"message": "max_tokens is too large", "code": "invalid_request_error"}}),
        (403, {"error": {"message": "Your input was flagged", "code": 403, "metadata": {"reasons": ["violence"]}}}),
        (403, {"error": {"message": "There is no access to the model", "code": "model_not_found"}}),
        (429, {"error": {"message": "Rate limit reached, 20 a minute", "code": "rate_limit_exceeded"}}),
        (500, {"error": {"message": "Sorry"}}),
    ],
)
def test_an_error_about_the_request_passes_unchanged(
    customer: Customer, provider: Provider, status: int, document: Any
) -> None:
    provider.says(status, document)
    response = call(customer)
    assert (response.status_code, response.content) == (status, provider.pieces[0])
    assert stored_body(customer, response.headers["cf-aig-log-id"]).encode() == provider.pieces[0]
    assert (customer.balance.posted, customer.balance.held) == (FIVE, 0)
    assert alarms(customer.farebox) == []


def test_a_passed_error_has_the_key_removed(customer: Customer, provider: Provider) -> None:
    provider.says(403, {"error": {"message": f"Key {MASKED} ({KEY}) of org-AbCdEf0123 may not use the model"}})
    response = call(customer)
    said = "Key [removed] ([removed]) of org-[removed] may not use the model"
    assert (response.status_code, response.json()) == (403, {"error": {"message": said}})
    assert "wxyz" not in stored_body(customer, response.headers["cf-aig-log-id"])


def test_the_next_step_takes_over(customer: Customer, provider: Provider) -> None:
    provider.says(401, {"error": {"message": f"Incorrect API key provided: {MASKED}."}})
    query = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10}
    steps = [
        {"provider": SLUG, "endpoint": "chat/completions", "query": {"model": MODEL, **query}},
        {"provider": "demo", "endpoint": "chat/completions", "query": {"model": "demo-1", **query}},
    ]
    response = httpx.post(customer.gateway_url, json=steps, headers=customer.headers)
    assert (response.status_code, response.headers["cf-aig-step"]) == (200, "1")
    assert alarmed(customer.farebox).content["status"] == 401
    assert [row["success"] for row in log_rows(customer)] == [True, False]
    assert customer.balance.held == 0


def test_tenants_cannot_choose_the_organization(customer: Customer, provider: Provider) -> None:
    provider.says(500, {"error": {"message": "Sorry"}})
    call(customer, customer.headers | {"openai-organization": "org-other", "openai-project": "proj_other"})
    assert not {"openai-organization", "openai-project"} & set(provider.seen[-1])


def test_the_operator_decides_about_retries() -> None:
    assert ("x-should-retry", "false") in error_headers(Problem(PROVIDER_UNAVAILABLE, "No."), "openai", 503)
    later = Problem(PROVIDER_UNAVAILABLE, "No.", retry_after=30)
    assert error_headers(later, "openai", 503)[1:] == [("retry-after", "30")]


def chunk(**more: Any) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion.chunk", "model": MODEL, **more}


WORD = chunk(choices=[{"index": 0, "delta": {"content": "word "}, "finish_reason": None}])
NO_MONEY = {"code": 402, "message": f"Insufficient credits of {MASKED}"}


def test_a_key_error_in_a_200_response_is_replaced_too(customer: Customer, provider: Provider) -> None:
    provider.says(200, {"error": NO_MONEY, "user_id": "user_operator"})
    response = call(customer)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (503, PROVIDER_UNAVAILABLE.code)
    assert "wxyz" not in response.text + stored_body(customer, response.headers["cf-aig-log-id"])
    assert (customer.balance.posted, customer.balance.held) == (FIVE, 0)
    row = log_row(customer, response.headers["cf-aig-log-id"])
    assert row["farebox"]["error"] == "provider_unavailable (no_credit, answered 200)"
    assert alarmed(customer.farebox).content["reason"] == "no_credit"


def test_other_failures_in_a_good_response_pass(customer: Customer, provider: Provider) -> None:
    provider.says(200, {"error": {"code": 502, "message": "The provider is down"}})
    response = call(customer)
    assert (response.status_code, response.content) == (200, provider.pieces[0])
    assert customer.balance.held == 0
    assert alarms(customer.farebox) == []


@pytest.mark.parametrize("before", [0, 2])
def test_a_stream_that_reports_a_key_error_is_replaced(customer: Customer, provider: Provider, before: int) -> None:
    provider.streams(*[WORD] * before, chunk(choices=[], error=NO_MONEY))
    response = call(customer, stream=True)
    assert response.status_code == 200
    *words, last = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert words == [WORD] * before
    assert last["error"]["message"].startswith("cerebras does not accept calls from this service")
    assert "wxyz" not in response.text + stored_body(customer, response.headers["cf-aig-log-id"])
    assert customer.balance.held == 0
    assert alarmed(customer.farebox).content["reason"] == "no_credit"
    assert differences(customer.farebox) == []


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_key_error_object_instead_of_a_stream_is_replaced(customer: Customer, provider: Provider, kind: str) -> None:
    provider.says(200, {"error": NO_MONEY})
    provider.kind = kind
    response = call(customer, stream=True)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (503, PROVIDER_UNAVAILABLE.code)
    assert "wxyz" not in response.text
    assert (customer.balance.posted, customer.balance.held) == (FIVE, 0)


def test_key_errors_in_mislabeled_events_are_replaced(customer: Customer, provider: Provider) -> None:
    provider.streams({"error": NO_MONEY})
    provider.kind, provider.headers = "application/json", [("content-length", str(len(provider.pieces[0])))]
    response = call(customer, stream=True, stream_options={"include_usage": True})
    assert "cerebras does not accept calls from this service" in response.text
    assert "wxyz" not in response.text


def test_on_the_callers_own_key_a_stream_passes_as_it_is(customer: Customer, provider: Provider) -> None:
    provider.streams(WORD, chunk(choices=[], error=NO_MONEY))
    own = {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "Bearer sk-callers-own"}
    assert call(customer, own, stream=True).content == b"".join(provider.pieces)
    assert alarms(customer.farebox) == []


def test_a_compressed_error_is_read(customer: Customer, provider: Provider) -> None:
    provider.says(403, {"error": {"message": f"Permission denied: Consumer 'api_key:{KEY}' has been suspended."}})
    provider.pieces, provider.encoding = [gzip.compress(provider.pieces[0])], "gzip"
    response = call(customer)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (503, PROVIDER_UNAVAILABLE.code)


def test_an_error_that_cannot_be_read_passes_without_its_body(customer: Customer, provider: Provider) -> None:
    provider.says(403, {"error": {"message": f"Key {KEY}"}})
    provider.encoding = "compress"
    response = call(customer)
    assert (response.status_code, response.content) == (403, b"")


def test_the_account_is_not_named_in_headers(customer: Customer, provider: Provider) -> None:
    provider.says(429, {"error": {"message": "Rate limit", "code": "rate_limit_exceeded"}})
    provider.headers = [("openai-organization", "acme"), ("x-ratelimit-limit-requests", "20")]
    response = call(customer)
    assert response.headers.get("openai-organization") is None
    assert response.headers["x-ratelimit-limit-requests"] == "20"


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", ""])
def test_a_key_error_body_instead_of_a_stream_is_replaced(customer: Customer, provider: Provider, kind: str) -> None:
    provider.says(200, {"error": NO_MONEY, "user_id": "user_operator"})
    provider.kind = kind
    response = call(customer, stream=True)
    events = kind == "text/event-stream"  # so that its head is passed on before the first byte arrives
    assert response.status_code == (200 if events else 503)
    assert "cerebras does not accept calls from this service" in response.text
    assert "wxyz" not in response.text + stored_body(customer, response.headers["cf-aig-log-id"])
    assert alarmed(customer.farebox).content["reason"] == "no_credit"
    assert (customer.balance.posted, customer.balance.held) == (FIVE, 0)
    assert differences(customer.farebox) == []


def test_a_response_in_place_of_a_stream_passes_as_it_is(customer: Customer, provider: Provider) -> None:
    said = {"message": {"content": f"org-AbCdEf0123 has {MASKED}"}}
    for kind in ("application/json", "text/event-stream"):
        provider.says(200, {"choices": [said], "usage": {"prompt_tokens": 2, "completion_tokens": 3}})
        provider.kind = kind
        assert call(customer, stream=True).content == provider.pieces[0]


@pytest.mark.parametrize("ends", ["\n\n", "\r\n\r\n", "\r\r", "\n"])
@pytest.mark.parametrize("named", [False, True], ids=["data only", "named"])
def test_an_error_in_a_stream_is_found_with_any_line_ends(
    customer: Customer, provider: Provider, ends: str, named: bool
) -> None:
    end = ends[: max(1, len(ends) // 2)]
    for error, reported in (
        (NO_MONEY, "does not accept calls"),
        ({"message": f"Key {MASKED} ({KEY}) of org-AbCdEf0123 may not", "code": "no"}, "[removed]"),
    ):
        name = f"event: error{end}" if named else ""
        whole = f"data: {json.dumps(WORD)}{ends}{name}data: {json.dumps({'error': error})}{ends}".encode()
        provider.status, provider.kind = 200, "text/event-stream"
        for provider.pieces in ([whole], [whole[at : at + 1] for at in range(len(whole))]):
            response = call(customer, stream=True)
            assert response.status_code == 200
            assert "word " in response.text
            assert reported in response.text
            assert "wxyz" not in response.text + stored_body(customer, response.headers["cf-aig-log-id"])


@pytest.mark.parametrize("begun", [1, 12, len(KEY) - 1])
def test_a_truncated_error_does_not_end_in_the_key(customer: Customer, provider: Provider, begun: int) -> None:
    """The text before it may be quoted from the request, so the tenant can choose its position."""
    provider.says(500, {})
    provider.pieces = [b"z" * (2**20 - begun) + KEY.encode() + b" more"]
    response = call(customer)
    assert response.status_code == 500
    assert response.content.strip(b"z") == b""


def test_headers_of_an_error_pass_without_the_key(customer: Customer, provider: Provider) -> None:
    provider.says(403, {"error": {"message": "The model is not for you", "code": "model_not_found"}})
    provider.headers = [("x-said", f"{KEY} and {MASKED}"), ("x-other", "well")]
    response = call(customer)
    assert (response.headers["x-said"], response.headers["x-other"]) == ("[removed] and [removed]", "well")
