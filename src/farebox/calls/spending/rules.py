"""The limits that count a call, as budgets for the ledger: its gateway's spend limits and policies, and the limits of
its dynamic route.

Whether a call fits is decided in the transaction of its hold (ledger.budgets), without consulting this module.
"""

import hashlib
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from farebox.calls.model import Call
from farebox.gateway import Selector, SpendLimits, SpendRule
from farebox.ledger.commands import Budget
from farebox.money import NANOS_PER_USD
from farebox.periods import Period, Zones, window
from farebox.policies.decide import PolicyLimit

SLOTS = 60
"""Number of slots into which a sliding window is divided: it refuses up to one slot's time too long, and never admits
too much."""
SCOPE_MAX = 800
"""Maximum bytes of a scope's name, which is part of an index key."""

ROUTE_SCOPE = "route:"
"""Prefix of the scopes of dynamic routes."""

_HASH = "sha256"
"""Prefix of the hash that replaces values of a scope that are too long."""
_encode = msgspec.json.Encoder(order="deterministic").encode


class SpendingWindow(msgspec.Struct, frozen=True, gc=False):
    """The constant parts of a rule: the name of its counters, its limit, its times. In nano-dollars and
    milliseconds."""

    name: str
    """Name of the scope, without the values that the rule partitions by. It contains length and technique, so that a
    changed window starts from zero."""
    limit: int
    length: int
    slot: int
    """Length of a slot; with fixed windows, of the whole window."""

    def start(self, at: int) -> int:
        """The start of the slot that contains `at`."""
        return at - at % self.slot

    def since(self, at: int) -> int:
        """The first slot that counts at that time: together the slots are never shorter than the true window."""
        return self.start(at) if self.slot == self.length else self.start(at - self.length)

    def ends_at(self, start: int) -> int:
        """When the slot no longer counts."""
        return start + self.slot if self.slot == self.length else start + self.slot + self.length

    def budget(self, scope: str, at: int) -> Budget:
        """The budget that a hold made at that time must fit in."""
        start = self.start(at)
        return Budget(scope, self.limit, start, self.since(at), self.ends_at(start))


class CalendarWindow(msgspec.Struct, frozen=True, gc=False):
    """The same for calendar windows: those of all policies, and of rules with a period."""

    name: str
    limit: int
    period: Period
    zones: Zones

    def since(self, at: int) -> int:
        return window(self.period, at, self.zones).start

    def ends_at(self, start: int) -> int:
        """When the window that begins at `start` ends."""
        return window(self.period, start, self.zones).end

    def budget(self, scope: str, at: int) -> Budget:
        """The budget that a hold made at that time must fit in."""
        span = window(self.period, at, self.zones)
        return Budget(scope, self.limit, span.start, span.start, span.end)


class AppliedLimit(msgspec.Struct, frozen=True, gc=False):
    """A limit that counts a call."""

    rule: SpendRule | PolicyLimit
    scope: str
    """The scope of its budget."""
    window: SpendingWindow | CalendarWindow

    @property
    def rule_id(self) -> str:
        """The ID that names the limit in the response to the caller."""
        return self.rule.policy_id if isinstance(self.rule, PolicyLimit) else self.rule.id

    @property
    def on_page(self) -> bool:
        """Whether the page of limits shows it: all except those of dynamic routes."""
        return not self.scope.startswith(ROUTE_SCOPE)

    @property
    def terms(self) -> str:
        """A description of the limit; that of a rule is in Cloudflare's words."""
        rule = self.rule
        if isinstance(rule, PolicyLimit):
            amount = _plain(rule.amount / NANOS_PER_USD)
            return f"policy '{rule.name}' ({amount} USD {rule.period} for '{rule.bucket[:64]}')"
        window = (
            f"per {rule.window}s, {rule.technique}" if isinstance(self.window, SpendingWindow) else self.window.period
        )
        return f"rule '{rule.id}' (cost limit {_plain(rule.limit)} {window})"


def _plain(dollars: float) -> str:
    return f"{Decimal(str(dollars)):f}".removesuffix(".0")


