"""The rules of a gateway's spend limits: validation beyond their type, and what is left of each."""

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec.structs import replace

from farebox.calls.spending.rules import CalendarWindow, SpendingWindow, window_of
from farebox.clock import random_bytes
from farebox.gateway import PERIOD_SECONDS, GatewayConfig, Selector, SpendLimits, SpendRule
from farebox.http.control.wire import Paging, iso, iso_or_none, require
from farebox.http.envelope import Response, page
from farebox.http.request import Request
from farebox.http.validation import Fault, Path
from farebox.ledger.budgets import ScopeUsage, count_scopes, list_scopes
from farebox.model import METADATA_ENTRIES_MAX
from farebox.money import NANOS_PER_USD
from farebox.periods import Period
from farebox.storage.account_settings import read_settings
from farebox.storage.gateways import find_gateway
from farebox.storage.sql import Connection

_SELECTORS = ("model", "provider", "token", "user")


def faults(limits: SpendLimits) -> list[Fault]:
    """The faults in the rules."""
    found: list[Fault] = []
    seen: set[str] = set()
    for place, rule in enumerate(limits.rules):
        path: Path = ("body", "spend_limits", "rules", place)
        if rule.id in seen:
            found.append(Fault((*path, "id"), f"Another rule has the id '{rule.id}' too"))
        if rule.id:
            seen.add(rule.id)
        found += _window_faults(rule, path)
        if rule.limit * NANOS_PER_USD < 1:
            found.append(Fault((*path, "limit"), "Number must be at least 0.000000001"))
        if rule.metadata is not msgspec.UNSET and len(rule.metadata) > METADATA_ENTRIES_MAX:
            fault = f"At most {METADATA_ENTRIES_MAX} keys: a call has no more entries"
            found.append(Fault((*path, "metadata"), fault))
        for where, selector in _selectors(rule):
            if selector.mode == "filter" and not selector.values:
                found.append(Fault((*path, *where, "values"), "Array must contain at least 1 element(s)"))
            if selector.mode == "partition" and selector.values:
                found.append(Fault((*path, *where, "values"), "Only for the mode 'filter'"))
    return found


def _window_faults(rule: SpendRule, path: Path) -> list[Fault]:
    if rule.period is msgspec.UNSET:
        return [] if rule.window else [Fault((*path, "window"), "Required")]
    seconds = PERIOD_SECONDS[rule.period]
    if rule.window in (0, seconds):
        return []
    return [Fault((*path, "window"), f"Leave it out, or send {seconds}, with the period '{rule.period}'")]


def with_ids(limits: SpendLimits) -> SpendLimits:
    """The same with an id for each rule that has none, and with the fields that a period implies."""
    return replace(limits, rules=tuple(_completed(rule, _new_id()) for rule in limits.rules))


def with_positions(limits: SpendLimits) -> SpendLimits:
    """The same for rules that are tried and not stored: one without an id is named by its position, as faults name
    it."""
    rules = tuple(_completed(rule, f"rules.{place}") for place, rule in enumerate(limits.rules))
    return replace(limits, rules=rules)


def _completed(rule: SpendRule, name: str) -> SpendRule:
    rule = rule if rule.id else replace(rule, id=name)
    if rule.period is msgspec.UNSET:
        return rule
    return replace(rule, window=PERIOD_SECONDS[rule.period], technique="fixed")


def _new_id() -> str:
    return random_bytes(4).hex()


def _selectors(rule: SpendRule) -> Iterator[tuple[Path, Selector]]:
    for name in _SELECTORS:
        selector = getattr(rule, name)
        if isinstance(selector, Selector):
            yield (name,), selector
    if rule.metadata is not msgspec.UNSET:
        for key, selector in rule.metadata.items():
            yield ("metadata", key), selector


class SpendQuery(Paging, frozen=True, kw_only=True):
    rule_id: str = ""
    """Only this rule."""


class SpendState(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a rule, for one combination of the values that it partitions by."""

    rule_id: str
    enabled: bool
    """Whether it is enforced, which requires that both the rule and the gateway's spend limits are enabled."""
    partition: dict[str, str]
    """The values; empty if the rule does not partition. Long ones are shown as `sha256`."""
    limit_nanos: int
    spent_nanos: int
    held_nanos: int
    """What open calls hold counts as spent until they end."""
    available_nanos: int
    window: int
    """Seconds."""
    period: Period | msgspec.UnsetType = msgspec.UNSET
    technique: Literal["fixed", "sliding"]
    window_start: str
    """The time from which calls count."""
    resets_at: str | None
    """When everything that counts now no longer counts; null if nothing counts now. In a sliding window, it stops
    counting gradually."""


async def states(request: Request, query: SpendQuery) -> Response:
    """A rule that partitions has one item for each combination of values for which something counts."""
    account_id, gateway_id, now = request.account_id, request.path["gateway_id"], request.services.clock.now_ms()
    window = query.window()

    def read(connection: Connection) -> tuple[list[SpendState], int]:
        row = require(find_gateway(connection, account_id, gateway_id))
        limits = msgspec.json.decode(row.config, type=GatewayConfig).spend_limits or SpendLimits()
        settings = require(read_settings(connection, account_id))
        shown: list[SpendState] = []
        total = 0
        for rule in limits.rules:
            if query.rule_id not in ("", rule.id):
                continue
            of_rule = RuleStates(
                connection, account_id, rule, window_of(gateway_id, rule, settings.zones), now, limits.enabled
            )
            skipped, wanted = max(0, window.offset - total), window.per_page - len(shown)
            count = of_rule.count()
            total += count
            if wanted and skipped < count:
                shown += of_rule.states(wanted, skipped)
        return shown, total

    shown, total = await request.services.database.scan(read)
    return page(shown, window.page, window.per_page, total)


class RuleStates(msgspec.Struct, frozen=True):
    """A rule and its counters, to report what is left of it."""

    connection: Connection
    account_id: str
    rule: SpendRule
    window: SpendingWindow | CalendarWindow
    now: int
    enabled: bool

    @property
    def partitions(self) -> bool:
        return any(selector.mode == "partition" for _, selector in _selectors(self.rule))

    def count(self) -> int:
        """Number of its states."""
        since = self.window.since(self.now)
        return count_scopes(self.connection, self.account_id, self.window.name, since) if self.partitions else 1

    def states(self, limit: int, offset: int) -> list[SpendState]:
        since = self.window.since(self.now)
        found = list_scopes(self.connection, self.account_id, self.window.name, since, limit, offset)
        if not self.partitions:
            found = [each for each in found if each.scope == self.window.name] or [
                ScopeUsage(self.window.name, 0, 0, 0)
            ]
        return [self._state(usage, since) for usage in found]

    def _state(self, usage: ScopeUsage, since: int) -> SpendState:
        rule, window = self.rule, self.window
        values = usage.scope.removeprefix(window.name).removeprefix("/")
        return SpendState(
            rule_id=rule.id,
            enabled=self.enabled and rule.enabled,
            partition=msgspec.json.decode(values, type=dict[str, str]) if values else {},
            limit_nanos=window.limit,
            spent_nanos=usage.spent,
            held_nanos=usage.held,
            available_nanos=max(0, window.limit - usage.spent - usage.held),
            window=rule.window,
            period=rule.period,
            technique=rule.technique,
            window_start=iso(since),
            resets_at=iso_or_none(usage.ends_at or (window.ends_at(since) if rule.technique == "fixed" else None)),
        )
