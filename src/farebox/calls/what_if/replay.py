"""What-if: an account's past calls, replayed with another limit, price or model in the order in which they began.

The replay uses the real ledger, on a database in memory: holds, charges, budgets and the account's spending limit are
decided by ledger.posting, which rule counts what by calls.spending.rules, and charges are computed by pricing.reprice.
What past calls do not show is listed in `Report.unknown`, and in docs/what-if.md.

Times are milliseconds since the Unix epoch.
"""

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import Annotated, Final, Literal

import msgspec

from farebox.calendar import DAY_MS, HOUR_MS, day_text
from farebox.calls.spending.rules import end_user, scope_of, value_of_metadata, values_of_model, window_of
from farebox.calls.what_if.report import Figures, FirstRefused, Report, Tables
from farebox.gateway import DEFAULT_GATEWAY, Selector, SpendRule
from farebox.ledger.budgets import forget_slots
from farebox.ledger.commands import Budget, Hold, Outcome, Settle, TopUp, Verdict
from farebox.ledger.posting import apply
from farebox.ledger.spending import window_start
from farebox.money import ceil_div
from farebox.periods import UTC_NAME, ZoneChange, Zones
from farebox.pricing.bill import at_highest, doubts_of
from farebox.pricing.compiler import Context
from farebox.pricing.model import Markup, ModelPrice
from farebox.pricing.pricebook import OwnPrice, PriceBook
from farebox.pricing.receipt import Receipt
from farebox.pricing.reprice import NotRepriced, PricedModel, Repriced, at_markup, reprice
from farebox.pricing.stored_receipt import whole
from farebox.storage.account_settings import set_zone
from farebox.storage.accounts import add_account
from farebox.storage.call_reports import UsageWindow
from farebox.storage.calls import CallDetail, add_usage
from farebox.storage.corrections import CallToPrice
from farebox.storage.scratch import forget_ended, scratch_database
from farebox.storage.spending import SpendingLimit, set_limit
from farebox.storage.sql import Connection
from farebox.usage import Usage

PERIOD_MAX_MS: Final = 366 * DAY_MS
PAGE: Final = 200
"""Calls that are read and replayed at once."""
_SWEEP: Final = 1_000
"""Number of calls after which ended calls are forgotten, so that memory depends on the calls in flight, not on the
total."""
_CREDIT: Final = 2**61
_TRIES: Final = 4
"""How often a hold is made smaller, as a call's output would be limited."""

GROUPS: Final = r"^(user|token|metadata\..{1,64})$"
"""Properties that a report can group calls by."""
Name = Annotated[str, msgspec.Meta(min_length=3, max_length=256, pattern="/")]
"""`provider/model`, or `dynamic/route`."""


class LimitOf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A spending limit of the account; `amount` is in cents."""

    amount: Annotated[int, msgspec.Meta(ge=100, le=10**11)]
    duration: Literal["daily", "weekly", "monthly"]
    strategy: Literal["fixed", "sliding"]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What is different in the replay. Times are in milliseconds since the Unix epoch."""

    start: int
    end: int
    gateway_id: str = DEFAULT_GATEWAY
    """The gateway that the rules belong to."""
    rules: tuple[SpendRule, ...] = ()
    limit: LimitOf | None = None
    models: Mapping[str, str] = {}
    """Called model → the model that answers instead, as `provider/model`."""
    at: int = 0
    """When the what-if was requested: substituted models cost what they cost then."""
    prices: Mapping[str, Mapping[str, str]] = {}
    """`provider/model` → rates as in OwnPrice."""
    markup: int | None = None
    """Parts per million of the cost."""
    by: Annotated[str, msgspec.Meta(pattern=GROUPS)] = "user"
    """The property that the report's `groups` are formed by: `user`, `token`, or `metadata.KEY`."""

    @property
    def reads_bodies(self) -> bool:
        """Whether the end user matters, who may be named only in the request's body."""
        return self.by == "user" or any(isinstance(rule.user, Selector) for rule in self.rules)

    @property
    def reads_tokens(self) -> bool:
        """Whether the access token matters."""
        return self.by == "token" or any(isinstance(rule.token, Selector) for rule in self.rules)


class PastCall(msgspec.Struct, frozen=True):
    """A past call as far as rules are concerned: the values that they select by."""

    detail: CallDetail
    provider: str
    model: str
    user: str | None

    def values(self, name: str) -> tuple[str, ...]:
        if name == "model":
            return values_of_model(self.provider, self.model)
        found = {"user": self.user, "provider": self.provider, "token": self.detail.token_id}[name]
        return (found,) if found else ()

    def metadata(self, key: str) -> tuple[str, ...]:
        return value_of_metadata((self.detail.metadata or {}).get(key))


class _Wanted(msgspec.Struct, frozen=True):
    """What a call would have asked for, in nano-dollars."""

    charge: int
    hold: int
    counts: int
    """What counts in budgets: for a call on the account's own key, which is charged nothing, its cost."""


