"""`python -m bench.holds`: how much is held for recorded calls, and whether a hold prevents calls that could be paid
for.

Each exchange of bench.recordings is sent through a Farebox on SQLite, with a provider behind it that replays the
recorded response: once on an account with ample credit, which shows what the call costs, and once on one that has
exactly 1 USD, then 0.10 USD when it is made. A call that the balance could pay for is *refused* where it gets no
response; *cut* where its output would be limited to less than was recorded. Then bursts: 200 calls at once, each of
which costs at most its hold, on credit for exactly 20, to a provider that answers none until all have been admitted or
refused.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench import hold_bounds
from bench.engines import NAMES, Engine, started
from bench.hold_bounds import observed
from bench.record import shown, write
from bench.recordings import SOURCES, Exchange, exchanges
from farebox.app import running
from farebox.http.exchange import ClientGone
from farebox.http.exchange import Exchange as Request
from farebox.http.server import serve
from farebox.ledger.audit import audit
from farebox.ledger.commands import Grant
from farebox.logs import configure
from farebox.model import AccessToken, Operator, Permission
from farebox.money import NANOS_PER_USD
from farebox.operator.administer import set_provider
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.storage.accounts import add_account, add_token, read_balance
from farebox.vault import TOKEN_PREFIX

AMPLE = 1_000_000 * NANOS_PER_USD
BALANCES = {"ample": AMPLE, "1 USD": NANOS_PER_USD, "0.10 USD": NANOS_PER_USD // 10}
OUTPUT_DEFAULT = 4_096
"""The value of FAREBOX_OUTPUT_DEFAULT in the runs that set it."""
BURST, PAID_FOR = 200, 20
BURST_OUTPUT = (100, 600, 4_096)
_CHAT_TOKENS = 9  # input tokens of `Count.`, as OpenAI counts them
_INPUT_NANOS, _OUTPUT_NANOS = 150, 600  # per token of gpt-4o-mini


@dataclass
class Provider:
    """Replays the recorded response, or answers once the gate is open."""

    url: str = ""
    recorded: list[Exchange] = field(default_factory=list)
    waiting: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: Request) -> None:
        body = await request.body(1 << 26)
        number = request.headers.get("x-recorded")
        if number is not None:
            exchange = self.recorded[int(number)]
            request.respond(200, [("content-type", exchange.response_type)], exchange.response)
            return
        if request.method != "POST":
            request.respond(404, [], b"")
            return
        asked = json.loads(body)
        self.waiting += 1
        with contextlib.suppress(ClientGone):
            await self.gate.wait()
            content = _events(asked["max_tokens"]) if asked.get("stream") else _whole(asked["max_tokens"])
            kind = "text/event-stream" if asked.get("stream") else "application/json"
            request.respond(200, [("content-type", kind)], content)


def _usage(output: int) -> dict[str, int]:
    return {"prompt_tokens": _CHAT_TOKENS, "completion_tokens": output, "total_tokens": _CHAT_TOKENS + output}


def _whole(output: int) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": " one" * output}, "finish_reason": "length"}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": _usage(output)}).encode()


def _events(output: int) -> bytes:
    delta = {"choices": [{"index": 0, "delta": {"content": " one"}}]}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    events = [delta] * output + [end, {"choices": [], "usage": _usage(output)}]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


class Account:
    """An account and its calls."""

    def __init__(self, services: Services, client: httpx.AsyncClient, account_id: str, secret: str) -> None:
        self._services, self._client = services, client
        self.account_id, self.secret = account_id, secret

    @property
    def _headers(self) -> dict[str, str]:
        return {"cf-aig-authorization": f"Bearer {self.secret}"}

    async def balance(self) -> Any:
        found = await self._services.database.get(lambda connection: read_balance(connection, self.account_id))
        assert found is not None
        return found

    async def fill(self, nanos: int) -> None:
        """Grant what is missing to this balance."""
        missing = nanos - (await self.balance()).posted
        if missing > 0:
            at, grant = self._services.clock.now_ms(), self._services.ids.log_id()
            verdict = await self._services.ledger.do(
                Grant(account_id=self.account_id, grant_id=grant, amount=missing, at=at)
            )
            assert verdict.ok

    async def call(self, exchange: Exchange, number: int) -> httpx.Response:
        headers = {**self._headers, "content-type": exchange.content_type, "x-recorded": str(number)}
        url = f"/v1/{self.account_id}/default/{exchange.provider}/{exchange.path}"
        return await self._client.post(url, content=exchange.request, headers=headers)

    async def chat(self, body: dict[str, Any]) -> httpx.Response:
        url = f"/v1/{self.account_id}/default/openai/chat/completions"
        return await self._client.post(url, json=body, headers=self._headers)

    async def receipt(self, log_id: str) -> dict[str, Any]:
        url = f"/client/v4/accounts/{self.account_id}/farebox/receipts/{log_id}"
        response = await self._client.get(url, headers={"authorization": f"Bearer {self.secret}"})
        receipt: dict[str, Any] = response.json()["result"] or {}  # a path that costs nothing has no receipt
        return receipt


class Bench:
    """A Farebox, and the provider behind it."""

    def __init__(self, services: Services, client: httpx.AsyncClient, provider: Provider) -> None:
        self.services, self._client, self.provider = services, client, provider

    async def account(self) -> Account:
        services = self.services
        account_id, secret = services.ids.account_id(), TOKEN_PREFIX + services.ids.secret()
        now = services.clock.now_ms()
        allowed = frozenset(Permission)
        token = AccessToken(services.ids.log_id(), account_id, "bench", allowed, now, None, None)
        hashed = services.vault.hash_token(secret)

        def add(connection: Any) -> None:
            add_account(connection, account_id, "bench", now)
            add_token(connection, token, hashed)

        await services.database.write(add)
        return Account(services, self._client, account_id, secret)

    async def is_clean(self) -> bool:
        """Whether the books balance."""
        return not await self.services.database.scan(lambda connection: list(audit(connection)))


@contextlib.asynccontextmanager
async def benched(engine: Engine, slugs: Iterable[str], **changed: Any) -> AsyncIterator[Bench]:
    """A bench until the block ends. Each of these slugs leads to the provider that replays."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = engine.settings(Path(folder))
        values = {name: getattr(loaded, name) for name in Settings.__slots__}
        settings = Settings(**{**values, "port": 0, "log_level": "error", "hold_wait_ms": 100, **changed})
        configure(settings)
        provider = Provider()
        server = await serve(provider.answer, "127.0.0.1", 0)
        provider.url = f"http://{server.host}:{server.port}"
        async with running(settings, demo=False) as ready:
            services = ready.services

            def place(connection: Any) -> None:
                for slug in slugs:
                    now = services.clock.now_ms()
                    set_provider(
                        connection,
                        services.vault,
                        by=Operator("bench", "command"),
                        name=slug,
                        at=now,
                        base_url=provider.url,
                        api_key="sk-bench",
                    )

            await services.database.write(place)
            await services.configuration.notice_changes()
            limits = httpx.Limits(max_connections=BURST + 8)
            async with httpx.AsyncClient(base_url=ready.base_url, timeout=60, limits=limits) as client:
                yield Bench(services, client, provider)
        await server.close()


