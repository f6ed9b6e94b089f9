"""Operator alarms: problems that the operator should look into, and that tenants do not see.

Code that finds a problem raises an alarm and continues; it neither waits nor gets an exception. A
periodic job makes the alarms durable: one row per subject (`farebox status` shows it), and one message a day.
"""

import contextlib
from functools import partial

import structlog

from farebox.calendar import DAY_MS
from farebox.metrics.families import ALARMS
from farebox.runtime.services import Services
from farebox.storage.buckets import OPERATOR
from farebox.storage.notices import ALARM_KINDS, add_notice
from farebox.storage.operator_alarms import Alarm, put_alarm
from farebox.storage.sql import Connection, DatabaseUnavailable

TEXT_MAX = 300

log = structlog.get_logger("farebox.alarms")


def raise_alarm(services: Services, kind: str, about: str, **content: str | int) -> None:
    """Notify the operator, once a day for each kind and subject. Returns at once and raises nothing.

    `content` is shown to the operator: no secrets, and only what helps to investigate (IDs, figures, names).
    """
    try:
        assert kind in ALARM_KINDS, f"{kind} is not a kind of alarm"
        about = _text(about)
        services.metrics.count(ALARMS, kind)
        shown = {name: value if isinstance(value, int) else _text(str(value)) for name, value in content.items()}
        if services.alarms.add(kind, about, shown, services.clock.now_ms()):
            log.error("operator alarm", kind=kind, about=about, content=shown)
    except Exception:  # noqa: BLE001 - the charge has been posted: no exception may reach the caller
        services.alarms.dropped += 1


def _text(text: str) -> str:
    """The text as databases, logs and terminals accept it: one alarm that cannot be stored would block all others."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:TEXT_MAX])


async def work(services: Services) -> None:
    """Store the alarms raised since the last time. Raises DatabaseUnavailable: the alarms are then kept for the next
    time."""
    alarms = services.alarms.take()
    if not alarms:
        return
    try:
        await services.database.write(partial(keep, alarms=alarms))
    except BaseException:
        services.alarms.give_back(alarms)
        raise


async def keep_last(services: Services) -> None:
    """When the process stops: store pending alarms if the database is available. All of them are in the log as well."""
    with contextlib.suppress(DatabaseUnavailable):
        await work(services)


def keep(connection: Connection, alarms: list[Alarm]) -> None:
    """Store alarms, with a message for each kind, subject and day, in the caller's open transaction."""
    for alarm in alarms:
        put_alarm(connection, alarm)
        day = alarm.last_at // DAY_MS
        content = {"about": alarm.about, **alarm.content}
        add_notice(connection, 0, OPERATOR, f"{alarm.kind}:{alarm.about}:{day}", alarm.kind, content, alarm.last_at)
