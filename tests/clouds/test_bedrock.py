"""Amazon Bedrock, called with boto3 and with Anthropic's SDK for it, against an upstream that uses Amazon's framing and
checks signatures as Amazon does."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from farebox.providers.formats.event_frames import frame
from tests.calls.kit import set_provider
from tests.calls.upstream import Sent, Upstream
from tests.clouds.kit import all_of, charged, free
from tests.engines import ON_BOTH_ENGINES
from tests.sdks import anthropic, boto3, botocore
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

ACCESS, SECRET, SESSION = (
    "AKIDEXAMPLE0123456",
    "secret-access-key-of-the-test/+0123",
    "session-token-of-the-test-0123==",
)
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
REGION = "us-east-1"
HAIKU = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
"""1.1 and 5.5 USD per million tokens in an Amazon region: a tenth more than `global.…`."""
NOVA = "amazon.nova-lite-v1:0"
MESSAGES: Any = [{"role": "user", "content": [{"text": "Hello there " * 500}]}]
LIMIT = {"maxTokens": 200}
EVENT_STREAM = "application/vnd.amazon.eventstream"


@pytest.fixture(scope="module", autouse=True)
def _bedrock(farebox: Farebox, upstream: Upstream) -> None:
    key: dict[str, Any] = {"access_key_id": ACCESS, "secret_access_key": SECRET, "session_token": SESSION}
    key |= {"regions": [REGION, "eu-west-1"], "models": {PROFILE: "anthropic.claude-haiku-4-5-20251001-v1:0"}}
    set_provider(farebox, "aws-bedrock", base_url=upstream.url + "/at/{host}", api_key=json.dumps(key))


@pytest.fixture(scope="module")
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("50")


@pytest.fixture(scope="module")
def bedrock(customer: Customer) -> Iterator[Any]:
    client = client_at(customer, REGION)
    yield client
    client.close()


def client_at(customer: Customer, region: str) -> Any:
    """boto3's client, with the access token sent like a Bedrock API key; boto3 itself sends one over TLS only."""
    from botocore import UNSIGNED
    from botocore.config import Config

    def authorize(request: Any, **_: Any) -> None:
        request.headers["authorization"] = f"Bearer {customer.token}"

    client = boto3.client(
        "bedrock-runtime",
        region_name=region,
        endpoint_url=f"{customer.gateway_url}/aws-bedrock/bedrock-runtime/{region}",
        config=Config(retries={"total_max_attempts": 1}, signature_version=UNSIGNED),
    )
    client.meta.events.register("before-send.bedrock-runtime", authorize)
    return client


