"""The turns of a session. Each is a call of its own, with a hold before it can begin, and settled before its end is
passed on.

Before a client's message goes on, everything that it may have the provider do is held for. If the provider starts turns
by itself (when it detects the end of speech), one turn is always held in advance. The client gets the end of a turn
once its charge is durable, like the last byte of any response. Each turn has its own row, receipt and hold, named after
the session and the turn's number, so that however the session ends (by the client, the provider or a crash), the turns
under way end by the rules of any call.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
from msgspec.structs import replace

from farebox.calls.admit import hold_credit, reserve
from farebox.calls.endings import CLIENT_GONE, SERVER_STOPPED, Ending, ending_of
from farebox.calls.logged_body import LoggedBody
from farebox.calls.model import Call
from farebox.calls.operator_key import ReadError
from farebox.calls.ownership import checked_references
from farebox.calls.serve import payable, price_call
from farebox.calls.settle import end_without_response, settle_call
from farebox.calls.spending.rules import may_count, rules_for
from farebox.calls.stages import Admitted, Admitting, Attempts, CallContext, Held, Received, Responded, Stage
from farebox.calls.unpaid import check_unpaid
from farebox.errors import DATABASE_UNAVAILABLE, INVALID_REQUEST, PROVIDER_UNAVAILABLE, REQUEST_REFUSED, Problem
from farebox.ledger.commands import Release
from farebox.providers.formats.base import InvalidRequest, Observed, ParsedRequest
from farebox.providers.websockets.reader import FIRST, Lane, SessionReader, TurnRequest
from farebox.storage.sql import DatabaseUnavailable

if TYPE_CHECKING:
    from farebox.websocket import Message

ENDED_MAX: Final = 1_000
"""Number of IDs of ended turns that are remembered, to recognize a repeated end."""
WAITING_MAX: Final = 64
"""Maximum number of requested turns that have not begun."""
_OUR_OWN: Final = (SERVER_STOPPED, DATABASE_UNAVAILABLE.name, PROVIDER_UNAVAILABLE.name)
"""Ends of a session that no client can cause."""

log = structlog.get_logger("farebox.calls")

TurnCall = Callable[[str, ParsedRequest, bytes], Awaitable[Call]]
"""Creates the call of a turn from its ID, what it asks for, and the message. Raises Problem if the call is not
allowed."""


class _Turn:
    """A turn with a hold."""

    def __init__(self, ask: TurnRequest, admitted: Admitted) -> None:
        self.ask = ask
        self.admitted = admitted

    @property
    def amount(self) -> int:
        return 0 if self.admitted.held is None else self.admitted.held.estimate.amount


class _Lane:
    def __init__(self) -> None:
        self.waiting: deque[_Turn] = deque()
        """Requested by a message, but not begun."""
        self.ahead: _Turn | None = None
        """Held in advance for a turn that the provider may begin by itself."""
        self.begun: dict[str, _Turn] = {}


class Turns:
    """The holds and charges of one session (calls.websockets.session.Meter)."""

    def __init__(self, context: CallContext, reader: SessionReader, turn_call: TurnCall, *, strict: bool) -> None:
        """`strict`: messages that are not understood are not passed on."""
        self._context = context
        self._reader = reader
        self._turn_call = turn_call
        self._own = context.call.own_key
        self._strict = strict
        self._lanes: dict[Lane, _Lane] = {"response": _Lane(), "transcript": _Lane()}
        self._books = asyncio.Lock()
        """Held while a message is read and the lanes are changed, including all waits for the ledger, so that the
        reader never knows of a turn without a hold."""
        self._ended: dict[str, None] = {}
        self._number = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._all_begun = asyncio.Event()
        """Set if every requested turn has begun."""
        self._all_begun.set()
        self.tell: Callable[[Message], Awaitable[None]] | None = None
        """Sends the client a message of ours."""

    # --- for the session ---

    async def from_client(self, message: "Message") -> "Message | None":
        if self._strict and not self._all_begun.is_set() and self._reader.waits(message.data):
            await self._all_begun.wait()
        async with self._books:
            passed = await self._read(message)
        if isinstance(passed, Problem):
            await self._refuse(passed)
            return None
        return passed

    async def from_provider(self, message: "Message") -> "Message | None":
        async with self._books:
            found = self._reader.provider(message.data)
            if not (found.begun or found.ended or found.rejected):
                return message
            for lane, turn_id in found.begun:
                await self._begin(lane, turn_id)
            for lane, turn_id, observed in found.ended:
                await self._end(lane, turn_id, observed, message.data)
            if found.rejected:
                await self._reject(found.rejected)
            self._note()
        return message

    async def paid_for(self) -> None:
        await self._idle.wait()

    def cancel(self) -> "Message | None":
        return None if self._idle.is_set() else self._message(self._reader.cancel())

    def error(self, problem: Problem) -> "Message | None":
        return self._message(self._reader.error(problem))

    async def stop(self, passing: "asyncio.Task[None]") -> None:
        async with self._books:  # waits until nothing is being settled
            passing.cancel()

    async def end(self, interruption: str) -> None:
        """Settle or release the turns under way. Raises only what is a bug of ours."""
        async with self._books:
            for name, lane in self._lanes.items():
                for turn_id, turn in lane.begun.items():
                    await _ending(self._cut(turn, self._reader.usage_so_far(name, turn_id), interruption))
                for turn in lane.waiting:
                    by_client = interruption == CLIENT_GONE
                    observed = self._reader.usage_so_far(name, "") if by_client else Observed(empty=True)
                    await _ending(self._cut(turn, observed, interruption))
                if lane.ahead is not None:
                    await _ending(self._end_ahead(name, lane.ahead, interruption))
                lane.begun, lane.waiting, lane.ahead = {}, deque(), None
            self._note()

    # --- inside; all with the lock ---

    async def _read(self, message: "Message") -> "Message | Problem":
        """The client's message as it goes on, after the hold; or the error that says why it does not. Raises as
        `_arm`."""
        try:
            found = self._reader.client(message.data, text=message.text)
        except InvalidRequest as wrong:  # without `strict`, the provider is left to reject it
            return Problem(INVALID_REQUEST, str(wrong)) if self._strict else message
        if found.refused and self._strict:
            name = self._context.call.access.provider.name
            return Problem(REQUEST_REFUSED, f"On the operator's key, this is not sent to {name}: {found.refused}.")
        data = found.data
        for ask in found.asks:
            data = await self._arm(ask, data, message.data)
        return message if data is message.data else replace(message, data=data)

    async def _arm(self, ask: TurnRequest, data: bytes, sent: bytes) -> bytes:
        """Hold for what the message may cause. Returns the message as it goes on. Raises Problem,
        DatabaseUnavailable."""
        lane = self._lanes[ask.lane]
        if ask.by_itself:
            lane.ahead = turn = await self._ahead(lane, ask, b"")
        else:
            if len(lane.waiting) >= WAITING_MAX:
                raise Problem(INVALID_REQUEST, f"More than {WAITING_MAX} responses were requested that have not begun.")
            turn = await (self._ahead(lane, ask, sent) if ask.alone else self._hold(ask, sent))
            lane.waiting.append(turn)
            self._note()
        held = turn.admitted.held
        limit = None if held is None or not ask.parsed.demand.clampable else held.output_limit
        return data if limit is None else self._reader.limited(data, limit)

    async def _ahead(self, lane: _Lane, ask: TurnRequest, sent: bytes) -> _Turn:
        """The turn held in advance, if its hold is enough; otherwise another one in its place. Input that is billed
        when it is sent is then charged, and the new hold is for the rest."""
        ahead, lane.ahead = lane.ahead, None
        if ahead is not None and self._covers(ahead, ask):
            return ahead
        before = None if ahead is None else self._reader.take()
        if ahead is not None and before is not None:
            await self._settle(ahead, before, None, b"")
            ask = self._reader.unrequested(ask.lane) or ask
        elif ahead is not None:
            await self._release(ahead)
        return await self._hold(ask, sent)

    def _covers(self, turn: _Turn, ask: TurnRequest) -> bool:
        """Whether the hold made in advance is enough for this, and lasts long enough."""
        had, wanted = turn.ask.parsed.demand, ask.parsed.demand
        enough = (
            turn.ask.parsed.model == ask.parsed.model
            and had.audio_seconds_max >= wanted.audio_seconds_max
            and had.text_bytes >= wanted.text_bytes
            and len(had.images) >= len(wanted.images)
            and all(had.allowed.get(meter, 0) >= most for meter, most in wanted.allowed.items())
            and (had.output_max is None or (wanted.output_max or had.output_max + 1) <= had.output_max)
        )
        age = self._context.services.clock.now_ms() - turn.admitted.context.call.started_at
        return enough and age < self._context.services.settings.call_timeout_ms / 2

    async def _hold(self, ask: TurnRequest, sent: bytes) -> _Turn:
        """Hold for a turn. Raises Problem, DatabaseUnavailable; a refused turn has its row."""
        services = self._context.services
        self._number += 1
        if len(sent) > services.settings.log_body_limit_bytes:
            sent = b""  # it is only for the log
        call = await self._turn_call(f"{self._context.call.log_id}-{self._number:04}", ask.parsed, sent)
        context = replace(self._context, call=call, started=services.clock.monotonic())
        stage: Stage = Received(context)
        try:
            context = await checked_references(context)
            stage = priced = price_call(context)
            held: Held | None = None
            counts = False
            if self._own:
                counts = may_count(call) and priced.terms is not None and bool(rules_for(call))
                if counts and priced.terms is not None:
                    stage = Admitting(context, priced.metered, priced.terms)
                    await reserve(context, priced.terms)
            else:
                terms, price = payable(priced)
                check_unpaid(services, call)
                stage = Admitting(context, priced.metered, terms)
                held = await hold_credit(context, terms, price)
            return _Turn(ask, Admitted(context, priced.metered, priced.terms, held, Attempts(), counts))
        except (Problem, DatabaseUnavailable, asyncio.CancelledError) as error:
            end = ending_of(stage, error)
            await end_without_response(stage, end, error if isinstance(error, Problem) else None)
            raise

    async def _begin(self, name: Lane, turn_id: str) -> None:
        lane = self._lanes[name]
        if turn_id in lane.begun or turn_id in self._ended:
            return
        turn = await self._next(name)
        if turn is None:
            return
        admitted = turn.admitted
        context = replace(admitted.context, started=self._context.services.clock.monotonic())
        turn.admitted = replace(admitted, context=context)
        lane.begun[turn_id] = turn

    async def _next(self, name: Lane) -> _Turn | None:
        """The turn that begins now: the first requested one, else the one held in advance. A turn without a hold should
        not begin; if it does, a hold is made now if there is credit."""
        lane = self._lanes[name]
        if lane.waiting:
            return lane.waiting.popleft()
        if lane.ahead is not None:
            turn, lane.ahead = lane.ahead, None
            return turn
        log.warning("a turn was not requested", log_id=self._context.call.log_id, lane=name)
        ask = self._reader.unrequested(name)
        return None if ask is None else await self._hold(ask, b"")

    async def _end(self, name: Lane, turn_id: str, observed: Observed, data: bytes) -> None:
        if turn_id in self._ended:
            return
        lane = self._lanes[name]
        turn = lane.begun.pop(turn_id, None) or await self._next(name)
        if len(self._ended) >= ENDED_MAX:
            self._ended.pop(next(iter(self._ended)))
        self._ended[turn_id] = None
        if turn is not None:
            await self._settle(turn, observed, None, data)

    async def _reject(self, event_id: str) -> None:
        """The provider has refused a message: the turn that it requested will not begin."""
        for lane in self._lanes.values():
            for turn in lane.waiting:
                if event_id in (FIRST, turn.ask.event_id):
                    lane.waiting.remove(turn)
                    await end_without_response(turn.admitted, Ending("free", "the provider refused the message"))
                    return

    async def _settle(self, turn: _Turn, observed: Observed, interruption: str | None, data: bytes) -> None:
        """Settle a turn by what was observed. Raises DatabaseUnavailable."""
        admitted = turn.admitted
        context, services = admitted.context, admitted.context.services
        kept = services.settings.log_body_limit_bytes if context.call.logged and context.call.log_bodies else -1
        logged = LoggedBody(kept, "application/json")
        if data:
            logged.keep(data)
        stage = Responded(
            context,
            admitted.metered,
            admitted.terms,
            admitted.held,
            Attempts(status=200),
            admitted.counts,
            ReadError(200, [], b""),
            logged,
        )
        await settle_call(stage, observed, interruption)

    async def _cut(self, turn: _Turn, observed: Observed, interruption: str) -> None:
        """Settle a turn that has not reached its end. A transcript that has not arrived is free."""
        if turn.ask.lane == "transcript":
            await end_without_response(turn.admitted, Ending("released", interruption))
        else:
            await self._settle(turn, observed, interruption, b"")

    async def _end_ahead(self, name: Lane, turn: _Turn, interruption: str) -> None:
        """End a turn held in advance. What has been sent is charged, unless the session ended for a reason of our own:
        a client can cause nearly all other ends."""
        if self._reader.owed is None or interruption in _OUR_OWN:
            await self._release(turn)
        else:
            await self._settle(turn, replace(self._reader.usage_so_far(name, ""), complete=True), None, b"")

    async def _release(self, turn: _Turn) -> None:
        """Release a turn that was not used. It leaves no row, unless the journal has to keep its release. Raises
        DatabaseUnavailable."""
        admitted = turn.admitted
        if admitted.held is None and not admitted.counts:
            return
        context, services = admitted.context, admitted.context.services
        call, now = context.call, services.clock.now_ms()
        try:
            services.database.check()
            await services.ledger.do(Release(account_id=call.account_id, hold_id=call.log_id, at=now))
            services.waiters.wake(call.account_id)
        except DatabaseUnavailable as error:
            services.database.report_failure(error)
            await end_without_response(admitted, Ending("released"), Problem(DATABASE_UNAVAILABLE, ""))

    def _note(self) -> None:
        """Update the events after a change of the lanes."""
        lanes = self._lanes.values()
        _set(self._all_begun, not any(lane.waiting for lane in lanes))
        _set(self._idle, not any(lane.waiting or lane.begun for lane in lanes))

    async def _refuse(self, problem: Problem) -> None:
        """Tell the client that its message is not passed on; the session continues."""
        message = self.error(problem)
        if message is None or self.tell is None:
            raise problem
        await self.tell(message)

    def _message(self, data: bytes) -> "Message | None":
        from farebox.websocket import Message

        return Message(data) if data else None


def _set(event: asyncio.Event, to: bool) -> None:
    if to:
        event.set()
    else:
        event.clear()


async def _ending(work: Awaitable[None]) -> None:
    """End one turn without keeping the others from ending: a hold that neither database nor journal can end expires."""
    with suppress(DatabaseUnavailable):
        await work
