"""The operator alarms of this process that are not durable yet; see `operator_alarms`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from farebox.calendar import DAY_MS
from farebox.storage.operator_alarms import Alarm

SUBJECTS_MAX = 200
"""Maximum number of different subjects of one kind that a process accepts in a day. A tenant's request may determine
the subject of an alarm, and a tenant that causes many must not suppress alarms of other kinds."""


class Alarms:
    """The alarms of this process that are not durable yet."""

    def __init__(self) -> None:
        self.dropped = 0
        """Alarms that were dropped since the process started."""
        self._waiting: dict[tuple[str, str], Alarm] = {}
        self._day = -1
        self._today: set[tuple[str, str]] = set()
        self._kinds: Counter[str] = Counter()
        self._written_off = 0

    def add(self, kind: str, about: str, content: Mapping[str, str | int], at: int) -> bool:
        """Add an alarm. Returns whether it is the first of its kind and subject today, in this process."""
        self._begin_day(at // DAY_MS)
        subject = (kind, about)
        first = subject not in self._today
        if first and self._kinds[kind] >= SUBJECTS_MAX:
            self.dropped += 1
            return False
        self._kinds[kind] += first
        self._today.add(subject)
        before = self._waiting.get(subject)
        self._waiting[subject] = Alarm(
            kind=kind,
            about=about,
            content=dict(content),
            times=1 if before is None else before.times + 1,
            first_at=at if before is None else before.first_at,
            last_at=at,
        )
        return first

    def count_write_off(self, amount: int, at: int) -> int:
        """Note that this many nano-dollars were written off. Returns the sum of that day, in this process."""
        self._begin_day(at // DAY_MS)
        self._written_off += amount
        return self._written_off

    def take(self) -> list[Alarm]:
        """Remove and return the pending alarms."""
        waiting, self._waiting = self._waiting, {}
        return list(waiting.values())

    def give_back(self, alarms: list[Alarm]) -> None:
        """Return alarms that could not be stored; they are merged with those raised since."""
        for alarm in alarms:
            subject = (alarm.kind, alarm.about)
            newer = self._waiting.get(subject)
            self._waiting[subject] = (
                alarm if newer is None else replace(newer, times=alarm.times + newer.times, first_at=alarm.first_at)
            )

    def _begin_day(self, day: int) -> None:
        if day != self._day:
            self._day = day
            self._today = set(self._waiting)
            self._kinds = Counter(kind for kind, _ in self._today)
            self._written_off = 0
