"""Memory under attack: the size to which each attack makes the server grow, and the bound.

    .venv/bin/python -m bench.hostile.memory                    # all attacks, a budget of 128 MiB: two minutes
    .venv/bin/python -m bench.hostile.memory --attacks heads    # one of them

Each attack runs against a new server. The bound is the size of the idle server plus one and a half times
FAREBOX_HELD_BYTES_MAX. Exit status 0: no attack exceeded it.
"""

import argparse
import asyncio
import collections
import contextlib
import gzip
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.served import Farebox, Mock, run, serving
from farebox.http.exchange import ClientGone, Exchange
from farebox.http.server import serve
from farebox.limits.byte_budget import ByteBudget
from farebox.model import Permission

MIB = 2**20
BODY = 33_000_000
"""Bytes of a large body: nearly the maximum."""
MODEL = "gpt-4o-mini"
SECONDS = 6.0
"""How long an attack that only waits is watched."""
CHOICE = b'{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hi"}},'
USAGE = b'"usage":{"prompt_tokens":5,"completion_tokens":7}}'


@dataclass(slots=True)
class Scene:
    """A server, its accounts, and the responses to the attackers by status."""

    served: Farebox
    poor: tuple[str, str]
    """Account and token of the account without credit."""
    rich: list[tuple[str, str]]
    responses: "collections.Counter[str]" = field(default_factory=collections.Counter)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.served.port)
        self.writers.append(writer)
        return reader, writer

    async def listen(self, reader: asyncio.StreamReader, seconds: float = SECONDS) -> None:
        """Count the status of the response, if there is one."""
        word = "nothing"
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                word = (await reader.readline()).decode().split(" ")[1:2][0] if not reader.at_eof() else "cut"
        self.responses[word] += 1


def head(caller: tuple[str, str], *lines: str) -> bytes:
    account, token = caller
    named = ["host: h", f"authorization: Bearer {token}", "content-type: application/json", *lines]
    target = f"/v1/{account}/default/openai/chat/completions"
    return "".join(f"{line}\r\n" for line in (f"POST {target} HTTP/1.1", *named, "")).encode()


def chat(text: str = "hi", **fields: object) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
    return json.dumps(body).encode()


