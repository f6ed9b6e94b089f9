"""Whatever breaks, wherever it breaks: the hold ends, the connection to the provider is closed, and the charge follows
the policy."""

import asyncio
import contextlib
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import quicktok  # type: ignore[import-untyped]

from farebox.calls.relaying import relay
from farebox.calls.relaying.reader import reader_of
from farebox.calls.settle import settle_call
from farebox.demo_provider.delivery import GARBAGE
from farebox.metrics.families import CLIENTS_GONE
from farebox.money import parse_usd
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.openai_chat import OpenAIChat
from farebox.providers.formats.readers import BodyReader
from farebox.storage.operator_alarms import open_alarms
from tests.calls.gate import gated
from tests.calls.kit import differences, log_row, log_rows, price_of, set_gateway, set_price, set_provider, within
from tests.calls.wire import Wire, WireResponse, chat_body, native_body, post, start
from tests.engines import looking
from tests.hostile.stepwise import CHAT, stepwise, words
from tests.sdks import anthropic, openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import eventually, start_of_window, until

pytestmark = pytest.mark.slow

FIVE = parse_usd("5")
NATIVE = "demo/chat/completions"
SHORT_TIMEOUTS = {
    "first_byte_timeout_ms": 300,
    "request_timeout_min_ms": 1,
    "read_timeout_ms": 300,
    "connect_timeout_ms": 300,
    "call_timeout_ms": 1_500,
    "body_limit_bytes": 20_000,
    "log_body_limit_bytes": 5_000,
}


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server that waits a fraction of a second for providers, and charges cut responses by what was delivered."""
    with running_farebox(tmp_path_factory.mktemp("short"), **SHORT_TIMEOUTS) as served:
        yield served
        assert differences(served) == []


@pytest.fixture(scope="module")
def patient(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server that waits for providers for the default time, which is longer than any test, so nothing times out by
    itself. Callers may set any timeout."""
    with running_farebox(tmp_path_factory.mktemp("patient"), request_timeout_min_ms=1) as served:
        yield served
        assert differences(served) == []


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


def counted(body: bytes, delivered: str | bytes) -> int:
    """The charge if the provider's figures are missing: the tokens of the request's text, four more for each message,
    and those of the delivered text, or one token per four bytes of what could not be read."""
    demand = OpenAIChat().parse("chat/completions", "application/json", body, exact=True).demand
    tokenizer = quicktok.get_encoding("o200k_base")
    output = tokenizer.count(delivered) if isinstance(delivered, str) else math.ceil(len(delivered) / 4)
    return price_of(tokenizer.count(demand.text) + 4 * demand.messages, output)


def alarmed(farebox: Farebox, kind: str) -> bool:
    """Whether the operator gets an alarm of this kind; waits for it to be written."""
    with looking(farebox.services.settings) as connection:
        stored = open_alarms(connection)
    return kind in {alarm.kind for alarm in [*farebox.services.alarms._waiting.values(), *stored]}


def said(response: WireResponse) -> str:
    """The text in the events of a stream."""
    found = (event for event in response.events if isinstance(event, dict) and event.get("choices"))
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in found)


def ended(customer: Customer, log_id: str, charge: int) -> dict[str, Any]:
    """The call's row, after checking that its hold has ended and that balance, receipt and row agree on the charge."""
    balance = customer.balance
    assert balance.held == 0
    assert FIVE - balance.posted == charge
    row = log_row(customer, log_id)
    assert row["farebox"]["charge_nanos"] == charge
    receipt = customer.receipt(log_id)
    assert receipt["charge_nanos"] == charge
    row["receipt"] = receipt
    return row


