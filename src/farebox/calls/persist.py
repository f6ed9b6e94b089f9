"""Make the end of a call durable: in the database or, while that is unavailable, in the journal."""

from typing import Final

from msgspec.structs import replace

from farebox import backoff
from farebox.calls.record import CallRecord, log
from farebox.errors import DATABASE_UNAVAILABLE
from farebox.ledger.commands import UNKNOWN, Conflict, Release, Settle, Verdict
from farebox.runtime.journal_entry import JournalEntry
from farebox.runtime.observers import best_effort
from farebox.runtime.services import Services
from farebox.storage.journal_files import JournalUnwritable
from farebox.storage.sql import DatabaseUnavailable

PERSIST_ATTEMPTS: Final = 5
PERSIST_WAITS_MS: Final = (200, 1_600)
NOT_DURABLE: Final = "database_unavailable (neither it nor the journal accepted the charge)"
_NO_VERDICT: Final = Verdict(UNKNOWN)


async def persist(services: Services, command: Settle | Release | None, record: CallRecord, now: int) -> Verdict | None:
    """End the hold by `command`, if there is one, and write the record, in one commit.

    Returns the ledger's verdict; UNKNOWN if there is no hold, and None if the journal has it, or the hold was charged
    as one in doubt. Raises DatabaseUnavailable if neither database nor journal accepts it.
    """
    attempt = 1
    while True:
        try:
            services.database.check()
            # Repeating the command is harmless.
            verdict = _NO_VERDICT if command is None else await services.ledger.do(command)
            if verdict.outcome is UNKNOWN:  # no hold was needed, or it was refused after the wait for it broke off
                await services.ledger.record(record.call.account_id, record)
            return verdict
        except Conflict as conflict:  # this process was declared dead, and the hold charged in full
            with best_effort("the log"):
                log.error(
                    "charge refused", log_id=record.call.log_id, account=record.call.account_id, why=str(conflict)
                )
            return None
        except DatabaseUnavailable as error:
            services.database.report_failure(error)
            if await _journaled(services, command, record, now):
                return None
            if not isinstance(command, Settle):  # nothing is charged, so the call need not wait for the disk
                if _kept_in_memory(services, command, record, now):
                    return None
                raise
            if attempt == PERSIST_ATTEMPTS:
                _kept_in_memory(services, command, record, now)
                raise
        await services.clock.sleep(backoff.doubling(attempt, *PERSIST_WAITS_MS) / 1000)
        attempt += 1


async def _journaled(services: Services, command: Settle | Release | None, record: CallRecord, now: int) -> bool:
    """Whether the journal has accepted the end of the call."""
    try:
        if services.journal is None:
            raise JournalUnwritable("this process keeps no journal")
        await services.journal.add(_entry(command, record, now))
        return True
    except JournalUnwritable as full:
        with best_effort("the log"):
            log.error("journal unwritable", why=str(full))
        return False


def _kept_in_memory(services: Services, command: Settle | Release | None, record: CallRecord, now: int) -> bool:
    """Neither database nor journal accepts the end of the call. Returns whether it is kept in memory, to end the hold
    as soon as one of them accepts it. A response whose charge is only in memory is not completed: the call is in doubt,
    as after a crash, and charged or not by the same rule."""
    if isinstance(command, Settle) and services.settings.in_doubt == "release":
        command = Release(account_id=command.account_id, hold_id=command.hold_id, at=now, record=None)
        ended = replace(record.ended, outcome="released", status=DATABASE_UNAVAILABLE.status, error=NOT_DURABLE)
        record = replace(record, ended=ended)
    kept = services.journal is not None and services.journal.remember(_entry(command, record, now))
    with best_effort("the log"):
        say = log.error if kept else log.critical
        say("hold left open", log_id=record.call.log_id, account=record.call.account_id, kept_in_memory=kept)
    return kept


def _entry(command: Settle | Release | None, record: CallRecord, at: int) -> JournalEntry:
    """The entry of a call that ended at `at` with this command and record."""
    settle = command if isinstance(command, Settle) else None
    return JournalEntry(
        ends="nothing" if command is None else "release" if settle is None else "settle",
        at=at if command is None else command.at,
        amount=0 if settle is None else settle.amount,
        note="" if settle is None else settle.note,
        counts=None if settle is None else settle.counts,
        call=replace(record.row(_NO_VERDICT), receipt=None),
        receipt=record.receipt(_NO_VERDICT),
    )