def check_signature(sent: Sent, region: str = REGION) -> None:
    """Fails unless the request is signed as Amazon checks it."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    parts = dict(part.split("=", 1) for part in sent.headers["authorization"].partition(" ")[2].split(", "))
    assert parts["Credential"].split("/")[0] == ACCESS
    assert parts["Credential"].split("/")[2:] == [region, "bedrock", "aws4_request"]
    names = parts["SignedHeaders"].split(";")
    assert {"host", "x-amz-date", "x-amz-security-token"} <= set(names)
    assert ("content-type" in names) == ("content-type" in sent.headers)
    assert sent.headers["x-amz-security-token"] == SESSION
    url = f"http://{sent.headers['host']}{sent.path}"
    again = AWSRequest(sent.method, url, headers={name: sent.headers[name] for name in names}, data=sent.body)
    again.context["timestamp"] = sent.headers["x-amz-date"]
    signer = SigV4Auth(Credentials(ACCESS, SECRET, SESSION), "bedrock", region)
    canonical = signer.canonical_request(again)
    assert canonical.endswith(hashlib.sha256(sent.body).hexdigest())
    assert parts["Signature"] == signer.signature(signer.string_to_sign(again, canonical), again)


def event(kind: str, payload: Any) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps(payload).encode())


def converse_stream(usage: dict[str, Any], **more: Any) -> bytes:
    said = [{"delta": {"text": text}, "contentBlockIndex": 0} for text in ("Good ", "day.")]
    return b"".join(
        [
            event("messageStart", {"role": "assistant"}),
            *(event("contentBlockDelta", delta) for delta in said),
            event("contentBlockStop", {"contentBlockIndex": 0}),
            event("messageStop", {"stopReason": "end_turn"}),
            event("metadata", {"usage": usage, "metrics": {"latencyMs": 1}, **more}),
        ]
    )


def tokens(input_tokens: int, output_tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "inputTokens": input_tokens,
        "outputTokens": output_tokens,
        "totalTokens": input_tokens + output_tokens,
        **more,
    }


def converse_body(usage: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"text": "Good day."}]}
    return {"output": {"message": message}, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1}}


@pytest.mark.parametrize(
    ("model", "nanos"),
    [
        (HAIKU, 1000 * 1_100 + 100 * 5_500),
        ("global." + HAIKU[3:], 1000 * 1_000 + 100 * 5_000),
        ("eu." + HAIKU[3:], 1000 * 1_100 + 100 * 5_500),
        (f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{HAIKU}", 1000 * 1_100 + 100 * 5_500),
        (f"arn:aws:bedrock:us-east-1::foundation-model/{NOVA}", 1000 * 60 + 100 * 240),
        (PROFILE, 1000 * 1_100 + 100 * 5_500),
        (NOVA, 1000 * 60 + 100 * 240),
        ("us." + NOVA, 1000 * 60 + 100 * 240),
        ("meta.llama3-3-70b-instruct-v1:0", 1000 * 720 + 100 * 720),
        ("us.deepseek.r1-v1:0", 1000 * 1_350 + 100 * 5_400),
        ("openai.gpt-oss-120b-1:0", 1000 * 150 + 100 * 600),
    ],
)
def test_converse(customer: Customer, upstream: Upstream, bedrock: Any, model: str, nanos: int) -> None:
    """Models, regional inference profiles, and ARNs of both have the prices of the models that they stand for."""
    upstream.response = converse_body(tokens(1000, 100))
    with charged(customer) as cost:
        answer = bedrock.converse(modelId=model, messages=MESSAGES, inferenceConfig=LIMIT)
    assert answer["output"]["message"]["content"][0]["text"] == "Good day."
    assert cost.nanos == nanos
    (sent,) = upstream.sent
    check_signature(sent)
    assert sent.path == f"/at/bedrock-runtime.us-east-1.amazonaws.com/model/{quote(model, safe='')}/converse"
    assert customer.token not in json.dumps(sent.headers)


def test_converse_with_a_cache(customer: Customer, upstream: Upstream, bedrock: Any) -> None:
    written = [{"ttl": "5m", "inputTokens": 300}, {"ttl": "1h", "inputTokens": 100}]
    usage = tokens(1000, 100, cacheReadInputTokens=2000, cacheWriteInputTokens=400, cacheDetails=written)
    upstream.response = converse_body(usage)
    with charged(customer) as cost:
        bedrock.converse(modelId=HAIKU, messages=MESSAGES, inferenceConfig=LIMIT)
    assert cost.nanos == 1000 * 1_100 + 2000 * 110 + 300 * 1_375 + 100 * 2_200 + 100 * 5_500


def test_converse_stream(customer: Customer, upstream: Upstream, bedrock: Any) -> None:
    upstream.says(converse_stream(tokens(1000, 100)), EVENT_STREAM)
    with charged(customer) as cost:
        answer = bedrock.converse_stream(modelId=HAIKU, messages=MESSAGES, inferenceConfig=LIMIT)
        events = list(all_of(answer["stream"]))
    assert "".join(e["contentBlockDelta"]["delta"]["text"] for e in events if "contentBlockDelta" in e) == "Good day."
    assert events[-1]["metadata"]["usage"]["totalTokens"] == 1100
    assert cost.nanos == 1000 * 1_100 + 100 * 5_500
    check_signature(upstream.sent[0])


def test_a_stream_passes_unchanged(customer: Customer, upstream: Upstream) -> None:
    raw = converse_stream(tokens(1000, 100))
    upstream.says(raw, EVENT_STREAM)
    url = (
        f"{customer.gateway_url}/aws-bedrock/bedrock-runtime/{REGION}/model/{HAIKU.replace(':', '%3A')}/converse-stream"
    )
    with charged(customer):
        response = httpx.post(url, json={"messages": MESSAGES, "inferenceConfig": LIMIT}, headers=customer.headers)
    assert response.content == raw
    assert response.headers["content-type"] == EVENT_STREAM


def test_a_stream_in_amazons_framing_does_not_pass_a_rule_that_blocks(farebox: Farebox, upstream: Upstream) -> None:
    """Its text is not read, so a stream, which cannot be judged, is refused; a whole response is judged."""
    customer = farebox.funded("5")
    screen: dict[str, Any] = {"enabled": True, "policies": [
        {"id": "p", "enabled": True, "check": ["RESPONSE"], "action": "BLOCK", "profiles": ["payment_cards"]},
    ]}  # fmt: skip
    configured(customer, dlp=screen)
    path = f"{customer.gateway_url}/aws-bedrock/bedrock-runtime/{REGION}/model/{NOVA.replace(':', '%3A')}"
    body = {"messages": MESSAGES, "inferenceConfig": LIMIT}
    upstream.says(converse_stream(tokens(1000, 100)), EVENT_STREAM)
    with free(customer):
        response = httpx.post(f"{path}/converse-stream", json=body, headers=customer.headers)
    assert (response.status_code, response.json()["internalCode"]) == (502, 2981)
    assert "ask for a whole response" in response.json()["message"]
    assert not upstream.sent, "it was not generated"
    upstream.response = converse_body(tokens(1000, 100))
    with charged(customer):
        assert httpx.post(f"{path}/converse", json=body, headers=customer.headers).status_code == 200
    screen["policies"][0]["action"] = "FLAG"
    configured(customer, dlp=screen)
    upstream.says(converse_stream(tokens(1000, 100)), EVENT_STREAM)
    with charged(customer) as cost:
        flagged = httpx.post(f"{path}/converse-stream", json=body, headers=customer.headers)
    assert flagged.content == converse_stream(tokens(1000, 100))
    assert cost.row["unscreened"], "the log says so"


def configured(customer: Customer, **fields: Any) -> None:
    httpx.get(f"{customer.gateway_url}/compat/models", headers=customer.headers)
    url = f"{customer.api_url}/ai-gateway/gateways/default"
    response = httpx.patch(url, json=fields, headers=customer.headers)
    assert response.status_code == 200, response.text


ANTHROPIC = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 200}
SAID = [{"role": "user", "content": "Hello there " * 500}]
CHAT = {"messages": SAID, "max_tokens": 200}
COUNTED = {"x-amzn-bedrock-input-token-count": "1000", "x-amzn-bedrock-output-token-count": "100"}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Good day."}, "finish_reason": "stop"}
ANSWER = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5-20251001",
    "content": [{"type": "text", "text": "Good day."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1000, "output_tokens": 100},
}
PROMPT = "Hello there " * 500
INVOKED: list[tuple[str, Any, Any, dict[str, str], int]] = [
    (HAIKU, {**ANTHROPIC, "messages": SAID}, ANSWER, {}, 1000 * 1_100 + 100 * 5_500),
    (
        NOVA,
        {"messages": MESSAGES, "inferenceConfig": {"maxTokens": 200}},
        {"output": {"message": {"content": [{"text": "Good day."}]}}, "usage": tokens(1000, 100)},
        {},
        1000 * 60 + 100 * 240,
    ),
    (
        "amazon.titan-text-express-v1",
        {"inputText": PROMPT, "textGenerationConfig": {"maxTokenCount": 200}},
        {"inputTextTokenCount": 1000, "results": [{"tokenCount": 100, "outputText": "Good day."}]},
        {},
        1000 * 200 + 100 * 600,
    ),
    (
        "meta.llama3-3-70b-instruct-v1:0",
        {"prompt": PROMPT, "max_gen_len": 200},
        {"generation": "Good day.", "prompt_token_count": 1000, "generation_token_count": 100},
        {},
        1000 * 720 + 100 * 720,
    ),
    (
        "mistral.mistral-large-2402-v1:0",
        {"prompt": PROMPT, "max_tokens": 200},
        {"outputs": [{"text": "Good day.", "stop_reason": "stop"}]},
        COUNTED,
        1000 * 4_000 + 100 * 12_000,
    ),
    ("mistral.ministral-3-8b-instruct", CHAT, {"choices": [CHOICE]}, COUNTED, -1),
    ("deepseek.r1-v1:0", {"prompt": PROMPT, "max_tokens": 200}, {"choices": [{"text": "Good"}]}, COUNTED, 1_890_000),
    (
        "qwen.qwen3-32b-v1:0",
        CHAT,
        {"choices": [CHOICE], "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}},
        {"x-amzn-bedrock-input-token-count": "200", "x-amzn-bedrock-cache-read-input-token-count": "800"},
        -1,
    ),
    (
        "openai.gpt-oss-20b-1:0",
        CHAT,
        {"choices": [CHOICE], "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}},
        {},
        -1,
    ),
]


@pytest.mark.parametrize(("model", "body", "answer", "headers", "nanos"), INVOKED, ids=[row[0] for row in INVOKED])
def test_invoke(
    customer: Customer, upstream: Upstream, bedrock: Any, model: str, body: Any, answer: Any, headers: Any, nanos: int
) -> None:
    """Each vendor's own format; if a response has no usage, Amazon's headers have it."""
    upstream.response, upstream.headers = answer, headers
    with charged(customer) as cost:
        found = bedrock.invoke_model(modelId=model, body=json.dumps(body))
        with contextlib.closing(found["body"]) as held:
            assert json.loads(held.read()) == answer
    if nanos >= 0:
        assert cost.nanos == nanos
    assert {line["meter"]: line["quantity"] for line in cost.receipt["lines"]} == {
        "input_tokens": "1000",
        "output_tokens": "100",
    }
    check_signature(upstream.sent[0])


def chunks(*events: dict[str, Any]) -> bytes:
    return b"".join(
        event("chunk", {"bytes": base64.b64encode(json.dumps(one).encode()).decode(), "p": "abcd"}) for one in events
    )


METRICS = {"inputTokenCount": 1000, "outputTokenCount": 100, "invocationLatency": 5, "firstByteLatency": 1}


def anthropic_stream() -> bytes:
    start = {**ANSWER, "content": [], "usage": {"input_tokens": 1000, "output_tokens": 1}}
    return chunks(
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Good day."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}},
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS},
    )


def test_invoke_with_a_stream(customer: Customer, upstream: Upstream, bedrock: Any) -> None:
    """The figures of the last chunk count if the vendor's own events have none."""
    upstream.says(
        chunks({"generation": "Good "}, {"generation": "day.", "amazon-bedrock-invocationMetrics": METRICS}),
        EVENT_STREAM,
    )
    with charged(customer) as cost:
        answer = bedrock.invoke_model_with_response_stream(
            modelId="meta.llama3-3-70b-instruct-v1:0", body=json.dumps({"prompt": PROMPT, "max_gen_len": 200})
        )
        said = [json.loads(one["chunk"]["bytes"])["generation"] for one in all_of(answer["body"])]
    assert said == ["Good ", "day."]
    assert cost.nanos == 1000 * 720 + 100 * 720


