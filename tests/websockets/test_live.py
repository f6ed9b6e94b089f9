"""Google's Live API on the operator's key: each response is held for, charged once and recorded, however it ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.server import ServerConnection

from farebox.money import NANOS_PER_USD
from farebox.providers.websockets.gemini_live import GeminiLiveReader
from tests.calls.kit import OPERATOR_KEY, log_rows, set_provider
from tests.calls.test_token_models import limited
from tests.engines import ON_BOTH_ENGINES
from tests.sdks import genai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until
from tests.websockets.kit import SECONDS, SocketProvider, await_close, opened, settled, turns_of
from tests.websockets.live import (
    HEARD,
    MODEL,
    PATH,
    SAID,
    TURN_USED,
    Live,
    ask,
    await_turn,
    cost,
    hear,
    say,
    sdk_options,
    session,
    set_up,
    speak,
    spoken,
    tell,
    tokens_read,
    turn_cost,
    usage,
)

pytestmark = ON_BOTH_ENGINES
OTHER = {"model": f"models/{MODEL}", "generationConfig": {"maxOutputTokens": 100}}


@pytest.fixture(scope="module")
def farebox(engine: str, provider: SocketProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("live")) as served:
        set_provider(served, "google-ai-studio", base_url=provider.url)
        yield served


@pytest.fixture
def live(provider: SocketProvider) -> Live:
    provider.forget()
    provider.script = played = Live()
    return played


# --- turns ---


async def test_google_s_sdk_and_each_response_is_charged_once(
    customer: Customer, provider: SocketProvider, live: Live
) -> None:
    posted = 5 * NANOS_PER_USD
    live.hears_every = 2
    config: Any = {
        "response_modalities": ["AUDIO"],
        "max_output_tokens": 100,
        "system_instruction": "Be brief.",
        "session_resumption": {},
        "context_window_compression": {"sliding_window": {}},
        "output_audio_transcription": {},
        "tools": [{"function_declarations": [{"name": "look_up"}]}],
    }
    async with sdk_options(customer, "google-ai-studio") as options:
        client = genai.Client(api_key=customer.token, http_options=options)
        async with client.aio.live.connect(model=MODEL, config=config) as connection:
            assert customer.balance.held > 0
            await connection.send_client_content(turns={"role": "user", "parts": [{"text": "Hello"}]})
            assert await tokens_read(connection) == 565
            assert (customer.balance.posted, customer.balance.held) == (posted - turn_cost(), 0)
            for _ in range(2):
                await connection.send_realtime_input(
                    audio=genai.types.Blob(data=bytes(32_000), mime_type="audio/pcm;rate=16000")
                )
            assert await tokens_read(connection) == 566
            live.calls_first = True
            await connection.send_client_content(turns={"role": "user", "parts": [{"text": "What is a tide?"}]})
            calls = [message.tool_call async for message in connection.receive() if message.tool_call]
            assert customer.balance.posted == posted - sum(map(turn_cost, range(3)))
            asked = (calls[0].function_calls or [])[0]
            answer = genai.types.FunctionResponse(id=asked.id, name="look_up", response={"result": "water"})
            await connection.send_tool_response(function_responses=answer)
            assert await tokens_read(connection) == 568
        await client.aio.aclose()
        client.close()
    settled(customer, sum(map(turn_cost, range(4))), 4)
    rows = turns_of(customer)
    assert [row["id"].rpartition("-")[2] for row in rows] == ["0001", "0002", "0003", "0004"]
    assert {(row["provider"], row["model"], row["tokens_out"]) for row in rows} == {("google-ai-studio", MODEL, 70)}
    lines = {line["meter"]: line["quantity"] for line in customer.receipt(rows[0]["id"])["lines"]}
    assert (lines["input_audio_tokens"], lines["output_audio_tokens"], lines["output_tokens"]) == ("165", "40", "30")
    assert provider.headers["x-goog-api-key"] == OPERATOR_KEY
    assert customer.token not in str(list(provider.headers.raw_items()))


COMPLETE: dict[str, Any] = {"serverContent": {"turnComplete": True}}
CALL: dict[str, Any] = {"toolCall": {"functionCalls": [{"id": "c", "name": "f", "args": {}}]}}
USED: dict[str, Any] = {"usageMetadata": usage(**TURN_USED)}
MORE: dict[str, Any] = {"usageMetadata": usage(**{**TURN_USED, "audio_out": 90})}
NEXT: dict[str, Any] = {"usageMetadata": usage(**{**TURN_USED, "text_in": 500})}
NEXT_COST: int = cost(**{**TURN_USED, "text_in": 500})
_SOUND: dict[str, str] = {"mimeType": "audio/pcm", "mime_type": "audio/pcm", "data": SAID}
TWICE: dict[str, Any] = {"serverContent": {"modelTurn": {"parts": [{"inlineData": _SOUND}]}}}
VERTEX: dict[str, Any] = {
    "usageMetadata": {"promptTokenCount": 565, "candidatesTokenCount": 40, "trafficType": "ON_DEMAND"}
}


@pytest.mark.parametrize(
    ("messages", "charged", "turns"),
    [
        ([spoken(), COMPLETE | USED], turn_cost(), 1),
        ([spoken() | USED, COMPLETE], turn_cost(), 1),
        ([spoken(), COMPLETE, USED], turn_cost(), 1),
        ([spoken(), USED, COMPLETE, USED], turn_cost(), 1),
        ([spoken(), USED, spoken(), COMPLETE | MORE], cost(**{**TURN_USED, "audio_out": 90}), 1),
        ([spoken() | USED, spoken() | NEXT, COMPLETE], turn_cost() + NEXT_COST, 2),
        ([spoken(), {"serverContent": {"interrupted": True}}, COMPLETE | USED], turn_cost(), 1),
        ([CALL | USED], turn_cost(), 1),
        ([CALL, USED, COMPLETE], turn_cost(), 1),
        ([{"usageMetadata": {"trafficType": "ON_DEMAND"}}, spoken(), COMPLETE | USED], turn_cost(), 1),
        # Vertex AI names output tokens differently; audio without a stated modality counts as audio.
        ([spoken(), COMPLETE | VERTEX], cost(text_in=565, audio_out=40), 1),
        # A field in two spellings is not the client's fault.
        ([TWICE, COMPLETE | USED], turn_cost(), 1),
        # An empty response, as where the input was blocked.
        ([COMPLETE], 0, 0),
    ],
)
def test_usage_may_come_with_any_message(
    customer: Customer, live: Live, messages: list[dict[str, Any]], charged: int, turns: int
) -> None:
    live.answers = [messages]
    with session(customer) as connection:
        ask(connection)
        for message in messages:
            assert hear(connection) == message
        until(lambda: customer.balance.posted == 5 * NANOS_PER_USD - charged and customer.balance.held == 0)
        ask(connection)
        await_turn(connection)
    settled(customer, charged + turn_cost(1), turns + 1)


def test_a_response_without_usage_is_counted_by_what_was_delivered(customer: Customer, live: Live) -> None:
    live.answers = [[spoken(2), COMPLETE]]
    with session(customer) as connection:
        ask(connection)
        await_turn(connection)
        ask(connection)
        await_turn(connection)
    until(lambda: customer.balance.held == 0)
    first = turns_of(customer)[0]
    assert first["tokens_out"] == 50  # two seconds of 25 each
    assert first["cost"] > 0
    settled(customer, round(first["cost"] * NANOS_PER_USD) + turn_cost(1), 2)


@pytest.fixture
def kept_back(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a client message has arrived that waits until the previous response has begun."""
    came, waits = threading.Event(), GeminiLiveReader.waits

    def read(reader: GeminiLiveReader, data: bytes) -> bool:
        if waits(reader, data):
            came.set()
        return waits(reader, data)

    monkeypatch.setattr(GeminiLiveReader, "waits", read)
    return came