# Recorded calls ---------------------------------------------------------------------------------------------------


@dataclass
class Call:
    """The outcome of one recorded call on each balance."""

    exchange: Exchange
    charge: int = 0
    output: int = 0
    holds: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    limited: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    overrun: set[str] = field(default_factory=set)


async def replay(bench: Bench, recorded: list[Exchange]) -> list[Call]:
    bench.provider.recorded = recorded
    calls = [Call(exchange) for exchange in recorded]
    for name, balance in BALANCES.items():
        account = await bench.account()
        for number, call in enumerate(calls):
            if name != "ample" and not 0 < call.charge <= balance:
                continue
            await account.fill(balance)
            response = await account.call(call.exchange, number)
            if response.status_code != 200:
                call.refused.add(name)
                continue
            receipt = await account.receipt(response.headers["cf-aig-log-id"])
            call.holds[name] = receipt.get("hold_nanos", 0)
            if name == "ample":
                call.output = int((observed(call.exchange).usage or {}).get("output_tokens", 0))
                if receipt.get("usage_source") == "provider":
                    call.charge = receipt["charge_nanos"]
            limit = response.headers.get("farebox-output-limit")
            if limit is not None:
                call.limited.add(name)
            if (limit is not None and int(limit) < call.output) or receipt.get("charge_nanos", 0) < call.charge:
                call.cut.add(name)
            elif receipt.get("charge_nanos", 0) > call.holds[name]:
                call.overrun.add(name)
    return [call for call in calls if call.charge]