@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_own_client(customer: Customer, upstream: Upstream, stream: bool) -> None:
    client = anthropic.AnthropicBedrock(
        base_url=f"{customer.gateway_url}/aws-bedrock/bedrock-runtime/{REGION}",
        aws_region=REGION,
        api_key=customer.token,
        max_retries=0,
    )
    if stream:
        upstream.says(anthropic_stream(), EVENT_STREAM)
    else:
        upstream.response = ANSWER
    with client, charged(customer) as cost:
        if stream:
            with client.messages.stream(model=HAIKU, max_tokens=200, messages=SAID) as events:  # type: ignore[arg-type]
                assert events.get_final_text() == "Good day."
        else:
            message = client.messages.create(model=HAIKU, max_tokens=200, messages=SAID)  # type: ignore[arg-type]
            assert message.content[0].text == "Good day."  # type: ignore[union-attr]
    assert cost.nanos == 1000 * 1_100 + 100 * 5_500
    assert cost.row["model"]


def test_embeddings(customer: Customer, upstream: Upstream, bedrock: Any) -> None:
    upstream.response = {"embedding": [0.25] * 8, "inputTextTokenCount": 1000}
    with charged(customer) as cost:
        found = bedrock.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=json.dumps({"inputText": PROMPT}))
        found["body"].close()
    assert cost.nanos == 1000 * 20


