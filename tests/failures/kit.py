"""A Farebox server on PostgreSQL, continuous callers, and a comparison of what they saw with the books."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farebox.clock import RandomIds, SystemClock
from farebox.ledger.audit import audit
from farebox.model import Permission
from farebox.money import parse_usd
from farebox.operator import administer, tokens
from farebox.pricing.stored_receipt import whole
from farebox.settings import Settings, load, secret_key
from farebox.storage.calls import find_receipt
from farebox.storage.database import migrate_now, opened_for_command
from farebox.storage.postgres.connecting import connect
from farebox.storage.sql import rows
from farebox.vault import Vault
from tests import processes
from tests.calls.kit import price_of
from tests.calls.wire import Wire, WireResponse, chat_body, usage_of
from tests.engines import TESTER
from tests.processes import Process
from tests.support import free_port
from tests.waiting import SECONDS, eventually, pauses

ACCOUNTS = 3
CALLERS = 12
GRANTED = parse_usd("1000")
SEED = int(os.environ.get("FAREBOX_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


@dataclass(frozen=True, slots=True)
class Installation:
    """A data folder, accounts in a PostgreSQL database, and the port of its server."""

    folder: Path
    settings: Settings
    port: int
    customers: list[tuple[str, str]]
    """Account id and token."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    @property
    def journal(self) -> list[Path]:
        return sorted((self.folder / "journal").glob("*.jsonl"))

    @property
    def environment(self) -> dict[str, str]:
        settings = self.settings
        others = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
        return others | {
            "FAREBOX_DATA_DIR": str(self.folder),
            "FAREBOX_DATABASE_URL": settings.database_url,
            "FAREBOX_DATABASE_TIMEOUT_MS": str(settings.database_timeout_ms),
            "FAREBOX_INSTANCE_TIMEOUT_MS": str(settings.instance_timeout_ms),
            "FAREBOX_BUCKETS": str(settings.buckets),
            "FAREBOX_STANDBY": settings.standby,
            "FAREBOX_LOG_LEVEL": "warning",
        }


def new_installation(folder: Path, database_url: str, *, accounts: int = ACCOUNTS, **settings: object) -> Installation:
    """An installation with a migrated database and funded accounts."""
    chosen = load({}, data_dir=str(folder), database_url=database_url, **{"database_timeout_ms": 2000, **settings})
    migrate_now(chosen)
    ids, vault, at = RandomIds(SystemClock()), Vault(secret_key(chosen)), SystemClock().now_ms()
    customers = []
    with opened_for_command(chosen, writing=True) as connection:
        for number in range(accounts):
            name, buckets = f"customer {number}", chosen.buckets
            account = administer.create_account(
                connection, ids, by=TESTER, name=name, at=at, buckets=buckets
            ).account_id
            administer.grant(connection, ids, by=TESTER, account_id=account, amount=GRANTED, at=at)
            made = tokens.create_token(connection, ids, vault, account_id=account, permissions=[*Permission], at=at)
            customers.append((account, made.secret))
    return Installation(folder, chosen, free_port(), customers)


@contextlib.contextmanager
def served(installation: Installation, *, workers: int = 1) -> Iterator[Process]:
    """A listening server, which is killed at the end unless it has ended."""
    more = ("--workers", str(workers)) if workers > 1 else ()
    with (installation.folder / "server.log").open("ab") as log:
        process = processes.start(
            ["serve", "--demo", "--json", "--port", str(installation.port), *more],
            env=installation.environment,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), installation.log[-3000:]  # the server reports its address, or ends
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stdout.close()


