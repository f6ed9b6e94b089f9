"""Response IDs and finish reasons in spans, for each response format, whole and streamed."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.providers.formats.event_frames import frame
from tests.calls.kit import set_provider
from tests.calls.upstream import Upstream, serving
from tests.exports.receiver import Receiver
from tests.exports.test_otel import attributes, configure, one_span, spans_of, to
from tests.support import Customer, Farebox

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
AMAZON = "aws-bedrock/bedrock-runtime/us-east-1/model"
HAIKU, NOVA = "us.anthropic.claude-haiku-4-5-20251001-v1:0", "amazon.nova-lite-v1:0"
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "Hello"}]}], "inferenceConfig": {"maxTokens": 20}}
INVOKE = {**CHAT, "anthropic_version": "bedrock-2023-05-31"}
FRAMES = "application/vnd.amazon.eventstream"
USED = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


@pytest.fixture(scope="module")
def upstream(farebox: Farebox) -> Iterator[Upstream]:
    amazon = {"access_key_id": "AKIDEXAMPLE0123456", "secret_access_key": "of-the-test", "regions": ["us-east-1"]}
    with serving() as served:
        for slug in ("openai", "anthropic", "google-ai-studio", "cohere", "mistral", "groq", "deepseek"):
            set_provider(farebox, slug, base_url=served.url)
        set_provider(farebox, "aws-bedrock", base_url=served.url, api_key=json.dumps(amazon))
        yield served


def events(*data: Any, names: bool = False) -> bytes:
    return b"".join(
        (f"event: {one['type']}\n" if names else "").encode() + b"data: " + json.dumps(one).encode() + b"\n\n"
        for one in data
    )


def framed(*payloads: tuple[str, Any]) -> bytes:
    head = {":content-type": "application/json", ":message-type": "event"}
    return b"".join(frame(head | {":event-type": kind}, json.dumps(said).encode()) for kind, said in payloads)


def chunk(*choices: tuple[int, str | None], response_id: str = "chatcmpl-1", **more: Any) -> dict[str, Any]:
    listed = [{"index": index, "delta": {"content": "Hi"}, "finish_reason": reason} for index, reason in choices]
    return {"id": response_id, "object": "chat.completion.chunk", "model": "m", "choices": listed, **more}


def whole(*reasons: str, response_id: str = "chatcmpl-1", text: str = "Hi") -> dict[str, Any]:
    listed: list[Any] = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        for index, reason in enumerate(reasons)
    ]
    return {"id": response_id, "object": "chat.completion", "model": "m", "choices": listed, "usage": USED}


def responses(status: str, **more: Any) -> dict[str, Any]:
    said = {"type": "output_text", "text": "Hi", "annotations": []}
    output = [{"type": "message", "id": "msg_of_it", "role": "assistant", "status": "completed", "content": [said]}]
    usage = None if status == "in_progress" else {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    response = {"id": "resp_1", "object": "response", "status": status, "model": "gpt-4o-mini", "output": output}
    return {**response, "usage": usage, "incomplete_details": None, **more}


CUT = {"incomplete_details": {"reason": "max_output_tokens"}}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5-20251001",
    "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 2},
}
MESSAGE_EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]
METRICS = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 5, "outputTokenCount": 2}}


def generated(*reasons: str | None) -> dict[str, Any]:
    candidates = [
        {"content": {"role": "model", "parts": [{"text": "Hi"}]}, "index": index}
        | ({} if reason is None else {"finishReason": reason})
        for index, reason in enumerate(reasons)
    ]
    used = {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}
    return {"responseId": "gen_1", "modelVersion": "gemini-2.5-flash", "candidates": candidates, "usageMetadata": used}


COHERE_USED = {"billed_units": {"input_tokens": 5, "output_tokens": 2}}
COHERE: dict[str, Any] = {
    "id": "c14c80c3-18eb",
    "message": {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
    "finish_reason": "MAX_TOKENS",
    "usage": COHERE_USED,
}
COHERE_EVENTS: list[dict[str, Any]] = [
    {"type": "message-start", "id": "c14c80c3-18eb", "delta": {"message": {"role": "assistant", "content": []}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hi"}}}},
    {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": COHERE_USED}},
]
AMAZON_USED = {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7}
CONVERSED = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hi"}]}},
    "stopReason": "max_tokens",
    "usage": AMAZON_USED,
}
GEMINI = "google-ai-studio/v1beta/models/gemini-2.5-flash"
CONTENTS = {"contents": [{"parts": [{"text": "Hello"}]}], "generationConfig": {"maxOutputTokens": 20}}

FORMS: dict[str, tuple[str, dict[str, Any], Any, str | None, list[str] | None]] = {
    "chat": ("openai/chat/completions", {"model": "gpt-4o-mini", **CHAT}, whole("stop"), "chatcmpl-1", ["stop"]),
    "several choices": (
        "openai/chat/completions",
        {"model": "gpt-4o-mini", "n": 2, **CHAT},
        whole("length", "tool_calls"),
        "chatcmpl-1",
        ["length", "tool_calls"],
    ),
    "a document that is not kept whole": (
        "openai/chat/completions",
        {"model": "gpt-4o-mini", **CHAT},
        whole("stop", text="Hi " * 50_000),
        "chatcmpl-1",
        ["stop"],
    ),
    "chat, streamed, the second choice first": (
        "openai/chat/completions",
        {"model": "gpt-4o-mini", "n": 2, "stream": True, **CHAT},
        events(
            {
                "id": "",
                "model": "",
                "object": "",
                "choices": [],
                "prompt_filter_results": [],
            },  # the first chunk of Azure
            chunk((0, None), (1, None)),
            chunk((1, "length")),
            *[chunk((0, None))] * 500,
            chunk((0, "stop")),
            chunk(usage=USED),
        )
        + b"data: [DONE]\n\n",
        "chatcmpl-1",
        ["stop", "length"],
    ),
    "legacy completions": (
        "openai/completions",
        {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello", "max_tokens": 20},
        {"id": "cmpl-1", "choices": [{"index": 0, "text": "Hi", "finish_reason": "length"}], "usage": USED},
        "cmpl-1",
        ["length"],
    ),
    "mistral": (
        "mistral/v1/chat/completions",
        {"model": "mistral-small-latest", **CHAT},
        whole("model_length", response_id="cmpl-e5cc70bb"),
        "cmpl-e5cc70bb",
        ["model_length"],
    ),
    "mistral, streamed": (
        "mistral/v1/chat/completions",
        {"model": "mistral-small-latest", "stream": True, **CHAT},
        events(chunk((0, None), response_id="e5cc70bb"), chunk((0, "stop"), response_id="e5cc70bb", usage=USED)),
        "e5cc70bb",
        ["stop"],
    ),
    "groq": (
        "groq/chat/completions",
        {"model": "llama-3.3-70b-versatile", **CHAT},
        whole("stop") | {"x_groq": {"id": "req_1"}},
        "chatcmpl-1",
        ["stop"],
    ),
    "deepseek, streamed": (
        "deepseek/chat/completions",
        {"model": "deepseek-chat", "stream": True, **CHAT},
        events(chunk((0, None)), chunk((0, "insufficient_system_resource"), usage=USED)) + b"data: [DONE]\n\n",
        "chatcmpl-1",
        ["insufficient_system_resource"],
    ),
    "responses": (
        "openai/responses",
        {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 20},
        responses("completed"),
        "resp_1",
        ["completed"],
    ),
    "responses, streamed and cut": (
        "openai/responses",
        {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 20, "stream": True},
        events(
            {"type": "response.created", "response": responses("in_progress")},
            {"type": "response.output_item.added", "item": {"id": "msg_of_it", "status": "in_progress"}},
            {"type": "response.output_text.delta", "item_id": "msg_of_it", "delta": "Hi"},
            {"type": "response.incomplete", "response": responses("incomplete", **CUT)},
            names=True,
        ),
        "resp_1",
        ["max_output_tokens"],
    ),
    "messages": (
        "anthropic/v1/messages",
        {"model": "claude-haiku-4-5-20251001", **CHAT},
        MESSAGE,
        "msg_1",
        ["tool_use"],
    ),
    "messages, streamed": (
        "anthropic/v1/messages",
        {"model": "claude-haiku-4-5-20251001", "stream": True, **CHAT},
        events(*MESSAGE_EVENTS, names=True),
        "msg_1",
        ["end_turn"],
    ),
    "generateContent": (
        f"{GEMINI}:generateContent",
        CONTENTS,
        generated("SAFETY", "STOP"),
        "gen_1",
        ["SAFETY", "STOP"],
    ),
    "generateContent, streamed": (
        f"{GEMINI}:streamGenerateContent?alt=sse",
        CONTENTS,
        events(generated(None), generated("MAX_TOKENS")),
        "gen_1",
        ["MAX_TOKENS"],
    ),
    "generateContent, streamed as an array": (
        f"{GEMINI}:streamGenerateContent",
        CONTENTS,
        [generated(None), generated("STOP")],
        "gen_1",
        ["STOP"],
    ),
    "cohere": (
        "cohere/v2/chat",
        {"model": "command-r-08-2024", **CHAT},
        COHERE,
        "c14c80c3-18eb",
        ["MAX_TOKENS"],
    ),
    "cohere, streamed": (
        "cohere/v2/chat",
        {"model": "command-r-08-2024", "stream": True, **CHAT},
        events(*COHERE_EVENTS, names=True),
        "c14c80c3-18eb",
        ["COMPLETE"],
    ),
    "converse, which has no ID": (f"{AMAZON}/{NOVA}/converse", CONVERSE, CONVERSED, None, ["max_tokens"]),
    "converse, streamed": (
        f"{AMAZON}/{NOVA}/converse-stream",
        CONVERSE,
        framed(
            ("messageStart", {"role": "assistant"}),
            ("contentBlockDelta", {"delta": {"text": "Hi"}, "contentBlockIndex": 0}),
            ("messageStop", {"stopReason": "end_turn"}),
            ("metadata", {"usage": AMAZON_USED}),
        ),
        None,
        ["end_turn"],
    ),
    "invoke": (f"{AMAZON}/{HAIKU}/invoke", INVOKE, MESSAGE | {"id": "msg_bdrk_1"}, "msg_bdrk_1", ["tool_use"]),
    "invoke, streamed": (
        f"{AMAZON}/{HAIKU}/invoke-with-response-stream",
        INVOKE,
        framed(
            *(
                ("chunk", {"bytes": base64.b64encode(json.dumps(one).encode()).decode(), "p": "abcd"})
                for one in (*MESSAGE_EVENTS[:-1], MESSAGE_EVENTS[-1] | METRICS)
            )
        ),
        "msg_1",
        ["end_turn"],
    ),
    "invoke, Titan's own form": (
        f"{AMAZON}/amazon.titan-text-express-v1/invoke",
        {"inputText": "Hello", "textGenerationConfig": {"maxTokenCount": 20}},
        {"inputTextTokenCount": 5, "results": [{"tokenCount": 2, "outputText": "Hi", "completionReason": "FINISH"}]},
        None,
        ["FINISH"],
    ),
    "an embedding, which is no generation": (
        "mistral/v1/embeddings",
        {"model": "mistral-embed", "input": "Hello"},
        {"id": "emb_1", "object": "list", "data": [], "model": "mistral-embed", "usage": USED},
        None,
        None,
    ),
}
"""Name → path, request, response, and the attributes of its span."""


def ask(customer: Customer, upstream: Upstream, path: str, body: Any, response: Any) -> httpx.Response:
    upstream.says(response, FRAMES if isinstance(response, bytes) and response[:1] == b"\0" else "")
    answered = httpx.post(f"{customer.gateway_url}/{path.replace(':0/', '%3A0/')}", json=body, headers=customer.headers)
    assert answered.status_code == 200, answered.text
    return answered


def said(recorded: dict[str, Any]) -> tuple[str | None, list[str] | None]:
    reasons = recorded.get("gen_ai.response.finish_reasons")
    return recorded.get("gen_ai.response.id"), reasons and [value.string_value for value in reasons.values]


def test_spans_of_each_response_format(customer: Customer, upstream: Upstream, receiver: Receiver) -> None:
    """Even if the log keeps no bodies."""
    configure(customer, to(receiver), collect_logs=False)
    names = {}
    for name, (path, body, response, *_) in FORMS.items():
        names[ask(customer, upstream, path, body, response).headers["cf-aig-log-id"]] = name
    spans = spans_of(receiver.wait_for(lambda requests: len(spans_of(requests)) == len(FORMS)))
    found = {names[recorded["farebox.log_id"]]: said(recorded) for recorded in map(attributes, spans)}
    assert found == {name: form[-2:] for name, form in FORMS.items()}


def test_a_response_as_a_json_list(customer: Customer, upstream: Upstream, receiver: Receiver) -> None:
    configure(customer, to(receiver, "json"))
    ask(customer, upstream, *FORMS["several choices"][:3])
    [request] = receiver.wait_for(bool)
    [span] = json.loads(request.body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    values = {item["key"]: item["value"] for item in span["attributes"]}
    assert values["gen_ai.response.id"] == {"stringValue": "chatcmpl-1"}
    listed = [{"stringValue": "length"}, {"stringValue": "tool_calls"}]
    assert values["gen_ai.response.finish_reasons"] == {"arrayValue": {"values": listed}}


@pytest.mark.parametrize(
    ("response", "response_id", "reasons"),
    [
        (whole("stop", response_id="x" * 512), "x" * 512, ["stop"]),
        (whole("stop", response_id="x" * 513), None, ["stop"]),
        (whole("x" * 65), "chatcmpl-1", ["x" * 64]),
        (whole(*["stop"] * 200), "chatcmpl-1", ["stop"] * 128),
        (whole("stop\ud800"), "chatcmpl-1", ["stop\ufffd"]),
        (whole() | {"id": 7, "choices": [{"index": "a", "finish_reason": ["stop"]}, 5]}, None, None),
        (whole("stop") | {"id": None, "message": [], "result": 5, "response": [1]}, None, ["stop"]),
        (whole() | {"object": "response", "status": ["completed"]}, "chatcmpl-1", None),
        (whole("stop") | {"bytes": "e30", "delta": {"stop_reason": 7}}, None, None),
    ],
    ids=[
        "long-id",
        "longer-id",
        "long-reason",
        "many",
        "half-a-pair",
        "odd-types",
        "odd-places",
        "odd-status",
        "no-base64",
    ],
)
def test_odd_or_oversized_values(
    customer: Customer, upstream: Upstream, receiver: Receiver, response: Any, response_id: str | None, reasons: Any
) -> None:
    """It can cost an attribute, but never the call."""
    configure(customer, to(receiver))
    ask(customer, upstream, "openai/chat/completions", {"model": "gpt-4o-mini", **CHAT}, response)
    assert said(attributes(one_span(receiver))) == (response_id, reasons)


def test_a_response_in_the_background(customer: Customer, upstream: Upstream, receiver: Receiver) -> None:
    configure(customer, to(receiver))
    body = {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 20, "background": True}
    queued = responses("queued", usage=None, output=[], background=True)
    begun = ask(customer, upstream, "openai/responses", body, queued)
    upstream.says(json.dumps(responses("completed", background=True)).encode())
    polled = httpx.get(f"{customer.gateway_url}/openai/responses/resp_1", headers=customer.headers)
    assert polled.status_code == 200
    log_id = begun.headers["cf-aig-log-id"]

    def of_it(requests: Any) -> list[dict[str, Any]]:
        return [recorded for recorded in map(attributes, spans_of(requests)) if recorded["farebox.log_id"] == log_id]

    [recorded] = of_it(receiver.wait_for(lambda requests: bool(of_it(requests))))
    assert said(recorded) == ("resp_1", ["completed"])


def test_a_cached_response_has_neither_id_nor_finish_reason(
    customer: Customer, upstream: Upstream, receiver: Receiver
) -> None:
    """Because nothing was generated."""
    configure(customer, to(receiver), cache_ttl=60)
    for status in ("MISS", "HIT"):
        answered = ask(customer, upstream, *FORMS["chat"][:3])
        assert answered.headers["cf-aig-cache-status"] == status
    first, second = map(attributes, spans_of(receiver.wait_for(lambda requests: len(spans_of(requests)) == 2)))
    assert (first["farebox.cached"], said(first)) == (False, ("chatcmpl-1", ["stop"]))
    assert (second["farebox.cached"], said(second)) == (True, (None, None))
