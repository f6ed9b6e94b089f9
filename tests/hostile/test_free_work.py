"""A provider bills the work it was asked to do even if nobody waits for the response. So abandoned calls are charged by
a documented rule, are not retried, and are bounded."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import quicktok  # type: ignore[import-untyped]

from farebox.calls.watch import Watch
from farebox.clock import Clock, SystemClock
from farebox.errors import (
    GIVEN_UP,
    PROVIDER_UNAVAILABLE,
    RESPONSE_UNSCREENED,
    UPSTREAM_INVALID,
    UPSTREAM_TIMEOUT,
    ErrorKind,
)
from farebox.http.exchange import ClientGone, Exchange
from farebox.http.server import serve
from farebox.limits.unpaid import UnpaidWork
from farebox.providers.formats.openai_chat import OpenAIChat
from farebox.providers.http1.pool import PooledUpstream
from tests.calls.kit import differences, log_row, log_rows, price_of, set_gateway, set_price, set_provider
from tests.calls.wire import Wire, WireResponse, post, start
from tests.engines import ON_BOTH_ENGINES
from tests.metering.pace import PacedLoop
from tests.support import Customer, Farebox, running_on
from tests.waiting import eventually

pytestmark = ON_BOTH_ENGINES

SLUG, OTHER, MODEL, EXPENSIVE = "cerebras", "groq", "acme-1", "acme-expensive"
"""Two providers that may continue after a disconnect."""
PATH = f"{SLUG}/chat/completions"
TIMEOUT_MS = 4_000
"""How long callers wait. The loop's clock is advanced by this, which is less than the database's timeout."""
BUSY_SECONDS = 120.0
"""For waits that include starting a counting helper process on a busy machine."""
READ = "counted from what was read"
Response = Callable[[Exchange], Awaitable[None]]
SILENCE = None
"""The script of a provider that does not respond while the caller waits."""


def says(status: int, document: object) -> Response:
    async def respond(exchange: Exchange) -> None:
        exchange.respond(status, [("content-type", "application/json")], json.dumps(document).encode())

    return respond


GOOD = says(
    200,
    {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    },
)


async def BEGUN(exchange: Exchange) -> None:
    """Providers that keep a connection alive send the head, and white space, before they have generated anything."""
    stream = exchange.start(200, [("content-type", "application/json")])
    await stream.send(b"  \n ")
    await exchange.gone()


class Provider:
    """Answers requests with the entries of `script` in turn, then always with the last; runs on the server's loop."""

    def __init__(self, farebox: Farebox) -> None:
        self.script: list[Response | None] = [SILENCE]
        self.seen = 0
        self.silent = 0
        """Requests that wait for a response."""
        self.server = farebox.run(serve(self._handle, "127.0.0.1", 0))
        for slug in (SLUG, OTHER):
            set_provider(farebox, slug, base_url=f"http://{self.server.host}:{self.server.port}")
            set_price(farebox, slug, MODEL)
            set_price(farebox, slug, EXPENSIVE, output_max=8_000_000)

    async def _handle(self, exchange: Exchange) -> None:
        await exchange.body(2**20)
        response = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.seen += 1
        with contextlib.suppress(ClientGone):
            if response is not SILENCE:
                await response(exchange)
                return
            self.silent += 1
            try:
                await exchange.gone()
            finally:
                self.silent -= 1


