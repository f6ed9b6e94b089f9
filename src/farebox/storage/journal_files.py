"""The journal's files: lines that are durable before their writer continues, and kept until they have been carried out.

A process has its own file, and holds its lock (flock) for as long as it lives. A file whose lock is free was left by a
process that has ended: the first process to take the lock owns it. A file gets its name, and can thereby be found by
others, only once its lock is taken. Files that have been carried out completely are removed, so the folder is normally
empty.

Each line begins with a checksum of the rest. A line that was cut short by a crash was never acknowledged; its checksum
reveals that, and it is skipped.
"""

import asyncio
import contextlib
import fcntl
import os
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from farebox.clock import SystemClock

T = TypeVar("T")
_Lines: TypeAlias = "list[tuple[bytes, asyncio.Future[None]]]"

SUFFIX = ".jsonl"
REFUSED = "refused.lines"
"""Where lines that cannot be carried out are moved, for the operator to look at."""
ROOM_BYTES = 256 * 2**10
"""Free space, in bytes, a disk must have to count as writable: enough for a batch of ends of calls."""
READ_BYTES = 4 * 2**20
"""About how many bytes are read, and carried out, at a time."""


class JournalUnwritable(RuntimeError):
    """No line could be written: the disk is full, read-only or broken, or there is no journal."""


@dataclass(eq=False, slots=True)
class JournalFile:
    """One file. This process holds its lock while it is open."""

    path: Path
    fd: int
    size: int
    """Up to this offset its lines are complete and durable."""
    done: int = 0
    """Up to this offset they have been carried out."""
    entries: int = 0
    """Lines up to `size`."""
    done_entries: int = 0
    since_ms: int = 0
    """When it was started; if another process started it, when it was last written to."""

    def lines(self) -> list[bytes]:
        """The next lines to carry out, each with its newline; empty after the last one."""
        data = os.pread(self.fd, READ_BYTES, self.done)
        while data and b"\n" not in data:
            more = os.pread(self.fd, READ_BYTES, self.done + len(data))
            if not more:
                return [data]  # a line cut short
            data += more
        whole = data.rfind(b"\n") + 1
        return [line + b"\n" for line in data[:whole].split(b"\n")[:-1]]

    def carried_out(self, lines: list[bytes]) -> None:
        """Note that these lines, the next ones, have been carried out."""
        self.done += sum(map(len, lines))
        self.done_entries += len(lines)

    def drop(self) -> None:
        """Remove the file: all of it has been carried out."""
        self.path.unlink(missing_ok=True)
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class Depth:
    """How much of a journal is still to be carried out."""

    entries: int
    bytes: int
    since_ms: int | None
    """When its oldest file was started; None if there is none."""
    refused_bytes: int


def with_checksum(content: bytes) -> bytes:
    """A line with its checksum. `content` contains no newline."""
    return b"%08x %b\n" % (zlib.crc32(content), content)


def without_checksum(line: bytes) -> bytes | None:
    """The content of a line; None if the line is incomplete."""
    checksum, space, content = line[:8], line[8:9], line[9:-1]
    whole = line.endswith(b"\n") and space == b" " and checksum == b"%08x" % zlib.crc32(content)
    return content if whole else None


