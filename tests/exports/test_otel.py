"""Spans of calls, as a collector receives them."""

import json
from typing import Any

import httpx
import pytest
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from farebox.calls.exports import send_spans
from farebox.metrics.families import SPANS
from farebox.runtime import span_queue
from farebox.storage.gateways import find_gateway
from tests.engines import ON_BOTH_ENGINES, read_now
from tests.exports.receiver import Received, Receiver, receiving
from tests.http.support import GATEWAY_FIELDS, errors, http, result
from tests.sdks import cloudflare
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

SECRET = "Bearer of-the-collector-0001"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def configure(customer: Customer, *exporters: dict[str, Any], method: str = "POST", **more: Any) -> httpx.Response:
    url = f"{customer.api_url}/ai-gateway/gateways"
    body = GATEWAY_FIELDS | {"otel": list(exporters)} | more
    if method == "POST":
        return http.post(url, json=body | {"id": "default"}, headers=customer.headers)
    return http.request(method, f"{url}/default", json=body, headers=customer.headers)


def to(receiver: Receiver, encoding: str = "protobuf", **headers: str) -> dict[str, Any]:
    return {"url": f"{receiver.url}/v1/traces", "headers": headers, "content_type": encoding}


def decoded(request: Received) -> ExportTraceServiceRequest:
    """The request, decoded from either encoding. JSON has IDs in hexadecimal, which protobuf's parser does not
    support."""
    message = ExportTraceServiceRequest()
    if request.headers["content-type"] == "application/x-protobuf":
        message.ParseFromString(request.body)
        return message
    assert request.headers["content-type"] == "application/json"
    content = json.loads(request.body)
    spans = content["resourceSpans"][0]["scopeSpans"][0]["spans"]
    for span in spans:
        assert isinstance(span["kind"], int), "enums are numbers in OTLP's JSON"
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in span:
                assert len(bytes.fromhex(span[name])) == (16 if name == "traceId" else 8)
                del span[name]
    Parse(json.dumps(content), message)
    return message


