"""A call that is a WebSocket: messages in both directions between a client and a provider, until one of them ends it.

Two tasks pass the messages on, each waiting while the other side is slow; the session itself watches them. Both sides
learn by a close code how it ended, and it is recorded once (docs/errors.md has the codes).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard

import msgspec
import structlog

from farebox.calls.endings import CLIENT_GONE, CONNECTION_FAILED, INTERNAL_ERROR, SERVER_STOPPED, SILENCE, TOO_LONG
from farebox.calls.logged_body import LoggedBody
from farebox.calls.operator_key import ReadError, unavailable
from farebox.calls.settle import settle_call
from farebox.calls.stages import Attempts, CallContext, Responded
from farebox.errors import DATABASE_UNAVAILABLE, Problem
from farebox.metrics.families import SOCKET_MESSAGES, SOCKETS_ENDED
from farebox.providers.formats.base import Observed
from farebox.providers.key_problem import key_problem_of, reports_error
from farebox.providers.scrubbing import scrubber_of
from farebox.storage.sql import DatabaseUnavailable

if TYPE_CHECKING:
    from farebox.websocket import Closed, Message, Socket

PING_SECONDS: Final = 20.0
"""Silence of one side after which it is pinged; after the same time again it counts as gone."""
CLOSE_SECONDS: Final = 3.0
"""How long to wait for the other side's close frame."""
OF_ERRORS: Final = 4000
"""Close codes of errors are this number plus the error's status."""
TIME_IS_UP: Final = 4408
_CHARGED: Final = "Delivered parts of responses are charged; text and audio that had not been charged yet are free."
"""Said when a problem with the operator's key ends a session (calls.websockets.turns.Turns.end)."""

log = structlog.get_logger("farebox.calls")


class Meter(Protocol):
    """Reads a session's messages, and holds and charges what they cost."""

    async def from_client(self, message: "Message") -> "Message | None":
        """The message to send to the provider, once what it may cost is held; None: send nothing. Raises Problem if
        that ends the session, storage.sql.DatabaseUnavailable."""
        ...

    async def from_provider(self, message: "Message") -> "Message | None":
        """The message to send to the client, once the turn that it ends is charged. Raises DatabaseUnavailable."""
        ...

    async def paid_for(self) -> None:
        """Wait until no turn with a hold is under way."""
        ...

    def cancel(self) -> "Message | None":
        """A message that asks the provider to stop the turn under way; None if there is none, or the provider has no
        such message."""
        ...

    def error(self, problem: Problem) -> "Message | None":
        """A message that reports an error to the client, in the provider's format."""
        ...

    async def stop(self, passing: "asyncio.Task[None]") -> None:
        """Cancel a task that passes messages on, but not while a hold or a charge is being made."""
        ...

    async def end(self, interruption: str) -> None:
        """The session is over: settle or release the turns under way, by policy."""
        ...


class SessionEnding(msgspec.Struct, frozen=True):
    """How a session ends."""

    how: str
    """A label of the metric `metrics.families.SOCKETS_ENDED`."""
    to_client: int
    to_provider: int
    reason: str = ""
    error: str = ""
    """For the record; empty if the session ended normally."""
    problem: Problem | None = None


