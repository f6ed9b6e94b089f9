"""Streams that end with the balance: nothing is delivered that is not held, the client sees an end at the limit, and
the account pays for what was delivered."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.calls import admit, slices
from farebox.ledger.commands import Hold
from farebox.money import format_usd
from tests.calls.kit import differences, set_provider
from tests.calls.test_exact_admission import BalanceWatch
from tests.calls.upstream import Upstream, serving
from tests.calls.wire import post
from tests.engines import ON_BOTH_ENGINES
from tests.process_death import crash_at_each_point, recover
from tests.sdks import anthropic, genai, openai
from tests.support import Customer, Farebox, running_farebox

pytestmark = [pytest.mark.slow, *ON_BOTH_ENGINES]

SHIPPED = slices.SLICE
SLICE = 256
"""Used instead of SHIPPED: streams of thousands of words would prove no more."""
WORDS = 800
MTOK = 1_000_000_000
GPT = "gpt-4o-mini"  # 0.15 and 0.60 USD per million tokens
ASKED: Any = [{"role": "user", "content": "Count."}]
ASKED_TOKENS = 9  # 3 + `user` + `Count` + `.` + 3


@pytest.fixture(scope="module", autouse=True)
def _small_slices() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (admit, slices):
            patch.setattr(module, "SLICE", SLICE)
        yield


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("balance"), hold_wait_ms=50) as served:
        yield served


@pytest.fixture(scope="module")
def upstream(farebox: Farebox) -> Iterator[Upstream]:
    with serving() as upstream:
        for slug in ("openai", "anthropic", "google-ai-studio"):
            set_provider(farebox, slug, base_url=upstream.url)
        yield upstream


def data(event: dict[str, Any]) -> bytes:
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def chat_stream(words: int = WORDS) -> bytes:
    """A stream of chat completions with one word, which is one token, per event."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": GPT}

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        return data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    usage = {"prompt_tokens": ASKED_TOKENS, "completion_tokens": words, "total_tokens": words + ASKED_TOKENS}
    return b"".join(
        [
            chunk({"role": "assistant", "content": ""}),
            *[chunk({"content": " one"})] * words,
            chunk({}, "stop"),
            data({**head, "choices": [], "usage": usage}),
            b"data: [DONE]\n\n",
        ]
    )


def responses_stream(words: int = WORDS) -> bytes:
    response = {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress", "model": "gpt-4o-mini",
        "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    }  # fmt: skip
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **where, "part": part},
        *[{"type": "response.output_text.delta", **where, "delta": " one", "logprobs": []}] * words,
    ]
    return b"".join(data({**event, "sequence_number": place}) for place, event in enumerate(events))


