"""The journal's files: entries are durable, complete, in order, and posted once, by the holder of the file's lock."""

import asyncio
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from farebox.ledger.commands import CallWritten, Command, Conflict, Outcome, Settle, Verdict
from farebox.pricing.receipt import Receipt
from farebox.runtime.journal import FOLDER, Journal
from farebox.runtime.journal_entry import JournalEntry
from farebox.runtime.waiters import Waiters
from farebox.storage.calls import CallDetail, CallRow
from farebox.storage.database import Database
from farebox.storage.journal_files import JournalFiles, JournalUnwritable, with_checksum, without_checksum
from farebox.storage.sql import DatabaseUnavailable
from farebox.storage.sqlite.database import SqliteDatabase


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[JournalFiles]:
    files = JournalFiles(tmp_path / "journal", "one")
    yield files
    await files.close()


async def contents(files: JournalFiles) -> list[bytes]:
    """The entries of this process's closed files, in order."""
    found = []
    for file in await files.closed():
        while lines := await files.lines(file):
            found += [content for line in lines if (content := without_checksum(line)) is not None]
            file.done += sum(map(len, lines))
        file.done = 0
    return found


async def test_lines_are_kept_in_order_and_share_the_wait_for_the_disk(
    files: JournalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    sync = os.fsync

    def counted(fd: int) -> None:
        syncs.append(fd)
        sync(fd)

    monkeypatch.setattr(os, "fsync", counted)
    said = [b"%d" % number for number in range(200)]
    await asyncio.gather(*(files.add(content) for content in said))
    assert 3 <= len(syncs) <= 5, (
        "one sync each for the first line, its folder, the parent folder, and all other lines together"
    )
    assert await contents(files) == said
    assert not files.empty
    for file in await files.closed():
        await files.drop(file)
    assert list(files.folder.iterdir()) == []


async def test_only_its_owner_may_read_the_journal(files: JournalFiles) -> None:
    await files.add(b"secret")
    (path,) = files.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("kept", range(0, len(with_checksum(b"second")), 3))
async def test_a_truncated_journal_line_is_detected(files: JournalFiles, kept: int) -> None:
    await files.add(b"first")
    (path,) = files.folder.iterdir()
    with path.open("ab") as file:
        file.write(with_checksum(b"second")[:kept])
    assert await contents(files) == [b"first"]


@pytest.mark.parametrize("at", [0, 3, 8, 9, 12])
def test_a_modified_journal_line_is_detected(at: int) -> None:
    line = bytearray(with_checksum(b"some content"))
    line[at] ^= 1
    assert without_checksum(bytes(line)) is None


async def test_the_line_of_a_canceled_caller_stays(files: JournalFiles) -> None:
    adding = asyncio.ensure_future(files.add(b"first"))
    await asyncio.sleep(0)
    adding.cancel()
    await asyncio.gather(adding, return_exceptions=True)
    await files.add(b"second")
    assert await contents(files) == [b"first", b"second"]


@pytest.mark.parametrize("turn", range(4))
async def test_callers_whose_write_is_stopped_at_any_turn_are_answered(files: JournalFiles, turn: int) -> None:
    """Their ends of calls are then kept in memory, and the server can stop."""
    adding = [asyncio.ensure_future(files.add(b"%d" % number)) for number in range(3)]
    await asyncio.sleep(0)
    writing = asyncio.all_tasks() - {asyncio.current_task(), *adding}
    for _ in range(turn):
        await asyncio.sleep(0)
    for task in writing:
        task.cancel()
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*adding, return_exceptions=True)
        assert {type(error) for error in ended if error is not None} <= {JournalUnwritable}
        await files.finish()
        await files.add(b"later")
    assert (await contents(files))[-1] == b"later"