class _ReplayRecord(msgspec.Struct, frozen=True):
    """The record of a replayed call, which counts in the hour in which it began."""

    account_id: str
    at: int

    def write(self, connection: Connection, bucket: int, verdict: Verdict) -> None:
        if verdict.amount:
            add_usage(connection, bucket, self.account_id, self.at, "replayed", "", verdict.amount)


class Replay:
    """One replay. Only one thread at a time may use it."""

    def __init__(
        self,
        scenario: Scenario,
        account_id: str,
        book: PriceBook,
        before: Sequence[UsageWindow] = (),
        zone: str = UTC_NAME,
    ) -> None:
        """`before`: the hours before the period that the account's spending limit counts (`since`). `zone`: the
        account's current time zone."""
        self._scenario, self._account_id, self._book = scenario, account_id, book
        self._own = PriceBook(_own_prices(scenario))
        self._ledger = scratch_database()
        self._open: list[tuple[int, str, _Wanted, int]] = []
        """Calls in flight by the time they end: with their ID, cost, and start."""
        self._tables = Tables()
        self._calls = 0
        self._zones = in_zone(zone)
        add_account(self._ledger, account_id, "", scenario.start)
        set_zone(self._ledger, account_id, zone, 0)
        if scenario.limit is not None:
            limit = scenario.limit
            set_limit(
                self._ledger, account_id, SpendingLimit(limit.amount * 10_000_000, limit.duration, limit.strategy)
            )
        for hour in before:
            add_usage(self._ledger, 0, account_id, hour.start, "before", "", hour.charge)
        top_up = TopUp(account_id=account_id, payment_id="replay", amount=_CREDIT, at=scenario.start)
        apply(self._ledger, top_up)

    def feed(self, calls: Sequence[CallToPrice]) -> None:
        """Replay the next calls, in the order in which they began."""
        for call in calls:
            self._settle(call.created_at)
            self._replay(call)
            self._calls += 1
            if self._calls % _SWEEP == 0:
                self._sweep(call.created_at)

    def report(self, charged_in_period: int) -> Report:
        """The result for all calls. `charged_in_period` is everything that the account was charged, for whatever
        reason."""
        self._settle(None)
        return self._tables.report(charged_in_period)

    def _replay(self, call: CallToPrice) -> None:
        receipt = whole(call.row)
        detail = msgspec.json.decode(call.detail, type=CallDetail)
        if not self._ran(receipt, detail):
            return
        past, wanted = self._would(call, receipt, detail)
        charged = call.row.charge
        figures = self._tables.figures(past.provider, past.model, day_text(call.created_at), self._group(past))
        rules = self._rules(call.row.gateway_id, past)
        windows = ((window_of(call.row.gateway_id, rule, self._zones), scope) for rule, scope in rules)
        budgets = tuple(window.budget(scope, call.created_at) for window, scope in windows)
        verdict, held = self._hold(call, wanted, budgets)
        for each in figures:
            each.count(charged, wanted.charge if verdict.ok else 0, refused=not verdict.ok)
        if verdict.ok:
            heappush(self._open, (call.created_at + max(call.duration, 0), call.log_id, wanted, call.created_at))
            self._tables.limited += held < wanted.hold
            return
        self._tables.held_elsewhere += verdict.outcome is Outcome.HELD_ELSEWHERE
        if self._tables.first is None:
            rule = None if verdict.budget is None else rules[verdict.budget][0]
            self._tables.first = FirstRefused(
                log_id=call.log_id, at=call.created_at, provider=past.provider, model=past.model,
                gateway_id=call.row.gateway_id, rule_id=None if rule is None else rule.id,
                limit_nanos=verdict.limit or 0, spent_nanos=verdict.spent, needed_nanos=wanted.charge or wanted.counts,
            )  # fmt: skip

    def _ran(self, receipt: Receipt, detail: CallDetail) -> bool:
        """Whether the call got as far as a provider; if not, its cost is unknown."""
        if detail.cached:
            self._tables.unknown["cached"] += 1
        elif receipt.outcome == "refused":
            self._tables.unknown["refused_then"] += 1
        else:
            return True
        return False

    def _would(self, call: CallToPrice, receipt: Receipt, detail: CallDetail) -> tuple[PastCall, _Wanted]:
        """The call with the scenario's changes: its properties, and what it would have cost."""
        user = None
        if self._scenario.reads_bodies:
            user = detail.end_user or (None if call.request is None else end_user(call.request))
            self._tables.unknown["user"] += user is None
        if self._scenario.reads_tokens:
            self._tables.unknown["token"] += not detail.token_id
        provider, model = self._model(call.row.provider, receipt.model, detail.route)
        past = PastCall(detail, provider, model, user)
        charge, hold = receipt.charge_nanos + receipt.written_off_nanos, receipt.hold_nanos
        if detail.own_key:
            return past, _Wanted(0, 0, call.row.cost)
        found = self._priced(receipt, call.created_at, (provider, model))
        if isinstance(found, NotRepriced):
            self._tables.left[found] += 1
        elif found is not None:
            hold = ceil_div(hold * found.charge, charge) if charge else found.charge
            charge = found.charge
        return past, _Wanted(charge, max(hold, charge), charge)

    def _model(self, provider: str, model: str, route: str) -> tuple[str, str]:
        for name in (f"dynamic/{route}" if route else "", f"{provider}/{model}"):
            if name in self._scenario.models:
                provider, _, model = self._scenario.models[name].partition("/")
                break
        return provider, model

    def _priced(self, receipt: Receipt, at: int, instead: tuple[str, str]) -> Repriced | NotRepriced | None:
        """The charge at the scenario's prices; None if those are the prices of the receipt."""
        provider, model = instead
        moved = instead != (receipt.provider, receipt.model)
        at = self._scenario.at if moved else at
        own = self._own_price(provider, model, at)
        markup = None if self._scenario.markup is None else Markup(self._scenario.markup, "what-if")

        def find(part: PricedModel, context: Context, usage: Usage) -> ModelPrice | None:
            found = own or self._book.find(self._account_id, provider, model, at, context or None)
            doubts = "" if found is None else doubts_of(found, usage)
            if found is None or not doubts:
                return found
            return at_highest(found, doubts, self._book.highest_factor(provider))

        if moved or own is not None:
            if moved and markup is None:
                markup = self._book.markup(self._account_id, provider, model, at)
            return reprice(receipt, lambda part: part.own, find, self._book.meters, markup)
        return None if markup is None else at_markup(receipt, markup)

    def _own_price(self, provider: str, model: str, at: int) -> ModelPrice | None:
        if f"{provider}/{model}" not in self._scenario.prices:
            return None
        return self._own.find(self._account_id, provider, model, at)

    def _rules(self, gateway_id: str, past: PastCall) -> list[tuple[SpendRule, str]]:
        if gateway_id != self._scenario.gateway_id:
            return []
        found = [(rule, scope_of(gateway_id, rule, past)) for rule in self._scenario.rules if rule.enabled]
        return [(rule, scope) for rule, scope in found if scope is not None]

    def _hold(self, call: CallToPrice, wanted: _Wanted, budgets: tuple[Budget, ...]) -> tuple[Verdict, int]:
        """Hold what the call asks for. If that does not fit, hold what there is, provided it covers the call's actual
        cost: the output would have been limited. If nothing is left, even a call that cost nothing is refused."""
        amount = wanted.hold
        for _ in range(_TRIES):
            own_key = not wanted.charge and bool(wanted.counts)
            command = Hold(
                account_id=self._account_id, hold_id=call.log_id, amount=amount, at=call.created_at,
                expires_at=call.created_at + call.duration + DAY_MS, budgets=budgets,
                reserve=wanted.counts if own_key else None,
            )  # fmt: skip
            verdict = apply(self._ledger, command)
            if verdict.ok or own_key or verdict.affordable < max(wanted.charge, 1):
                break
            amount = min(amount - 1, verdict.affordable)
        return verdict, amount

    def _settle(self, until: int | None) -> None:
        """End the calls that have ended by then."""
        while self._open and (until is None or self._open[0][0] <= until):
            end, log_id, wanted, began = heappop(self._open)
            command = Settle(
                account_id=self._account_id, hold_id=log_id, amount=wanted.charge, at=end,
                record=_ReplayRecord(self._account_id, began), counts=wanted.counts,
            )  # fmt: skip
            apply(self._ledger, command)

    def _sweep(self, at: int) -> None:
        """Forget what no longer has an effect."""
        forget_ended(self._ledger, self._account_id)
        while forget_slots(self._ledger, self._account_id, at):
            pass

    def _group(self, past: PastCall) -> str | None:
        by = self._scenario.by
        found = past.metadata(by.removeprefix("metadata.")) if by.startswith("metadata.") else past.values(by)
        return found[0] if found else None


def in_zone(zone: str) -> Zones:
    """The time zones of an account that always had this one."""
    return (ZoneChange(0, zone),)


def since(scenario: Scenario, zone: str) -> int:
    """The time from which the account's spending limit counts at the beginning of the period; the period's start if
    there is no limit."""
    start = scenario.start - scenario.start % HOUR_MS
    if scenario.limit is None:
        return start
    return min(start, window_start(scenario.limit.duration, scenario.limit.strategy, scenario.start, in_zone(zone)))


def _own_prices(scenario: Scenario) -> list[OwnPrice]:
    """Raises InvalidPrice when they are used."""
    found = []
    for place, (name, rates) in enumerate(scenario.prices.items()):
        provider, _, model = name.partition("/")
        found.append(OwnPrice(f"what-if-{place}", provider, model, None, rates, 0))
    return found


__all__ = ["Figures", "LimitOf", "Replay", "Report", "Scenario", "since"]