class JournalFiles:
    """The journal of one process, and its view of what others left. Create it inside a running event loop."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._name = name
        self._count = 0
        self._open: JournalFile | None = None
        self._full: list[JournalFile] = []
        self._waiting: _Lines = []
        self._writing: asyncio.Task[None] | None = None
        # One thread: operations on the files are done one after another.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="farebox-journal")

    async def add(self, content: bytes) -> None:
        """Write a line; it is durable when this returns. Raises JournalUnwritable.

        Lines that arrive during a sync share the next one. The line stays if its caller is canceled.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((with_checksum(content), future))
        if self._writing is None:
            self._start()
        await future

    async def check_writable(self) -> None:
        """Raises JournalUnwritable if there is no room for a line."""
        try:
            await self._run(self._check_writable)
        except OSError as error:
            raise JournalUnwritable(f"{self.folder}: {error.strerror or error}") from error

    async def closed(self) -> list[JournalFile]:
        """This process's files, oldest first; they are no longer written to."""
        return await self._run(self._rotate)

    async def abandoned(self) -> list[JournalFile]:
        """Take over the files of processes that have ended, oldest first. Raises OSError."""
        return await self._run(self._take_over)

    async def lines(self, file: JournalFile) -> list[bytes]:
        """JournalFile.lines, without blocking the event loop."""
        return await self._run(file.lines)

    async def drop(self, file: JournalFile) -> None:
        """Remove a file that has been carried out."""
        await self._run(lambda: self._drop(file))

    async def refuse(self, line: bytes) -> None:
        """Move a line aside that cannot be carried out. Raises OSError."""
        await self._run(lambda: self._keep_unreadable(line))

    @property
    def empty(self) -> bool:
        return not (self._waiting or self._open or self._full)

    @property
    def depth(self) -> Depth:
        files = [*self._full, *([self._open] if self._open else [])]
        try:
            refused = (self.folder / REFUSED).stat().st_size
        except OSError:
            refused = 0
        return Depth(
            entries=sum(file.entries - file.done_entries for file in files) + len(self._waiting),
            bytes=sum(file.size - file.done for file in files) + sum(len(line) for line, _ in self._waiting),
            since_ms=min((file.since_ms for file in files), default=None),
            refused_bytes=refused,
        )

    async def finish(self) -> None:
        """Wait for writes in progress."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    async def close(self) -> None:
        """Release the files; the next process takes over what is in them."""
        await self.finish()
        self._thread.shutdown()
        for file in [*self._full, *([self._open] if self._open else [])]:
            os.close(file.fd)
        self._full, self._open = [], None

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _start(self) -> None:
        self._writing = asyncio.ensure_future(self._write_waiting())
        self._writing.add_done_callback(self._ended)

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self._run(lambda: self._append(b"".join(line for line, _ in batch)))  # noqa: B023 - awaited here
            except asyncio.CancelledError as error:
                self._fail(batch, error)
                raise
            except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
                self._fail(batch, error)
            else:
                for _, future in batch:
                    if not future.done():  # otherwise its caller was canceled; the line stays
                        future.set_result(None)

    def _ended(self, writing: "asyncio.Task[None]") -> None:
        """A callback, because a task that is canceled before it starts never runs."""
        self._writing = None
        if writing.cancelled():
            batch, self._waiting = self._waiting, []
            self._fail(batch, asyncio.CancelledError())
        elif self._waiting:  # since the task's last look
            self._start()

    def _fail(self, batch: _Lines, error: BaseException) -> None:
        why = "stopped" if isinstance(error, asyncio.CancelledError) else getattr(error, "strerror", None) or error
        for _, future in batch:
            if not future.done():
                unwritable = JournalUnwritable(f"{self.folder}: {why}")
                unwritable.__cause__ = error
                future.set_exception(unwritable)

    # --- on the thread ---

    def _append(self, data: bytes) -> None:
        file = self._open = self._open or self._new_file()
        try:
            rest = memoryview(data)
            at = file.size
            while rest:
                written = os.pwrite(file.fd, rest, at)
                rest, at = rest[written:], at + written
            os.fsync(file.fd)
        except BaseException:
            self._open = None
            self._retire(file)  # what its end looks like now is unknown
            raise
        file.size = at
        file.entries += data.count(b"\n")

    def _check_writable(self) -> None:
        if not self.folder.exists():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(self.folder.parent)
        reserve_space(self.folder)

    def _retire(self, file: JournalFile) -> None:
        """Stop writing to a file; remove it if it has no complete line."""
        if file.size == 0:
            with contextlib.suppress(OSError):
                file.drop()
            return
        with contextlib.suppress(OSError):
            os.ftruncate(file.fd, file.size)
        self._full.append(file)

    def _new_file(self) -> JournalFile:
        if not self.folder.exists():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(self.folder.parent)
        self._count += 1
        path = self.folder / f"{self._name}.{self._count:06d}{SUFFIX}"
        draft = path.with_suffix(".draft")
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(path)
            _sync_folder(self.folder)
        except OSError:
            os.close(fd)
            draft.unlink(missing_ok=True)
            raise
        return JournalFile(path, fd, 0, since_ms=SystemClock().now_ms())

    def _rotate(self) -> list[JournalFile]:
        if self._open is not None:
            self._full.append(self._open)
            self._open = None
        return list(self._full)

    def _take_over(self) -> list[JournalFile]:
        ours = {file.path for file in (*self._full, *([self._open] if self._open else []))}
        found = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}"), key=_age) if self.folder.exists() else []:
            file = None if path in ours else _locked(path)
            if file is not None:
                found.append(file)
        self._full.extend(found)
        return found

    def _drop(self, file: JournalFile) -> None:
        file.drop()
        if file in self._full:
            self._full.remove(file)

    def _keep_unreadable(self, line: bytes) -> None:
        fd = os.open(self.folder / REFUSED, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(line if line.endswith(b"\n") else line + b"\n")
            while rest:  # a disk that becomes full may have written only the beginning
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync_folder(self.folder)


def _sync_folder(folder: Path) -> None:
    """Sync the folder: files created or renamed in it are found after a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def reserve_space(folder: Path) -> None:
    """Allocate as much room in a folder as a call's end may need, and free it. Raises OSError if there is none."""
    with tempfile.TemporaryFile(dir=folder) as file:  # it has no name, so a crash leaves nothing behind
        os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)


def _age(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, path.name
    except FileNotFoundError:  # its process has just finished it
        return 0, path.name


def _locked(path: Path) -> JournalFile | None:
    """The file, locked by us; None if its process is alive, or the file is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    stat = os.fstat(fd)
    if stat.st_nlink == 0:  # its process finished it in the meantime
        os.close(fd)
        return None
    return JournalFile(path, fd, stat.st_size, entries=_count_lines(fd), since_ms=stat.st_mtime_ns // 1_000_000)


def _count_lines(fd: int) -> int:
    count = at = 0
    while data := os.pread(fd, READ_BYTES, at):
        count += data.count(b"\n")
        at += len(data)
    return count
