"""A balance that covers K holds admits exactly K calls, however many are in flight; and a released hold is usable at
once."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest

from farebox.money import format_usd, parse_usd
from farebox.storage.accounts import read_balance
from tests.calls.gate import INPUT_TOKENS, MODEL, OUTPUT_TOKENS, SLUG, Gate, gated, gated_as
from tests.calls.kit import differences, log_rows, price_of, within
from tests.calls.wire import COMPAT, Wire, WireResponse, chat_body, post, start
from tests.engines import ON_BOTH_ENGINES, looking
from tests.sdks import anthropic, genai, openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import SECONDS, eventually

pytestmark = [pytest.mark.slow, *ON_BOTH_ENGINES]

K = 8
IN_FLIGHT = 10 * K


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """Calls wait only a tenth of a second for held credit."""
    with running_farebox(tmp_path_factory.mktemp("short"), hold_wait_ms=100) as served:
        yield served


@pytest.fixture(scope="module")
def patient(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """Calls wait for held credit as long as it takes."""
    with running_farebox(tmp_path_factory.mktemp("patient"), hold_wait_ms=20_000) as served:
        yield served


class BalanceWatch:
    """Reads a balance continuously, on a separate thread and connection."""

    def __init__(self, customer: Customer) -> None:
        self._settings = customer.farebox.services.settings
        self._account_id = customer.account_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.least_available = self.most_held = 0

    def __enter__(self) -> BalanceWatch:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        with looking(self._settings) as connection:
            while not self._stop.is_set():
                balance = read_balance(connection, self._account_id)
                assert balance is not None
                self.least_available = min(self.least_available, balance.available)
                self.most_held = max(self.most_held, balance.held)
                time.sleep(0.0005)


def gate_body(*, stream: bool) -> bytes:
    return chat_body(stream=stream).replace(b"demo/demo-1", f"{SLUG}/{MODEL}".encode())


async def hold_of(farebox: Farebox, gate: Gate, body: bytes) -> int:
    """The hold of one such call: read while it is in flight, and checked against its receipt."""
    customer = farebox.funded("5")
    before = gate.waiting
    wire = await start(customer, body)
    await eventually(lambda: gate.waiting > before, "the call reached the provider")
    held = customer.balance.held
    assert held > 0
    gate.open()
    response = await within(wire.response())
    gate.shut()
    assert customer.receipt(response.log_id)["hold_nanos"] == held
    return held


def with_balance(farebox: Farebox, nanos: int) -> Customer:
    customer = farebox.funded(format_usd(nanos))
    assert customer.balance.posted == nanos
    return customer


async def in_flight(customer: Customer, body: bytes, calls: int, demo: str = "") -> list[Wire]:
    """This many calls in flight, each on its own connection, all opened before the first call was sent."""
    wires = await asyncio.gather(*(Wire.open(customer.farebox.url) for _ in range(calls)))
    headers = {"content-type": "application/json", **customer.headers, **({"x-demo": demo} if demo else {})}
    path = f"/v1/{customer.account_id}/default/{COMPAT}"
    await asyncio.gather(*(wire.send(path, headers, body) for wire in wires))
    return list(wires)


async def refusals(wires: list[Wire], count: int) -> tuple[list[WireResponse], set[asyncio.Task[WireResponse]]]:
    """Wait until `count` calls were answered; returns them and the calls still in flight."""
    pending = {asyncio.ensure_future(wire.response()) for wire in wires}
    answered: list[WireResponse] = []
    while len(answered) < count:
        done, pending = await asyncio.wait(pending, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        assert done, f"only {len(answered)} of {count} were answered while the provider was shut"
        answered += [task.result() for task in done]
    return answered, pending


def assert_credit_held(response: WireResponse) -> None:
    assert response.status == 429, response.body
    assert response.code == 2907
    assert int(response.headers["retry-after"]) >= 1
    assert "x-should-retry" not in response.headers, "an SDK would not try again"
    assert "held by other calls" in response.json()["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_balance_of_k_holds_admits_exactly_k_calls(farebox: Farebox, stream: bool) -> None:
    with gated(farebox) as gate:
        body = gate_body(stream=stream)
        hold = await hold_of(farebox, gate, body)
        customer = with_balance(farebox, K * hold)
        with BalanceWatch(customer) as watch:
            wires = await in_flight(customer, body, IN_FLIGHT)
            refused, pending = await refusals(wires, IN_FLIGHT - K)
            assert gate.waiting == K
            assert customer.balance.held == K * hold
            assert customer.balance.available == 0
            gate.open()
            admitted = await within(asyncio.gather(*pending))

        assert [response.status for response in admitted] == [200] * K
        assert all(response.whole for response in admitted)
        for response in refused:
            assert_credit_held(response)
        assert watch.least_available == 0
        assert watch.most_held == K * hold
        balance = customer.balance
        assert balance.held == 0
        assert balance.posted == K * (hold - price_of(INPUT_TOKENS, OUTPUT_TOKENS))

        # Released credit is available to the next calls at once, down to the last hold.
        gate.shut()
        again = balance.available // hold
        wires = await in_flight(customer, body, IN_FLIGHT)
        refused, pending = await refusals(wires, IN_FLIGHT - again)
        gate.open()
        admitted = await within(asyncio.gather(*pending))
        assert [response.status for response in admitted] == [200] * again
        assert {response.status for response in refused} == {429}
        assert customer.balance.held == 0
        assert len({response.log_id for response in [*admitted, *refused]}) == IN_FLIGHT
    assert differences(farebox) == []


async def test_a_provider_that_never_answers_holds_k_calls_and_gives_all_back(farebox: Farebox) -> None:
    body = chat_body(max_tokens=100)
    probe = farebox.funded("5")
    response = await post(probe, body)
    hold = probe.receipt(response.log_id)["hold_nanos"]
    customer = with_balance(farebox, K * hold)
    before = farebox.demo_stats()
    with BalanceWatch(customer) as watch:
        wires = await in_flight(customer, body, IN_FLIGHT, demo="hang=1")
        answering = {wire: asyncio.ensure_future(wire.response()) for wire in wires}
        await eventually(lambda: sum(task.done() for task in answering.values()) == IN_FLIGHT - K, "72 refusals", 15)
        assert customer.balance.held == K * hold
        assert customer.balance.available == 0
        for wire, task in answering.items():
            if task.done():
                assert_credit_held(task.result())
            else:
                task.cancel()
                wire.hang_up()
        await eventually(lambda: customer.balance.held == 0, "every hold ended")
    assert watch.least_available == 0
    read = K * hold - customer.balance.posted
    assert 0 < read < K * hold // 10, "the input that was read is charged"
    assert farebox.demo_stats()["requests"] - before["requests"] == K

    farebox.grant(customer.account_id, f"{read / 10**9:.9f}")
    responses = await asyncio.gather(*(post(customer, body, demo="tokens=1") for _ in range(K)))
    assert [response.status for response in responses] == [200] * K, "all of the rest is spendable at once"
    assert differences(farebox) == []


async def test_a_waiting_call_is_served_when_credit_is_released(patient: Farebox) -> None:
    with gated(patient) as gate:
        body = gate_body(stream=False)
        hold = await hold_of(patient, gate, body)
        customer = with_balance(patient, hold + hold // 2)
        first = asyncio.ensure_future(post(customer, body))
        await eventually(lambda: gate.waiting == 1, "the first reached the provider")
        second = asyncio.ensure_future(post(customer, body))
        await asyncio.sleep(0.15)
        assert not second.done()
        assert gate.waiting == 1, "the second call must not have been forwarded without a hold"
        gate.open()
        responses = await within(asyncio.gather(first, second))  # it was woken: a call that waits to the end is refused
        assert [response.status for response in responses] == [200, 200]
        assert "farebox-output-limit" not in responses[1].headers
        assert customer.balance.held == 0


async def test_a_waiting_call_that_can_then_pay_for_less_is_limited_not_refused(patient: Farebox) -> None:
    with gated(patient) as gate:
        body = gate_body(stream=False)
        hold = await hold_of(patient, gate, body)
        customer = with_balance(patient, hold)
        first = asyncio.ensure_future(post(customer, body))
        await eventually(lambda: gate.waiting == 1, "the first reached the provider")
        second = asyncio.ensure_future(post(customer, body))
        await asyncio.sleep(0.1)
        assert not second.done()
        gate.open()
        responses = await within(asyncio.gather(first, second))
        assert [response.status for response in responses] == [200, 200]
        # The second call's credit is reduced by the first charge.
        missing = price_of(INPUT_TOKENS, OUTPUT_TOKENS)
        assert int(responses[1].headers["farebox-output-limit"]) == 4096 - math.ceil(missing / 2000)


async def test_a_waiting_caller_that_disconnects_leaves_no_hold(patient: Farebox) -> None:
    with gated(patient) as gate:
        body = gate_body(stream=False)
        hold = await hold_of(patient, gate, body)
        customer = with_balance(patient, hold)
        first = asyncio.ensure_future(post(customer, body))
        await eventually(lambda: gate.waiting == 1, "the first reached the provider")
        second = await start(customer, body)
        calls = patient.services.calls.by_account
        await eventually(lambda: calls.get(customer.account_id) == 2, "the second has become a call")
        second.hang_up()
        await eventually(lambda: len(log_rows(customer)) == 1, "the call that gave up is in the log")
        [row] = log_rows(customer)
        assert row["status_code"] == 499
        assert row["farebox"] | {"first_byte_ms": None} == {
            "charge_nanos": 0,
            "outcome": "released",
            "error": "the client disconnected",
            "first_byte_ms": None,
        }
        assert customer.balance.held == hold
        gate.open()
        assert (await within(first)).status == 200
        assert customer.balance.held == 0
        assert gate.seen == 2


# --- a small balance --------------------------------------------------------------------------------------------------


def openai_client(customer: Customer) -> openai.OpenAI:
    return openai.OpenAI(api_key=customer.token, base_url=f"{customer.gateway_url}/demo")


def anthropic_client(customer: Customer) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=customer.token, base_url=f"{customer.gateway_url}/demo")


def google_client(customer: Customer) -> genai.Client:
    options = genai.types.HttpOptions(base_url=f"{customer.gateway_url}/demo")
    return genai.Client(api_key=customer.token, http_options=options)


def by_chat(customer: Customer, most: int) -> None:
    with openai_client(customer) as client:
        client.chat.completions.create(
            model="demo-1", messages=[{"role": "user", "content": "Hello there"}], max_tokens=most
        )


def by_new_chat(customer: Customer, most: int) -> None:
    with openai_client(customer) as client:
        client.chat.completions.create(
            model="demo-1", messages=[{"role": "user", "content": "Hello there"}], max_completion_tokens=most
        )


def by_responses(customer: Customer, most: int) -> None:
    with openai_client(customer) as client:
        client.responses.create(model="demo-1", input="Hello there", max_output_tokens=most)


def by_messages(customer: Customer, most: int) -> None:
    with anthropic_client(customer) as client:
        client.messages.create(
            model="demo-1", messages=[{"role": "user", "content": "Hello there"}], max_tokens=most, timeout=30
        )


def by_generate(customer: Customer, most: int) -> None:
    with google_client(customer) as client:
        client.models.generate_content(
            model="demo-1",
            contents="Hello there",
            config=genai.types.GenerateContentConfig(max_output_tokens=most),
        )


ASKING: dict[str, tuple[Callable[[Customer, int], None], Callable[[Any], int]]] = {
    "chat": (by_chat, lambda body: body["max_tokens"]),
    "chat, new name": (by_new_chat, lambda body: body["max_completion_tokens"]),
    "responses": (by_responses, lambda body: body["max_output_tokens"]),
    "messages": (by_messages, lambda body: body["max_tokens"]),
    "generate": (by_generate, lambda body: body["generationConfig"]["maxOutputTokens"]),
}


@pytest.mark.parametrize("way", ASKING)
def test_a_large_output_limit_is_cut_to_the_balance(farebox: Farebox, way: str) -> None:
    ask, limit_in = ASKING[way]
    nanos = parse_usd("0.002")
    customer = with_balance(farebox, nanos)
    ask(customer, 64_000)
    forwarded = json.loads(farebox.demo_journal(1)[-1]["body"])
    limit = limit_in(forwarded)
    [row] = log_rows(customer)
    receipt = customer.receipt(row["id"])
    assert 100 < limit < nanos // 2_000, "exactly as much as the money can pay for"
    assert receipt["hold_nanos"] <= nanos
    assert nanos - receipt["hold_nanos"] < 2_000, "one more token would have been too much"
    assert 0 < receipt["charge_nanos"] == nanos - customer.balance.posted


async def test_a_limited_output_is_reported_in_the_response(farebox: Farebox) -> None:
    customer = with_balance(farebox, parse_usd("0.002"))
    response = await post(customer, chat_body(max_tokens=64_000), demo="tokens=2000")
    assert response.status == 200
    limit = int(response.headers["farebox-output-limit"])
    assert json.loads(farebox.demo_journal(1)[-1]["body"])["max_tokens"] == limit
    assert response.json()["usage"]["completion_tokens"] == limit
    assert response.json()["choices"][0]["finish_reason"] == "length"
    receipt = customer.receipt(response.log_id)
    assert receipt["charge_nanos"] <= receipt["hold_nanos"]
    assert customer.balance.available >= 0

    well_funded = farebox.funded("5")
    response = await post(well_funded, chat_body(max_tokens=64_000))
    assert "farebox-output-limit" not in response.headers


async def test_a_body_that_is_not_utf_8_is_refused_and_leaves_no_hold(farebox: Farebox) -> None:
    customer = with_balance(farebox, parse_usd("0.002"))
    broken = b'{"contents":[{"parts":[{"text":"Hello"}]}],"generationConfig":{"maxOutputTokens":64000,"\xff":1}}'
    response = await post(customer, broken, "demo/v1beta/models/demo-1:generateContent")
    assert response.status == 400, response.body
    assert (log_rows(customer), customer.balance.held) == ([], 0), "it is refused before it becomes a call"
    response = await post(customer, chat_body(stream=True)[:-1] + b',"stream_options":{"\xff":1}}')
    assert response.status == 400, response.body


OUT_OF_MONEY: dict[str, tuple[Callable[[Customer, int], None], Callable[[], type[Exception]]]] = {
    "chat": (by_chat, lambda: openai.APIStatusError),
    "responses": (by_responses, lambda: openai.APIStatusError),
    "messages": (by_messages, lambda: anthropic.APIStatusError),
    "generate": (by_generate, lambda: genai.errors.ClientError),
}


@pytest.mark.parametrize("balance", ["nothing", "too little for a word"])
@pytest.mark.parametrize("way", OUT_OF_MONEY)
def test_without_money_the_sdk_raises_402_and_does_not_try_again(farebox: Farebox, way: str, balance: str) -> None:
    ask, kind = OUT_OF_MONEY[way]
    customer = farebox.funded("0.00001")
    if balance == "nothing":
        account_id = farebox.create_account()
        customer = Customer(farebox, account_id, farebox.create_token(account_id))
    before = farebox.demo_stats()["requests"]
    with pytest.raises(kind()) as caught:
        ask(customer, 100)
    error: Any = caught.value
    assert (error.code if way == "generate" else error.status_code) == 402
    # The OpenAI SDK keeps Cloudflare's array of errors in `body`; the others show theirs in the exception's text.
    said = str(error.body) if isinstance(error, openai.APIStatusError) else str(error)
    assert "2021" in said
    assert "Insufficient credits" in said
    assert farebox.demo_stats()["requests"] == before, "it was refused before the call"
    [row] = log_rows(customer)  # an SDK that retries would make more
    assert (row["status_code"], row["cost"], row["farebox"]["outcome"]) == (402, 0, "refused")
    assert customer.balance.held == 0


async def test_no_credit_and_held_credit_give_different_errors(farebox: Farebox) -> None:
    response = await post(farebox.funded("0.00001"), chat_body(max_tokens=100))
    assert (response.status, response.code) == (402, 2021)
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
    body = response.json()
    assert body["success"] is False
    assert body["httpCode"] == 402
    assert body["internalCode"] == 2021
    assert "Insufficient credits" in body["message"]


@pytest.mark.parametrize(("stream", "output"), [(False, 100), (True, 600)], ids=["plain", "stream"])
async def test_credit_for_exactly_twenty_admits_twenty_of_two_hundred_at_once(
    farebox: Farebox, stream: bool, output: int
) -> None:
    """If the chat template of the model is known, the hold of a call with an output limit equals its cost."""
    used = (9, output)  # three for the message, one each for its role, `Count` and `.`, and three for the response
    messages = [{"role": "user", "content": "Count."}]
    body = json.dumps(
        {"model": "openai/gpt-4o-mini", "messages": messages, "max_tokens": output, "stream": stream}
    ).encode()
    charge = used[0] * 150 + used[1] * 600
    with gated_as(farebox, "openai", used) as gate:
        customer = with_balance(farebox, 20 * charge)
        with BalanceWatch(customer) as watch:
            wires = await in_flight(customer, body, 200)
            refused, pending = await refusals(wires, 180)
            assert gate.waiting == 20
            assert customer.balance.available == 0
            gate.open()
            admitted = await within(asyncio.gather(*pending))

    assert [response.status for response in admitted] == [200] * 20
    assert all(response.whole for response in admitted)
    for response in refused:
        assert_credit_held(response)
    assert watch.least_available == 0
    assert (customer.balance.posted, customer.balance.held) == (0, 0)
    assert differences(farebox) == []
