"""The journal: where the end of a call is kept during a database outage, and how it is posted afterwards.

A response's last byte waits until its charge is durable, in the database or in the journal. Entries are posted in
order, with their original IDs, so that an entry that had reached the database after all changes nothing.
"""

import asyncio
import dataclasses
from collections import deque
from collections.abc import Coroutine, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from farebox.clock import SystemClock
from farebox.ledger.commands import Conflict, Outcome, Settle, Verdict
from farebox.ledger.ledger import Ledger
from farebox.runtime.journal_entry import JournalEntry, decode, encode
from farebox.runtime.observers import best_effort
from farebox.runtime.tasks import gather_all
from farebox.runtime.verdicts import warn_if_unusual
from farebox.runtime.waiters import Waiters
from farebox.storage.database import Database
from farebox.storage.journal_files import (
    Depth,
    JournalFile,
    JournalFiles,
    JournalUnwritable,
    with_checksum,
    without_checksum,
)
from farebox.storage.sql import DatabaseUnavailable, NodeUnavailable

FOLDER = "journal"
REMEMBERED_MAX = 5_000
"""Maximum number of ends kept in memory, of a few kilobytes each."""
BATCH_SIZE = 256
"""Entries sent together, so that they share commits."""
NODE_UNAVAILABLE_SECONDS = 5.0
"""How long nothing is posted after a Citus node was found to be unavailable."""

log = structlog.get_logger("farebox.journal")


