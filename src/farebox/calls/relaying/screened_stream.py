"""Screening a stream of events in windows. What has arrived is held back until it is screened, and its last part until
more has been screened after it, so that nothing passes that turns out to be the beginning of a match."""

from collections import deque
from typing import Final

from msgspec.structs import replace

from farebox.calls.buffered_response import FREE, STEP
from farebox.calls.model import Sink
from farebox.calls.screening.screen import Screening, dlp_problem
from farebox.calls.stages import Responded
from farebox.detection.body_text import Unreadable
from farebox.detection.reading import RAISES
from farebox.detection.response_text import OVERLAP, Channel, Channels, Leaf, TextWindow, leaves_of
from farebox.detection.rules import Side
from farebox.detection.scan import Match
from farebox.errors import Problem
from farebox.helper_processes import HelperDied, PoolBusy, TooMuchWork
from farebox.providers.formats.frame_reader import MEDIA_TYPE

WINDOW_BYTES: Final = 256
"""Bytes of text after which it is screened."""
HELPED_WINDOW_BYTES: Final = 1_024
"""The same if a helper process matches the account's own patterns."""
SCORED_WINDOW_BYTES: Final = 2_000
"""The same if the scorer is asked: that takes longer, and needs context."""
INLINE_LINE_BYTES: Final = 64 * 2**10
"""Events up to this size are decoded on the event loop."""
HELD_BYTES_MAX: Final = 8 * 2**20
"""Maximum bytes that are held back at once."""
_OTHER_FIELDS: Final = (b":", b"event:", b"id:", b"retry:")
_DONE: Final = b"[DONE]"


class StreamBlocked(Exception):
    """The stream must end here, with this error."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def screened_stream(stage: Responded) -> "ScreenedStream | None":
    """The screening of the response; None if it is not screened."""
    screening = stage.context.screening
    side = None if screening is None else screening.response_rules
    if screening is None or side is None or stage.response.status >= 400:
        return None
    stream = ScreenedStream(screening, side, stage.context.sink)
    if stage.logged.response_type == MEDIA_TYPE:
        stream.unreadable = "it is in Amazon's framing"
    return stream


class ScreenedStream:
    """Decides what of one stream passes, and when."""

    def __init__(self, screening: Screening, side: Side, sink: Sink) -> None:
        self._screening = screening
        self._side = side
        self._sink = sink
        self._holds = side.blocks
        """If rules only flag, everything passes at once."""
        self._window_bytes = (
            SCORED_WINDOW_BYTES if side.hazards else HELPED_WINDOW_BYTES if side.in_helper else WINDOW_BYTES
        )
        self._channels = Channels()
        self._again: set[Channel] = set()
        """Texts that ended with a match, which must be looked at again: whether it is one depends on what follows."""
        self._line = bytearray()
        self._queue: deque[tuple[int, bytes]] = deque()
        """Lines that are held back, each with the amount of text up to its end."""
        self._held = 0
        self._counted = FREE
        self._judged = 0
        self._given_up = False
        self.unreadable = ""
        """Why the stream cannot be screened; empty if it can."""

    async def feed(self, chunk: bytes) -> bytes:
        """Process the next bytes. Returns those that pass now. Raises Blocked."""
        if self.unreadable and not self._given_up:
            self._give_up(self.unreadable)
        if self._given_up:
            return chunk
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if end:
            lines = bytes(self._line) + chunk[:end]
            self._line = bytearray(chunk[end:])
            for line in lines.splitlines(keepends=True):
                await self._line_came(line)
                if self._channels.position - self._judged >= self._window_bytes:
                    await self._judge(last=False)
        else:
            self._line += chunk
        self._check_room()
        return self._released(max(0, self._judged - OVERLAP)) if self._holds else chunk

    async def end(self, tail: bytes) -> bytes:
        """Process the last bytes of the stream. Returns everything that is left. Raises Blocked."""
        passed = await self.feed(tail)
        if self._given_up:
            return passed
        rest = bytes(self._line)
        self._line.clear()
        if rest:
            await self._line_came(rest)
        await self._judge(last=True)
        self._screening.passed("RESPONSE")
        return passed + self._released(self._judged) if self._holds else passed

    async def _line_came(self, line: bytes) -> None:
        """Process one complete line. Raises Blocked."""
        text = line.strip()
        if text.startswith(b"data:"):
            text = text[5:].lstrip()
        elif text.startswith(_OTHER_FIELDS):
            text = b""
        if text and text != _DONE:
            self._channels.add(await self._leaves(text))
        if self._holds:
            self._queue.append((self._channels.position, line))
            self._held += len(line)

    async def _leaves(self, data: bytes) -> list[Leaf]:
        """The strings of an event. Raises Blocked."""
        try:
            if len(data) <= INLINE_LINE_BYTES:
                return leaves_of(data)
            run = self._screening.services.helpers.run
            return await run(self._screening.call.account_id, leaves_of, data, raises=RAISES, must=True)
        except Unreadable as error:
            self._give_up(str(error))
        except (PoolBusy, HelperDied, TooMuchWork):
            self._give_up("an event could not be read")
        return []

    async def _judge(self, *, last: bool) -> None:
        """Screen what has arrived since the last time. Raises Blocked."""
        window = self._channels.window(self._again)
        before, self._judged = self._judged, self._channels.position
        self._again.clear()
        if not window.text:
            return
        try:
            found = await self._screening.find(self._side, window.text)
        except (PoolBusy, HelperDied, TooMuchWork):
            self._give_up("a part of it could not be read")
            return
        matches = self._new(window, found, before, last=last)
        if self._screening.matched("RESPONSE", self._side, matches):
            raise StreamBlocked(dlp_problem("RESPONSE"))
        problem = await self._screening.hazards("RESPONSE", self._side, window.conversation)
        if problem is not None:
            raise StreamBlocked(problem)

    def _new(self, window: TextWindow, found: list[Match], before: int, *, last: bool) -> list[Match]:
        """The matches that had not been found before, with their positions in the text of the stream."""
        new: list[Match] = []
        for match in found:
            piece = next((one for one in window.pieces if one.start <= match.start and match.end <= one.end), None)
            if piece is None or match.end < piece.start + piece.seen:  # spans two texts, or is already counted
                continue
            if match.end == piece.end and piece.grows and not last:
                self._again.add(piece.channel)
                continue
            at = max(0, before + match.start - piece.start - piece.seen)
            new.append(replace(match, start=at, end=at + match.end - match.start))
        return new

    def _released(self, limit: int) -> bytes:
        """The held lines up to this position in the text, which pass now."""
        passed: list[bytes] = []
        while self._queue and self._queue[0][0] <= limit:
            passed.append(self._queue.popleft()[1])
        released = b"".join(passed)
        self._held -= len(released)
        return released

    def _check_room(self) -> None:
        """Raises Blocked if there is no room for what must be held back."""
        kept = self._held + len(self._line)
        if kept <= self._counted:
            return
        more = max(STEP, kept - self._counted)
        if kept > HELD_BYTES_MAX or not self._sink.keep(more):
            self._give_up("there is no room to hold it back")
        self._counted += more

    def _give_up(self, why: str) -> None:
        """Stop screening from here on. Raises Blocked if a rule blocks."""
        problem = self._screening.unscreened_response(why)
        if problem is not None:
            raise StreamBlocked(problem)
        self._given_up = True
