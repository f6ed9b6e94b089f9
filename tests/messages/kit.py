"""Shared by the tests of messages and documents: services on their own database, and a manual clock."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from farebox.clock import RandomIds
from farebox.ledger.ledger import ledger_of
from farebox.runtime.services import Services
from farebox.runtime.waiters import Waiters
from farebox.storage.accounts import add_account, find_account
from farebox.storage.database import open_database
from farebox.storage.notices import add_notice
from farebox.vault import Vault
from tests.engines import settings_for
from tests.waiting import SECONDS

START = 1_795_000_000_000
"""A day in November 2026."""
ANN, BOB = "ann", "bob"


class ManualClock:
    """A clock that only moves when it is set."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def now_ms(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1000

    async def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def open_services(path: Path, clock: ManualClock, **settings: object) -> AsyncIterator[Services]:
    """Services over a database with the accounts ANN and BOB; without server, provider or processor."""
    loaded = settings_for(path, **settings)
    database = await open_database(loaded)

    def add(connection: Any) -> None:
        for name in (ANN, BOB):
            if find_account(connection, name) is None:
                add_account(connection, name, f"{name.title()} & Co", clock.now)

    await database.write(add)
    ledger = ledger_of(database, "test")
    try:
        yield Services(
            settings=loaded,
            clock=clock,
            ids=RandomIds(clock),
            vault=Vault(b"k" * 32),
            database=database,
            ledger=ledger,
            configuration=cast(Any, None),
            upstream=cast(Any, None),
            custom_upstream=cast(Any, None),
            exports=cast(Any, None),
            processor=None,
            waiters=Waiters(),
            base_url="https://farebox.example",
            instance="test",
        )
    finally:
        await ledger.close()
        await database.close()


async def sql(services: Services, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Rows as committed."""
    return await services.database.scan(lambda connection: connection.execute(text, values).fetchall())


async def change(services: Services, text: str, values: tuple[Any, ...] = ()) -> None:
    await services.database.write(lambda connection: connection.execute(text, values).fetchall())


def bucket_of(connection: Any, account_id: str = ANN) -> int:
    account = find_account(connection, account_id)
    assert account is not None
    return account.bucket


async def notify(
    services: Services, notice_id: str, kind: str = "low_balance", account_id: str = ANN, **content: object
) -> None:
    at = services.clock.now_ms()

    def job(connection: Any) -> None:
        bucket = bucket_of(connection, account_id)
        add_notice(connection, bucket, account_id, notice_id, kind, content or {"posted_nanos": 1_500_000_000}, at)

    await services.database.write(job)


def verified(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Whether a webhook is genuine by the Standard Webhooks specification; implemented independently of Farebox's
    code."""
    key = base64.b64decode(secret[len("whsec_") :])
    signed = headers["webhook-id"].encode() + b"." + headers["webhook-timestamp"].encode() + b"." + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(
        version == "v1" and hmac.compare_digest(signature, expected)
        for version, _, signature in (part.partition(",") for part in headers["webhook-signature"].split(" "))
    )


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """An HTTP server that receives webhooks. `answers` are the next statuses; then it answers 204."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    responses: list[int] = field(default_factory=list)
    headers: str = ""
    """Extra header lines of its responses."""
    hold: asyncio.Event | None = None
    """While it is not set, requests are read but not answered."""
    host: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.received.append(Received(first.split(" ")[1], headers, body))
            if self.hold is not None:
                await self.hold.wait()
            status = self.responses.pop(0) if self.responses else 204
            writer.write(f"HTTP/1.1 {status} Whatever\r\ncontent-length: 0\r\n{self.headers}\r\n".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def receiving(host: str = "127.0.0.1", **tls: Any) -> AsyncIterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.handle, host, 0, **tls)
    port = server.sockets[0].getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    receiver.url = f"http{'s' if tls else ''}://{shown}:{port}/hook"
    try:
        yield receiver
    finally:
        if receiver.hold is not None:
            receiver.hold.set()
        server.close()
        await server.wait_closed()


async def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait for something that happens in another task."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)