def test_the_open_form_of_mantle(customer: Customer, upstream: Upstream) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    upstream.response = {"id": "c", "object": "chat.completion", "model": "m", "choices": [CHOICE], "usage": usage}
    url = f"{customer.gateway_url}/aws-bedrock/bedrock-mantle/{REGION}/v1/chat/completions"
    with charged(customer) as cost:
        body = {"model": "openai.gpt-oss-120b-1:0", **CHAT}
        assert httpx.post(url, json=body, headers=customer.headers).status_code == 200
    assert cost.nanos == 1000 * 150 + 100 * 600
    assert upstream.sent[0].path == "/at/bedrock-mantle.us-east-1.api.aws/v1/chat/completions"


# --- what goes wrong --------------------------------------------------------------------------------------------------


def wrong_checksum(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def wrong_prelude(raw: bytes) -> bytes:
    return raw[:9] + bytes([raw[9] ^ 1]) + raw[10:]


def too_long(_: bytes) -> bytes:
    first = struct.pack(">II", 2**26, 0)
    return first + zlib.crc32(first).to_bytes(4) + b"x" * 64


LLAMA = "meta.llama3-3-70b-instruct-v1:0"
FIRST = event("contentBlockDelta", {"delta": {"text": "Good "}, "contentBlockIndex": 0})


@pytest.mark.parametrize("spoil", [wrong_checksum, wrong_prelude, too_long, lambda _: b"\x07unexpected bytes " * 8])
def test_a_stream_whose_first_message_is_broken_costs_nothing(
    customer: Customer, upstream: Upstream, bedrock: Any, spoil: Any
) -> None:
    upstream.says(spoil(FIRST) + converse_stream(tokens(1000, 100)), EVENT_STREAM)
    with free(customer), pytest.raises(botocore.exceptions.ClientError, match=r"broke off|event stream") as raised:
        list(all_of(bedrock.converse_stream(modelId=HAIKU, messages=MESSAGES, inferenceConfig=LIMIT)["stream"]))
    assert "broken" in str(raised.value)


@pytest.mark.parametrize("spoil", [wrong_checksum, wrong_prelude, too_long, lambda _: b"\x07unexpected bytes " * 8])
def test_a_stream_of_invoke_whose_first_message_is_broken_costs_nothing(
    customer: Customer, upstream: Upstream, bedrock: Any, spoil: Any
) -> None:
    upstream.says(spoil(chunks({"generation": "Good "})) + chunks({"generation": "day."}), EVENT_STREAM)
    body = json.dumps({"prompt": PROMPT, "max_gen_len": 200})
    with free(customer), pytest.raises(botocore.exceptions.ClientError, match=r"broke off|event stream"):
        list(all_of(bedrock.invoke_model_with_response_stream(modelId=LLAMA, body=body)["body"]))


def test_a_stream_that_is_broken_later_costs_what_was_delivered(
    customer: Customer, upstream: Upstream, bedrock: Any
) -> None:
    """The client gets what came before, and then an exception in Amazon's framing."""
    upstream.says(FIRST + wrong_checksum(FIRST), EVENT_STREAM)
    found: list[Any] = []
    with charged(customer) as cost, pytest.raises(botocore.exceptions.ClientError, match="modelStreamErrorException"):
        found.extend(all_of(bedrock.converse_stream(modelId=HAIKU, messages=MESSAGES, inferenceConfig=LIMIT)["stream"]))
    assert found == [{"contentBlockDelta": {"delta": {"text": "Good "}, "contentBlockIndex": 0}}]
    assert 0 < cost.nanos < 1100 * 1_100 + 10 * 5_500
    assert cost.receipt["usage_source"] == "counted"


def test_a_stream_that_ends_early_is_reported(customer: Customer, upstream: Upstream, bedrock: Any) -> None:
    upstream.says(FIRST + FIRST[:20], EVENT_STREAM)
    with charged(customer), pytest.raises(botocore.exceptions.ClientError, match="modelStreamErrorException"):
        list(all_of(bedrock.converse_stream(modelId=HAIKU, messages=MESSAGES, inferenceConfig=LIMIT)["stream"]))


def test_an_exception_in_a_stream_passes(customer: Customer, upstream: Upstream, bedrock: Any) -> None:
    kinds = {":message-type": "exception", ":exception-type": "throttlingException"}
    upstream.says(frame(kinds, b'{"message":"Too many tokens, slow down"}'), EVENT_STREAM)
    with free(customer), pytest.raises(botocore.exceptions.ClientError, match="Too many tokens"):
        list(all_of(bedrock.converse_stream(modelId=HAIKU, messages=MESSAGES, inferenceConfig=LIMIT)["stream"]))


@pytest.mark.parametrize(
    "message",
    [
        "The security token included in the request is expired",
        "The security token included in the request is invalid.",
        "Signature expired: 20261201T000000Z is now earlier than 20261201T000500Z (20261201T001000Z - 5 min.)",
        "Signature not yet current: 20261201T001000Z is still later than 20261201T000500Z (20261201T000000Z + 5 min.)",
        "The request signature we calculated does not match the signature you provided.",
    ],
)
def test_a_key_or_clock_that_amazon_refuses(customer: Customer, upstream: Upstream, bedrock: Any, message: str) -> None:
    """This is the operator's problem: to the caller, the provider is unavailable."""
    upstream.status, upstream.response = 403, {"message": message}
    with free(customer), pytest.raises(botocore.exceptions.ClientError) as raised:
        bedrock.converse(modelId=HAIKU, messages=MESSAGES, inferenceConfig=LIMIT)
    assert raised.value.response["Error"]["Code"] == "ServiceUnavailableException"
    assert "Nothing was charged" in raised.value.response["Error"]["Message"]


def test_the_operators_identity_is_not_revealed(customer: Customer, upstream: Upstream, bedrock: Any) -> None:
    who = "User: arn:aws:iam::123456789012:user/operator is not authorized to perform: bedrock:InvokeModel"
    upstream.status, upstream.response = 403, {"message": who}
    upstream.headers = {"x-amzn-errortype": "AccessDeniedException"}
    with free(customer), pytest.raises(botocore.exceptions.ClientError, match="not authorized") as raised:
        bedrock.converse(modelId=HAIKU, messages=MESSAGES, inferenceConfig=LIMIT)
    assert "123456789012" not in str(raised.value)
    assert "operator" not in str(raised.value)


def test_errors_have_amazons_form(customer: Customer, upstream: Upstream, bedrock: Any) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"modelId": "cohere.command-r-plus-v1:0"}, "ValidationException", "farebox price set aws-bedrock"),
        (
            {"guardrailConfig": {"guardrailIdentifier": "abc", "guardrailVersion": "1"}},
            "ValidationException",
            "guardrail",
        ),
        ({"performanceConfig": {"latency": "optimized"}}, "ValidationException", "latency=optimized"),
        ({"serviceTier": {"type": "priority"}}, "ValidationException", "service_tier=priority"),
    ]
    for more, code, words in cases:
        asked: dict[str, Any] = {"modelId": HAIKU, "messages": MESSAGES, "inferenceConfig": LIMIT, **more}
        with free(customer), pytest.raises(botocore.exceptions.ClientError, match=words) as raised:
            bedrock.converse(**asked)
        assert raised.value.response["Error"]["Code"] == code
    assert not upstream.sent


