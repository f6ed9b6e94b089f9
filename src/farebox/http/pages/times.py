"""Times that people type into fields."""

from datetime import UTC, datetime


def moment(text: str, faults: list[str]) -> int | None:
    """A time in milliseconds since the epoch, in UTC unless it says otherwise; None if the text is empty or, which is
    added to `faults`, no time."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        faults.append(f"“{text[:40]}” is not a time: write it as 2026-11-30 or 2026-11-30T18:00.")
        return None
