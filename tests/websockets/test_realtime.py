"""OpenAI's Realtime API on the operator's key: each turn is held for, charged once and recorded, however it ends."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection

from farebox.money import NANOS_PER_USD
from tests.calls.kit import OPERATOR_KEY, differences, log_rows, set_provider
from tests.calls.test_token_models import limited
from tests.engines import ON_BOTH_ENGINES
from tests.sdks import openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until
from tests.websockets.kit import (
    SECONDS,
    SocketProvider,
    await_close,
    opened,
    receive,
    send,
    settled,
    turns_of,
)
from tests.websockets.realtime import MODEL, SECOND, Realtime, await_event, cost

pytestmark = ON_BOTH_ENGINES
PATH = f"openai/realtime?model={MODEL}"
VAD_OFF = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
TURN = cost(text_in=100, text_out=20, audio_out=40)


@pytest.fixture(scope="module")
def farebox(engine: str, provider: SocketProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("realtime")) as served:
        set_provider(served, "openai", base_url=provider.url)
        yield served


@pytest.fixture
def realtime(provider: SocketProvider) -> Realtime:
    provider.forget()
    provider.script = played = Realtime()
    return played


def session(customer: Customer, path: str = PATH) -> ClientConnection:
    connection = opened(customer, path)
    assert receive(connection)["type"] == "session.created"
    return connection


def quiet(customer: Customer, path: str = PATH) -> ClientConnection:
    """A session in which the provider does not answer by itself."""
    connection = session(customer, path)
    send(connection, type="session.update", session=VAD_OFF)
    assert receive(connection)["type"] == "session.updated"
    return connection


# --- turns ---


@pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")  # of the SDK's own client
def test_openai_s_sdk_and_each_turn_is_charged_once(customer: Customer, realtime: Realtime) -> None:
    with (
        openai.OpenAI(api_key=customer.token, base_url=f"{customer.gateway_url}/openai") as client,
        client.realtime.connect(model=MODEL) as connection,
    ):
        assert connection.recv().type == "session.created"
        connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        assert connection.recv().type == "session.updated"
        for number in range(3):
            connection.response.create()
            kinds = []
            while True:
                event: Any = connection.recv()
                kinds.append(event.type)
                if event.type == "response.done":
                    break
            assert event.response.usage.output_tokens == 60
            assert kinds[0] == "response.created"
            assert customer.balance.posted == 5 * NANOS_PER_USD - (number + 1) * TURN  # paid before it was passed on
            assert customer.balance.held == 0
    settled(customer, 3 * TURN, 3)
    rows = turns_of(customer)
    assert [row["id"].rpartition("-")[2] for row in rows] == ["0001", "0002", "0003"]
    assert {row["model"] for row in rows} == {MODEL}
    lines = {line["meter"]: line["quantity"] for line in customer.receipt(rows[0]["id"])["lines"]}
    assert (lines["input_tokens"], lines["output_audio_tokens"]) == ("100", "40")


def test_all_kinds_of_tokens_have_their_price(customer: Customer, realtime: Realtime) -> None:
    realtime.used = {"text_in": 1_000, "audio_in": 300, "cached": 600, "text_out": 50, "audio_out": 70}
    with quiet(customer) as connection:
        send(connection, type="response.create")
        await_event(connection, "response.done")
    settled(customer, cost(**realtime.used), 1)


def test_a_turn_is_held_for_while_it_lasts(customer: Customer, realtime: Realtime) -> None:
    held = []
    realtime.before_done = lambda _: held.append(customer.balance.held)
    with quiet(customer) as connection:
        send(connection, type="response.create", response={"max_output_tokens": 100})
        await_event(connection, "response.done")
    assert held[0] >= 100 * 64_000
    settled(customer, TURN, 1)


def test_a_limit_that_the_provider_has_not_confirmed_does_not_lower_the_hold(
    customer: Customer, realtime: Realtime
) -> None:
    held = []
    realtime.before_done = lambda _: held.append(customer.balance.held)
    with quiet(customer) as connection:
        for _ in range(2):
            send(connection, type="response.create")
            await_event(connection, "response.done")
            realtime.confirms = False
            send(connection, type="session.update", session={"type": "realtime", "max_output_tokens": 100})
    assert held[1] >= held[0]
    settled(customer, 2 * TURN, 2)


def test_where_the_provider_answers_by_itself_a_turn_is_held_for_ahead(customer: Customer, realtime: Realtime) -> None:
    realtime.hears_every = 2
    with session(customer) as connection:
        for number in range(1, 4):
            send(connection, type="input_audio_buffer.append", audio=SECOND)
            send(connection, type="input_audio_buffer.append", audio=SECOND)
            await_event(connection, "response.done")
            assert customer.balance.posted == 5 * NANOS_PER_USD - number * TURN
        send(connection, type="input_audio_buffer.append", audio=SECOND)
        until(lambda: customer.balance.held > 0)
    settled(customer, 3 * TURN, 3)


def test_transcripts_are_turns_of_their_own_model(customer: Customer, realtime: Realtime) -> None:
    realtime.transcript_usage = {"type": "duration", "seconds": 3.0}
    with quiet(customer) as connection:
        heard = {"turn_detection": None, "transcription": {"model": "whisper-1"}}
        send(connection, type="session.update", session={"type": "realtime", "audio": {"input": heard}})
        await_event(connection, "session.updated")
        for _ in range(3):
            send(connection, type="input_audio_buffer.append", audio=SECOND)
        send(connection, type="input_audio_buffer.commit")
        await_event(connection, "conversation.item.input_audio_transcription.completed")
    settled(customer, 300_000, 1)  # 3 seconds of 0.36 USD an hour
    assert turns_of(customer)[0]["model"] == "whisper-1"


def test_a_session_that_transcribes_is_charged_by_tokens(customer: Customer, realtime: Realtime) -> None:
    details = {"text_tokens": 0, "audio_tokens": 30}
    realtime.transcript_usage = {
        "type": "tokens", "input_tokens": 30, "output_tokens": 8, "total_tokens": 38, "input_token_details": details,
    }  # fmt: skip
    with session(customer, "openai/realtime?intent=transcription") as connection:
        heard = {"transcription": {"model": "gpt-4o-transcribe"}}
        send(connection, type="session.update", session={"type": "transcription", "audio": {"input": heard}})
        await_event(connection, "session.updated")
        send(connection, type="input_audio_buffer.append", audio=SECOND)
        send(connection, type="input_audio_buffer.commit")
        await_event(connection, "conversation.item.input_audio_transcription.completed")
    settled(customer, 30 * 6_000 + 8 * 10_000, 1)


def test_on_a_key_of_the_caller_s_own_turns_are_metered_and_free(customer: Customer, realtime: Realtime) -> None:
    headers = {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "Bearer sk-own-key"}
    with opened(customer, PATH, headers) as connection:
        await_event(connection, "session.created")
        send(connection, type="something.new")  # is the provider's to judge
        await_event(connection, "seen.something.new")
        send(connection, type="response.create")
        await_event(connection, "response.done")
    until(lambda: len(log_rows(customer)) == 2)
    (turn,) = turns_of(customer)
    assert (turn["tokens_in"], turn["tokens_out"]) == (100, 60)
    assert round(turn["cost"] * NANOS_PER_USD) == TURN
    assert customer.balance.posted == 5 * NANOS_PER_USD


def test_a_browser_s_token_may_be_openai_s_key(customer: Customer, realtime: Realtime) -> None:
    words = ["realtime", f"openai-insecure-api-key.{customer.token}"]
    with opened(customer, PATH, {}, subprotocols=words) as connection:
        assert connection.subprotocol == "realtime"
        await_event(connection, "session.created")
        send(connection, type="response.create")
        await_event(connection, "response.done")
    settled(customer, TURN, 1)


def test_the_operator_s_key_is_in_no_message(customer: Customer, provider: SocketProvider, realtime: Realtime) -> None:
    realtime.session = {"instructions": f"the key is {OPERATOR_KEY}, keep it"}
    with opened(customer, PATH) as connection:
        created = receive(connection)
    assert provider.headers["authorization"] == f"Bearer {OPERATOR_KEY}"
    assert OPERATOR_KEY not in str(created)
    assert "*" * len(OPERATOR_KEY) in created["session"]["instructions"]


# --- what is refused ---


@pytest.mark.parametrize(
    "event",
    [
        {"type": "session.update", "session": {"model": "gpt-4o-realtime-preview"}},
        {"type": "session.update", "session": {"tools": [{"type": "mcp", "server_url": "https://x.example"}]}},
        {"type": "session.update", "session": {"prompt": {"id": "pmpt_of_the_operator"}}},
        {"type": "session.update", "session": {"audio": {"output": {"voice": {"id": "voice_of_the_operator"}}}}},
        {"type": "session.update", "session": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5000}}},
        {"type": "response.create", "response": {"prompt": {"id": "pmpt_of_the_operator"}}},
        {"type": "response.create", "response": {"input": [{"content": [{"file_id": "file-of-another"}]}]}},
        {"type": "conversation.item.create", "item": {"content": [{"type": "input_image", "file_id": "file-x"}]}},
        {"type": "something.new"},
    ],
)
def test_what_cannot_be_charged_goes_no_further(customer: Customer, realtime: Realtime, event: dict[str, Any]) -> None:
    with quiet(customer) as connection:
        send(connection, **event)
        error = receive(connection)
        assert (error["type"], error["error"]["code"]) == ("error", "request_refused")
        send(connection, type="response.create")
        await_event(connection, "response.done")
    assert [event["type"] for event in realtime.events] == ["session.update", "response.create"]
    settled(customer, TURN, 1)


def test_an_item_in_no_known_form_is_the_provider_s_to_refuse(customer: Customer, realtime: Realtime) -> None:
    with quiet(customer) as connection:
        send(connection, type="conversation.item.create", item={"type": "input_image", "content": 5})
        assert receive(connection)["type"] == "seen.conversation.item.create"
        send(connection, type="response.create")
        await_event(connection, "response.done")
    settled(customer, TURN, 1)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("openai/realtime?model=gpt-4o", 400),
        ("openai/realtime?model=no-such-model", 400),
        ("openai/realtime?call_id=rtc_of_another", 400),
        (f"{PATH}&model=gpt-4o", 400),
    ],
)
def test_sessions_that_have_no_price(customer: Customer, realtime: Realtime, path: str, status: int) -> None:
    with pytest.raises(Exception, match=f"HTTP {status}"):
        opened(customer, path)


def test_a_refused_response_gives_its_hold_back(customer: Customer, provider: SocketProvider) -> None:
    def script(connection: ServerConnection) -> None:
        send(connection, type="session.created", session={"turn_detection": None})
        event = receive(connection)
        send(connection, type="error", error={"code": "invalid", "message": "no", "event_id": event["event_id"]})
        for _ in connection:
            pass

    provider.forget()
    provider.script = script
    with session(customer) as connection:
        send(connection, type="response.create")
        assert receive(connection)["error"]["code"] == "invalid"
        until(lambda: customer.balance.held == 0)
    settled(customer, 0, 0)


# --- credit ends ---


def test_credit_that_ends_ends_the_session_after_the_turn_that_was_paid_for(
    farebox: Farebox, realtime: Realtime
) -> None:
    customer = farebox.funded("0.30")
    realtime.used = {"text_in": 100, "audio_out": 3_000}
    with quiet(customer) as connection:
        delivered = 0
        while True:
            send(connection, type="response.create")
            while (event := receive(connection))["type"] not in ("response.done", "error"):
                pass
            if event["type"] == "error":
                break
            delivered += cost(text_in=100, audio_out=event["response"]["usage"]["output_tokens"])
            assert customer.balance.posted == int(0.30 * NANOS_PER_USD) - delivered
        assert event["error"]["code"] == "insufficient_quota"
        assert await_close(connection) == (4402, event["error"]["message"][:120])
    limits = [event["response"]["max_output_tokens"] for event in realtime.events if event.get("response")]
    assert limits, "what the credit no longer covered was limited to what it did"
    until(lambda: customer.balance.held == 0)
    assert customer.balance.posted == int(0.30 * NANOS_PER_USD) - delivered
    assert not differences(farebox)


def test_a_turn_under_way_is_delivered_before_the_session_ends(farebox: Farebox, realtime: Realtime) -> None:
    customer = farebox.funded("0.30")
    refused = threading.Event()

    def wait(_: ServerConnection) -> None:
        refused.wait(SECONDS)

    realtime.before_done = wait
    with quiet(customer) as connection:
        for _ in range(3):  # what is left covers none beside the first
            send(connection, type="response.create", response={"max_output_tokens": 4_096})
        await_event(connection, "response.created")
        until(lambda: any(row["status_code"] in (402, 429) for row in log_rows(customer)))
        refused.set()
        assert await_event(connection, "response.done")["response"]["status"] == "completed"
        assert await_event(connection, "error")["error"]["code"] in ("insufficient_quota", "credit_held")
        assert await_close(connection)[0] in (4402, 4429)
    until(lambda: customer.balance.held == 0)
    assert customer.balance.posted == int(0.30 * NANOS_PER_USD) - TURN


def test_a_token_for_certain_models_names_its_model_once(farebox: Farebox, realtime: Realtime) -> None:
    customer = limited(farebox, f"openai/{MODEL}")
    headers = {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "Bearer sk-own-key"}
    for query in (f"model=another&model={MODEL}", f"model={MODEL}&call_id=c"):
        with pytest.raises(Exception, match="HTTP 400"):
            opened(customer, f"openai/realtime?{query}", headers)
    with opened(customer, f"openai/realtime?model={MODEL}", headers):
        pass