@pytest.mark.parametrize(
    "path",
    [
        "bedrock-runtime/us-east-1.evil.example/model/x/converse",
        "bedrock-runtime/us-east-1%2eevil/model/x/converse",
        "bedrock-runtime/US_EAST/model/x/converse",
        "s3/us-east-1/model/x/converse",
        "bedrock-runtime/us-east-1@evil/model/x/converse",
        "bedrock-runtime//model/x/converse",
    ],
)
def test_a_bedrock_host_cannot_be_injected(customer: Customer, upstream: Upstream, path: str) -> None:
    for headers in (customer.headers, {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "AWS4 x"}):
        with free(customer):
            url = f"{customer.gateway_url}/aws-bedrock/{path}"
            response = httpx.post(url, json={"messages": MESSAGES}, headers=headers)
            assert response.status_code == 400, response.text
    assert not upstream.sent


def test_a_region_that_the_key_does_not_allow(customer: Customer, upstream: Upstream) -> None:
    error = pytest.raises(botocore.exceptions.ClientError, match=r"not for the .*“ap-south-1”")
    with contextlib.closing(client_at(customer, "ap-south-1")) as client, free(customer), error:
        client.converse(modelId=HAIKU, messages=MESSAGES)
    assert not upstream.sent


def test_a_region_that_does_not_exist(farebox: Farebox, upstream: Upstream) -> None:
    """The name has the form of a region, but its host name does not resolve, and the caller gets an error."""
    customer = farebox.funded("1")
    set_provider(farebox, "aws-bedrock", base_url="https://{host}.invalid", api_key="bedrock-api-key-0123")
    try:
        with free(customer):
            url = f"{customer.gateway_url}/aws-bedrock/bedrock-runtime/xx-nowhere-9/model/{NOVA}/converse"
            response = httpx.post(url, json={"messages": MESSAGES, "inferenceConfig": LIMIT}, headers=customer.headers)
        assert response.status_code == 502
        assert "could not be reached (dns)" in response.json()["message"]
    finally:
        _bedrock.__wrapped__(farebox, upstream)  # type: ignore[attr-defined]