def stop(process: Process) -> None:
    """Stop the server cleanly."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0


async def call(
    installation: Installation, *, demo: str = "tokens=5", words: int = 5, stream: bool = False
) -> WireResponse:
    """One call of the first customer."""
    wire = await begin(installation, installation.customers[0], demo=demo, words=words, stream=stream)
    return await wire.response()


async def begin(installation: Installation, customer: tuple[str, str], *, demo: str, words: int, stream: bool) -> Wire:
    """Send a call; the test reads its response."""
    account, token = customer
    more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    body = chat_body(" ".join(["word"] * words), max_tokens=200, **more)
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json", "x-demo": demo}
    wire = await Wire.open(installation.url)
    await wire.send(f"/v1/{account}/default/compat/chat/completions", headers, body)
    return wire


@dataclass(slots=True)
class Load:
    """Callers that call continuously, whether or not calls are accepted; and what they saw."""

    installation: Installation
    chance: random.Random
    complete: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Log ID of each complete response → its account and the right charge."""
    refused: set[str] = field(default_factory=set)
    """Log IDs of calls with status 503."""
    unclear: int = 0
    """Responses that broke off or never arrived."""
    statuses: Counter[int] = field(default_factory=Counter)
    longest_refusal: float = 0.0
    """Duration of the slowest 503, in seconds."""
    stopped: bool = False

    async def run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    async def _caller(self) -> None:
        chance = self.chance
        while not self.stopped:
            customer = chance.choice(self.installation.customers)
            stream = chance.random() < 0.5
            demo = f"tokens={chance.randrange(1, 30)}"
            if chance.random() < 0.7:
                demo += f" gap={chance.randrange(1, 15)}" if stream else f" delay={chance.randrange(1, 200)}"
            began = time.monotonic()
            try:
                wire = await begin(self.installation, customer, demo=demo, words=chance.randrange(1, 30), stream=stream)
                response = await asyncio.wait_for(wire.response(), SECONDS)
            except (ConnectionError, asyncio.IncompleteReadError, OSError):
                self.unclear += 1
                await asyncio.sleep(0.03)
            else:
                self.note(customer[0], response, time.monotonic() - began)
                await asyncio.sleep(0.03 if response.status == 503 else 0)

    def note(self, account: str, response: WireResponse, seconds: float = 0.0) -> None:
        self.statuses[response.status] += 1
        log_id = response.headers.get("cf-aig-log-id")
        if response.status == 503:
            assert "retry-after" in response.headers
            assert response.code in (2913, 2946), response.body
            self.longest_refusal = max(self.longest_refusal, seconds)
            if log_id:
                self.refused.add(log_id)
            return
        assert log_id is not None
        assert log_id not in self.complete
        usage = usage_of(response) if response.status == 200 else None
        if usage is None:
            self.unclear += 1
        else:
            self.complete[log_id] = (account, price_of(usage["prompt_tokens"], usage["completion_tokens"]))

    async def more(self, calls: int) -> None:
        """Wait until `calls` more responses are complete."""
        goal = len(self.complete) + calls
        await eventually(lambda: len(self.complete) >= goal, f"{calls} more answers")


def compare(installation: Installation, load: Load) -> None:
    """Check that every complete response is charged exactly once, that no refused call is charged, and that the books
    balance."""
    checked = processes.run(["check", "--json"], env=installation.environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with opened_for_command(installation.settings) as connection:
        assert list(audit(connection)) == []
        assert rows(connection, "SELECT hold_id FROM holds WHERE state = 'open'") == []
        assert rows(connection, "SELECT 1 FROM balances WHERE held != 0") == []
        charges = _charges(
            rows(connection, "SELECT transfer_id, account_id, amount FROM transfers WHERE kind = 'charge' ORDER BY 1")
        )
        receipts = {log_id: find_receipt(connection, log_id) for log_id in load.complete}
    for log_id, (account, cost) in load.complete.items():
        assert charges.get(log_id) == (account, cost), f"{log_id}: the response was complete"
        receipt = receipts[log_id]
        assert receipt is not None
        assert whole(receipt).charge_nanos == cost
    assert load.refused.isdisjoint(charges)
    assert len(charges) - len(load.complete) <= load.unclear, "charged without a call"


def _charges(found: list[tuple[Any, ...]]) -> dict[str, tuple[str, int]]:
    """Log ID → account and sum of all charges; fails the test if a call has two charges."""
    charges: dict[str, tuple[str, int]] = {}
    for transfer_id, account_id, amount in found:
        log_id, _, part = transfer_id.removeprefix("charge:").partition("/")
        assert (log_id in charges) == bool(part), f"{transfer_id} is a second charge"
        charges[log_id] = (account_id, amount + (charges[log_id][1] if part else 0))
    return charges


async def settled(installation: Installation) -> None:
    """Wait until every journal has been posted and no hold is open."""
    await eventually(lambda: not installation.journal, "the journals are posted")
    session = await connect(installation.settings.database_url, timeout=10)
    try:
        for pause in pauses("no hold is open"):
            if not await session.fetchval("SELECT count(*) FROM holds WHERE state = 'open'"):
                break
            await asyncio.sleep(pause)
    finally:
        session.terminate()
        await asyncio.sleep(0)  # the socket is closed in the loop's next round