def window_of(gateway_id: str, rule: SpendRule, zones: Zones) -> SpendingWindow | CalendarWindow:
    """The window of a rule of this gateway, whose account has these time zones."""
    if rule.period is not msgspec.UNSET:
        return _calendar_window(gateway_id, rule.id, rule.limit, rule.period, zones)
    return _window(gateway_id, rule.id, rule.limit, rule.window, rule.technique)


@lru_cache(maxsize=4096)
def _window(gateway_id: str, rule_id: str, limit: float, seconds: int, technique: str) -> SpendingWindow:
    length = seconds * 1000
    slot = length if technique == "fixed" else -(-length // SLOTS)
    return SpendingWindow(_name(gateway_id, rule_id, f"{seconds}{technique[0]}"), _nanos(limit), length, slot)


@lru_cache(maxsize=4096)
def _calendar_window(gateway_id: str, rule_id: str, limit: float, period: Period, zones: Zones) -> CalendarWindow:
    return CalendarWindow(_name(gateway_id, rule_id, period), _nanos(limit), period, zones)


def _name(gateway_id: str, rule_id: str, window: str) -> str:
    return f"{gateway_id}/{quote(rule_id, safe='')}/{window}"


def _nanos(dollars: float) -> int:
    return int(Decimal(str(dollars)) * NANOS_PER_USD)


def may_count(call: Call) -> bool:
    """Whether there can be limits that count this call."""
    return call.gateway.spend_limits is not None or bool(call.route_limits) or bool(call.policy_limits)


def rules_for(call: Call) -> list[AppliedLimit]:
    """The limits that count this call: those of its dynamic route, and its gateway's policies and rules."""
    found = [_applied(call, rule, scope) for rule, scope in call.route_limits]
    found += map(_of_policy, call.policy_limits)
    limits = call.gateway.spend_limits
    if limits is not None and limits.enabled:
        found += _of_gateway(call, limits)
    return found


_known: dict[tuple[int, str, str, str, str], tuple[SpendLimits, tuple[AppliedLimit, ...]]] = {}
"""The rules that count calls of a gateway, provider, model and token, if they select by nothing else. The limits are
stored beside them, so that the `id` in the key stays theirs."""
_KNOWN_MAX = 4096
_KNOWN_MODEL_MAX = 256


def _of_gateway(call: Call, limits: SpendLimits) -> tuple[AppliedLimit, ...]:
    key = (id(limits), call.gateway_id, call.provider, call.model, call.token_id)
    known = _known.get(key)
    if known is not None:
        return known[1]
    of_call = _CallValues(call)
    scopes = ((rule, scope_of(call.gateway_id, rule, of_call)) for rule in limits.rules if rule.enabled)
    found = tuple(_applied(call, rule, scope) for rule, scope in scopes if scope is not None)
    if len(call.model) <= _KNOWN_MODEL_MAX and not any(rule.user or rule.metadata for rule in limits.rules):
        if len(_known) >= _KNOWN_MAX:
            _known.clear()
        _known[key] = limits, found
    return found


def _applied(call: Call, rule: SpendRule, scope: str) -> AppliedLimit:
    return AppliedLimit(rule, scope, window_of(call.gateway_id, rule, call.gateway.zones))


def _of_policy(limit: PolicyLimit) -> AppliedLimit:
    return AppliedLimit(limit, limit.scope, CalendarWindow(limit.scope, limit.amount, limit.period, limit.zones))


def scope_of(gateway_id: str, rule: SpendRule, of_call: "ValuesOfCall") -> str | None:
    """The scope in which this gateway's rule counts the call; None if it does not count it."""
    values = _partition(rule, of_call)
    return None if values is None else _scope(window_of(gateway_id, rule, ()).name, values)


class ValuesOfCall(Protocol):
    """The values of a call that rules select by."""

    def values(self, name: str) -> tuple[str, ...]:
        """The value, and the other names by which a filter may refer to it; empty if the call has none."""
        ...

    def metadata(self, key: str) -> tuple[str, ...]: ...


def values_of_model(provider: str, model: str) -> tuple[str, ...]:
    """The names by which rules may refer to a model."""
    return (model, f"{provider}/{model}") if model else ()


def value_of_metadata(found: str | float | bool | None) -> tuple[str, ...]:
    """A value of a call's metadata, as rules refer to it."""
    if found is None:
        return ()
    return (found if isinstance(found, str) else _encode(found).decode(),)


def budgets_of(rules: list[AppliedLimit], at: int) -> tuple[Budget, ...]:
    """The budgets that a call must fit in, in the order of the rules."""
    return tuple(rule.window.budget(rule.scope, at) for rule in rules)


class _CallValues:
    """The values of a call that rules select by."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._user: str | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def user(self) -> str | None:
        """The end user, determined only if a rule needs it."""
        if isinstance(self._user, msgspec.UnsetType):
            self._user = user_of(self._call)
        return self._user

    def values(self, name: str) -> tuple[str, ...]:
        """The value, and the other names by which a filter may refer to it; empty if the call has none."""
        call = self._call
        if name == "model":
            return values_of_model(call.provider, call.model)
        if name == "user":
            return (self.user,) if self.user else ()
        found = call.provider if name == "provider" else call.token_id
        return (found,) if found else ()

    def metadata(self, key: str) -> tuple[str, ...]:
        return value_of_metadata((self._call.metadata or {}).get(key))


class _Body(msgspec.Struct, frozen=True):
    """The fields in which a request can name its end user."""

    safety_identifier: Any = None
    user: Any = None
    metadata: Any = None


_decode = msgspec.json.Decoder(_Body).decode


def user_of(call: Call) -> str | None:
    """The end user of a call, as named by its header, else by its body; None if neither does."""
    return call.end_user or end_user(call.small_body)


def end_user(body: bytes) -> str | None:
    """The end user that a request's body names; None if it names none, or is not a JSON object."""
    try:
        found = _decode(body)
    except msgspec.DecodeError:
        return None
    of_metadata = found.metadata.get("user_id") if isinstance(found.metadata, dict) else None
    for name in (found.safety_identifier, found.user, of_metadata):
        if isinstance(name, str) and name:
            return name
    return None


def _selectors(rule: SpendRule) -> Iterator[tuple[str, Selector]]:
    for name in ("model", "provider", "token", "user"):
        selector = getattr(rule, name)
        if isinstance(selector, Selector):
            yield name, selector
    if isinstance(rule.metadata, dict):
        for key, selector in rule.metadata.items():
            yield f"metadata.{key}", selector


def _selected(rule: SpendRule, of_call: ValuesOfCall) -> Iterator[tuple[str, Selector, tuple[str, ...]]]:
    for name, selector in _selectors(rule):
        kind, _, key = name.partition(".")
        yield name, selector, of_call.metadata(key) if kind == "metadata" else of_call.values(name)


def counts_in(rule: SpendRule, name: str, scope: str) -> bool:
    """Whether the rule, with the properties by which it partitions now, counts calls in this scope of its name."""
    values = scope.removeprefix(name).removeprefix("/")
    found = set(msgspec.json.decode(values, type=dict[str, str])) if values else set[str]()
    wanted = {key for key, selector in _selectors(rule) if selector.mode == "partition"}
    return found == wanted or (found == {_HASH} and bool(wanted))


def _partition(rule: SpendRule, of_call: ValuesOfCall) -> dict[str, str] | None:
    """The values by which the rule counts the call; None if it does not count it."""
    found: dict[str, str] = {}
    for name, selector, values in _selected(rule, of_call):
        if not values or (selector.mode == "filter" and not any(value in selector.values for value in values)):
            return None
        if selector.mode == "partition":
            found[name] = values[0]
    return found


def _scope(name: str, values: dict[str, str]) -> str:
    if not values:
        return name
    text = _encode(values)
    if len(name) + len(text) > SCOPE_MAX:
        text = _encode({_HASH: hashlib.sha256(text).hexdigest()})
    return f"{name}/{text.decode()}"
