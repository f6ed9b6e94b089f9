"""The operator alarms of this process that are not durable yet; see `operator_alarms`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from farebox.calendar import DAY_MS
from farebox.storage.operator_alarms import Alarm

MATTERS_MAX = 200
"""Different matters of one kind that one process takes in a day. What alarms are about may be named by a tenant's
request, and a tenant who names much must not keep alarms of another kind from the operator."""


class Alarms:
    """The alarms of this process that are not durable yet."""

    def __init__(self) -> None:
        self.dropped = 0
        """Alarms that were let go of, since the process started."""
        self._waiting: dict[tuple[str, str], Alarm] = {}
        self._day = -1
        self._today: set[tuple[str, str]] = set()
        self._kinds: Counter[str] = Counter()
        self._written_off = 0

    def add(self, kind: str, about: str, content: Mapping[str, str | int], at: int) -> bool:
        """Whether it is the first of its kind about this today, in this process."""
        self._begin_day(at // DAY_MS)
        matter = (kind, about)
        first = matter not in self._today
        if first and self._kinds[kind] >= MATTERS_MAX:
            self.dropped += 1
            return False
        self._kinds[kind] += first
        self._today.add(matter)
        before = self._waiting.get(matter)
        self._waiting[matter] = Alarm(
            kind=kind,
            about=about,
            content=dict(content),
            times=1 if before is None else before.times + 1,
            first_at=at if before is None else before.first_at,
            last_at=at,
        )
        return first

    def count_write_off(self, amount: int, at: int) -> int:
        """Nano-dollars of a call's cost were written off. Returns the sum of that day, in this process."""
        self._begin_day(at // DAY_MS)
        self._written_off += amount
        return self._written_off

    def take(self) -> list[Alarm]:
        """What waits; it is the caller's now."""
        waiting, self._waiting = self._waiting, {}
        return list(waiting.values())

    def give_back(self, alarms: list[Alarm]) -> None:
        """They could not be written: let them wait on, together with what came meanwhile."""
        for alarm in alarms:
            matter = (alarm.kind, alarm.about)
            newer = self._waiting.get(matter)
            self._waiting[matter] = (
                alarm if newer is None else replace(newer, times=alarm.times + newer.times, first_at=alarm.first_at)
            )

    def _begin_day(self, day: int) -> None:
        if day != self._day:
            self._day = day
            self._today = set(self._waiting)
            self._kinds = Counter(kind for kind, _ in self._today)
            self._written_off = 0
