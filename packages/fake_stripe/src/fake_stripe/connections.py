"""The connections of a fake Stripe: uvicorn's, without its `Server`, which ticks ten times a second, takes over the
process's signals and needs a fifth of a second to stop: too much for something that tests start and stop all the
time."""

import asyncio
import logging
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fake_stripe.app import FakeStripe

_KEEP_ALIVE_SECONDS = 75
_CLOSE_SECONDS = 0.5

_log = logging.getLogger("fake_stripe.http")


class Connections:
    """The open connections, and the requests that they carry to the application."""

    def __init__(self, app: FakeStripe) -> None:
        self._config = Config(
            app,
            interface="asgi3",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        self._config.load()
        self._state = ServerState()

    def connect(self) -> asyncio.Protocol:
        """A new connection, for the event loop."""
        return _Connection(self._config, self._state, {})

    async def close(self) -> None:
        """Finish requests in flight, and break off those that have not ended after half a second."""
        for connection in tuple(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(tuple(self._state.tasks), timeout=_CLOSE_SECONDS)
        for connection in tuple(self._state.connections):
            if not connection.transport.is_closing():
                connection.transport.abort()
        for task in tuple(self._state.tasks):
            task.cancel()


class _Connection(HttpToolsProtocol):
    """A uvicorn connection that leaves uvicorn's loggers to the surrounding program."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logger = _log
        self.access_log = False


def _is_failure(record: logging.LogRecord) -> bool:
    """Whether a log record reports a real failure: not a response that breaks off as configured, nor a request that is
    canceled at the end."""
    return record.exc_info is not None and not isinstance(record.exc_info[1], asyncio.CancelledError)


_log.addFilter(_is_failure)
