"""A database at a distance: a relay on loopback that delays everything in both directions."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

CHUNK = 2**16


@contextlib.contextmanager
def delayed(url: str, round_trip_s: float) -> Iterator[str]:
    """A URL of the database at `url` with a longer round trip, until the block ends."""
    parts = urlsplit(url)
    loop = asyncio.new_event_loop()
    relay = _Relay(parts.hostname or "127.0.0.1", parts.port or 5432, round_trip_s / 2)
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()
    try:
        port = asyncio.run_coroutine_threadsafe(relay.listen(), loop).result()
        who = parts.netloc.rpartition("@")[0]
        yield urlunsplit(parts._replace(netloc=f"{who}@127.0.0.1:{port}"))
    finally:
        asyncio.run_coroutine_threadsafe(relay.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Relay:
    def __init__(self, host: str, port: int, one_way_s: float) -> None:
        self._host, self._port, self._one_way = host, port, one_way_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Delay each chunk by itself, so that many can be in transit at once."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await source.read(CHUNK):
                loop.call_later(self._one_way, self._write, sink, data)
        loop.call_later(self._one_way, sink.close)

    def _write(self, sink: asyncio.StreamWriter, data: bytes) -> None:
        if not sink.is_closing():
            sink.write(data)
