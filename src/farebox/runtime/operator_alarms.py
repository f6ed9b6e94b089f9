"""Operator alarms: what the operator should look into, and no tenant is told.

Whoever finds something raises an alarm and continues: nothing is waited for, and nothing is raised as an exception. A
periodic job makes the alarms durable: one row per subject (`farebox status` shows it), and one message a day.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from farebox.calendar import DAY_MS
from farebox.metrics.families import ALARMS
from farebox.storage.buckets import OPERATOR
from farebox.storage.notices import ALARM_KINDS, add_notice
from farebox.storage.operator_alarms import Alarm, put_alarm
from farebox.storage.sql import Connection, DatabaseUnavailable

if TYPE_CHECKING:
    from farebox.runtime.services import Services

MATTERS_MAX = 200
"""Different matters of one kind that one process takes in a day. What alarms are about may be named by a tenant's
request, and a tenant who names much must not keep alarms of another kind from the operator."""
TEXT_MAX = 300

log = structlog.get_logger("farebox.alarms")


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


def raise_alarm(services: "Services", kind: str, about: str, **content: str | int) -> None:
    """Tell the operator of it: once a day for each kind and what it is about. Returns at once and raises nothing.

    `content` is shown to the operator: no secrets, and no more than it takes to look further (ids, figures, names).
    """
    try:
        assert kind in ALARM_KINDS, f"{kind} is no kind of alarm"
        about = _text(about)
        services.metrics.count(ALARMS, kind)
        shown = {name: value if isinstance(value, int) else _text(str(value)) for name, value in content.items()}
        if services.alarms.add(kind, about, shown, services.clock.now_ms()):
            log.error("operator alarm", kind=kind, about=about, content=shown)
    except Exception:  # noqa: BLE001 - an alarm is raised where a charge has been posted: whatever it is, it ends here
        services.alarms.dropped += 1


def _text(text: str) -> str:
    """What databases, logs and terminals take, whoever wrote it: one alarm that cannot be kept would keep back all."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:TEXT_MAX])


async def work(services: "Services") -> None:
    """Make the alarms durable that were raised since the last time. Raises DatabaseUnavailable: they then wait on."""
    alarms = services.alarms.take()
    if not alarms:
        return
    try:
        await services.database.write(partial(_keep, alarms=alarms))
    except BaseException:
        services.alarms.give_back(alarms)
        raise


async def keep_last(services: "Services") -> None:
    """At a stop: what waits is written, if the database takes it. What it does not is in the log."""
    with contextlib.suppress(DatabaseUnavailable):
        await work(services)


def _keep(connection: Connection, alarms: list[Alarm]) -> None:
    for alarm in alarms:
        put_alarm(connection, alarm)
        day = alarm.last_at // DAY_MS
        content = {"about": alarm.about, **alarm.content}
        add_notice(connection, 0, OPERATOR, f"{alarm.kind}:{alarm.about}:{day}", alarm.kind, content, alarm.last_at)