async def pour(scene: Scene, first: bytes, size: int, *, chunked: bool = False) -> None:
    """Send a body except for its last byte, as fast as the server takes it; then read the response."""
    reader, writer = await scene.open()
    piece = b"x" * 65_536
    framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
    answered = asyncio.ensure_future(scene.listen(reader, SECONDS))
    with contextlib.suppress(ConnectionError):
        writer.write(first)
        for _ in range((size - 1) // len(piece)):
            writer.write(framed)
            await writer.drain()
    await answered


async def unpaid(scene: Scene) -> None:
    first = head(scene.poor, f"content-length: {BODY}")
    await asyncio.gather(*(pour(scene, first, BODY) for _ in range(30)))


async def paid(scene: Scene) -> None:
    first = head(scene.rich[0], f"content-length: {BODY}")
    await asyncio.gather(*(pour(scene, first, BODY) for _ in range(30)))


async def accounts(scene: Scene) -> None:
    heads = [head(caller, f"content-length: {BODY // 4}") for caller in scene.rich for _ in range(12)]
    await asyncio.gather(*(pour(scene, first, BODY // 4) for first in heads))


async def chunked(scene: Scene) -> None:
    first = head(scene.rich[0], "transfer-encoding: chunked")
    await asyncio.gather(*(pour(scene, first, BODY, chunked=True) for _ in range(30)))


async def bombs(scene: Scene) -> None:
    """Bodies of 230 KB that decode to 32 MB."""
    words = random.Random(1).choices([f"{number:x}" for number in range(4096)], k=4000)
    filled = chat(" ".join(words) * (BODY // 16_000))
    bomb = gzip.compress(filled, 9)
    first = head(scene.rich[0], f"content-length: {len(bomb)}", "content-encoding: gzip")

    async def one() -> None:
        reader, writer = await scene.open()
        writer.write(first + bomb)
        await scene.listen(reader, 30)

    await asyncio.gather(*(one() for _ in range(30)))


async def trickles(scene: Scene) -> None:
    """A thousand large bodies, sent one byte at a time."""
    first = head(scene.rich[0], f"content-length: {BODY}")

    async def one() -> None:
        reader, writer = await scene.open()
        writer.write(first + b"{")
        listening = asyncio.ensure_future(scene.listen(reader, SECONDS))
        with contextlib.suppress(ConnectionError):
            while not listening.done():
                writer.write(b" ")
                await asyncio.sleep(0.5)
        await listening

    await asyncio.gather(*(one() for _ in range(1000)))


async def pipelined(scene: Scene) -> None:
    """Three hundred slow calls, each with as many requests behind it as are read ahead."""
    body = chat("slow")
    call = head(scene.rich[0], f"content-length: {len(body)}") + body
    ahead = head(scene.rich[0], "content-length: 0", "filling: " + "x" * 8_000)

    async def one() -> None:
        reader, writer = await scene.open()
        with contextlib.suppress(ConnectionError):
            writer.write(call)
            await asyncio.sleep(0.5)
            for _ in range(60):
                writer.write(ahead)
            await writer.drain()
        await scene.listen(reader, SECONDS)

    await asyncio.gather(*(one() for _ in range(300)))


async def heads(scene: Scene) -> None:
    """Two thousand anonymous connections, each with a head of nearly the maximum size that does not end."""

    async def one() -> None:
        reader, writer = await scene.open()
        with contextlib.suppress(ConnectionError):
            for line in range(15):
                writer.write(
                    (b"GET / HTTP/1.1\r\nhost: h\r\n" if not line else b"") + b"x%d: %b\r\n" % (line, b"y" * 4000)
                )
            await writer.drain()
        await scene.listen(reader, SECONDS)

    await asyncio.gather(*(one() for _ in range(2000)))


async def unread(scene: Scene) -> None:
    """Forty responses of 7 MB that nobody reads."""
    body = chat("whole")
    first = head(scene.rich[0], f"content-length: {len(body)}") + body

    async def one() -> None:
        _, writer = await scene.open()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(first)
        await asyncio.sleep(SECONDS)
        scene.responses["unread"] += 1

    await asyncio.gather(*(one() for _ in range(40)))


async def choices(scene: Scene) -> None:
    """Eight concurrent responses of 40 MB, each with half a million choices."""
    body = chat("choices")
    first = head(scene.rich[0], f"content-length: {len(body)}", "connection: close") + body

    async def one() -> None:
        reader, writer = await scene.open()
        writer.write(first)
        await scene.listen(reader, 60)
        with contextlib.suppress(ConnectionError):
            while await reader.read(MIB):
                pass

    await asyncio.gather(*(one() for _ in range(8)))


async def small_choices(scene: Scene) -> None:
    """Four times as many responses of 7 MB, which are buffered as far as there is room."""
    body = chat("whole")
    first = head(scene.rich[0], f"content-length: {len(body)}", "connection: close") + body

    async def one() -> None:
        reader, writer = await scene.open()
        writer.write(first)
        await scene.listen(reader, 60)
        with contextlib.suppress(ConnectionError):
            while await reader.read(MIB):
                pass

    await asyncio.gather(*(one() for _ in range(32)))


async def in_flight(scene: Scene) -> None:
    """Large complete bodies of calls whose provider is slow."""
    body = chat("slow " + "x" * 5_000_000)
    first = head(scene.rich[0], f"content-length: {len(body)}")

    async def one() -> None:
        reader, writer = await scene.open()
        with contextlib.suppress(ConnectionError):
            writer.write(first + body)
            await writer.drain()
        await scene.listen(reader, SECONDS)

    await asyncio.gather(*(one() for _ in range(40)))


ATTACKS: dict[str, tuple[str, Callable[[Scene], Awaitable[None]]]] = {
    "unpaid": ("30 × 33 MB unfinished, no credit", unpaid),
    "paid": ("30 × 33 MB unfinished", paid),
    "accounts": ("4 accounts, 48 × 8 MB unfinished", accounts),
    "chunked": ("30 × 33 MB in chunks, unfinished", chunked),
    "bombs": ("30 × 230 KB that decode to 32 MB", bombs),
    "trickles": ("1,000 × 33 MB declared, a byte at a time", trickles),
    "in-flight": ("40 × 5 MB whole, a slow provider", in_flight),
    "pipelined": ("300 slow calls, 480 KB of requests behind each", pipelined),
    "heads": ("2,000 unfinished heads of 60 KB, no token", heads),
    "unread": ("40 answers of 7 MB, not read", unread),
    "whole": ("32 answers of 7 MB, 90,000 choices each", small_choices),
    "choices": ("8 answers of 40 MB, 500,000 choices each", choices),
}


async def provider(exchange: Exchange) -> None:
    """Answers as the text of the request asks."""
    with contextlib.suppress(ClientGone):
        body = await exchange.body(64 * MIB)
        kind = body[:200].partition(b'"content": "')[2].partition(b'"')[0].split(b" ")[0]
        headers = [("content-type", "application/json")]
        if kind == b"slow":
            await exchange.gone()
        elif kind == b"whole":
            exchange.respond(200, headers, _respond(7_000_000))
        elif kind == b"choices":
            stream = exchange.start(200, headers)
            response = _respond(40_000_000)
            for at in range(0, len(response), 65_536):
                await stream.send(response[at : at + 65_536])
        else:
            exchange.respond(200, headers, _respond(0))


def _respond(size: int) -> bytes:
    return b'{"model":"gpt-4o-mini","choices":[' + CHOICE * (size // len(CHOICE)) + CHOICE[:-1] + b"]," + USAGE


@contextlib.contextmanager
def upstream() -> Iterator[Mock]:
    """The provider, on a separate thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(
        serve(provider, "127.0.0.1", 0, budget=ByteBudget(2**40, 2**40)), loop
    ).result(10)
    try:
        yield Mock(0, server.port)
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


class Sampler:
    """Samples a process's memory: the maximum of resident memory plus the in-memory files that it has open."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}")
        self.base = self.peak = self._resident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _resident(self) -> int:
        size = int((self._path / "statm").read_text().split()[1]) * 4096
        for file in (self._path / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                if str(file.readlink()).startswith("/memfd:"):
                    size += file.stat().st_blocks * 512
        return size

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.peak = max(self.peak, self._resident())


def accounts_of(folder: Path, mock: Mock) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    """An installation with one account without credit and four with credit."""
    run(folder, "init")
    run(folder, "provider", "set", "openai", "--base-url", f"http://127.0.0.1:{mock.port}/v1", "--api-key", "sk-bench")
    callers = []
    for number in range(5):
        account = run(folder, "account", "create", "--name", f"bench {number}")["account_id"]
        token = run(folder, "token", "create", "--account", account, "--permission", Permission.RUN.value)["token"]
        callers.append((account, token))
        if number:
            run(folder, "grant", "--account", account, "--amount", "100000")
    return callers[0], callers[1:]


async def _attack(scene: Scene, attack: Callable[[Scene], Awaitable[None]]) -> None:
    await attack(scene)
    for writer in scene.writers:
        writer.transport.abort()


def main() -> int:
    """Run the attacks and print the table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="names, separated by commas")
    parser.add_argument("--budget-mib", type=int, default=128)
    arguments = parser.parse_args()
    budget = arguments.budget_mib * MIB
    environment = {"FAREBOX_HELD_BYTES_MAX": str(budget), "FAREBOX_ACCOUNT_HELD_BYTES_MAX": str(budget // 2)}
    print("| attack | answered | MB idle | MB at most | bound | |")
    print("| --- | --- | --- | --- | --- | --- |")
    exceeded = 0
    with upstream() as mock, tempfile.TemporaryDirectory(prefix="farebox-hostile-") as name:
        folder = Path(name)
        poor, rich = accounts_of(folder, mock)
        for attack in arguments.attacks.split(","):
            words, work = ATTACKS[attack]
            with serving(folder, folder / "targets", settings=environment) as served:
                time.sleep(1)
                scene = Scene(served, poor, rich)
                with Sampler(served.pid) as sampler:
                    asyncio.run(_attack(scene, work))
            bound = sampler.base + budget * 3 // 2
            within = sampler.peak <= bound
            exceeded += not within
            answered = ", ".join(f"{count:,} × {word}" for word, count in sorted(scene.responses.items()))
            figures = " | ".join(str(size // 10**6) for size in (sampler.base, sampler.peak, bound))
            print(f"| {words} | {answered} | {figures} | {'ok' if within else 'EXCEEDED'} |", flush=True)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