async def test_a_full_disk_is_reported_and_corrupts_nothing(files: JournalFiles) -> None:
    """The process may not write larger files: like on a full disk, the system truncates a write, then refuses."""
    await files.add(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(JournalUnwritable, match="journal"):
            await files.add(b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    await files.add(b"after")
    assert await contents(files) == [b"before", b"after"]


async def test_a_file_is_taken_over_when_its_process_has_ended(files: JournalFiles) -> None:
    """By exactly one of the processes that try."""
    other = start_other(files.folder)
    assert other.stdout is not None
    assert other.stdout.readline() == b"written\n"
    assert await files.abandoned() == [], "its process is alive"
    other.kill()
    other.communicate()
    rival = JournalFiles(files.folder, "rival")
    taken = [*await files.abandoned(), *await rival.abandoned()]
    assert [file.path.name for file in taken] == ["other.000001.jsonl"]
    assert await contents(files) == [b"of a process that is killed"]
    await files.drop(taken[0])
    assert await files.abandoned() == []
    await rival.close()


def start_other(folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _OTHER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


_OTHER = """
import asyncio, sys
from pathlib import Path
from farebox.storage.journal_files import JournalFiles
async def main():
    await JournalFiles(Path(sys.argv[1]), "other").add(b"of a process that is killed")
    print("written", flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


# --- posting ----------------------------------------------------------------------------------------------------------


@dataclass
class Taken:
    """A ledger that records its commands, and can be made unavailable."""

    away: bool = False
    conflicts: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    sent: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)

    def check(self, account_id: str) -> None:
        """No account is known to be unavailable."""

    async def do(self, command: Command) -> Verdict:
        if self.away:
            raise DatabaseUnavailable("away")
        assert isinstance(command, Settle)
        self.sent.append(command.hold_id)
        if command.hold_id in self.conflicts:
            raise Conflict("settled before with another amount")
        unknown = command.hold_id in self.unknown
        return Verdict(Outcome.UNKNOWN) if unknown else Verdict(Outcome.DONE, amount=command.amount)

    async def record(self, account_id: str, record: CallWritten) -> None:
        self.recorded.append(record.row(Verdict(Outcome.UNKNOWN)).log_id)

    async def record_all(self, records: Sequence[tuple[str, CallWritten]]) -> None:
        for account_id, record in records:
            await self.record(account_id, record)

    async def close(self) -> None: ...


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = SqliteDatabase(tmp_path / "farebox.db")
    yield database
    await database.close()


def entry(log_id: str, amount: int = 7, **more: Any) -> JournalEntry:
    row = CallRow(
        account_id="a",
        log_id=log_id,
        gateway_id="default",
        created_at=5,
        provider="demo",
        model="demo-1",
        success=True,
        status_code=200,
        duration=1,
        tokens_in=1,
        tokens_out=2,
        cost=amount,
        charge=0,
        detail=CallDetail(metadata={"team": "ü", "n": 1}),
        receipt=None,
        logged=True,
        request_body=b"\x00\xff\n",
        response_body=None,
    )
    receipt = Receipt(
        log_id=log_id,
        account_id="a",
        gateway_id="default",
        provider="demo",
        model="demo-1",
        outcome="charged",
        usage_source="provider",
        charge_nanos=0,
        hold_nanos=10,
        notes=("first",),
    )
    return JournalEntry(**{"ends": "settle", "at": 9, "amount": amount, "call": row, "receipt": receipt, **more})


def journal_of(folder: Path, name: str, database: Database, ledger: Taken) -> Journal:
    return Journal(str(folder), name, database=database, ledger=ledger, waiters=Waiters())


async def test_entries_are_posted_in_order_and_once(tmp_path: Path, database: Database) -> None:
    ledger = Taken(away=True)
    journal = journal_of(tmp_path, "one", database, ledger)
    names = [f"call-{number:03}" for number in range(300)]
    for name in names[:150]:
        await journal.add(entry(name))
    with pytest.raises(DatabaseUnavailable):
        await journal.post()
    for name in names[150:]:
        await journal.add(entry(name))
    ledger.away = False
    await journal.post()
    assert ledger.sent == names
    assert journal.empty
    await journal.post()
    assert ledger.sent == names
    await journal.close()


class Slow(Taken):
    """A ledger that completes ten commands before the timeout."""

    under_way = 0

    async def do(self, command: Command) -> Verdict:
        self.under_way += 1
        await asyncio.sleep(0)
        try:
            if self.under_way > 10:
                raise DatabaseUnavailable("too busy")
            return await super().do(command)
        finally:
            self.under_way -= 1


async def test_a_slow_database_gets_smaller_batches(tmp_path: Path, database: Database) -> None:
    journal = journal_of(tmp_path, "one", database, Slow())
    for number in range(100):
        await journal.add(entry(f"call-{number:03}"))
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            await journal.post()
    await journal.post()
    assert journal.empty
    await journal.close()


async def test_ends_kept_in_memory_are_still_to_be_posted(tmp_path: Path, database: Database) -> None:
    ledger = Taken(away=True)
    journal = journal_of(tmp_path, "one", database, ledger)
    assert journal.remember(entry("first"))
    await journal.add(entry("second"))
    assert (journal.depth.entries, journal.empty) == (2, False)
    ledger.away = False
    await journal.post()
    assert ledger.sent == ["first", "second"]
    assert (journal.depth.entries, journal.empty) == (0, True)
    await journal.close()


async def test_a_late_verdict_is_on_the_receipt(tmp_path: Path) -> None:
    record = entry("call").record
    row = record.row(Verdict(Outcome.DONE, amount=6, written_off=1, late=True))
    assert row.receipt is not None
    receipt = json.loads(row.receipt)
    assert (row.charge, receipt["written_off_nanos"]) == (6, 1)
    assert receipt["notes"] == [
        "first",
        "the hold had expired before the charge",
        "above the hold and above what the account had: the rest was written off",
    ]
    assert row.request_body == b"\x00\xff\n"


async def test_an_unpostable_journal_entry_is_set_aside_and_blocks_nothing(tmp_path: Path, database: Database) -> None:
    ledger = Taken(conflicts=frozenset({"two"}), unknown=frozenset({"three"}))
    journal = journal_of(tmp_path, "one", database, ledger)
    for name in ("one", "two", "three"):
        await journal.add(entry(name))
    await journal.add(entry("four", ends="nothing"))
    path = next((tmp_path / FOLDER).glob("*.jsonl"))
    with path.open("ab") as file:
        file.write(with_checksum(b'{"ends":"of a later release"}'))
        file.write(with_checksum(b"changed")[1:])
    await journal.post()
    assert ledger.sent == ["one", "two", "three"]
    assert sorted(ledger.recorded) == ["four", "three"], "calls without a hold have a row nevertheless"
    assert journal.empty
    aside = (tmp_path / FOLDER / "refused.lines").read_bytes().splitlines()
    assert len(aside) == 4
    assert b'"log_id":"two"' in b"".join(aside)
    assert b'"log_id":"three"' in b"".join(aside), "its hold had been acknowledged: a charge is missing"
    await journal.close()


async def test_a_journal_that_was_left_behind_is_posted_by_the_next_process(tmp_path: Path, database: Database) -> None:
    ledger = Taken(away=True)
    first = journal_of(tmp_path, "first", database, ledger)
    await first.add(entry("call"))
    await first.close()
    ledger.away = False
    second = journal_of(tmp_path, "second", database, ledger)
    await second.take_over()
    assert ledger.sent == ["call"]
    assert list((tmp_path / FOLDER).iterdir()) == []
    await second.close()
