"""The process that computes one report: `python -m farebox.operator.report_process`.

A report reads everything, which may take minutes. In a process of its own it delays no call. It reads its task from
standard input, and writes JSON lines: a few per second for its progress, and one for its result.
"""

import sys
from typing import Any, Literal

import msgspec

from farebox.clock import SystemClock
from farebox.operator.checking import action_text, check
from farebox.operator.margins import margins
from farebox.settings import Settings
from farebox.storage.database import opened_for_command
from farebox.storage.sql import Connection, DatabaseUnavailable

DIFFERENCES_MAX = 200
"""Most differences that are shown; all are counted."""
_EVERY_SECONDS = 0.25
_CLOCK = SystemClock()

Kind = Literal["check", "margins"]


class ReportTask(msgspec.Struct, frozen=True):
    """The task, with the settings that say where the database is."""

    kind: Kind
    at: int
    data_dir: str
    database_url: str
    buckets: int


class ReportLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line that the process writes."""

    done: int = 0
    total: int = 0
    report: Any = None
    failure: str = ""


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `farebox check` found."""

    accounts: int
    damage: list[str]
    count: int
    """Number of all differences."""
    differences: list[str]
    """The first differences, as sentences."""


def run(task: ReportTask) -> ReportLine:
    """Compute the report, writing its progress."""
    settings = Settings(data_dir=task.data_dir, database_url=task.database_url, buckets=task.buckets)
    try:
        with opened_for_command(settings) as connection:
            return ReportLine(
                report=_checked(connection) if task.kind == "check" else margins(connection, task.at, progress)
            )
    except DatabaseUnavailable as error:
        return ReportLine(failure=f"{error.public_message} {error.remedy}")


def _checked(connection: Connection) -> CheckReport:
    found = check(connection, progress)
    sentences = [each.message for each in found.differences] + [action_text(*action) for action in found.actions]
    return CheckReport(
        accounts=found.accounts,
        damage=found.damage,
        count=len(sentences),
        differences=sentences[:DIFFERENCES_MAX],
    )


_told_at = float("-inf")


def progress(done: int, total: int) -> None:
    """Write the progress, unless it was written a moment ago."""
    global _told_at
    now = _CLOCK.monotonic()
    if now - _told_at >= _EVERY_SECONDS:
        _told_at = now
        _write(ReportLine(done, total))


def _write(line: ReportLine) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _write(run(msgspec.json.decode(sys.stdin.buffer.read(), type=ReportTask)))