# --- the provider answers, but not as it should -----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
def test_the_providers_error_passes_unchanged_and_is_free(customer: Customer, status: int, stream: bool) -> None:
    directive = {"x-demo": f"status={status}"}
    body = {"model": "demo-1", "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    demo = customer.farebox.demo_url
    direct = httpx.post(f"{demo}/v1/chat/completions", json=body, headers=directive)
    response = httpx.post(f"{customer.gateway_url}/{NATIVE}", json=body, headers=customer.headers | directive)
    assert direct.status_code == response.status_code == status
    assert response.content == direct.content
    assert response.headers.get("retry-after") == direct.headers.get("retry-after")
    row = ended(customer, response.headers["cf-aig-log-id"], 0)
    assert (row["status_code"], row["success"], row["farebox"]["outcome"]) == (status, False, "free")


def test_sdks_see_the_providers_own_errors(customer: Customer) -> None:
    with ExitStack() as stack:
        one = stack.enter_context(
            openai.OpenAI(api_key=customer.token, base_url=f"{customer.gateway_url}/demo", max_retries=0)
        )
        with pytest.raises(openai.RateLimitError, match="told to answer 429"):
            one.chat.completions.create(
                model="demo-1", messages=[{"role": "user", "content": "x"}], extra_headers={"x-demo": "status=429"}
            )
        two = stack.enter_context(
            anthropic.Anthropic(api_key=customer.token, base_url=f"{customer.gateway_url}/demo", max_retries=0)
        )
        with pytest.raises(anthropic.InternalServerError, match="told to answer 500"):
            two.messages.create(
                model="demo-1",
                max_tokens=50,
                messages=[{"role": "user", "content": "x"}],
                extra_headers={"x-demo": "status=500"},
            )
    assert customer.balance.posted == FIVE


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_missing_usage_is_counted(customer: Customer, stream: bool) -> None:
    body = native_body(stream=stream, max_tokens=100)
    response = await post(customer, body, NATIVE, demo="usage=none")
    assert response.status == 200
    text = said(response) if stream else response.json()["choices"][0]["message"]["content"]
    row = ended(customer, response.log_id, counted(body, text))
    assert row["receipt"]["usage_source"] == "counted"
    assert row["receipt"]["policy"] == "the response reported no usage: counted from what was sent and delivered"
    assert row["receipt"]["notes"], "it never passes unnoticed"
    if stream:
        assert response.events[-1] == "[DONE]"


async def test_counts_written_as_text_are_counts(customer: Customer) -> None:
    response = await post(customer, native_body(), NATIVE, demo="usage=string tokens=9")
    row = ended(customer, response.log_id, price_of(2, 9))
    assert row["receipt"]["usage_source"] == "provider"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("lie", ["negative", "absurd", "float"])
async def test_impossible_usage_costs_the_hold_and_raises_an_alarm(customer: Customer, lie: str, stream: bool) -> None:
    response = await post(customer, native_body(stream=stream, max_tokens=100), NATIVE, demo=f"usage={lie}")
    assert response.status == 200
    row = ended(customer, response.log_id, customer.receipt(response.log_id)["hold_nanos"])
    assert row["receipt"]["usage_source"] == "estimate"
    assert row["receipt"]["policy"] == "the provider's usage is impossible: the hold is charged"
    assert "is impossible" in row["receipt"]["notes"][-1]
    until(lambda: alarmed(customer.farebox, "usage_disbelieved"))
    if stream:
        assert response.events[-1] == "[DONE]"


async def test_usage_far_beyond_the_model_is_rejected(farebox: Farebox, customer: Customer) -> None:
    """A plausible number, but more than any model writes in one response."""
    with misreporting_provider(
        farebox, {"prompt_tokens": 3, "completion_tokens": 90_000_000, "total_tokens": 90_000_003}
    ) as path:
        body = native_body(max_tokens=100).replace(b"demo-1", b"misreporting-1")
        response = await post(customer, body, path)
    assert response.status == 200
    row = ended(customer, response.log_id, customer.receipt(response.log_id)["hold_nanos"])
    assert row["receipt"]["usage_source"] == "estimate"
    assert "is impossible" in row["receipt"]["notes"][0]


async def test_zero_usage_is_free_only_without_output(farebox: Farebox, customer: Customer) -> None:
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    body = native_body(max_tokens=100).replace(b"demo-1", b"misreporting-1")
    with misreporting_provider(farebox, zeros, says="") as path:
        response = await post(customer, body, path)
    row = ended(customer, response.log_id, 0)
    assert row["receipt"]["policy"] == "the provider reports no usage: free"
    with misreporting_provider(farebox, zeros) as path:
        response = await post(customer, body, path)
    assert FIVE - customer.balance.posted == counted(body, "So it is.")
    assert customer.receipt(response.log_id)["usage_source"] == "counted"


async def test_an_empty_answer_is_free(farebox: Farebox, customer: Customer) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
    with raw_provider(farebox, lambda connection: connection.sendall(head)) as path:
        response = await call_raw(customer, path)
    row = ended(customer, response.log_id, 0)
    assert row["receipt"]["policy"] == "the response was empty: free"
    assert row["farebox"]["outcome"] == "charged", "an empty but complete response"


async def test_an_overrun_is_taken_and_never_below_zero(farebox: Farebox) -> None:
    """The provider's own tools used more than the request allows, by a plausible amount: the available credit is taken,
    and the rest is written off."""
    with misreporting_provider(farebox, {"prompt_tokens": 3, "completion_tokens": 900, "total_tokens": 903}) as path:
        body = native_body(max_tokens=100).replace(b"demo-1", b"misreporting-1")
        sample = farebox.funded("5")
        response = await post(sample, body, path)
        row = ended(sample, response.log_id, price_of(3, 900))
        hold = row["receipt"]["hold_nanos"]
        assert hold < price_of(3, 900)

        poor = farebox.funded(f"{(hold + 50_000) / 10**9:.9f}")
        response = await post(poor, body, path)
        assert response.status == 200
        assert poor.balance.posted == 0
        assert poor.balance.held == 0
        receipt = poor.receipt(response.log_id)
        assert receipt["charge_nanos"] == hold + 50_000
        assert receipt["written_off_nanos"] == price_of(3, 900) - hold - 50_000
        assert "written off" in receipt["notes"][0]
    assert differences(farebox) == []


async def test_garbage_as_a_whole_response(customer: Customer) -> None:
    body = native_body(max_tokens=100)
    response = await post(customer, body, NATIVE, demo="garbage=1")
    assert response.status == 200
    assert response.body == GARBAGE, "bytes are passed on unchanged"
    row = ended(customer, response.log_id, counted(body, GARBAGE))
    assert row["receipt"]["usage_source"] == "counted"
    assert "unreadable" in row["receipt"]["notes"][0]


async def test_garbage_between_the_events_of_a_stream(customer: Customer) -> None:
    response = await post(customer, native_body(stream=True), NATIVE, demo="garbage=1 tokens=9")
    assert GARBAGE in response.body
    assert response.body.endswith(b"data: [DONE]\n\n")
    row = ended(customer, response.log_id, price_of(2, 9))
    assert row["receipt"]["usage_source"] == "provider"


async def test_a_stream_without_usage(customer: Customer) -> None:
    body = native_body(stream=True)
    response = await post(customer, body, NATIVE, demo="nousage_stream=1")
    assert response.events[-1] == "[DONE]"
    row = ended(customer, response.log_id, counted(body, said(response)))
    assert row["receipt"]["usage_source"] == "counted"


async def test_a_stream_that_ends_without_its_terminal_event(customer: Customer) -> None:
    body = native_body(stream=True)
    response = await post(customer, body, NATIVE, demo="end=4")
    assert response.whole
    assert len(said(response).split()) == 3
    ended(customer, response.log_id, counted(body, said(response)))


async def test_a_failure_inside_a_stream_is_relayed_and_the_part_before_is_charged(customer: Customer) -> None:
    body = native_body(stream=True)
    response = await post(customer, body, NATIVE, demo="error_event=1")
    assert response.events[-1]["error"]["message"] == "The demo provider was told to fail here."
    assert len(said(response).split()) == 2
    row = ended(customer, response.log_id, counted(body, said(response)))
    assert row["success"] is False
    assert "reported a failure" in row["receipt"]["policy"]


async def test_a_failure_as_a_whole_response_is_free(customer: Customer) -> None:
    response = await post(customer, native_body(), NATIVE, demo="error_event=1")
    assert response.status == 200
    assert response.json()["error"]
    row = ended(customer, response.log_id, 0)
    assert row["success"] is False
    assert "nothing was delivered" in row["receipt"]["policy"]


async def test_a_redirect_is_not_followed_and_costs_nothing(farebox: Farebox, customer: Customer) -> None:
    head = b"HTTP/1.1 302 Found\r\nlocation: https://example.com/\r\ncontent-length: 5\r\n\r\nthere"
    with raw_provider(farebox, lambda connection: connection.sendall(head)) as path:
        response = await post(customer, native_body().replace(b"demo-1", b"raw-1"), path)
    assert (response.status, response.headers["location"]) == (302, "https://example.com/")
    ended(customer, response.log_id, 0)


# --- the provider's response breaks off -------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [1, 2, 6])
async def test_a_stream_that_is_cut_is_charged_by_what_was_delivered(customer: Customer, events: int) -> None:
    body = native_body(stream=True)
    response = await post(customer, body, NATIVE, demo=f"cut={events}")
    assert response.status == 200
    assert "broke off" in response.events[-1]["error"]["message"], "an SDK must not take it for a complete response"
    assert "[DONE]" not in response.events
    text = said(response)
    assert len(text.split()) == events - 1
    row = ended(customer, response.log_id, counted(body, text) if text else 0)
    assert row["success"] is False
    assert "connection failed" in row["farebox"]["error"]
    assert row["receipt"]["policy"].endswith(
        "counted from what was delivered" if text else "nothing was delivered, nothing is charged"
    )


async def test_a_stream_that_is_cut_after_its_terminal_event_is_whole(farebox: Farebox, customer: Customer) -> None:
    def serve(connection: socket.socket) -> None:
        choice = {"index": 0, "delta": {"content": "So it is."}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        events = [{"choices": [choice]}, {"choices": [], "usage": usage}]
        data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99999\r\n\r\n"
        connection.sendall(head + data)

    with raw_provider(farebox, serve) as path:
        response = await post(customer, native_body(stream=True).replace(b"demo-1", b"raw-1"), path)
    assert response.events[-1] == "[DONE]"
    assert not any("error" in event for event in response.events[:-1])
    ended(customer, response.log_id, price_of(3, 4))


async def test_a_whole_body_that_is_cut_is_an_error_and_free(customer: Customer) -> None:
    """The client has received nothing, and its SDK will retry."""
    response = await post(customer, native_body(), NATIVE, demo="cut=1")
    assert (response.status, response.code) == (502, 2911)
    row = ended(customer, response.log_id, 0)
    assert row["status_code"] == 502, "the client's status"
    assert row["success"] is False
    assert "nothing was delivered" in row["receipt"]["policy"]


@pytest.mark.parametrize("demo", ["hang=1", "delay=5000"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_provider_that_does_not_begin_is_given_up(customer: Customer, demo: str, stream: bool) -> None:
    response = await within(post(customer, native_body(stream=stream), NATIVE, demo=demo))
    assert (response.status, response.code) == (504, 2910)
    row = ended(customer, response.log_id, 0)
    assert row["status_code"] == 504
    assert row["farebox"]["error"] == "upstream_timeout (timeout_answer)"
    assert row["duration"] >= 250


async def test_a_caller_may_wait_less_or_more_for_the_first_byte(customer: Customer) -> None:
    response = await post(customer, native_body(), NATIVE, demo="delay=200", cf_aig_request_timeout="50")
    assert (response.status, response.code) == (504, 2910)
    response = await post(customer, native_body(), NATIVE, demo="delay=400", cf_aig_request_timeout="60000")
    assert response.status == 200
    for wrong in ("0", "-1", "soon", "99999999999999999999"):
        response = await post(customer, native_body(), NATIVE, cf_aig_request_timeout=wrong)
        assert (response.status, response.code) == (400, 2901), wrong


async def test_a_stream_that_falls_silent_is_cut(customer: Customer) -> None:
    body = native_body(stream=True)
    before = customer.farebox.demo_stats()["disconnects"]
    response = await within(post(customer, body, NATIVE, demo="gap=5000"))
    assert "stopped sending" in response.events[-1]["error"]["message"]
    ended(customer, response.log_id, 0)
    await eventually(lambda: customer.farebox.demo_stats()["disconnects"] == before + 1, "the provider noticed")


async def test_an_endless_stream_is_cut(customer: Customer) -> None:
    body = native_body(stream=True)
    response = await within(post(customer, body, NATIVE, demo="gap=100 tokens=4000"))
    assert "longer than allowed" in response.events[-1]["error"]["message"]
    text = said(response)
    assert 0 < len(text.split()) < 20, "of four thousand"
    ended(customer, response.log_id, counted(body, text))


async def test_a_whole_body_that_comes_byte_by_byte_is_whole(customer: Customer) -> None:
    response = await post(customer, native_body(), NATIVE, demo="trickle=1 tokens=4")
    assert response.status == 200
    ended(customer, response.log_id, price_of(2, 4))


async def test_sdks_notice_a_stream_that_broke_off(customer: Customer) -> None:
    with ExitStack() as stack:
        one = stack.enter_context(openai.OpenAI(api_key=customer.token, base_url=f"{customer.gateway_url}/demo"))
        with pytest.raises(openai.APIError, match="broke off"):
            list(
                one.chat.completions.create(
                    model="demo-1",
                    messages=[{"role": "user", "content": "x"}],
                    stream=True,
                    extra_headers={"x-demo": "cut=4"},
                )
            )
        two = stack.enter_context(anthropic.Anthropic(api_key=customer.token, base_url=f"{customer.gateway_url}/demo"))
        with (
            pytest.raises(anthropic.APIError, match="broke off"),
            two.messages.stream(
                model="demo-1",
                max_tokens=50,
                messages=[{"role": "user", "content": "x"}],
                extra_headers={"x-demo": "cut=6"},
            ) as stream,
        ):
            stream.until_done()
    assert [row["success"] for row in log_rows(customer)] == [False, False]
    assert customer.balance.held == 0


# --- the provider cannot be reached -----------------------------------------------------------------------------------


@contextlib.contextmanager
def raw_provider(farebox: Farebox, serve: Callable[[socket.socket], None], slug: str = "deepseek") -> Iterator[str]:
    """A provider that reads a request, runs the script on the connection and closes it. Yields the path that reaches
    it; its model is raw-1, or liar-1."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def work() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    data = b""
                    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
                        received = connection.recv(65536)
                        if not received:
                            break
                        data += received
                    serve(connection)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        set_provider(farebox, slug, base_url=f"http://127.0.0.1:{listening.getsockname()[1]}")
        for model in ("raw-1", "misreporting-1"):
            set_price(farebox, slug, model)
        try:
            yield f"{slug}/chat/completions"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@contextlib.contextmanager
def misreporting_provider(farebox: Farebox, usage: dict[str, int], says: str = "So it is.") -> Iterator[str]:
    """A provider that always answers with the same few words and reports this usage."""
    choice = {"index": 0, "message": {"role": "assistant", "content": says}, "finish_reason": "stop"}
    body = json.dumps(
        {"object": "chat.completion", "model": "misreporting-1", "choices": [choice], "usage": usage}
    ).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
    whole = head + b"content-length: %d\r\n\r\n" % len(body) + body
    with raw_provider(farebox, lambda connection: connection.sendall(whole)) as path:
        yield path


async def call_raw(customer: Customer, path: str) -> WireResponse:
    body = native_body().replace(b"demo-1", b"raw-1")
    response: WireResponse = await within(post(customer, body, path))
    return response


async def test_connection_is_refused(farebox: Farebox, customer: Customer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    set_provider(farebox, "cerebras", base_url=f"http://127.0.0.1:{port}")
    set_price(farebox, "cerebras", "raw-1")
    response = await call_raw(customer, "cerebras/chat/completions")
    assert (response.status, response.code) == (502, 2909)
    row = ended(customer, response.log_id, 0)
    assert row["farebox"]["error"] == "upstream_unreachable (refused)"


async def test_an_unknown_host_is_an_upstream_error(farebox: Farebox, customer: Customer) -> None:
    set_provider(farebox, "cerebras", base_url="http://provider.invalid")
    set_price(farebox, "cerebras", "raw-1")
    response = await call_raw(customer, "cerebras/chat/completions")
    assert response.status in (502, 504)
    ended(customer, response.log_id, 0)


async def test_a_connection_that_is_never_accepted(farebox: Farebox, customer: Customer) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(3):  # fill the backlog: the next handshake is not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        set_provider(farebox, "cerebras", base_url=f"http://127.0.0.1:{full.getsockname()[1]}")
        set_price(farebox, "cerebras", "raw-1")
        response = await call_raw(customer, "cerebras/chat/completions")
    assert response.status == 504
    ended(customer, response.log_id, 0)


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\ncontent-ty"])
async def test_a_provider_that_does_not_speak_http(farebox: Farebox, customer: Customer, reply: bytes) -> None:
    with raw_provider(farebox, lambda connection: connection.sendall(reply)) as path:
        response = await call_raw(customer, path)
    assert (response.status, response.code) == (502, 2909)
    ended(customer, response.log_id, 0)


# --- the client goes away ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["reset", "closed"])
def leave(request: pytest.FixtureRequest) -> Callable[[Wire], None]:
    """The ways in which a client goes away."""
    return Wire.hang_up if request.param == "reset" else Wire.close


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_client_that_disconnects_before_the_response(
    patient: Farebox, leave: Callable[[Wire], None], stream: bool
) -> None:
    customer = patient.funded("5")
    before = patient.demo_stats()["requests"]
    body = native_body(stream=stream)
    wire = await start(customer, body, NATIVE, demo="hang=1")
    await eventually(lambda: patient.demo_stats()["requests"] > before, "the call reached the provider")
    assert customer.balance.held > 0
    leave(wire)
    await eventually(lambda: log_rows(customer), "the log row")
    [row] = log_rows(customer)
    assert row["status_code"] == 499
    assert row["farebox"]["outcome"] == "charged"
    row = ended(customer, row["id"], counted(body, ""))
    assert row["receipt"]["policy"] == "the client disconnected: counted from what was read"


@pytest.mark.parametrize("why", ["the client left", "too slow"])
async def test_the_provider_connection_is_closed_when_the_client_disconnects(patient: Farebox, why: str) -> None:
    customer = patient.funded("5")
    before = patient.demo_stats()
    left = why == "the client left"
    waiting = {} if left else {"cf_aig_request_timeout": "300"}
    wire = await start(customer, native_body(), NATIVE, demo="hang=1", **waiting)
    await eventually(lambda: patient.demo_stats()["requests"] > before["requests"], "the call reached the provider")
    if left:
        wire.hang_up()
    else:
        assert (await wire.response()).status == 504
    await eventually(lambda: customer.balance.held == 0, "the hold ended")
    await eventually(lambda: patient.demo_stats()["disconnects"] > before["disconnects"], "the provider noticed")


async def test_a_client_that_disconnects_at_once(customer: Customer) -> None:
    """Before the connection is watched; if its token is still being looked up then, the request does not become a
    call."""
    gone = customer.farebox.services.metrics.place.counter(CLIENTS_GONE)
    before = gone.value
    wire = await start(customer, native_body(), NATIVE, demo="delay=200")
    wire.hang_up()
    await eventually(lambda: gone.value > before, "it is seen to have gone")
    await eventually(lambda: not customer.farebox.services.calls.by_account, "its call has ended")
    outcomes = [row["farebox"]["outcome"] for row in log_rows(customer)]
    assert outcomes in ([], ["released"], ["charged"])
    assert customer.balance.held == 0


async def test_a_client_that_disconnects_during_its_request(customer: Customer) -> None:
    before = customer.farebox.demo_stats()["requests"]
    wire = await Wire.open(customer.farebox.url)
    headers = {"content-type": "application/json", **customer.headers}
    await wire.send(f"/v1/{customer.account_id}/default/{NATIVE}", headers, native_body(), sent=20)
    await asyncio.sleep(0.1)
    wire.hang_up()
    await asyncio.sleep(0.1)
    assert customer.farebox.demo_stats()["requests"] == before
    assert customer.balance.held == 0
    assert customer.balance.posted == FIVE


async def _leave_mid_stream(customer: Customer, leave: Callable[[Wire], None], body: bytes) -> dict[str, Any]:
    before = customer.farebox.demo_stats()["disconnects"]
    wire = await start(customer, body, NATIVE, demo="gap=60 tokens=100")
    await wire.head()
    await wire.until(b'"content":" there')
    leave(wire)
    await eventually(lambda: log_rows(customer), "the log row")
    await eventually(lambda: customer.farebox.demo_stats()["disconnects"] == before + 1, "the provider noticed")
    [row] = log_rows(customer)
    assert row["id"] == wire.headers["cf-aig-log-id"]
    assert (row["status_code"], row["success"]) == (499, False)
    assert row["farebox"]["error"] == "the client disconnected"
    return row


async def test_a_client_that_disconnects_in_mid_stream_pays_for_what_was_delivered(
    patient: Farebox, leave: Callable[[Wire], None]
) -> None:
    customer = patient.funded("5")
    body = native_body("Go on there", stream=True)
    row = await _leave_mid_stream(customer, leave, body)
    charge = row["farebox"]["charge_nanos"]
    words = "You said: “Go on there"
    # At least what the client has seen; a word or two may have been in transit.
    assert counted(body, words) <= charge <= counted(body, words + " and so on" * 5)
    row = ended(customer, row["id"], charge)
    assert row["receipt"]["usage_source"] == "counted"
    assert row["receipt"]["policy"] == "the client disconnected: counted from what was delivered"


@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
async def test_a_provider_is_stopped_before_a_client_that_left_is_charged(
    patient: Farebox, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """Counting and the database may take a while, in which the provider would go on, at the operator's expense."""
    customer = patient.funded("5")
    relaying, settling, may_settle = threading.Event(), threading.Event(), threading.Event()

    def reader(*arguments: Any, **named: Any) -> Any:
        relaying.set()
        return reader_of(*arguments, **named)

    async def settle_later(*arguments: Any, **named: Any) -> Any:
        settling.set()
        while not may_settle.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)
        return await settle_call(*arguments, **named)

    monkeypatch.setattr(relay, "reader_of", reader)
    monkeypatch.setattr(relay, "settle_call", settle_later)
    with stepwise(patient) as provider:
        body = {**CHAT, "stream": stream}
        if not stream:
            provider.headers = [("content-type", "application/json")]
        provider.say(words("one") if stream else b'{"choices": [')
        wire = await start(customer, json.dumps(body).encode())
        try:
            await eventually(relaying.is_set, "the relay")
            wire.hang_up()
            await eventually(settling.is_set, "the settlement")
            await eventually(lambda: provider.left == 1, "the provider noticed", 30)
            assert not log_rows(customer)
        finally:
            may_settle.set()
        await eventually(lambda: log_rows(customer), "the log row")


@pytest.mark.parametrize("policy", ["hold", "free"])
async def test_interrupted_responses_are_charged_by_the_operators_policy(
    tmp_path: Path, leave: Callable[[Wire], None], policy: str
) -> None:
    with running_farebox(tmp_path, cut_stream=policy) as farebox:
        body = native_body("Go on there", stream=True, max_tokens=200)
        customer = farebox.funded("5")
        row = await _leave_mid_stream(customer, leave, body)
        hold = row["farebox"]["charge_nanos"]
        row = ended(customer, row["id"], hold)
        if policy == "hold":
            assert hold == row["receipt"]["hold_nanos"] > 0
            assert row["receipt"]["usage_source"] == "estimate"
            assert row["receipt"]["policy"] == "the client disconnected: cut responses cost their hold"
        else:
            assert hold == 0
            assert row["receipt"]["policy"] == "the client disconnected: cut responses are free"

        other = farebox.funded("5")
        response = await post(other, body, NATIVE, demo="cut=4")
        row = ended(other, response.log_id, hold)
        assert "connection failed" in row["receipt"]["policy"]
        assert differences(farebox) == []


async def test_a_client_that_does_not_wait_for_the_very_end_pays_the_providers_figures(customer: Customer) -> None:
    """It leaves when all words have arrived, like an OpenAI client that stops at the finish reason."""
    wire = await start(customer, native_body(stream=True), NATIVE, demo="tokens=5")
    await wire.head()
    await wire.until(b'"finish_reason":"stop"')
    wire.hang_up()
    await eventually(lambda: log_rows(customer), "the log row")
    ended(customer, log_rows(customer)[0]["id"], price_of(2, 5))


async def test_a_client_that_stops_reading_does_not_keep_its_hold(customer: Customer) -> None:
    wire = await start(customer, native_body(stream=True), NATIVE, demo="big=8000000 tokens=400")
    await wire.head()
    await eventually(lambda: log_rows(customer), "the log row")
    [row] = log_rows(customer)
    assert (row["id"], row["status_code"]) == (wire.headers["cf-aig-log-id"], 499)
    assert row["farebox"]["charge_nanos"] > 0
    row = ended(customer, row["id"], row["farebox"]["charge_nanos"])
    assert row["receipt"]["policy"] == "the client disconnected: counted from what was delivered"
    wire.hang_up()


# --- retries and fallbacks --------------------------------------------------------------------------------------------


async def test_failed_attempts_are_retried_as_requested(customer: Customer) -> None:
    farebox = customer.farebox
    before = farebox.demo_stats()["requests"]
    farebox.script("status=500", "status=429", "tokens=3")
    response = await post(customer, native_body(), NATIVE, cf_aig_max_attempts="3", cf_aig_retry_delay="1")
    assert response.status == 200
    assert farebox.demo_stats()["requests"] - before == 3
    ended(customer, response.log_id, price_of(2, 3))
    assert len(log_rows(customer)) == 1

    farebox.script("status=500", "status=503")
    response = await post(customer, native_body(), NATIVE, cf_aig_max_attempts="2")
    assert response.status == 503, "the response of the last attempt"
    farebox.script("status=400")
    response = await post(customer, native_body(), NATIVE, cf_aig_max_attempts="5")
    assert response.status == 400, "a permanent refusal is not retried"
    assert farebox.demo_stats()["requests"] - before == 3 + 2 + 1
    assert customer.balance.held == 0


async def test_nothing_is_retried_unless_requested(customer: Customer) -> None:
    before = customer.farebox.demo_stats()["requests"]
    for demo in ("status=500", "hang=1", "cut=1"):
        assert (await post(customer, native_body(), NATIVE, demo=demo)).status >= 500
    assert customer.farebox.demo_stats()["requests"] - before == 3


async def test_a_gateway_may_set_the_retries(customer: Customer) -> None:
    set_gateway(customer, "default", retry_max_attempts=3, retry_delay=1, retry_backoff="exponential")
    customer.farebox.script("status=500", "status=500", "tokens=3")
    response = await post(customer, native_body(), NATIVE)
    assert response.status == 200
    customer.farebox.script("status=500", "")
    response = await post(customer, native_body(), NATIVE, cf_aig_max_attempts="1")
    assert response.status == 500, "the request takes precedence over the gateway"
    assert (await post(customer, native_body(), NATIVE)).status == 200  # takes the second response of the script


async def test_retry_options_are_checked(customer: Customer) -> None:
    for wrong in (
        {"cf_aig_max_attempts": "6"},
        {"cf_aig_max_attempts": "0000000000019"},
        {"cf_aig_retry_delay": "60001"},
        {"cf_aig_backoff": "sometimes"},
    ):
        response = await post(customer, native_body(), NATIVE, **wrong)
        assert (response.status, response.code) == (400, 2901), wrong


def step(demo: str = "", *, provider: str = "demo", stream: bool = False, **more: Any) -> dict[str, Any]:
    query = {"model": "demo-1", "messages": [{"role": "user", "content": "Hello there"}], "stream": stream}
    return {
        "provider": provider,
        "endpoint": "chat/completions",
        "headers": {"x-demo": demo},
        "query": query,
        **more,
    }


async def universal(customer: Customer, *steps: dict[str, Any], **headers: str) -> WireResponse:
    return await post(customer, json.dumps(steps).encode(), "", **headers)


async def test_the_universal_endpoint_answers_with_its_first_step(customer: Customer) -> None:
    response = await universal(customer, step("tokens=3"), step("tokens=9"))
    assert response.status == 200
    assert response.headers["cf-aig-step"] == "0"
    ended(customer, response.log_id, price_of(2, 3))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_the_universal_endpoint_falls_back(customer: Customer, stream: bool) -> None:
    set_provider(customer.farebox, "cerebras", base_url="http://127.0.0.1:9")
    set_price(customer.farebox, "cerebras", "demo-1")
    steps = (step(provider="cerebras"), step("status=500"), step("hang=1"), step("tokens=3", stream=stream), step())
    response = await universal(customer, *steps)
    assert response.status == 200
    assert response.headers["cf-aig-step"] == "3"
    row = ended(customer, response.log_id, price_of(2, 3))
    assert row["step"] == 3
    rows = {row["step"]: row for row in log_rows(customer)}
    assert sorted(rows) == [0, 1, 2, 3]
    assert [rows[number]["status_code"] for number in (0, 1, 2)] == [502, 500, 504]
    assert [rows[number]["farebox"]["charge_nanos"] for number in (0, 1, 2)] == [0, 0, 0]
    assert len({row["id"] for row in rows.values()}) == 4


async def test_the_last_steps_failure_is_the_response(customer: Customer) -> None:
    response = await universal(customer, step("status=500"), step("status=429"))
    assert response.status == 429
    assert response.headers["cf-aig-step"] == "1"
    ended(customer, response.log_id, 0)


async def test_a_step_may_bring_a_key_and_a_configuration_of_its_own(customer: Customer) -> None:
    own = step("tokens=3")
    own["headers"]["authorization"] = "Bearer sk-own"
    response = await universal(customer, own)
    assert response.status == 200
    ended(customer, response.log_id, 0)
    assert customer.farebox.demo_journal(1)[-1]["headers"]["authorization"] == "Bearer sk-own"

    customer.farebox.script("status=500", "tokens=3")
    response = await universal(customer, step(config={"maxAttempts": 2, "retryDelay": 1}), step("tokens=9"))
    assert response.headers["cf-aig-step"] == "0"
    assert response.json()["usage"]["completion_tokens"] == 3
    response = await universal(customer, step("delay=200", config={"requestTimeout": 50}), step("tokens=9"))
    assert response.headers["cf-aig-step"] == "1"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"nonsense", b'[{"provider": "demo"}]', b"[1]"])
async def test_an_invalid_list_of_steps_is_refused(customer: Customer, body: bytes) -> None:
    response = await post(customer, body, "")
    assert (response.status, response.code) == (400, 2901)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_step_names_no_header_that_cannot_be_sent(customer: Customer, stream: bool) -> None:
    """JSON can contain it, and `cf-aig-event-id` goes into the response, which has already been paid for then."""
    before = customer.farebox.demo_stats()["requests"]
    for name, value in (
        ("cf-aig-event-id", "a\r\nb"),
        ("CF-AIG-Event-Id", "\u20ac"),
        ("user-agent", "a\0b"),
        ("transfer-encoding\t", "chunked"),
    ):
        wrong = step("tokens=3", stream=stream)
        wrong["headers"][name] = value
        response = await universal(customer, wrong)
        assert (response.status, response.code) == (400, 2901), name
    assert customer.farebox.demo_stats()["requests"] == before
    assert customer.balance.held == 0
    right = step("tokens=3", stream=stream)
    right["headers"] |= {"cf-aig-event-id": "Acme 1", "cf-aig-metadata": '{"price": "\u20ac"}'}
    response = await universal(customer, right)
    assert (response.status, response.whole) == (200, True)
    assert log_row(customer, response.log_id)["metadata"] == {"price": "\u20ac"}


async def test_too_many_steps_are_refused(customer: Customer) -> None:
    before = customer.farebox.demo_stats()["requests"]
    response = await universal(customer, *(step("status=500") for _ in range(11)))
    assert (response.status, response.code) == (400, 2901)
    assert customer.farebox.demo_stats()["requests"] == before


# --- requests that are wrong or too much ------------------------------------------------------------------------------


async def test_a_body_that_is_too_large(customer: Customer) -> None:
    before = customer.farebox.demo_stats()["requests"]
    response = await post(customer, native_body("x" * 20_000), NATIVE)
    assert (response.status, response.code) == (413, 2906)
    assert response.headers["x-should-retry"] == "false"
    assert customer.farebox.demo_stats()["requests"] == before


def test_a_body_of_unknown_length_that_is_too_large(customer: Customer) -> None:
    before = customer.farebox.demo_stats()["requests"]
    pieces = iter((native_body("x" * 10_000), b" " * 15_000))
    response = httpx.post(f"{customer.gateway_url}/{NATIVE}", content=pieces, headers=customer.headers)
    assert response.status_code == 413
    assert customer.farebox.demo_stats()["requests"] == before


async def test_a_head_that_is_too_large(customer: Customer) -> None:
    before = customer.farebox.demo_stats()["requests"]
    wire = await start(customer, native_body(), NATIVE, x_large="x" * 300_000)
    try:
        response = await wire.response()
        assert 400 <= response.status < 500
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # closed without a response
    assert customer.farebox.demo_stats()["requests"] == before


WRONG: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b'{"model": "demo-1", "messages": [',
    "no object": b'["demo-1"]',
    "no messages": b'{"model": "demo-1"}',
    "no model": b'{"messages": []}',
    "n absurd": native_body(n=10**9),
    "n zero": native_body(n=0),
    "n no number": native_body(n="many"),
    "negative limit": native_body(max_tokens=-1),
    "limit beyond all": native_body(max_tokens=10**18),
    "deep": b'{"model": "demo-1", "messages": ' + b"[" * 9_000 + b"]" * 9_000 + b"}",
    "bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_request_that_cannot_be_billed_is_refused_before_the_call(customer: Customer, wrong: str) -> None:
    before = customer.farebox.demo_stats()["requests"]
    response = await post(customer, WRONG[wrong], NATIVE)
    assert (response.status, response.code) == (400, 2940 if wrong == "deep" else 2901), response.body
    assert response.json()["message"]
    assert customer.farebox.demo_stats()["requests"] == before
    assert customer.balance.posted == FIVE
    assert customer.balance.held == 0


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (NATIVE, lambda body: (body["error"]["type"], body["errors"][0]["code"])),
        ("demo/v1/messages", lambda body: (body["type"], body["error"]["type"])),
        (
            "demo/v1beta/models/demo-1:generateContent",
            lambda body: (body["error"]["status"], body["error"]["code"]),
        ),
    ],
)
async def test_errors_have_the_form_of_the_paths_sdk(
    customer: Customer, path: str, found: Callable[[Any], tuple[Any, Any]]
) -> None:
    response = await post(customer, b"{nonsense", path)
    assert response.status == 400
    body = response.json()
    assert found(body) in [
        ("invalid_request", 2901),
        ("error", "invalid_request_error"),
        ("INVALID_ARGUMENT", 400),
    ]
    assert body["success"] is False
    assert (body["httpCode"], body["internalCode"]) == (400, 2901)
    assert body["message"]