@contextlib.contextmanager
def provided(data_dir: Path, clock: Clock | None = None, **settings: object) -> Iterator[tuple[Farebox, Provider]]:
    """A server whose loop time can be advanced, and a provider behind it."""
    with running_on(PacedLoop, clock, data_dir, database_timeout_ms=60_000, **settings) as farebox:
        made = Provider(farebox)
        yield farebox, made
        farebox.run(made.server.close())
        assert differences(farebox) == []


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server that accepts any timeout of callers."""
    settings = {"request_timeout_min_ms": 1, "database_timeout_ms": 60_000}
    with running_on(PacedLoop, None, tmp_path_factory.mktemp("free-work"), **settings) as served:
        yield served
        assert differences(served) == []


@pytest.fixture
def provider(farebox: Farebox) -> Iterator[Provider]:
    made = Provider(farebox)
    yield made
    farebox.run(made.server.close())


def time_passes(farebox: Farebox) -> None:
    """Advance the time by a little more than a caller waits."""

    async def move() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PacedLoop)
        loop.advance(TIMEOUT_MS / 1000 + 0.1)
        for _ in range(5):
            await asyncio.sleep(0)

    farebox.run(move())


def body(text: str = "Write a long story", model: str = MODEL, **fields: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **fields}).encode()


def paid(customer: Customer, granted: int = 5 * 10**9) -> int:
    balance = customer.balance
    assert balance.held == 0
    return granted - balance.posted


def price_of_reading(content: bytes | None = None) -> int:
    """The price of the input, which the provider has certainly read."""
    demand = OpenAIChat().parse("chat/completions", "application/json", content or body(), exact=True).demand
    return price_of(quicktok.get_encoding("o200k_base").count(demand.text) + 4 * demand.messages, 0)


async def post_with_timeout(
    customer: Customer, provider: Provider, content: bytes, path: str = PATH, **headers: str
) -> WireResponse:
    """The response to a caller that times out whenever the provider is silent."""
    headers = {"cf_aig_request_timeout": str(TIMEOUT_MS), **headers}
    call = asyncio.ensure_future(post(customer, content, path, **headers))
    while not call.done():
        await eventually(lambda: call.done() or provider.silent, "an answer, or none")
        if not call.done():
            time_passes(customer.farebox)
            await eventually(lambda: call.done() or not provider.silent, "the provider is left")
    return await call


async def left(customer: Customer, provider: Provider, content: bytes, path: str = PATH) -> dict[str, Any]:
    """The row of a call whose client hangs up as soon as the provider has it."""
    seen, rows = provider.seen, len(log_rows(customer))
    wire: Wire = await start(customer, content, path)
    await eventually(lambda: provider.seen > seen, "the provider has it")
    wire.hang_up()
    await eventually(lambda: len(log_rows(customer)) > rows, "the row", BUSY_SECONDS)
    return log_rows(customer)[0]


async def test_a_timeout_starts_one_generation_and_pays_for_what_was_read(
    customer: Customer, provider: Provider
) -> None:
    response = await post_with_timeout(customer, provider, body(), cf_aig_max_attempts="5")
    assert (response.status, response.code) == (504, UPSTREAM_TIMEOUT.code)
    assert "Nothing was charged" not in response.body.decode()
    assert provider.seen == 1
    assert paid(customer) == price_of_reading()
    row, receipt = log_row(customer, response.log_id), customer.receipt(response.log_id)
    assert (row["status_code"], row["farebox"]["outcome"], row["success"]) == (504, "charged", False)
    assert receipt["policy"] == f"no response began in the time that the caller allows: {READ}"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_hanging_up_starts_one_generation_and_pays_for_what_was_read(
    customer: Customer, provider: Provider, stream: bool
) -> None:
    row = await left(customer, provider, body(stream=stream))
    assert (row["status_code"], row["farebox"]["outcome"]) == (499, "charged")
    assert customer.receipt(row["id"])["policy"] == f"the client disconnected: {READ}"
    assert paid(customer) == price_of_reading()


async def test_hanging_up_before_a_whole_response_pays_for_what_was_read(
    customer: Customer, provider: Provider
) -> None:
    provider.script = [BEGUN]
    row = await left(customer, provider, body())
    assert customer.receipt(row["id"])["policy"] == f"the client disconnected: {READ}"
    assert paid(customer) == price_of_reading()


async def test_every_abandoned_step_is_charged(customer: Customer, provider: Provider) -> None:
    step = {"provider": SLUG, "endpoint": "chat/completions", "query": json.loads(body())}
    steps = [{**step, "config": {"requestTimeout": TIMEOUT_MS, "maxAttempts": 5}} for _ in range(3)]
    response = await post_with_timeout(customer, provider, json.dumps(steps).encode(), "")
    assert (response.status, response.headers["cf-aig-step"]) == (504, "2")
    assert provider.seen == 3
    assert paid(customer) == 3 * price_of_reading()


async def test_errors_on_the_callers_own_key_pass_unchanged(customer: Customer, provider: Provider) -> None:
    provider.script = [SILENCE, GOOD]
    own = {"cf_aig_authorization": f"Bearer {customer.token}", "authorization": "Bearer sk-callers-own"}
    response = await post_with_timeout(customer, provider, body(), cf_aig_max_attempts="5", **own)
    assert (response.status, provider.seen) == (200, 2)
    assert paid(customer) == 0


@pytest.mark.parametrize("how", ["hangs up", "is in a hurry"])
async def test_a_request_that_never_reached_the_provider_is_free(
    customer: Customer, provider: Provider, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    connecting = 0

    async def never(*_: object) -> None:
        nonlocal connecting
        connecting += 1
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(PooledUpstream, "_connect", never)
    set_provider(customer.farebox, SLUG, base_url="http://127.0.0.1:9")
    wire = await start(customer, body(), PATH, cf_aig_request_timeout=str(TIMEOUT_MS))
    await eventually(lambda: connecting, "it is being called")
    if how == "hangs up":
        wire.hang_up()
    else:
        time_passes(customer.farebox)
        assert (await wire.response()).code == UPSTREAM_TIMEOUT.code
    # Database requests in flight when the time advanced have timed out: it counts as unavailable for a moment.
    await eventually(lambda: httpx.get(f"{customer.farebox.url}/readyz").is_success, "the database is back")
    await eventually(lambda: log_rows(customer), "the row")
    assert log_rows(customer)[0]["farebox"]["outcome"] == ("released" if how == "hangs up" else "refused")
    assert (paid(customer), provider.seen) == (0, 0)


async def test_a_key_without_credit_is_not_tried_again(customer: Customer, provider: Provider) -> None:
    error = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    provider.script = [says(429, error)]
    response = await post(customer, body(), PATH, cf_aig_max_attempts="5")
    assert (response.status, response.code) == (503, PROVIDER_UNAVAILABLE.code)
    assert provider.seen == 1
    provider.script = [says(429, {"error": {"message": "Slower", "code": "rate_limit_exceeded"}}), GOOD]
    assert (await post(customer, body(), PATH, cf_aig_max_attempts="5")).status == 200
    assert paid(customer) == price_of(3, 5)


@pytest.mark.parametrize("status", [504, 524])
async def test_a_gateway_timeout_is_not_retried_and_free(customer: Customer, provider: Provider, status: int) -> None:
    provider.script = [says(status, {"error": {"message": "Timeout"}})]
    response = await post(customer, body(), PATH, cf_aig_max_attempts="5")
    assert (response.status, provider.seen) == (status, 1)
    provider.script = [says(500, {"error": {"message": "Sorry"}})]
    assert (await post(customer, body(), PATH, cf_aig_max_attempts="5")).status == 500
    assert provider.seen == 6
    assert paid(customer) == 0


# The bound


@pytest.mark.parametrize("how", ["hangs up", "hangs up on a stream", "hangs up after the head", "is in a hurry"])
async def test_abandoned_calls_of_an_account_are_limited(farebox: Farebox, provider: Provider, how: str) -> None:
    customer = farebox.funded("100")
    content = body(model=EXPENSIVE, stream="stream" in how)
    provider.script = [BEGUN if "head" in how else SILENCE]
    if how == "is in a hurry":
        await post_with_timeout(customer, provider, content)
    else:
        await left(customer, provider, content)
    before = paid(customer, 100 * 10**9)
    assert before == price_of_reading()
    seen = provider.seen
    provider.script = [GOOD]
    for path, ask in ((PATH, body()), (f"{OTHER}/chat/completions", body()), (PATH, body(stream=True))):
        response = await post(customer, ask, path)
        assert (response.status, response.code) == (429, GIVEN_UP.code)
        assert 1 < int(response.headers["retry-after"]) <= 3600
    assert provider.seen == seen
    assert paid(customer, 100 * 10**9) == before
    own = {"cf_aig_authorization": f"Bearer {customer.token}", "authorization": "Bearer sk-callers-own"}
    assert (await post(customer, body(), PATH, **own)).status == 200, "the operator pays nothing for it"
    assert (await post(farebox.funded("5"), body(), PATH)).status == 200, "other accounts are not affected"


async def test_a_stream_stopped_by_its_provider_is_not_abandoned_work(farebox: Farebox) -> None:
    customer = farebox.funded("100")
    set_price(farebox, "demo", EXPENSIVE, output_max=8_000_000)
    before = farebox.demo_stats()["requests"]
    wire = await start(customer, body(model=EXPENSIVE, stream=True), "demo/chat/completions", demo="hang=1")
    await eventually(lambda: farebox.demo_stats()["requests"] > before, "the provider has it")
    wire.hang_up()
    await eventually(lambda: log_rows(customer), "the row")
    assert paid(customer, 100 * 10**9) == price_of_reading()
    assert (await post(customer, body(model=EXPENSIVE), "demo/chat/completions")).status == 200


async def test_paid_calls_raise_the_limit_of_abandoned_ones(farebox: Farebox, provider: Provider) -> None:
    customer = farebox.funded("100")
    much = {"prompt_tokens": 3, "completion_tokens": 7_000_000, "total_tokens": 7_000_003}
    expensive = says(200, {"choices": [{"index": 0, "message": {"content": "Yes."}}], "usage": much})
    await left(customer, provider, body(model=EXPENSIVE, max_tokens=4_500_000))  # 9 of the 10 dollars
    provider.script = [expensive]
    assert (await post(customer, body(model=EXPENSIVE), PATH)).status == 200  # for 14
    provider.script = [SILENCE]
    await left(customer, provider, body(model=EXPENSIVE, max_tokens=4_500_000))
    provider.script = [GOOD]
    assert (await post(customer, body(), PATH)).status == 200


def test_the_count_of_unpaid_calls_decays_evenly() -> None:
    hour = 3_600_000
    unpaid = UnpaidWork()
    assert unpaid.wait("acme", 100, 0) is None
    unpaid.add("acme", 99, 100, 0)
    assert unpaid.wait("acme", 100, 0) is None
    unpaid.add("acme", 101, 100, 0)
    assert unpaid.wait("acme", 100, 0) == 3601
    assert unpaid.wait("other", 100, 0) is None
    assert unpaid.wait("acme", 100, hour // 2) == 1801
    assert unpaid.wait("acme", 100, hour + 100_000) is None
    unpaid.add("acme", 10**9, 100, 2 * hour)
    assert unpaid.wait("acme", 100, 2 * hour) == 23 * 3600 + 1, "no account is shut out for longer than a day"
    unpaid.paid("acme", 2_400)
    assert unpaid.wait("acme", 100, 2 * hour) is None


# What the operator sets


@pytest.mark.parametrize("policy", ["hold", "free"])
async def test_the_operators_policy_sets_the_price_of_abandoned_calls(tmp_path: Path, policy: str) -> None:
    with provided(tmp_path, request_timeout_min_ms=1, cut_stream=policy, unpaid_hourly_cents=0) as (farebox, provider):
        customer = farebox.funded("5")
        response = await post_with_timeout(customer, provider, body(max_tokens=100))
        receipt = customer.receipt(response.log_id)
        assert paid(customer) == receipt["charge_nanos"] == (receipt["hold_nanos"] if policy == "hold" else 0)
        assert receipt["hold_nanos"] > price_of(0, 100)
        sample = farebox.funded("100")
        await post_with_timeout(sample, provider, body(model=EXPENSIVE))
        provider.script = [GOOD]
        assert (await post(sample, body(), PATH)).status == 200, "without a bound"


async def test_a_timeout_is_retried_if_the_operator_allows_it(tmp_path: Path) -> None:
    with provided(tmp_path, request_timeout_min_ms=1, retry_timeouts="allow") as (farebox, provider):
        customer = farebox.funded("100")
        provider.script = [SILENCE, says(504, {}), GOOD]
        response = await post_with_timeout(customer, provider, body(model=EXPENSIVE), cf_aig_max_attempts="3")
        assert (response.status, provider.seen) == (200, 3)
        assert paid(customer, 100 * 10**9) == price_of(3, 5)
        response = await post(customer, body(), PATH)
        assert (response.status, response.code) == (429, GIVEN_UP.code), "the first attempt counts as unpaid work"

        customer = farebox.funded("5")
        provider.script = [SILENCE, says(404, {}), GOOD]
        step = {"provider": SLUG, "endpoint": "chat/completions", "query": json.loads(body())}
        steps = [{**step, "config": {"requestTimeout": TIMEOUT_MS, "maxAttempts": 2}}, step]
        response = await post_with_timeout(customer, provider, json.dumps(steps).encode(), "")
        assert (response.status, response.headers["cf-aig-step"]) == (200, "1")
        assert paid(customer) == price_of(3, 5), "the first step was finally answered"


async def test_the_operator_sets_the_minimum_timeout_of_callers(tmp_path: Path) -> None:
    with provided(tmp_path) as (farebox, provider):
        customer = farebox.funded("5")
        reported: list[bool] = []

        async def when_told(exchange: Exchange) -> None:
            await eventually(lambda: reported, "the word")
            await GOOD(exchange)

        provider.script = [when_told]
        call = asyncio.ensure_future(post(customer, body(), PATH, cf_aig_request_timeout="1"))
        await eventually(lambda: provider.seen == 1, "the provider has it")
        time_passes(farebox)
        reported.append(True)
        assert (await call).status == 200


async def test_a_call_ended_by_the_operators_limit_is_free_but_counted(tmp_path: Path) -> None:
    """The caller can cause this too, because a response that is not streamed arrives only when it has been
    generated."""
    with provided(tmp_path, first_byte_timeout_ms=TIMEOUT_MS) as (farebox, provider):
        customer, other = farebox.funded("100"), farebox.funded("100")
        for caller, stream, code in ((other, True, 0), (customer, False, GIVEN_UP.code)):
            call = asyncio.ensure_future(post(caller, body(model=EXPENSIVE, stream=stream), PATH))
            await eventually(lambda: provider.silent, "the provider is silent")
            time_passes(farebox)
            response = await call
            assert (response.status, response.code) == (504, UPSTREAM_TIMEOUT.code)
            assert "that the operator allows: nothing was delivered" in caller.receipt(response.log_id)["policy"]
            assert paid(caller, 100 * 10**9) == 0
            provider.script = [GOOD]
            response = await post(caller, body(), PATH)
            assert response.status == (429 if code else 200)
            provider.script = [SILENCE]


@pytest.mark.parametrize(
    ("limit", "begun", "status", "why"),
    [
        ("read_timeout_ms", True, UPSTREAM_INVALID, "the provider stopped sending"),
        ("call_timeout_ms", True, UPSTREAM_INVALID, "the call took longer than allowed"),
        ("call_timeout_ms", False, UPSTREAM_TIMEOUT, "the call took longer than allowed"),
    ],
    ids=["silence after the head", "too long after the head", "too long before the head"],
)
async def test_a_response_in_one_piece_ended_by_silence_or_duration_is_free_but_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, begun: bool, status: ErrorKind, why: str
) -> None:
    """The caller chose the work that takes so long. A stream would have shown that it began."""
    arrived: list[Watch] = []
    progress = Watch.progress

    def noted(watch: Watch) -> None:
        progress(watch)
        arrived.append(watch)

    monkeypatch.setattr(Watch, "progress", noted)
    settings: dict[str, Any] = {limit: TIMEOUT_MS}
    with provided(tmp_path, **settings) as (farebox, provider):
        customer, other = farebox.funded("100"), farebox.funded("100")
        for caller, stream in ((other, True), (customer, False)):
            provider.script = [BEGUN if begun else SILENCE]
            call = asyncio.ensure_future(post(caller, body(model=EXPENSIVE, stream=stream), PATH))
            await eventually(lambda: provider.silent or arrived, "the provider is silent")
            time_passes(farebox)
            [response] = await asyncio.gather(call, return_exceptions=stream and begun)  # a stream breaks off
            [row] = log_rows(caller)
            assert caller.receipt(row["id"])["policy"] == f"{why}: nothing was delivered, nothing is charged"
            assert paid(caller, 100 * 10**9) == 0
            if not isinstance(response, BaseException) and not (stream and begun):
                assert (response.status, response.code) == (status.status, status.code)
            provider.script = [GOOD]
            response = await post(caller, body(), PATH)
            assert response.status == (200 if stream else 429)
            assert stream or response.code == GIVEN_UP.code
            arrived.clear()


async def test_a_response_that_is_too_large_to_screen_is_abandoned_work(farebox: Farebox, provider: Provider) -> None:
    """The provider is left in the middle of it, by a rule of the account."""

    async def large(exchange: Exchange) -> None:
        stream = exchange.start(200, [("content-type", "application/json")])
        await stream.send(b'{"choices": [{"message": {"content": "')
        for _ in range(9):
            await stream.send(b"word " * 2**18)
        await exchange.gone()

    policy = {"id": "cards", "enabled": True, "action": "BLOCK", "check": ["RESPONSE"], "profiles": ["payment_cards"]}
    for stream in (False, True):
        customer = farebox.funded("100")
        set_gateway(customer, dlp={"enabled": True, "policies": [policy]})
        provider.script = [large]
        response = await post(customer, body(model=EXPENSIVE, stream=stream), PATH)
        assert (response.status, response.code) == (RESPONSE_UNSCREENED.status, RESPONSE_UNSCREENED.code)
        assert customer.receipt(response.log_id)["policy"] == f"a rule of the gateway blocked it: {READ}"
        assert paid(customer, 100 * 10**9) == price_of_reading()
        provider.script = [GOOD]
        response = await post(customer, body(), PATH)
        assert (response.status, response.code) == (429, GIVEN_UP.code)


class Hours(SystemClock):
    """Skips the pauses between attempts, and records their length."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if 20 < seconds < 60:
            self.slept.append(seconds)
        await super().sleep(0 if 20 < seconds < 60 else seconds)


async def test_retry_pauses_do_not_occupy_a_slot_for_long(tmp_path: Path) -> None:
    clock = Hours()
    with provided(tmp_path, clock) as (farebox, provider):
        customer = farebox.funded("5")
        provider.script = [says(500, {"error": {"message": "Sorry"}})]
        for backoff, delay, pauses in (
            ("constant", "29000", [29.0] * 4),
            ("constant", "59000", [59.0] * 2),
            ("linear", "21000", [21.0, 42.0]),
            ("exponential", "25000", [25.0, 50.0]),
        ):
            provider.seen, clock.slept = 0, []
            options = {"cf_aig_max_attempts": "5", "cf_aig_retry_delay": delay, "cf_aig_backoff": backoff}
            assert (await post(customer, body(), PATH, **options)).status == 500
            assert [seconds for seconds in clock.slept if seconds in pauses] == pauses
            assert provider.seen == len(pauses) + 1
