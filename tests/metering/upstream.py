"""A provider that answers with the script of the run that a header of the request names; it runs on the server's
loop."""

import asyncio
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from farebox.http.exchange import ClientGone, Exchange
from farebox.http.server import Limits, RunningServer, serve
from tests.metering.cases import Case
from tests.metering.pace import Pauses

RUN_HEADER = "x-run"
CHUNKINGS = ("whole", "events", "bytes", "random", "paused")
PIECES_MAX = 300
"""The maximum number of pieces: a body of up to this many bytes is sent byte by byte, a longer one in this many
pieces."""
BODY_MAX = 2**27


@dataclass
class Run:
    """One request for a case, and its outcome."""

    case: Case
    chunking: str
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Path, headers and body of the request that arrived at the provider."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the client has hung up."""

    @property
    def id(self) -> str:
        return f"{self.case.id}/{self.chunking}"

    def pieces(self) -> Iterator[bytes]:
        """The pieces of the response in this chunking."""
        events = self.case.events
        whole = b"".join(events)
        if self.chunking.startswith("whole"):
            yield whole
        elif self.chunking == "bytes":
            size = max(1, math.ceil(len(whole) / PIECES_MAX))
            yield from (whole[start : start + size] for start in range(0, len(whole), size))
        elif self.chunking == "random":
            cuts = random.Random(self.case.id)
            start = 0
            while start < len(whole):
                end = start + cuts.randint(1, max(2, len(whole) // 6))
                yield whole[start:end]
                start = end
        else:
            yield from events


class ScriptedUpstream:
    """Listens on loopback. The sender of the requests fills `runs`."""

    def __init__(self, pauses: Pauses) -> None:
        self.runs: dict[str, Run] = {}
        self._pauses = pauses
        self._server: RunningServer | None = None

    async def start(self) -> str:
        """Returns the base URL."""
        patient = Limits(idle_seconds=1e6, head_seconds=1e6, write_seconds=1e6, linger_seconds=1e6)
        self._server = await serve(self._handle, "127.0.0.1", limits=patient)
        return f"http://{self._server.host}:{self._server.port}"

    async def close(self) -> None:
        assert self._server is not None
        await self._server.close()

    async def _handle(self, exchange: Exchange) -> None:
        run = self.runs[exchange.headers.get(RUN_HEADER) or ""]
        body = await exchange.body(BODY_MAX)
        path = exchange.path + (f"?{exchange.query}" if exchange.query else "")
        run.requests.append((path, dict(exchange.headers.items()), body))
        case = run.case
        headers = [(name, str(value)) for name, value in (case.headers or self._headers(case)).items()]
        stream = exchange.start(case.status or 200, headers)
        first = True
        for number, piece in enumerate(run.pieces()):
            if run.chunking == "paused" and not first:
                await self._pauses.pause()
            first = False
            if case.leaves_after == number:
                await run.left.wait()
                await asyncio.sleep(0.01)
            await stream.send(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if case.cut:
            raise ClientGone

    def _headers(self, case: Case) -> dict[str, str]:
        kind = "text/event-stream" if case.streamed else "application/json"
        return {"content-type": kind} | ({"content-encoding": case.encode} if case.encode else {})