def test_content_that_asks_again_waits_until_the_response_before_has_begun(
    customer: Customer, provider: SocketProvider, kept_back: threading.Event
) -> None:
    early = list[Any]()

    def script(connection: ServerConnection) -> None:
        connection.recv()
        tell(connection, setupComplete={})
        connection.recv()
        assert kept_back.wait(SECONDS)
        with contextlib.suppress(TimeoutError):
            early.append(connection.recv(0.2))
        for number in range(2):
            tell(connection, **spoken())
            if not number:
                connection.recv(SECONDS)
            tell(connection, **COMPLETE, usageMetadata=usage(**{**TURN_USED, "text_in": 400 + number}))

    provider.forget()
    provider.script = script
    with session(customer) as connection:
        ask(connection)
        ask(connection)
        await_turn(connection)
        await_turn(connection)
    assert not early
    settled(customer, turn_cost(0) + turn_cost(1), 2)


def test_content_that_waited_is_held_for_until_it_has_been_counted(
    customer: Customer, provider: SocketProvider, kept_back: threading.Event
) -> None:
    long = "word " * 4_000
    held = list[int]()

    def script(connection: ServerConnection) -> None:
        connection.recv()
        tell(connection, setupComplete={})
        connection.recv()
        assert kept_back.wait(SECONDS)
        tell(connection, **spoken())
        connection.recv()  # the long message, which the running response does not read
        tell(connection, **COMPLETE, usageMetadata=usage(**TURN_USED))
        until(lambda: customer.balance.posted == 5 * NANOS_PER_USD - turn_cost(), "the first turn is settled")
        held.append(customer.balance.held)
        tell(connection, **spoken())
        connection.recv()  # audio, ahead of which another response is held for
        held.append(customer.balance.held)
        tell(connection, **COMPLETE, usageMetadata=usage(**{**TURN_USED, "text_in": 4_500}))

    provider.forget()
    provider.script = script
    with session(customer) as connection:
        ask(connection)
        ask(connection, long)
        await_turn(connection)
        hear(connection)
        speak(connection)
        await_turn(connection)
    assert held[1] - held[0] >= len(long) * 750
    settled(customer, turn_cost() + cost(**{**TURN_USED, "text_in": 4_500}), 2)


