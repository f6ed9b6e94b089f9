"""The report of a what-if: sums by model, day and group, in bounded memory. Amounts are in nano-dollars."""

from collections import Counter
from typing import Final

import msgspec

GROUPS_MAX: Final = 10_000
"""Maximum number of groups; further values are counted together."""
SHOWN: Final = 100
"""Maximum number of groups that are shown: those with the largest charges."""
OTHERS: Final = "(others)"
NONE: Final = "(none)"
"""The group of calls that have no value."""


class Figures(msgspec.Struct):
    """What calls were charged, and what they would have been charged."""

    calls: int = 0
    refused: int = 0
    charged_then_nanos: int = 0
    charged_nanos: int = 0

    def count(self, then: int, now: int, *, refused: bool) -> None:
        self.calls += 1
        self.refused += refused
        self.charged_then_nanos += then
        self.charged_nanos += now

    def add(self, other: "Figures") -> None:
        self.calls += other.calls
        self.refused += other.refused
        self.charged_then_nanos += other.charged_then_nanos
        self.charged_nanos += other.charged_nanos


class FirstRefused(msgspec.Struct, frozen=True, kw_only=True):
    """The first call that would have been refused. `at`: Unix milliseconds."""

    log_id: str
    at: int
    provider: str
    model: str
    gateway_id: str
    rule_id: str | None
    """Null for the account's spending limit."""
    limit_nanos: int
    spent_nanos: int
    """Spent in the window before the call."""
    needed_nanos: int
    """What the call cost."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of one model, day, user…"""

    name: str
    calls: int
    refused: int
    charged_then_nanos: int
    charged_nanos: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a what-if."""

    calls: int
    refused: int
    limited: int
    """Number of calls whose hold would not have fitted although their actual cost did: their output would have been
    limited to what was left."""
    held_elsewhere: int
    """Number of refused calls that would have fitted but for the holds of other calls in flight, and might have
    waited."""
    charged_then_nanos: int
    charged_nanos: int
    first_refused: FirstRefused | None
    models: list[Group]
    days: list[Group]
    groups: list[Group]
    """Those with the largest charges; `(none)` are calls without a value, `(others)` all groups that are not shown."""
    groups_total: int
    unknown: dict[str, int]
    """What cannot be determined: `refused_then`, `cached`, `user`, `token` count calls; `not_repriced.…` count calls
    that keep their charge; `charged_without_call_nanos` is an amount."""


class Tables:
    """The sums during a replay."""

    def __init__(self) -> None:
        self.all = Figures()
        self.models: dict[str, Figures] = {}
        self.days: dict[str, Figures] = {}
        self.groups: dict[str, Figures] = {}
        self.limited = 0
        self.held_elsewhere = 0
        self.first: FirstRefused | None = None
        self.unknown: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    def figures(self, provider: str, model: str, day: str, group: str | None) -> tuple[Figures, ...]:
        """The sums in which a call is counted."""
        return (
            self.all,
            _of(self.models, f"{provider}/{model}"),
            _of(self.days, day),
            _of(self.groups, NONE if group is None else group),
        )

    def report(self, charged_in_period: int) -> Report:
        groups = sorted(self.groups.items(), key=lambda each: (-each[1].charged_then_nanos, each[0]))
        rest = Figures()
        for _, figures in groups[SHOWN:]:
            rest.add(figures)
        shown = groups[:SHOWN] + ([(OTHERS, rest)] if rest.calls else [])
        unknown = {name: count for name, count in sorted(self.unknown.items()) if count}
        unknown |= {f"not_repriced.{why}": count for why, count in sorted(self.left.items())}
        if (outside := charged_in_period - self.all.charged_then_nanos) > 0:
            unknown["charged_without_call_nanos"] = outside
        return Report(
            calls=self.all.calls, refused=self.all.refused, limited=self.limited, held_elsewhere=self.held_elsewhere,
            charged_then_nanos=self.all.charged_then_nanos, charged_nanos=self.all.charged_nanos,
            first_refused=self.first, models=_groups(sorted(self.models.items())),
            days=_groups(sorted(self.days.items())), groups=_groups(shown), groups_total=len(self.groups),
            unknown=unknown,
        )  # fmt: skip


def _of(table: dict[str, Figures], name: str) -> Figures:
    found = table.get(name)
    if found is None:
        found = table.setdefault(name if len(table) < GROUPS_MAX else OTHERS, Figures())
    return found


def _groups(found: list[tuple[str, Figures]]) -> list[Group]:
    return [
        Group(
            name=name,
            calls=each.calls,
            refused=each.refused,
            charged_then_nanos=each.charged_then_nanos,
            charged_nanos=each.charged_nanos,
        )
        for name, each in found
    ]