async def test_a_rate_limit(customer: Customer) -> None:
    set_gateway(customer, "default", rate_limiting_limit=2, rate_limiting_interval=3600)
    start_of_window(3600)
    before = customer.farebox.demo_stats()["requests"]
    responses = [await post(customer, native_body(), NATIVE) for _ in range(4)]
    assert [response.status for response in responses] == [200, 200, 429, 429]
    assert responses[-1].code == 2003
    assert 0 < int(responses[-1].headers["retry-after"]) <= 3600
    assert customer.farebox.demo_stats()["requests"] - before == 2
    other = customer.farebox.funded("5")
    assert (await post(other, native_body(), NATIVE)).status == 200, "each gateway has its own limit"


async def test_the_number_of_concurrent_calls_is_limited(tmp_path: Path) -> None:
    with running_farebox(tmp_path, calls_max=3) as farebox, gated(farebox) as gate:
        customers = [await asyncio.to_thread(farebox.funded, "5") for _ in range(4)]
        customer = customers[0]
        body = chat_body().replace(b"demo/demo-1", b"cerebras/gate-1")
        inside = [asyncio.ensure_future(post(each, body)) for each in customers[:3]]
        await eventually(lambda: gate.waiting == 3, "three calls at the provider")
        response = await post(customers[3], body)
        assert (response.status, response.code) == (503, 2908)
        assert int(response.headers["retry-after"]) >= 1
        gate.open()
        assert [response.status for response in await within(asyncio.gather(*inside))] == [200] * 3
        until(lambda: customer.balance.held == 0, "the holds ended")
        assert (await post(customer, body)).status == 200, "there is room again"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_an_internal_error_in_mid_response_leaves_no_hold(
    customer: Customer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def broken(reader: object, chunk: bytes) -> bytes:
        raise RuntimeError("planted")

    for kind, method in ((EventReader, "feed"), (BodyReader, "feed"), (BodyReader, "whole")):
        monkeypatch.setattr(kind, method, broken)
    await post(customer, native_body(stream=stream), NATIVE)
    await eventually(lambda: customer.balance.held == 0, "the hold ended")
    assert customer.balance.posted == FIVE
    assert len(log_rows(customer)) == 1