def test_a_bedrock_api_key_is_a_bearer(farebox: Farebox, upstream: Upstream) -> None:
    customer = farebox.funded("1")
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    fields = {
        "alias": "default",
        "default_config": True,
        "provider_slug": "aws-bedrock",
        "secret": "bedrock-api-key-012",
    }
    assert httpx.post(url, json=fields, headers=customer.headers).status_code == 200
    upstream.response = converse_body(tokens(1000, 100))
    with free(customer):
        url = f"{customer.gateway_url}/aws-bedrock/bedrock-runtime/ap-south-1/model/{NOVA}/converse"
        assert httpx.post(url, json={"messages": MESSAGES}, headers=customer.headers).status_code == 200
    assert upstream.sent[0].headers["authorization"] == "Bearer bedrock-api-key-012"
    assert "/bedrock-runtime.ap-south-1.amazonaws.com/" in upstream.sent[0].path


def test_a_request_that_its_caller_has_signed_passes(customer: Customer, upstream: Upstream) -> None:
    """As with Cloudflare's gateway, it is signed for Amazon's own host. It is not changed, and nothing is charged."""
    upstream.response = converse_body(tokens(1000, 100))
    signed = {"authorization": "AWS4-HMAC-SHA256 Credential=AKID/…", "x-amz-date": "20261201T000000Z"}
    headers = {**signed, "authorization": "AWS4-HMAC-SHA256 Credential=AKIDMINE, Signature=00"}
    with free(customer):
        url = f"{customer.gateway_url}/aws-bedrock/bedrock-runtime/ap-south-1/model/{NOVA}/converse"
        all_headers = {**headers, "cf-aig-authorization": f"Bearer {customer.token}"}
        assert httpx.post(url, json={"messages": MESSAGES}, headers=all_headers).status_code == 200
    assert headers.items() <= upstream.sent[0].headers.items()