class Journal:
    """One process's journal, and the journals it takes over from processes that have ended."""

    def __init__(self, data_dir: str, name: str, *, database: Database, ledger: Ledger, waiters: Waiters) -> None:
        self._files = JournalFiles(Path(data_dir) / FOLDER, name)
        self._database = database
        self._ledger = ledger
        self._waiters = waiters
        self._monotonic = SystemClock().monotonic
        self._again_at = float("-inf")
        self._batch_size = BATCH_SIZE
        """Fewer after a failure: a slow database may not finish a full batch in time, and none of it would count."""
        self._posting = asyncio.Lock()
        self._remembered: deque[JournalEntry] = deque()
        self.unwritable: str | None = None
        """Why the latest write failed; None if it succeeded."""
        self.added = 0
        """How many ends of calls this process has written."""

    @property
    def empty(self) -> bool:
        """Whether everything that this process knows of has been posted."""
        return self._files.empty and not self._remembered

    @property
    def depth(self) -> Depth:
        """How much is still to be posted, as far as this process knows. Ends kept in memory have no bytes or age."""
        files = self._files.depth
        return dataclasses.replace(files, entries=files.entries + len(self._remembered))

    async def add(self, entry: JournalEntry) -> None:
        """Keep the end of a call; it is durable when this returns. Raises JournalUnwritable."""
        await self._noting(self._files.add(encode(entry)))
        self.added += 1
        with best_effort("the log"):
            log.warning("call journaled", log_id=entry.call.log_id, ends=entry.ends, charge_nanos=entry.amount)

    async def check_writable(self) -> None:
        """Raises JournalUnwritable if there is no room for a line."""
        await self._noting(self._files.check_writable())

    async def _noting(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except JournalUnwritable as error:
            self.unwritable = str(error)
            raise
        self.unwritable = None

    def remember(self, entry: JournalEntry) -> bool:
        """Keep the end of a call in memory, without its bodies, because it cannot be stored anywhere else. It is posted
        like the others. Returns False if too many are kept already. If the process dies they are lost, and their holds
        are resolved as those of calls in doubt."""
        if len(self._remembered) >= REMEMBERED_MAX:
            return False
        self._remembered.append(replace(entry, call=replace(entry.call, request_body=None, response_body=None)))
        return True

    async def post(self) -> None:
        """Post what is kept, oldest first. Raises DatabaseUnavailable; what was not posted by then stays kept.

        Entries for a Citus node that is unavailable are put back at the end, so that the others need not wait for it.
        """
        if self.empty or self._posting.locked() or self._monotonic() < self._again_at:
            return
        async with self._posting:
            self._database.check()
            try:
                await self._post_remembered()
                for file in await self._files.closed():
                    await self._post_file(file)
            except DatabaseUnavailable as error:
                self._batch_size = max(1, self._batch_size // 4)
                self._database.report_failure(error)
                raise
            self._batch_size = BATCH_SIZE

    async def _keep_again(self, entries: Sequence[JournalEntry], unavailable: NodeUnavailable) -> None:
        """Put entries for an unavailable node back at the end of the journal. Raises NodeUnavailable if the journal
        cannot be written."""
        self._again_at = self._monotonic() + NODE_UNAVAILABLE_SECONDS
        try:
            await gather_all(self._noting(self._files.add(encode(entry))) for entry in entries)
        except JournalUnwritable as error:
            raise unavailable from error

    async def take_over(self) -> None:
        """Take over the journals that ended processes of this machine left, and post them. Raises as `post`."""
        for file in await self._files.abandoned():
            log.warning("journal taken over", file=file.path.name, bytes=file.size)
        await self.post()

    async def close(self) -> None:
        """Post what can be posted; the rest is for the next process of this machine."""
        await self._files.finish()
        self._again_at = float("-inf")
        try:
            await self.post()
        except (DatabaseUnavailable, OSError) as error:
            log.warning(
                "journal left",
                why=str(error),
                remedy="start a gateway on this machine: it posts what the journal keeps",
            )
        await self._files.close()

    async def _post_remembered(self) -> None:
        posted = 0
        while some := list(islice(self._remembered, self._batch_size)):
            posted += await self._post_entries([(with_checksum(encode(entry)), entry) for entry in some])
            for _ in some:
                self._remembered.popleft()
        if posted:
            with best_effort("the log"):
                log.warning("remembered ends posted", entries=posted)

    async def _post_file(self, file: JournalFile) -> None:
        posted = 0
        while lines := await self._files.lines(file):
            size = self._batch_size
            for some in (lines[at : at + size] for at in range(0, len(lines), size)):
                posted += await self._post_lines(some, file.path.name)
                file.carried_out(some)
        await self._files.drop(file)
        if posted:
            log.warning("journal posted", file=file.path.name, entries=posted)

    async def _post_lines(self, lines: list[bytes], name: str) -> int:
        """Post some lines. Returns how many were posted. Raises DatabaseUnavailable: all of them must then be sent
        again."""
        entries = [(line, entry) for line in lines if (entry := await self._entry(line, name)) is not None]
        return await self._post_entries(entries)

    async def _post_entries(self, entries: Sequence[tuple[bytes, JournalEntry]]) -> int:
        """Post entries. Returns how many were dealt with, not counting those put back. Raises DatabaseUnavailable: all
        of them must then be sent again."""
        unavailable: NodeUnavailable | None = None
        responses = await asyncio.gather(*(self._send(entry) for _, entry in entries), return_exceptions=True)
        for response in responses:
            if isinstance(response, DatabaseUnavailable | asyncio.CancelledError):
                if not isinstance(response, NodeUnavailable):
                    raise response
                unavailable = response
        both = list(zip(entries, responses, strict=True))
        kept = [entry for (_, entry), response in both if isinstance(response, NodeUnavailable)]
        if unavailable is not None:
            await self._keep_again(kept, unavailable)
        for (line, entry), response in both:
            if isinstance(response, NodeUnavailable):
                continue
            if isinstance(response, BaseException):
                why = str(response) if isinstance(response, Conflict) else f"{type(response).__name__}: {response}"
                await self._refuse(line, entry, why)
            elif response.outcome is Outcome.UNKNOWN:  # the ledger had acknowledged the hold
                await self._refuse(line, entry, "the database does not have its hold: is it another database?")
            else:
                with best_effort("those who wait, and the log"):
                    self._waiters.wake(entry.call.account_id)
                    overrun = response.amount > entry.receipt.hold_nanos
                    warn_if_unusual(entry.call.log_id, response, overrun=overrun)
        return len(entries) - len(kept)

    async def _send(self, entry: JournalEntry) -> Verdict:
        account_id, command = entry.call.account_id, entry.command
        verdict = Verdict(Outcome.UNKNOWN) if command is None else await self._ledger.do(command)
        if verdict.outcome is Outcome.UNKNOWN:
            await self._ledger.record(account_id, entry.record)
            if not isinstance(command, Settle):  # no hold was needed, or its creation failed and the response was lost
                return Verdict(Outcome.DONE)
        return verdict

    async def _entry(self, line: bytes, name: str) -> JournalEntry | None:
        """The entry on a line; None if the line is incomplete."""
        content = without_checksum(line)
        if content is None:
            half = not line.endswith(b"\n")
            log.warning("journal line damaged", file=name, bytes=len(line), cut_by_a_crash=half)
            if not half:  # a crash cannot cause this: the disk has changed what was written
                await self._files.refuse(line)
            return None
        try:
            return decode(content)
        except msgspec.DecodeError as error:
            log.error("journal line cannot be parsed", file=name, why=str(error))  # noqa: TRY400 - no traceback
            await self._files.refuse(line)
            return None

    async def _refuse(self, line: bytes, entry: JournalEntry, why: str) -> None:
        log.error(
            "journal entry refused",
            log_id=entry.call.log_id,
            account_id=entry.call.account_id,
            ends=entry.ends,
            amount=entry.amount,
            why=why,
        )
        await self._files.refuse(line)