def test_what_is_held_is_what_the_next_response_may_come_to(customer: Customer, live: Live) -> None:
    """Its possible input (everything since the last usage, plus the total of that), and its output limit."""
    output, second = 100 * 12_000, 32 * 3_000
    with session(customer) as connection:
        first = customer.balance.held
        for _ in range(6):  # of 16 seconds each, at this rate
            say(connection, realtimeInput={"audio": {"data": HEARD, "mimeType": "audio/pcm;rate=1000"}})
        until(lambda: len(live.sent) == 7)  # all is held for: between two holds, nothing is
        grown = customer.balance.held
        assert grown >= max(first + 60 * second, 96 * second + output)
        ask(connection)
        await_turn(connection)
        speak(connection)  # what was heard before is among the 565 tokens that the model has read
        until(lambda: 0 < customer.balance.held < (first + grown) / 2)
        live.used = {"text_in": 100_000, "audio_in": 2_000, "audio_out": 90}
        ask(connection)
        await_turn(connection)
        speak(connection)
        until(lambda: customer.balance.held >= 100_000 * 750 + 2_000 * 3_000 + output)
    settled(customer, turn_cost() + cost(**{**live.used, "text_in": 100_001}), 2)


def test_on_a_key_of_the_caller_s_own_turns_are_metered_and_free(customer: Customer, live: Live) -> None:
    headers = {"cf-aig-authorization": f"Bearer {customer.token}", "x-goog-api-key": "google-key-of-mine"}
    with opened(customer, PATH, headers) as connection:
        say(connection, setup={"model": f"models/{MODEL}", "tools": [{"googleSearch": {}}], "proactivity": {}})
        hear(connection)
        ask(connection)
        await_turn(connection)
    until(lambda: len(log_rows(customer)) == 2)
    (turn,) = turns_of(customer)
    assert (turn["tokens_in"], turn["tokens_out"]) == (565, 70)
    assert round(turn["cost"] * NANOS_PER_USD) == turn_cost()
    assert customer.balance.posted == 5 * NANOS_PER_USD


def test_history_asks_for_nothing(customer: Customer, live: Live) -> None:
    with session(customer, historyConfig={"initialHistoryInClientContent": True}) as connection:
        live.answers = [[{"serverContent": {"waitingForInput": True}}]]
        ask(connection, "What was said before.")
        hear(connection)
        ask(connection)
        await_turn(connection)
    settled(customer, turn_cost(1), 1)


# --- what is refused ---


