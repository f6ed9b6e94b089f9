"""Acknowledged data survives a power cut; what is not durable is not acknowledged."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from farebox.ledger.commands import Command, Settle, Verdict
from farebox.storage.journal_files import SUFFIX, JournalFiles, JournalUnwritable, without_checksum
from farebox.storage.sql import Connection, DatabaseFull, DatabaseUnavailable
from farebox.storage.sqlite import connect
from farebox.storage.sqlite.writer import Writer
from tests.calls.wire import Wire, chat_body
from tests.support import Customer


class PowerCut:
    """Keeps only what was synced: the file names in folders, and the content of files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._names: dict[str, dict[str, int]] = {}
        self._content: dict[int, bytes] = {}
        sync = os.fsync

        def kept(fd: int) -> None:
            sync(fd)
            path = os.readlink(f"/proc/self/fd/{fd}")
            if os.path.isdir(path):
                self._names[path] = {entry.name: entry.inode() for entry in os.scandir(path)}
            else:
                self._content[os.fstat(fd).st_ino] = Path(path).read_bytes()

        monkeypatch.setattr(os, "fsync", kept)

    def lines(self, folder: Path) -> list[bytes]:
        """The lines that a start after the cut finds in the folder's journals."""
        if folder.name not in self._names.get(str(folder.parent), {}):
            return []  # the folder itself was lost
        names = self._names.get(str(folder), {})
        data = b"".join(self._content.get(inode, b"") for name, inode in sorted(names.items()) if name.endswith(SUFFIX))
        found = [without_checksum(line + b"\n") for line in data.split(b"\n")[:-1]]
        return [line for line in found if line is not None]


async def test_a_line_of_the_journal_is_durable_when_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, folder = PowerCut(monkeypatch), tmp_path / "journal"
    files = JournalFiles(folder, "one")
    for number in range(3):
        await files.add(b"first %d" % number)
        assert len(cut.lines(folder)) == number + 1, "the line, its file's name, and the folder's"
    await files.closed()
    await files.add(b"second")
    assert cut.lines(folder)[-1] == b"second", "another file is found as well"
    await asyncio.gather(*(files.add(b"%d" % number) for number in range(100)))
    assert len(cut.lines(folder)) == 104
    await files.close()


async def test_a_line_that_was_set_aside_is_durable_and_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the disk accepts it in pieces."""
    files = JournalFiles(tmp_path / "journal", "one")
    await files.add(b"so that the folder is there")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))
    await files.refuse(b"a line that cannot be posted")
    monkeypatch.undo()
    assert (tmp_path / "journal" / "refused.lines").read_bytes() == b"a line that cannot be posted\n"
    await files.close()


async def test_a_sync_that_fails_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = JournalFiles(tmp_path / "journal", "one")
    await files.add(b"one")

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(JournalUnwritable):
        await files.add(b"two")
    monkeypatch.undo()
    await files.add(b"three")
    found = [without_checksum(line) for file in await files.closed() for line in await files.lines(file)]
    assert found == [b"one", b"three"], "a refused call is not charged later"
    await files.close()


def insert(number: int) -> Callable[[Connection], int]:
    def job(connection: Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return job


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError, apsw.BusyError, RuntimeError])
async def test_a_failed_commit_is_reported_to_its_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    path = tmp_path / "writer.db"
    connect(path).execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)")
    writer = Writer(path)
    real = writer._connection

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def execute(self, sql: str, *values: Any) -> Any:
            if sql == "COMMIT":
                raise error("no")
            return real.execute(sql, *values)

    monkeypatch.setattr(writer, "_connection", Refusing())
    responses = await asyncio.gather(*(writer.run(insert(number)) for number in range(5)), return_exceptions=True)
    expected = DatabaseFull if error is apsw.FullError else DatabaseUnavailable if error is not RuntimeError else error
    assert all(isinstance(response, expected) for response in responses), responses
    monkeypatch.setattr(writer, "_connection", real)
    assert await writer.run(insert(7)) == 7
    assert await writer.run(lambda c: [n for (n,) in c.execute("SELECT n FROM numbers")]) == [7]
    await writer.close()


@pytest.mark.both_engines
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_response_is_not_completed_if_its_charge_is_stored_nowhere(
    customer: Customer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    ledger = customer.farebox.services.ledger
    do = ledger.do

    async def refuses(command: Command) -> Verdict:
        if isinstance(command, Settle):
            raise DatabaseUnavailable("away")
        return await do(command)

    async def full(*_: object, **__: object) -> None:
        raise JournalUnwritable("full")

    monkeypatch.setattr("farebox.calls.persist.PERSIST_ATTEMPTS", 1)
    monkeypatch.setattr(ledger, "do", refuses)
    monkeypatch.setattr("farebox.runtime.journal.Journal.add", full)
    more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    wire = await Wire.open(customer.farebox.url)
    headers = customer.headers | {"content-type": "application/json", "x-demo": "tokens=5"}
    path = f"/v1/{customer.account_id}/default/compat/chat/completions"
    await wire.send(path, headers, chat_body("one two", max_tokens=50, **more))
    response = await wire.response()
    if stream:
        assert "[DONE]" not in response.events
    else:
        assert response.status == 503
    assert posted_of(customer) == 5_000_000_000


def posted_of(customer: Customer) -> int:
    """The posted balance, once the database is known to be back."""
    while True:
        try:
            return customer.balance.posted
        except DatabaseUnavailable:
            continue
