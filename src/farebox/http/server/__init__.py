"""The HTTP/1.1 server, directly on the event loop: httptools parses, and the handlers are called without layers in
between.

What it omits is left to a proxy in front: TLS, HTTP/2, compression, files.
"""

import asyncio
import resource
import socket
from collections.abc import Callable
from dataclasses import replace

from farebox.clock import SystemClock
from farebox.http.server.connection import ClientConnection
from farebox.http.server.headers import Dates
from farebox.http.server.state import Handler, Limits, ServerState
from farebox.jobs import OnFailure
from farebox.limits.byte_budget import ByteBudget

__all__ = ["AddressInUse", "Handler", "Limits", "RunningServer", "reserve", "serve"]

BACKLOG = 1024
CLOSE_SECONDS = 2.0
CANCEL_SECONDS = 1.0


class RunningServer:
    """A listening server; `await close()` stops it and waits for exchanges in flight."""

    def __init__(self, state: ServerState, listener: asyncio.AbstractServer, host: str, port: int) -> None:
        self._state = state
        self._listener = listener
        self.host = host
        self.port = port

    async def close(self) -> None:
        """Accept no more connections, finish exchanges in flight, and close the others. After CLOSE_SECONDS, break
        connections off: a client that does not read its response must not keep the program alive."""
        state = self._state
        state.closing = True
        self._listener.close()
        for connection in tuple(state.connections):
            connection.finish()
        if state.connections:
            state.emptied = state.emptied or state.loop.create_future()
            await asyncio.wait([state.emptied], timeout=CLOSE_SECONDS)
        late = {connection.task for connection in state.connections if connection.task is not None}
        for connection in tuple(state.connections):
            connection.abort()
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_SECONDS)
        if state.sweeper is not None:
            state.sweeper.cancel()


class AddressInUse(RuntimeError):
    """The port is in use; the message says how to choose another one."""


async def serve(
    handler: Handler,
    host: str,
    port: int = 0,
    *,
    reserved: socket.socket | None = None,
    header_limit: int = 65_536,
    shared: bool = False,
    limits: Limits | None = None,
    budget: ByteBudget | None = None,
    prefaced: Callable[[str], bool] | None = None,
    failed: OnFailure | None = None,
) -> RunningServer:
    """Listen and pass every exchange to `handler`, on the socket from `reserve` or on this port.

    Port 0 takes a free one. `shared`: other processes of ours listen on the same port, and the system distributes the
    connections. `budget`: the byte budget of the handler's leases. `prefaced`: whether a client that connects from this
    address begins with a header of the PROXY protocol; None: none does. Raises AddressInUse.
    """
    loop = asyncio.get_running_loop()
    if reserved is not None:
        port = reserved.getsockname()[1]
    try:
        sock = _listening(host, port, reserved, shared=shared)
    except OSError as error:
        raise _taken(host, port, error) from error
    limits = limits or Limits()
    limits = replace(limits, header_bytes=header_limit, connections=_connections_max(limits.connections))
    state = ServerState(handler, loop, Dates(SystemClock()), limits, budget or ByteBudget(), prefaced, failed=failed)
    port = sock.getsockname()[1]
    listener = await loop.create_server(lambda: ClientConnection(state), sock=sock, backlog=BACKLOG)
    return RunningServer(state, listener, host, port)


def reserve(host: str, port: int, *, setting: str = "") -> socket.socket:
    """Bind the port without listening, and keep it until the socket is closed; for port 0, this determines the number.
    Sockets that listen on it may share it, which would hide that a port is in use: so it is first bound without
    sharing. Raises AddressInUse, which says how to choose another port: by `--port`, or by this setting."""
    try:
        with _bound(host, port, shared=False) as alone:
            port = alone.getsockname()[1]
        return _bound(host, port, shared=True)
    except OSError as error:
        raise _taken(host, port, error, setting) from error


def _connections_max(wanted: int) -> int:
    """At most half of the files that the process may open: a call also has a connection to its provider, and clients
    that only keep connections open must not block everything else."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else min(wanted, files // 2)


def _listening(host: str, port: int, reserved: socket.socket | None, *, shared: bool) -> socket.socket:
    sock = _bound(host, port, shared=shared) if reserved is None or shared else reserved
    try:
        if not shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)  # if two start at once, only one listens
        sock.listen(BACKLOG)  # called here, because uvloop hides a failure
    except OSError:
        sock.close()
        raise
    return sock


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by its connections
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _taken(host: str, port: int, error: OSError, setting: str = "") -> AddressInUse:
    how = setting or "--port or FAREBOX_PORT"
    return AddressInUse(f"cannot listen on {host}:{port} ({error.strerror}): choose another with {how}")