def test_keys_that_share_calls_sign_with_their_own_secret(farebox: Farebox, upstream: Upstream) -> None:
    customer = farebox.funded("1")
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    for alias in ("one", "two"):
        secret = json.dumps({"access_key_id": f"AKID{alias.upper()}0123456789", "secret_access_key": SECRET})
        fields = {"alias": alias, "default_config": alias == "one", "provider_slug": "aws-bedrock", "secret": secret}
        made = httpx.post(url, json={**fields, "weight": 1}, headers=customer.headers)
        assert made.status_code == 200, made.text

    def answer(request: Sent) -> dict[str, Any]:
        refused = "AKIDONE" in request.headers["authorization"]
        upstream.status = 429 if refused else 200
        return {"message": "Too many requests"} if refused else converse_body(tokens(1000, 100))

    upstream.response = answer
    url = f"{customer.gateway_url}/aws-bedrock/bedrock-runtime/{REGION}/model/{NOVA}/converse"
    with free(customer):
        for _ in range(24):
            assert httpx.post(url, json={"messages": MESSAGES}, headers=customer.headers).status_code == 200
    signed_by = [request.headers["authorization"].partition("Credential=")[2][:7] for request in upstream.sent]
    assert signed_by.count("AKIDTWO") == 24
    assert signed_by.count("AKIDONE") == 1, "the refused key is paused afterwards"