def spans_of(requests: list[Received]) -> list[Span]:
    return [
        span
        for request in requests
        for resource in decoded(request).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(span: Span) -> dict[str, Any]:
    return {item.key: getattr(item.value, str(item.value.WhichOneof("value"))) for item in span.attributes}


def dropped(customer: Customer) -> int:
    return customer.farebox.services.metrics.place.counter(SPANS, "dropped").value


def one_span(receiver: Receiver) -> Span:
    [span] = spans_of(receiver.wait_for(bool))
    return span


def test_the_span_of_a_call(customer: Customer, receiver: Receiver) -> None:
    assert configure(customer, to(receiver, Authorization=SECRET), retry_max_attempts=2).status_code == 200
    customer.farebox.script("status=500", "tokens=3")
    response = customer.chat(
        headers={
            "cf-aig-otel-trace-id": TRACE.upper(),
            "cf-aig-otel-parent-span-id": PARENT,
            "cf-aig-metadata": json.dumps({"team": "red", "paid": True, "size": 2.5, "gen_ai.system": "no"}),
        }
    )
    assert response.status_code == 200
    log_id = response.headers["cf-aig-log-id"]
    span = one_span(receiver)
    [request] = receiver.requests
    assert request.headers["authorization"] == SECRET
    resource = decoded(request).resource_spans[0].resource
    assert resource.attributes[0].value.string_value == "farebox"

    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.span_id.hex() == log_id.replace("-", "")[16:]
    assert (span.name, span.kind) == ("chat demo-1", Span.SPAN_KIND_CLIENT)
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
    recorded, receipt = attributes(span), customer.receipt(log_id)
    assert recorded["gen_ai.request.model"] == "demo-1"
    assert (recorded["gen_ai.model.provider"], recorded["gen_ai.provider.name"]) == ("demo", "demo")
    usage = response.json()["usage"]
    assert recorded["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert recorded["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert recorded["farebox.charge_nanos"] == receipt["charge_nanos"] > 0
    assert recorded["farebox.hold_nanos"] == receipt["hold_nanos"]
    assert recorded["gen_ai.usage.cost"] == recorded["farebox.cost_nanos"] / 1e9 > 0
    assert json.loads(recorded["gen_ai.prompt_json"])["messages"][0]["content"] == "Hello there"
    assert json.loads(recorded["gen_ai.completion_json"]) == response.json()
    assert (recorded["team"], recorded["paid"], recorded["size"]) == ("red", True, 2.5)
    assert "gen_ai.system" not in recorded, "callers cannot set OpenTelemetry's attributes"
    tried = [
        {item.key: item.value.int_value for item in event.attributes}["http.response.status_code"]
        for event in span.events
    ]
    assert tried == [500, 200]


def test_json_is_the_default_and_streams_have_their_events(customer: Customer, receiver: Receiver) -> None:
    exporter = {"url": f"{receiver.url}/otlp", "headers": {}}
    made = result(configure(customer, exporter))
    assert made["otel"] == [exporter | {"content_type": "json"}]
    response = customer.chat(stream=True)
    assert response.status_code == 200
    [request] = receiver.wait_for(bool)
    assert request.path == "/otlp"
    raw = json.loads(request.body)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    log_id = response.headers["cf-aig-log-id"].replace("-", "")
    assert (raw["traceId"], raw["spanId"]) == (log_id, log_id[16:])
    recorded = attributes(one_span(receiver))
    assert recorded["gen_ai.request.stream"] is True
    chunks = json.loads(recorded["gen_ai.completion_json"])
    assert len(chunks) > 1
    assert chunks[0]["object"] == "chat.completion.chunk"


def test_unlogged_calls_have_no_span(customer: Customer, receiver: Receiver) -> None:
    configure(customer, to(receiver))
    customer.chat(headers={"cf-aig-collect-log-payload": "false"})
    recorded = attributes(one_span(receiver))
    assert "gen_ai.prompt_json" not in recorded
    assert "gen_ai.completion_json" not in recorded
    assert recorded["farebox.outcome"] == "charged"


def test_a_refused_call_has_a_span_too(farebox: Farebox, receiver: Receiver) -> None:
    poor = Customer(farebox, account := farebox.create_account(), farebox.create_token(account))
    configure(poor, to(receiver))
    refused = poor.chat()
    assert refused.status_code == 402
    span = one_span(receiver)
    recorded = attributes(span)
    assert span.status.code == 2
    assert (recorded["farebox.outcome"], recorded["error.type"]) == ("refused", "no_credit")
    assert recorded["http.response.status_code"] == 402


@pytest.mark.parametrize(
    ("headers", "trace", "parent", "said"),
    [
        ({"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1"}, TRACE, PARENT, None),
        ({"traceparent": f"00-{'0' * 32}-{PARENT}-01"}, None, "", "traceparent"),
        ({"traceparent": "00-x"}, None, "", "traceparent"),
        ({"cf-aig-otel-trace-id": "zz", "cf-aig-otel-parent-span-id": "0" * 16}, None, "", "parent-span-id"),
        ({"cf-aig-otel-trace-id": TRACE, "traceparent": f"00-{'1' * 32}-{PARENT}-01"}, TRACE, "", None),
    ],
)
def test_trace_context(
    customer: Customer, receiver: Receiver, headers: dict[str, str], trace: str | None, parent: str, said: str | None
) -> None:
    """Invalid context is reported, and the call continues."""
    configure(customer, to(receiver))
    response = customer.chat(headers=headers)
    assert response.status_code == 200
    span = one_span(receiver)
    assert span.trace_id.hex() == (trace or response.headers["cf-aig-log-id"].replace("-", ""))
    assert span.parent_span_id.hex() == parent
    assert span.trace_state == headers.get("tracestate", "")
    ignored = response.headers.get("farebox-trace-ignored")
    assert (ignored is None) if said is None else said in (ignored or "")


def test_steps_are_in_one_trace(customer: Customer, receiver: Receiver) -> None:
    configure(customer, to(receiver))
    customer.farebox.script("status=500", "tokens=3")
    step = {"provider": "compat", "endpoint": "chat/completions", "headers": {}}
    query = {"model": "demo/demo-1", "messages": [{"role": "user", "content": "Hi"}]}
    response = httpx.post(customer.gateway_url, json=[step | {"query": query}] * 2, headers=customer.headers)
    assert (response.status_code, response.headers["cf-aig-step"]) == (200, "1")
    first, second = spans_of(receiver.wait_for(lambda requests: len(spans_of(requests)) == 2))
    assert first.trace_id == second.trace_id
    assert first.span_id != second.span_id
    assert [attributes(span)["farebox.step"] for span in (first, second)] == [0, 1]


def test_a_busy_receiver_gets_the_spans_later(customer: Customer, receiver: Receiver) -> None:
    configure(customer, to(receiver))
    receiver.answers += [(503, {"retry-after": "1"}, b""), (200, {}, partial(1, "one too many"))]
    customer.chat()
    first, second = receiver.wait_for(lambda requests: len(requests) == 2)
    assert [span.span_id for span in spans_of([first])] == [span.span_id for span in spans_of([second])]


def partial(rejected: int, why: str) -> bytes:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans, response.partial_success.error_message = rejected, why
    return response.SerializeToString()


def test_a_hanging_receiver_delays_nobody(customer: Customer, receiver: Receiver) -> None:
    """It delays neither calls nor spans for another destination, and its queue is bounded."""
    with receiving() as stuck:
        stuck.hang.set()
        configure(customer, to(stuck), to(receiver))
        for _ in range(3):
            assert customer.chat().status_code == 200
        stuck.wait_for(bool)
        receiver.wait_for(lambda requests: len(spans_of(requests)) == 3)
        services = customer.farebox.services
        waiting = services.spans.destinations[customer.account_id, "default", f"{stuck.url}/v1/traces"]
        assert len(waiting.spans) == 3, "spans stay in the queue until they are delivered"
        stuck.hang.clear()
        stuck.go.set()


def test_spans_beyond_the_bound_are_dropped_and_counted(
    customer: Customer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_queue, "ACCOUNT_SPANS_MAX", 2)
    receiver.hang.set()
    configure(customer, to(receiver))
    before = dropped(customer)
    for _ in range(4):
        assert customer.chat().status_code == 200
    assert dropped(customer) == before + 2
    receiver.go.set()
    receiver.wait_for(lambda requests: len(spans_of(requests)) >= 2)


def test_refused_spans_are_not_resent(customer: Customer, receiver: Receiver) -> None:
    configure(customer, to(receiver))
    receiver.answers += [(401, {}, b"")]
    customer.chat(headers={"cf-aig-otel-trace-id": TRACE})
    receiver.wait_for(bool)
    customer.chat()
    _, second = receiver.wait_for(lambda requests: len(requests) == 2)
    assert [span.trace_id.hex() == TRACE for span in spans_of([second])] == [False]


def test_waiting_spans_are_sent_when_the_server_stops(customer: Customer, receiver: Receiver) -> None:
    configure(customer, to(receiver))
    receiver.answers += [(503, {"retry-after": "300"}, b"")]
    customer.chat()
    receiver.wait_for(bool)
    customer.farebox.run(send_spans.flush(customer.farebox.services))
    assert len(receiver.requests) == 2
    assert not customer.farebox.services.spans.waiting


def test_secrets_are_sealed_and_shown_masked(customer: Customer, receiver: Receiver) -> None:
    otel: Any = [to(receiver, Authorization=SECRET, dataset="calls")]
    base_url = f"{customer.farebox.url}/client/v4"
    with cloudflare.Cloudflare(api_token=customer.token, base_url=base_url, max_retries=0) as client:
        made = client.ai_gateway.create(account_id=customer.account_id, id="default", otel=otel, **GATEWAY_FIELDS)
    assert made.otel is not None
    assert made.otel[0].headers == {"authorization": "…0001", "dataset": "…"}
    shown = http.get(f"{customer.api_url}/ai-gateway/gateways/default", headers=customer.headers)
    assert "of-the-collector" not in shown.text
    row = read_now(
        customer.farebox.services.database, lambda connection: find_gateway(connection, customer.account_id, "default")
    )
    assert row is not None
    assert row.sealed is not None
    assert b"of-the-collector" not in row.config + row.sealed
    assert "of-the-collector" not in repr(row)

    sent_back = result(shown)
    written = http.put(f"{customer.api_url}/ai-gateway/gateways/default", json=sent_back, headers=customer.headers)
    assert result(written)["otel"] == sent_back["otel"]
    customer.chat()
    assert receiver.wait_for(bool)[0].headers["authorization"] == SECRET
    assert receiver.requests[0].headers["dataset"] == "calls"

    moved = sent_back["otel"][0] | {"url": f"{receiver.url}/other"}
    refused = configure(customer, moved, method="PUT")
    assert refused.status_code == 400, "a secret stored for one URL is sent to no other"
    assert refused.json()["errors"][0]["path"] == ["body", "otel", 0, "headers"]
    assert result(configure(customer, method="PATCH"))["otel"] is None


def test_a_stored_key_authorizes_only_where_it_belongs(customer: Customer, receiver: Receiver) -> None:
    api = f"{customer.api_url}/ai-gateway"
    configure(customer)
    base = {"name": "Collector", "slug": "collector", "base_url": f"{receiver.url}/v1", "enable": True}
    assert http.post(f"{api}/custom-providers", json=base, headers=customer.headers).status_code in (200, 201)
    for provider, secret_id in (("collector", "its-key"), ("openai", "another-key")):
        key = {
            "alias": "default",
            "default_config": False,
            "provider_slug": provider,
            "secret": "key-of-the-account",
            "secret_id": secret_id,
        }
        stored = http.post(f"{api}/gateways/default/provider_configs", json=key, headers=customer.headers)
        assert stored.status_code in (200, 201), stored.text
    for secret_id in ("another-key", "none"):
        refused = configure(customer, to(receiver) | {"authorization": secret_id}, method="PUT")
        assert refused.json()["errors"][0]["path"] == ["body", "otel", 0, "authorization"]
    elsewhere = {"url": "http://127.0.0.1:1/v1/traces", "headers": {}, "authorization": "its-key"}
    refused = configure(customer, elsewhere, method="PUT")
    assert refused.json()["errors"][0]["path"] == ["body", "otel", 0, "authorization"]
    made = result(configure(customer, to(receiver) | {"authorization": "its-key"}, method="PUT"))
    assert made["otel"][0]["authorization"] == "its-key"
    customer.chat()
    assert receiver.wait_for(bool)[0].headers["authorization"] == "Bearer key-of-the-account"


@pytest.mark.parametrize(
    ("exporter", "place", "message"),
    [
        ({"url": "https://10.0.0.1/v1/traces", "headers": {}}, ["url"], "FAREBOX_CUSTOM_NETWORKS"),
        ({"url": "https://169.254.169.254/", "headers": {}}, ["url"], "FAREBOX_CUSTOM_NETWORKS"),
        ({"url": "ftp://example.com", "headers": {}}, ["url"], "Invalid url"),
        ({"url": "https://a:b@example.com", "headers": {}}, ["url"], "user name"),
        ({"url": "https://example.com", "headers": {"Host": "x"}}, ["headers"], "cannot be set"),
        ({"url": "https://example.com", "headers": {"a": "x\r\ny"}}, ["headers"], "cannot be sent"),
    ],
)
def test_invalid_receivers_are_refused(
    customer: Customer, exporter: dict[str, Any], place: list[str], message: str
) -> None:
    refused = configure(customer, exporter)
    assert refused.status_code == 400
    [error] = refused.json()["errors"]
    assert error["path"] == ["body", "otel", 0, *place]
    assert message in error["message"]
    assert errors(configure(customer, *[{"url": f"https://example.com/{n}", "headers": {}} for n in range(6)]))
    twice = configure(customer, *[{"url": "https://example.com/", "headers": {}}] * 2)
    assert twice.json()["errors"][0]["path"] == ["body", "otel", 1, "url"]
