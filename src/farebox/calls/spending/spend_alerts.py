"""Alerts at 50, 80 and 100 % of a limit: of each rule of a gateway's spend limits, each limit of a policy or of a
dynamic route, and the account's spending limit; once for each window and threshold.

A periodic job reads what is spent, so that no call has to wait. An alert is a notice whose ID contains the budget, its
window and the threshold: a process that finds the same alert again writes nothing.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import msgspec
import structlog

from farebox.calendar import DAY_MS
from farebox.calls.spending.rules import ROUTE_SCOPE
from farebox.ledger.spending import SLIDING_MS, window_end, window_start
from farebox.runtime.leases import run_exclusive
from farebox.runtime.services import Services
from farebox.storage.account_keys import find_key, key_of
from farebox.storage.account_settings import read_settings
from farebox.storage.notices import add_notice, find_notice
from farebox.storage.spend_alerts import SpentBudget, accounts_with_budgets, half_spent, limited_accounts
from farebox.storage.spending import find_limit, spent_since
from farebox.storage.sql import Connection

THRESHOLDS: Final = (50, 80, 100)
"""Percent of the limit."""
BUDGETS_MAX: Final = 10_000
"""Maximum budgets of one account that are examined in a round."""
LIMITS_EVERY_MS: Final = 2_500
SWEEP_EVERY_MS: Final = 600_000
_WINDOW: Final = re.compile(r"(\d+)([fs])")

log = structlog.get_logger("farebox.alerts")


class Alert(msgspec.Struct, frozen=True):
    """A limit of which a part is spent."""

    named: str
    """What the limit applies to."""
    window: int
    """Number of the window; for a sliding window, time is divided into periods of its length."""
    slides: int
    """Length of a sliding window in milliseconds; 0: the window does not slide."""
    content: dict[str, object]
    spent: int
    limit: int

    def notice_id(self, percent: int, *, before: int = 0) -> str:
        """The ID of the notice. `before`: how many windows earlier."""
        return f"spend_alert:{self.named}:{self.window - before}:{percent}"

    @property
    def crossed(self) -> list[int]:
        return [percent for percent in THRESHOLDS if self.spent * 100 >= self.limit * percent]


async def work(services: Services) -> None:
    """One round: the accounts whose calls counted in budgets since the last one, and those with a spending limit."""
    for account_id in services.spend_watch.take():
        await _alert(services, account_id)
    await run_exclusive(services, "spend_alerts", every_ms=LIMITS_EVERY_MS, retry_ms=0, job=_alert_limited)


async def sweep(services: Services) -> None:
    """All accounts: what a process that has ended left unexamined, and those with newly enabled alerts."""
    now = services.clock.now_ms()
    limited = await services.database.scan(limited_accounts)
    for account_id in [*limited, *await services.database.scan(partial(accounts_with_budgets, at=now))]:
        services.spend_watch.touch(account_id)


async def _alert_limited(services: Services) -> None:
    limited = await services.database.scan(limited_accounts)
    for account_id in services.spend_watch.unexamined(limited):
        await _alert(services, account_id)
    services.spend_watch.examined(limited)


async def _alert(services: Services, account_id: str) -> None:
    """Write the account's alerts that are due and have not been written yet, up to the most of a day."""
    now = services.clock.now_ms()
    room = services.spend_watch.room(account_id, now // DAY_MS)
    if not room:
        return
    due = await services.database.scan(partial(_due, account_id=account_id, at=now))
    if len(due) > room:  # once a day: after this, there is no room
        log.warning("alerts held back", account_id=account_id, alerts=len(due) - room)
    if due:
        written = await services.database.write(partial(_write, account_id=account_id, due=due[:room], at=now))
        services.spend_watch.sent(account_id, written)


_Due = list[tuple[Alert, int]]
"""Alerts, each with its threshold."""


def _due(connection: Connection, account_id: str, at: int) -> _Due:
    settings = read_settings(connection, account_id)
    if settings is None or not settings.spend_alerts:
        return []
    return [
        (alert, percent)
        for alert in _alerts(connection, account_id, at)
        for percent in alert.crossed
        if not _is_written(connection, account_id, alert, percent, at)
    ]


def _is_written(connection: Connection, account_id: str, alert: Alert, percent: int, at: int) -> bool:
    """Whether the alert was already written in this window; for a sliding window, within its length."""
    if find_notice(connection, account_id, alert.notice_id(percent)) is not None:
        return True
    if not alert.slides:
        return False
    earlier = find_notice(connection, account_id, alert.notice_id(percent, before=1))
    return earlier is not None and earlier.created_at > at - alert.slides


def _write(connection: Connection, account_id: str, due: _Due, at: int) -> int:
    key = key_of(connection, account_id)
    written = 0
    for alert, percent in due:
        if _is_written(connection, account_id, alert, percent, at):  # another process has just written it
            continue
        content = {"percent": percent, **alert.content, "limit_nanos": alert.limit, "spent_nanos": alert.spent}
        notice_id = alert.notice_id(percent)
        written += add_notice(connection, key.bucket, account_id, notice_id, "spend_alert", content, at)
    return written


def _alerts(connection: Connection, account_id: str, at: int) -> Iterator[Alert]:
    for budget in half_spent(connection, account_id, at, BUDGETS_MAX):
        yield _of_budget(budget, at)
    limit = find_limit(connection, account_id)
    settings, key = read_settings(connection, account_id), find_key(connection, account_id)
    if limit is None or settings is None or key is None:
        return
    duration, strategy = limit.duration, limit.strategy
    start = window_start(duration, strategy, at, settings.zones)
    spent = spent_since(connection, key.bucket, account_id, start)
    slides = SLIDING_MS[duration] if strategy == "sliding" else 0
    content: dict[str, object] = {
        "of": "account", "duration": duration, "strategy": strategy,
        "window_end": window_end(duration, strategy, at, settings.zones),
    }  # fmt: skip
    named = f"account:{duration}:{strategy}"
    yield Alert(named, at // slides if slides else start, slides, content, spent, limit.amount)


def _of_budget(budget: SpentBudget, at: int) -> Alert:
    content, seconds = described(budget.scope)
    slides = 0 if seconds is None else seconds * 1000
    named = hashlib.blake2b(budget.scope.encode(), digest_size=16).hexdigest()
    content["window_end"] = None if slides else budget.ends_at
    return Alert(named, at // slides if slides else budget.start, slides, content, budget.spent, budget.limit)


def described(scope: str) -> tuple[dict[str, Any], int | None]:
    """What a budget belongs to, by its scope (calls.spending.rules, policies.decide, http.route_steps); and the length
    of its window in seconds if that slides."""
    if scope.startswith("policy:"):
        gateway_id, period, _, actor = scope.removeprefix("policy:").split("/", 3)
        return {"of": "policy", "gateway_id": gateway_id, "actor": _decoded(actor), "period": period}, None
    owner, rule_id, window, *values = scope.split("/", 3)
    length = _WINDOW.fullmatch(window)
    seconds, slides = (int(length[1]), length[2] == "s") if length else (0, False)
    content: dict[str, Any]
    if owner.startswith(ROUTE_SCOPE):
        content = {"of": "route", "route_id": owner.removeprefix(ROUTE_SCOPE), "element_id": unquote(rule_id)}
    else:
        content = {"of": "rule", "gateway_id": owner, "rule_id": unquote(rule_id)}
        if values:
            content["partition"] = _decoded(values[0])
    technique = {"window_seconds": seconds, "technique": "sliding" if slides else "fixed"}
    content |= technique if length else {"period": window}
    return content, seconds if slides else None


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:  # a hash in place of a value that is too long
        return text