@pytest.mark.parametrize(
    "first",
    [
        {"setup": {**OTHER, "sessionResumption": {"handle": "of-another-account"}}},
        {"setup": {**OTHER, "tools": [{"googleSearch": {}}]}},
        {"setup": {**OTHER, "tools": {"code_execution": {}}}},
        {"setup": {**OTHER, "tools": [{"functionDeclarations": [{"name": "f", "behavior": "NON_BLOCKING"}]}]}},
        {"setup": {**OTHER, "proactivity": {"proactiveAudio": True}}},
        {"setup": {**OTHER, "avatar_config": {"avatarName": "a"}}},
        {"setup": {**OTHER, "cachedContent": "cachedContents/of-the-operator"}},
        {"setup": {**OTHER, "generationConfig": {"candidateCount": 2}}},
        {"setup": {**OTHER, "generationConfig": {"modelSelectionConfig": {}}}},
        {"setup": {**OTHER, "generation_config": {"maxOutputTokens": 9_000}}},
        {"setup": {**OTHER, "systemInstruction": {"parts": [{"fileData": {"fileUri": "files/x"}}]}}},
        {"setup": {**OTHER, "model": "models/gemini-2.5-flash"}},
        {"setup": {**OTHER, "model": "models/no-such-model"}},
        {"setup": {**OTHER, "model": "tunedModels/of-the-operator"}},
        {"setup": OTHER, "clientContent": {}},
        {"clientContent": {"turnComplete": True}},
        {"somethingNew": {}},
    ],
)
def test_a_session_that_cannot_be_charged_is_not_set_up(customer: Customer, live: Live, first: dict[str, Any]) -> None:
    with opened(customer, PATH) as connection:
        say(connection, **first)
        code, reason = await_close(connection)
    assert code == 4400
    assert reason
    assert live.sent == []
    settled(customer, 0, 0)


@pytest.mark.parametrize(
    "message",
    [
        {"clientContent": {"turns": [{"parts": [{"fileData": {"fileUri": "files/x"}}]}], "turnComplete": True}},
        {"clientContent": {"turns": [{"parts": [{"inlineData": {"mimeType": "audio/mp3", "data": ""}}]}]}},
        {"realtimeInput": {"audio": {"mimeType": "audio/opus", "data": HEARD}}},
        {"realtimeInput": {"audio": {"data": HEARD, "mimeType": "audio/pcm"}, "somethingNew": 1}},
        {"toolResponse": {"functionResponses": [{"id": "c", "response": {}, "willContinue": True}]}},
        {"contextUpdate": {"tools": {}}},
        {"setup": OTHER},
    ],
)
def test_what_cannot_be_charged_goes_no_further(customer: Customer, live: Live, message: dict[str, Any]) -> None:
    with session(customer) as connection:
        ask(connection)
        await_turn(connection)
        say(connection, **message)
        assert await_close(connection)[0] == 4400
    assert [next(iter(found)) for found in live.sent] == ["setup", "clientContent"]
    settled(customer, turn_cost(), 1)


def test_a_message_that_says_something_twice_is_not_read(customer: Customer, live: Live) -> None:
    with opened(customer, PATH) as connection:
        connection.send(f'{{"setup": {{"model": "models/gemini-2.5-pro", "model": "models/{MODEL}"}}}}')
        assert await_close(connection)[0] == 4400
    assert live.sent == []


def test_a_token_for_certain_models_is_for_no_other(farebox: Farebox, live: Live) -> None:
    customer = limited(farebox, "google-ai-studio/gemini-3.1-flash-live-preview")
    with set_up(customer) as connection:
        assert await_close(connection)[0] == 4403
    assert live.sent == []


# --- credit ends ---


def test_credit_that_ends_ends_the_session_after_the_turn_that_was_paid_for(farebox: Farebox, live: Live) -> None:
    customer = farebox.funded("0.05")
    live.hears_every, live.used = 3, {"text_in": 600, "audio_in": 165, "audio_out": 900}
    with opened(customer, PATH) as connection:
        say(connection, setup={"model": f"models/{MODEL}"}, clientContent=None)
        hear(connection)
        limit = live.sent[0]["setup"]["generationConfig"]["maxOutputTokens"]
        assert limit == 1_024  # a quarter of what the credit covers, or this much
        turns = 0
        with contextlib.suppress(Exception):
            while True:
                for _ in range(3):
                    speak(connection)
                await_turn(connection)
                turns += 1
        code, reason = await_close(connection)
    assert (code, turns >= 2) == (4402, True)
    assert "credit" in reason.lower() or "balance" in reason.lower()
    charged = sum(cost(**{**live.used, "text_in": 600 + number}) for number in range(turns))
    settled(customer, charged, turns, NANOS_PER_USD // 20)


# --- sessions that are cut ---


def test_a_client_that_leaves_has_its_response_interrupted_and_pays_for_what_it_used(
    customer: Customer, provider: SocketProvider, live: Live
) -> None:
    def script(connection: ServerConnection) -> None:
        connection.recv()
        tell(connection, setupComplete={})
        connection.recv()
        tell(connection, **spoken())
        if '"turnComplete":false' in str(connection.recv(SECONDS)):
            tell(connection, serverContent={"interrupted": True})
            tell(connection, **COMPLETE | USED)

    provider.script = script
    connection = session(customer)
    ask(connection)
    hear(connection)
    connection.close()
    settled(customer, turn_cost(), 1)