KINDS: dict[str, Callable[[Call], bool]] = {
    "all": lambda call: True,
    "with an output limit": lambda call: call.exchange.parsed.demand.output_max is not None,
    "without one": lambda call: call.exchange.parsed.demand.output_max is None,
    "streams": lambda call: call.exchange.parsed.stream,
    "all that is read is in the request": lambda call: not call.exchange.parsed.demand.unseen,
}


def rows_of(calls: list[Call]) -> list[dict[str, Any]]:
    rows = []
    for balance, nanos in BALANCES.items():
        for kind, belongs in KINDS.items():
            payable = [call for call in calls if belongs(call) and call.charge <= nanos]
            ratios = sorted(call.holds[balance] / call.charge for call in payable if balance in call.holds)
            if not ratios:
                continue
            rows.append(
                {
                    "case": "recorded", "balance": balance, "kind": kind, "calls": len(payable),
                    "median": round(statistics.median(ratios), 1), "p90": round(ratios[int(0.9 * len(ratios))], 1),
                    **{
                        name: sum(balance in getattr(call, name) for call in payable)
                        for name in ("refused", "limited", "cut", "overrun")
                    },
                }
            )  # fmt: skip
    return rows


# Bursts -----------------------------------------------------------------------------------------------------------


async def burst(bench: Bench, *, stream: bool, output: int) -> dict[str, Any]:
    provider, account = bench.provider, await bench.account()
    charge = _CHAT_TOKENS * _INPUT_NANOS + output * _OUTPUT_NANOS
    await account.fill(PAID_FOR * charge)
    provider.gate.clear()
    provider.waiting = 0
    messages = [{"role": "user", "content": "Count."}]
    body = {"model": "gpt-4o-mini", "messages": messages, "max_tokens": output, "stream": stream}
    tasks = {asyncio.create_task(account.chat(body)) for _ in range(BURST)}
    at_once = 0
    while True:  # each call has reached the provider or was refused
        done = [task for task in tasks if task.done()]
        if len(done) + provider.waiting >= BURST:
            break
        await asyncio.wait([task for task in tasks if not task.done()], timeout=0.05)
    at_once = provider.waiting
    provider.gate.set()
    responses = await asyncio.gather(*tasks)
    served = [response for response in responses if response.status_code == 200]
    receipts = [await account.receipt(response.headers["cf-aig-log-id"]) for response in served]
    balance = await account.balance()
    return {
        "case": "burst", "engine": bench.services.database.engine, "stream": stream, "output": output,
        "at_once": at_once, "served": len(served), "left_nanos": balance.posted, "held_nanos": balance.held,
        "overruns": sum(receipt["charge_nanos"] > receipt["hold_nanos"] for receipt in receipts),
    }  # fmt: skip


async def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if "bounds" in arguments.cases:
        rows += hold_bounds.rows(exchange for _, exchange in exchanges())
    if "recorded" in arguments.cases:
        recorded = [exchange for _, exchange in exchanges()]
        with started("sqlite") as engine:
            async with benched(engine, {exchange.provider for exchange in recorded}) as bench:
                rows += rows_of(await replay(bench, recorded))
                assert await bench.is_clean()
        with started("sqlite") as engine:
            slugs = {exchange.provider for exchange in recorded}
            async with benched(engine, slugs, output_default=OUTPUT_DEFAULT) as bench:
                calls = await replay(bench, recorded)
                rows += [row | {"output_default": OUTPUT_DEFAULT} for row in rows_of(calls) if row["kind"] == "all"]
    if "burst" in arguments.cases:
        for name in NAMES:
            with started(name) as engine:
                async with benched(engine, ["openai"]) as bench:
                    for stream in (False, True):
                        rows += [await burst(bench, stream=stream, output=output) for output in BURST_OUTPUT]
                    assert await bench.is_clean()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.holds", description=__doc__)
    parser.add_argument("--cases", default="bounds,recorded,burst", help="parts to run, of bounds, recorded, burst")
    parser.add_argument("--name", default="holds", help="name of the result")
    arguments = parser.parse_args()
    rows = asyncio.run(measure(arguments))
    for row in rows:
        print(row)
    print(shown(write(arguments.name, rows, sources=[f"{source.url} {source.commit}" for source in SOURCES])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