class Session:
    """One session. `run` is called once."""

    def __init__(
        self,
        context: CallContext,
        client: "Socket",
        provider: "Socket",
        meter: Meter,
        check: Callable[[], Awaitable[None]],
    ) -> None:
        """`check` is called before a message goes to the provider, and raises Problem if no more may be sent."""
        self._context = context
        self._check = check
        self._client = client
        self._provider = provider
        self._meter = meter
        self._stop = asyncio.Event()
        self._passed = context.services.clock.monotonic()
        """When the last message passed."""
        self._secrets = [scrubber_of(secret) for secret in context.secrets]

    def stop(self) -> None:
        """The server is stopping: end the session once the turns that are paid for have been delivered."""
        self._stop.set()

    async def run(self) -> None:
        """Run until the session has ended and is recorded."""
        outgoing = asyncio.create_task(self._pass_outgoing())
        incoming = asyncio.create_task(self._pass_incoming())
        try:
            ending = await self._watch(outgoing, incoming)
            await self._finish_turns(ending, outgoing, incoming)
        except asyncio.CancelledError:  # the server's stop does not wait any longer
            ending = _STOPPED
        except Exception:
            log.exception("bug in a session", log_id=self._context.call.log_id)
            ending = SessionEnding("error", 1011, 1001, "internal error", INTERNAL_ERROR)
        try:
            for task in (outgoing, incoming):
                await self._meter.stop(task)
            await asyncio.gather(outgoing, incoming, return_exceptions=True)
            await self._settle(ending)
        finally:
            await self._close(ending)

    # --- passing messages on ---

    async def _pass_outgoing(self) -> None:
        while True:
            message = await self._client.receive()
            self._count("out", message)
            await self._check()
            passed = await self._meter.from_client(message)
            if passed is not None:
                await self._provider.send(passed)

    async def _pass_incoming(self) -> None:
        while True:
            message = await self._provider.receive()
            self._count("in", message)
            passed = await self._meter.from_provider(self._scrubbed(message))
            if b'"error"' in message.data and reports_error(message.data):  # text and binary frames may both have JSON
                self._check_key(message.data, "by an event")
            if passed is not None:
                await _quietly(self._client.send(passed))  # the task that reads from the client notices if it has gone

    def _count(self, direction: str, message: "Message") -> None:
        services = self._context.services
        self._passed = services.clock.monotonic()
        services.metrics.count(SOCKET_MESSAGES, direction)

    def _scrubbed(self, message: "Message") -> "Message":
        """The message without a key that its recipient must not learn."""
        for scrubber in self._secrets:
            if scrubber.forms and not scrubber.passes(message.data or b" "):
                message = msgspec.structs.replace(message, data=scrubber.clean(message.data))
        return message

    def _check_key(self, error: bytes, how: str) -> None:
        """Raises Problem if the provider's error is about the operator's key: its words are not for the client. `how`:
        how the provider reported it."""
        context = self._context
        found = None if context.call.own_key else key_problem_of(200, error)
        if found is not None:
            raise unavailable(context, 101, found, _CHARGED, how)

    def _explained(self, closed: "Closed") -> "BaseException":
        """The provider's close, as the client may see it."""
        try:
            self._check_key(msgspec.json.encode({"error": {"message": closed.reason}}), "by a close")
        except Problem as problem:
            return problem
        reason = closed.reason.encode()
        for scrubber in self._secrets:
            reason = scrubber.clean_error(reason)
        closed.reason = reason.decode(errors="replace")
        return closed

    # --- watching ---

    async def _watch(self, outgoing: "asyncio.Task[None]", incoming: "asyncio.Task[None]") -> SessionEnding:
        """Wait until the session should end."""
        clock, settings = self._context.services.clock, self._context.services.settings
        longest = self._context.started + settings.websocket_max_ms / 1000
        stopping = asyncio.create_task(self._stop.wait())
        pings = [_Pings(self._client), _Pings(self._provider)]
        try:
            while True:
                due = min(longest, self._passed + settings.websocket_idle_ms / 1000)
                left = due - clock.monotonic()
                if left <= 0:
                    idle = due < longest
                    why = "no message for too long" if idle else "the maximum duration of a session is over"
                    return SessionEnding("time", TIME_IS_UP, 1000, why, SILENCE if idle else TOO_LONG)
                open_ends = [task for task in (outgoing, incoming) if not task.done()]
                done, _ = await asyncio.wait(
                    [*open_ends, stopping], timeout=min(left, PING_SECONDS), return_when=asyncio.FIRST_COMPLETED
                )
                if (ended := _ended(outgoing, incoming)) is not None:
                    return _ending_of(self._explained(ended) if _by_provider(ended) else ended)
                if stopping in done:
                    return _STOPPED
                if not done and left > PING_SECONDS:  # with less left, time is up: a timer may fire a little early
                    if await pings[0].lost():
                        return SessionEnding("client", 1001, 1001, "", CLIENT_GONE)
                    if await pings[1].lost():
                        return _failed("it does not answer")
        finally:
            stopping.cancel()

    async def _finish_turns(
        self, ending: SessionEnding, outgoing: "asyncio.Task[None]", incoming: "asyncio.Task[None]"
    ) -> None:
        """Let turns that are paid for be delivered; cancel those that nobody is waiting for."""
        await self._meter.stop(outgoing)
        if incoming.done():
            return
        seconds = self._context.services.settings.call_timeout_ms / 1000
        if ending.how in ("client", "time"):
            seconds = CLOSE_SECONDS if await self._cancel() else 0.0
        settled = asyncio.create_task(self._meter.paid_for())
        try:
            await asyncio.wait([settled, incoming], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            settled.cancel()

    async def _cancel(self) -> bool:
        """Ask the provider to stop. Returns whether it could be asked, in which case its final figures are worth
        waiting for."""
        message = self._meter.cancel()
        if message is not None:
            await _quietly(self._provider.send(message))
        return message is not None

    # --- the end ---

    async def _settle(self, ending: SessionEnding) -> None:
        """End the turns under way, and record the session."""
        context = self._context
        context.services.metrics.count(SOCKETS_ENDED, ending.how)
        await self._meter.end(ending.error or CLIENT_GONE)
        stage = session_stage(context)
        try:
            await settle_call(stage, Observed(), ending.error or None, broken_status=101, blocked=ending.problem)
        except DatabaseUnavailable as error:
            context.services.database.report_failure(error)

    async def _close(self, ending: SessionEnding) -> None:
        """Close both sides, with the reason."""
        message = None if ending.problem is None else self._meter.error(ending.problem)
        await asyncio.gather(
            _close(self._client, ending.to_client, ending.reason, message),
            _close(self._provider, ending.to_provider, ending.reason if ending.how == "client" else "", None),
        )


class UnmeteredSession:
    """A session that is not metered: the caller's own key pays."""

    async def from_client(self, message: "Message") -> "Message | None":
        return message

    async def from_provider(self, message: "Message") -> "Message | None":
        return message

    async def paid_for(self) -> None:
        """Returns at once: nothing is held."""

    def cancel(self) -> "Message | None":
        return None

    def error(self, problem: Problem) -> "Message | None":
        return None

    async def stop(self, passing: "asyncio.Task[None]") -> None:
        passing.cancel()

    async def end(self, interruption: str) -> None:
        """Does nothing: no turn is under way."""


class _Pings:
    """Checks whether one side is still there."""

    def __init__(self, socket: "Socket") -> None:
        self._socket = socket
        self._heard = -1
        self._asked = False

    async def lost(self) -> bool:
        """Called after each PING_SECONDS of silence. Only a side whose messages are being read can be heard."""
        socket = self._socket
        silent = socket.listening and socket.heard == self._heard
        self._heard = socket.heard
        if not silent:
            self._asked = False
        elif self._asked:
            return True
        else:
            self._asked = True
        await _quietly(socket.ping())
        return False


_STOPPED: Final = SessionEnding("stopped", 1001, 1001, "the server stops", SERVER_STOPPED)


def session_stage(context: CallContext) -> Responded:
    """The stage of a session that has begun: the provider has answered, and there is no hold for the session itself."""
    switched = ReadError(101, [], b"")
    return Responded(context, None, None, None, Attempts(status=101), False, switched, LoggedBody(-1))


def _failed(why: str) -> SessionEnding:
    return SessionEnding("provider", 1014, 1001, "the provider's connection failed", f"{CONNECTION_FAILED} ({why})")


def _ended(outgoing: "asyncio.Task[None]", incoming: "asyncio.Task[None]") -> BaseException | None:
    """Why the session should end; None if it continues. A side that has closed may have sent something before, which is
    still arriving: the task that reads it sees the end."""
    from farebox.websocket import Closed

    errors = [task.exception() if task.done() else None for task in (outgoing, incoming)]
    for error, side in zip(errors, ("client", "provider"), strict=True):
        if error is not None and not (isinstance(error, Closed) and error.side != side):
            return error
    return errors[0] if all(errors) else None


def _by_provider(error: BaseException) -> "TypeGuard[Closed]":
    from farebox.websocket import Closed

    return isinstance(error, Closed) and error.side == "provider"


def _ending_of(error: BaseException) -> SessionEnding:
    """How the session ends if one direction has ended with this error."""
    from farebox.websocket import NO_CODE, VANISHED, Closed

    if isinstance(error, Problem):
        code = OF_ERRORS + error.kind.status
        return SessionEnding("error", code, 1000, error.message, error.kind.name, error)
    if isinstance(error, DatabaseUnavailable):
        problem = Problem(DATABASE_UNAVAILABLE, "The database is unavailable. Nothing further was charged.")
        return SessionEnding(
            "error", OF_ERRORS + problem.kind.status, 1000, problem.message, problem.kind.name, problem
        )
    if not isinstance(error, Closed):
        raise error
    by_client = error.side == "client"
    if by_client and error.code == VANISHED:
        return SessionEnding("client", 1001, 1001, "", CLIENT_GONE)
    if by_client:
        return SessionEnding("client", error.code, 1001 if error.broken_rule else error.code, error.reason)
    if error.code == VANISHED:
        return _failed("it closed without a reason")
    broken = f"{CONNECTION_FAILED} (closed with {error.code})" if error.code not in (1000, 1001, NO_CODE) else ""
    return SessionEnding("provider", error.code, error.code, error.reason, broken)


async def _close(socket: "Socket", code: int, reason: str, last: "Message | None") -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            if last is not None:
                await _quietly(socket.send(last))
            await socket.close(code, reason)
            await socket.drain()
    except TimeoutError:
        pass
    finally:
        socket.end()


async def _quietly(sending: Awaitable[None]) -> None:
    """Send, and ignore a failure: the session is ending anyway, or another task notices it."""
    from farebox.websocket import Closed

    with contextlib.suppress(Closed):
        await sending
