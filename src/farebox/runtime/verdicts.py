"""Descriptions of verdicts on holds that did not end normally, for the log and the receipt."""

import structlog

from farebox.ledger.commands import Verdict

log = structlog.get_logger("farebox.calls")


def warn_if_unusual(log_id: str, verdict: Verdict, *, overrun: bool) -> None:
    """Log that a hold did not end normally."""
    if overrun or verdict.written_off or verdict.late or not verdict.ok:
        log.warning(
            "hold ended unusually",
            log_id=log_id,
            verdict=verdict.outcome,
            overrun=overrun,
            written_off_nanos=verdict.written_off,
            late=verdict.late,
            over_limit_nanos=verdict.over_limit,
        )


def notes_of(verdict: Verdict) -> tuple[str, ...]:
    """Notes for the receipt about an unusual verdict."""
    notes: tuple[str, ...] = ()
    if verdict.late:
        notes = ("the hold had expired before the charge",)
    if verdict.written_off:
        notes = (*notes, "above the hold and above what the account had: the rest was written off")
    if verdict.over_limit:
        notes = (*notes, "above the hold and above the account's spending limit")
    return notes
