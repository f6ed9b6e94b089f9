"""Measurements from the kernel: processor time and memory of a process and its descendants, and facts about the
machine."""

import hashlib
import importlib.metadata
import os
import platform
import sqlite3
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PACKAGES = ("farebox", "granian", "uvloop", "httptools", "apsw", "asyncpg", "msgspec", "structlog")
_PROC = Path("/proc")


def _read(path: Path) -> str:
    """The text of a file that may vanish while it is read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _stat(path: Path) -> list[str]:
    """The fields of a stat file after the name, which may contain anything: state, parent, …"""
    return _read(path).rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for path in _PROC.iterdir():
        if path.name.isdigit() and (fields := _stat(path / "stat")):
            children.setdefault(int(fields[1]), []).append(int(path.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far, including children that have ended."""
    stats = [_stat(_PROC / str(pid) / "stat") for pid in tree(root)]
    return sum(int(ticks) for fields in stats if fields for ticks in fields[11:15]) / TICKS


def processor_ms(root: int) -> float:
    """Run time of the tree's threads so far, in milliseconds, with the precision of the scheduler."""
    return sum(_run_ns(pid) for pid in tree(root)) / 1e6


def _run_ns(pid: int) -> int:
    ran = (_read(stat).split() for stat in (_PROC / str(pid) / "task").glob("*/schedstat"))
    return sum(int(fields[0]) for fields in ran if fields)


def thread_seconds(pid: int) -> dict[str, float]:
    """Processor time of each thread of one process, by `name#tid`; the main thread is `main`."""
    seconds = {}
    for task in (_PROC / str(pid) / "task").iterdir():
        if fields := _stat(task / "stat"):
            name = "main" if int(task.name) == pid else f"{_read(task / 'comm').strip()}#{task.name}"
            seconds[name] = (int(fields[11]) + int(fields[12])) / TICKS
    return seconds


def memory_mb(root: int) -> dict[str, float]:
    """Memory of the tree: resident (`rss`); with shared pages divided among the processes that map them (`pss`); and
    private (`own`), without the pages of programs and libraries, whose share changes whenever another process that
    maps them starts or ends."""
    kinds = {"Rss": "rss", "Pss": "pss", "Pss_Anon": "own", "Pss_Shmem": "own"}
    kilobytes = dict.fromkeys(kinds.values(), 0)
    for pid in tree(root):
        for line in _read(_PROC / str(pid) / "smaps_rollup").splitlines():
            key, _, value = line.partition(":")
            if key in kinds:
                kilobytes[kinds[key]] += int(value.split()[0])
    return {key: round(value / 1024, 1) for key, value in kilobytes.items()}


def machine() -> dict[str, object]:
    models = [line.partition(":")[2].strip() for line in _read(_PROC / "cpuinfo").splitlines() if "model name" in line]
    memory = _read(_PROC / "meminfo").split()
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "memory_gb": round(int(memory[1]) / 2**20, 1) if len(memory) > 1 else None,
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite_of_python": sqlite3.sqlite_version}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def is_serving(pid: int) -> bool:
    """Whether the process is a Farebox server."""
    words = _read(_PROC / str(pid) / "cmdline").split("\0")
    return "serve" in words and any(word.endswith("/farebox") for word in words)


def written_bytes(pid: int) -> int:
    """Bytes that the process has had written to disk so far, according to the kernel."""
    found = dict(line.split(": ") for line in _read(_PROC / str(pid) / "io").splitlines())
    return int(found.get("write_bytes", 0))


def commit(here: Path = Path(__file__).parent.parent) -> str:
    """The commit that is measured, with `+` if files were changed since. `here`: the checkout."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "src") else "")


def file_system(folder: Path) -> str:
    """What kind of disk the database is on."""
    command = ["df", "--output=fstype", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return found[-1] if found else "unknown"


def syncs_per_second(folder: Path, seconds: float = 1) -> float:
    """How many small appends per second this disk makes durable, one after another: every commit waits for one."""
    done, start = 0, time.monotonic()
    with (folder / "syncs").open("wb", buffering=0) as file:
        while time.monotonic() - start < seconds:
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            done += 1
    return done / (time.monotonic() - start)


def busy(seconds: float = 1.0) -> float:
    """The part of the processor time, 0 to 1, that other programs use while this one is idle."""

    def ticks() -> tuple[int, int]:
        spent = [int(figure) for figure in _read(_PROC / "stat").splitlines()[0].split()[1:9]]
        return sum(spent), spent[3] + spent[4]  # idle, and waiting for the disk

    all_before, idle_before = ticks()
    time.sleep(seconds)
    all_now, idle_now = ticks()
    return round(1 - (idle_now - idle_before) / max(all_now - all_before, 1), 2)


def pace_ms() -> float:
    """Processor time of a fixed piece of work. A busy neighbor on the same core makes this and everything else slower:
    figures whose pace differs much are not comparable."""
    start = time.process_time()
    found = {hashlib.sha256(str(number).encode()).digest(): number for number in range(50_000)}
    assert len(found) == 50_000
    return round((time.process_time() - start) * 1000, 1)