def messages_stream(words: int = WORDS) -> bytes:
    usage = {"input_tokens": 10, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-6", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " one"}}
    return b"".join(
        [
            data({"type": "message_start", "message": message}),
            data({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            *[data(delta)] * words,
            data({"type": "content_block_stop", "index": 0}),
            data({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": words}}),
            data({"type": "message_stop"}),
        ]
    )


def generate_stream(words: int = WORDS) -> bytes:
    candidate = {"content": {"parts": [{"text": " one"}], "role": "model"}, "index": 0}
    return data({"candidates": [candidate], "modelVersion": "gemini-2.0-flash", "responseId": "r1"}) * words


def with_credit(farebox: Farebox, nanos: int, *, held: int = 0) -> Customer:
    """An account with this much available. `held` is held in addition, by an application's hold, which is never in
    doubt."""
    customer = farebox.funded(format_usd(nanos + held))
    if held:
        services, now = farebox.services, farebox.services.clock.now_ms()
        other = Hold(
            account_id=customer.account_id, hold_id="other", amount=held, at=now, expires_at=now + 10**6, owner=""
        )
        assert farebox.run(services.ledger.do(other)).ok
    return customer


def receipt_of_last(customer: Customer) -> dict[str, Any]:
    rows = customer.farebox.run(customer.farebox.services.database.scan(_log_ids(customer.account_id)))
    return customer.receipt(rows[-1])


def _log_ids(account_id: str) -> Any:
    def read(connection: Any) -> list[str]:
        found = connection.execute("SELECT log_id FROM calls WHERE account_id = ? ORDER BY created_at", (account_id,))
        return [log_id for (log_id,) in found.fetchall()]

    return read


def openai_client(customer: Customer) -> Any:
    return openai.OpenAI(base_url=f"{customer.gateway_url}/openai", api_key=customer.token, max_retries=0)


def assert_spent(customer: Customer, charge: int, left: int, *, held: int = 0) -> None:
    """Check the charge, that nothing is held or written off, and that the books balance."""
    balance = customer.balance
    assert (balance.posted - held, balance.held) == (left, held)
    receipt = receipt_of_last(customer)
    assert receipt["charge_nanos"] == charge
    assert receipt["charge_nanos"] <= receipt["hold_nanos"]
    assert differences(customer.farebox) == []


def test_a_chat_is_stopped_where_the_balance_ends(farebox: Farebox, upstream: Upstream) -> None:
    upstream.says(chat_stream())
    credit = 300_000  # which pays for 497 tokens
    customer = with_credit(farebox, credit, held=10_000_000)
    with openai_client(customer) as client:
        stream = client.chat.completions.create(
            model=GPT, messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)

    assert "max_tokens" not in upstream.requested[-1], "the account could pay for all of it if other calls end in time"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    words = text.count(" one")
    assert 497 - 64 - 16 <= words <= 497, "all that can be paid for was delivered, except for the last few words"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    usage = chunks[-1].usage
    assert usage.completion_tokens == words
    charge = (usage.prompt_tokens * 15 + words * 60) * 10
    assert_spent(customer, charge, credit - charge, held=10_000_000)


def test_responses_are_stopped_where_the_balance_ends(farebox: Farebox, upstream: Upstream) -> None:
    upstream.says(responses_stream())
    credit = 300_000
    customer = with_credit(farebox, credit, held=10_000_000)
    with openai_client(customer) as client, client.responses.stream(model=GPT, input="Count.") as stream:
        events = list(stream)

    last = events[-1]
    assert last.type == "response.incomplete"
    response = last.response
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    words = response.output_text.count(" one")
    assert 367 - 64 - 16 <= words <= 497
    assert sum(event.type == "response.output_text.delta" for event in events) == words
    assert response.usage is not None
    assert response.usage.output_tokens == words
    charge = (response.usage.input_tokens * 15 + words * 60) * 10
    assert_spent(customer, charge, credit - charge, held=10_000_000)


def test_slices_have_their_default_length(farebox: Farebox, upstream: Upstream) -> None:
    """A stream of one slice and part of another."""
    words = SHIPPED + 100
    upstream.says(chat_stream(words))
    customer = with_credit(farebox, 5_000_000, held=20_000_000)
    with pytest.MonkeyPatch.context() as patch:
        for module in (admit, slices):
            patch.setattr(module, "SLICE", SHIPPED)
        with openai_client(customer) as client:
            chunks = list(client.chat.completions.create(model=GPT, messages=ASKED, stream=True))
    assert sum(chunk.choices[0].delta.content == " one" for chunk in chunks if chunk.choices) == words
    charge = (ASKED_TOKENS * 15 + words * 60) * 10
    assert_spent(customer, charge, 5_000_000 - charge, held=20_000_000)
    assert charge <= receipt_of_last(customer)["hold_nanos"] < charge + 2 * SHIPPED * 600


def test_a_message_is_stopped_where_the_balance_ends(farebox: Farebox, upstream: Upstream) -> None:
    """Its tokenizer is unknown: the delivered output is bounded by its bytes."""
    upstream.says(messages_stream())
    credit = 9_000_000  # which covers slightly less than 600 bytes of output, at 15 USD per million
    customer = with_credit(farebox, credit, held=500_000_000)
    base_url = f"{customer.gateway_url}/anthropic"
    made: Any = anthropic.Anthropic(base_url=base_url, api_key=customer.token, max_retries=0)
    with (
        made as client,
        client.messages.stream(model="claude-sonnet-4-6", max_tokens=20_000, messages=ASKED) as stream,
    ):
        message = stream.get_final_message()

    assert message.stop_reason == "max_tokens"
    text = message.content[0].text
    assert 430 <= len(text) <= 600
    assert message.usage.output_tokens == text.count(" one")
    charge = 10 * 3_000 + message.usage.output_tokens * 15_000
    assert_spent(customer, charge, credit - charge, held=500_000_000)


def test_generated_content_is_stopped_where_the_balance_ends(farebox: Farebox, upstream: Upstream) -> None:
    upstream.says(generate_stream())
    credit = 400_000  # which covers slightly less than 1,000 bytes of output, at 0.40 USD per million
    customer = with_credit(farebox, credit, held=10_000_000)
    options = genai.types.HttpOptions(base_url=f"{customer.gateway_url}/google-ai-studio")
    made: Any = genai.Client(api_key=customer.token, http_options=options)
    with made as client:
        chunks = list(client.models.generate_content_stream(model="gemini-2.0-flash", contents="Count."))

    assert chunks[-1].candidates[0].finish_reason == "MAX_TOKENS"
    words = sum((chunk.text or "").count(" one") for chunk in chunks)
    assert 880 <= 4 * words <= 1_000
    usage = chunks[-1].usage_metadata
    assert usage.candidates_token_count == words
    charge = usage.prompt_token_count * 100 + words * 400
    assert_spent(customer, charge, credit - charge, held=10_000_000)


def test_a_stream_that_is_alone_is_limited_by_its_provider(farebox: Farebox, upstream: Upstream) -> None:
    """The request asks for no more than the account can pay for."""
    upstream.says(chat_stream(100))
    customer = with_credit(farebox, 2_000_000)
    with openai_client(customer) as client:
        list(client.chat.completions.create(model=GPT, messages=ASKED, stream=True))

    assert 3_200 <= upstream.requested[-1]["max_tokens"] <= 3_331
    assert_spent(customer, (9 * 15 + 100 * 60) * 10, 2_000_000 - (9 * 15 + 100 * 60) * 10)


def test_a_long_stream_on_a_small_balance_is_whole_if_that_can_pay_for_it(farebox: Farebox, upstream: Upstream) -> None:
    upstream.says(chat_stream(400))
    customer = with_credit(farebox, 300_000, held=20_000_000)
    with openai_client(customer) as client:
        chunks = list(client.chat.completions.create(model=GPT, messages=ASKED, stream=True))

    assert chunks[-1].choices[0].finish_reason == "stop"
    charge = (9 * 15 + 400 * 60) * 10
    assert_spent(customer, charge, 300_000 - charge, held=20_000_000)


def test_the_operators_limit_is_held_for_if_the_request_has_none(farebox: Farebox, upstream: Upstream) -> None:
    upstream.says(chat_stream(20))
    customer = with_credit(farebox, 10_000_000_000)
    settings = farebox.services.settings
    object.__setattr__(settings, "output_default", 500)
    try:
        with openai_client(customer) as client:
            list(client.chat.completions.create(model=GPT, messages=ASKED, stream=True))
            limited = upstream.requested[-1]
            hold = receipt_of_last(customer)["hold_nanos"]
            list(client.chat.completions.create(model=GPT, messages=ASKED, stream=True, max_tokens=900))
    finally:
        object.__setattr__(settings, "output_default", 0)

    assert limited["max_tokens"] == 500
    assert 500 * 600 < hold < 600 * 600
    assert upstream.requested[-1]["max_tokens"] == 900


async def test_many_streams_share_a_small_balance_and_none_costs_more_than_it_holds(
    farebox: Farebox, upstream: Upstream
) -> None:
    """Ten times as many streams as the money covers slices: those that are admitted end with the balance."""
    words, at_once = 2_000, 4
    upstream.says(chat_stream(words))
    credit = at_once * (SLICE + 100) * 600
    customer = with_credit(farebox, credit, held=100_000_000)
    body = json.dumps({"model": f"openai/{GPT}", "messages": ASKED, "stream": True}).encode()
    with BalanceWatch(customer) as watch:
        responses = await asyncio.gather(*(post(customer, body) for _ in range(10 * at_once)))

    served = [response for response in responses if response.status == 200]
    assert 1 <= len(served) <= 2 * at_once, "a stream that ended may have left a slice for another"
    assert {response.status for response in responses} == {200, 429}
    assert watch.least_available >= 0
    spent = 0
    for response in served:
        assert response.events[-1] == "[DONE]"
        assert response.events[-2]["choices"][0]["finish_reason"] == "length"
        receipt = customer.receipt(response.log_id)
        assert receipt["charge_nanos"] <= receipt["hold_nanos"]
        assert "written_off_nanos" not in receipt
        delivered = sum(
            event != "[DONE]" and event["choices"][0]["delta"].get("content") == " one" for event in response.events
        )
        assert receipt["charge_nanos"] == (9 * 15 + delivered * 60) * 10
        spent += receipt["charge_nanos"]
    assert (customer.balance.posted, customer.balance.held) == (credit + 100_000_000 - spent, 100_000_000)
    assert spent <= credit
    assert differences(farebox) == []


def test_a_sliced_stream_whose_gateway_dies_anywhere(farebox: Farebox, upstream: Upstream) -> None:
    """Everything delivered had been held for. Charged by the policy for calls in doubt, the hold pays for it, and the
    balance pays for the hold."""
    words, credit, held = 150, 375_000, 10_000_000
    upstream.says(chat_stream(words))
    services, body = farebox.services, {"model": GPT, "messages": ASKED, "stream": True}
    for crash in crash_at_each_point((services.ledger, "do"), (services.upstream, "send"), at_least=12):
        customer, came = with_credit(farebox, credit, held=held), b""
        url = f"{customer.gateway_url}/openai/chat/completions"
        stream = httpx.stream("POST", url, json=body, headers=customer.headers, timeout=60)
        with crash, contextlib.suppress(httpx.TransportError), stream as response:
            for piece in response.iter_raw():
                came += piece
        words_passed = came.count(b" one")
        passed = ASKED_TOKENS * 150 + words_passed * 600 if words_passed else 0
        recover(customer, "charge")
        charged = credit + held - customer.balance.posted
        assert customer.balance.held == held, crash.point
        assert passed <= charged <= credit, crash.point
        assert b"[DONE]" not in came or charged == passed
    assert differences(farebox) == []
