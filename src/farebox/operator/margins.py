"""What calls on the operator's keys cost, and what accounts were charged for them, by model: for all accounts."""

from collections.abc import Callable
from fractions import Fraction

import msgspec

from farebox.calendar import DAY_MS
from farebox.operator.rerate import every_account
from farebox.storage.accounts import count_accounts
from farebox.storage.margin_sums import margin_sums, stated_costs
from farebox.storage.sql import Connection

PERIOD_MS = 30 * DAY_MS


class Margin(msgspec.Struct, kw_only=True):
    """One model. Amounts in nano-dollars."""

    provider: str
    model: str
    calls: int = 0
    cost: int = 0
    """What the provider bills, as it states it or by the prices."""
    charge: int = 0
    stated_calls: int = 0
    """Calls whose cost the provider stated in its response."""
    stated: int = 0
    """The stated cost of these calls."""
    computed: int = 0
    """The cost of the same calls by the prices."""

    @property
    def margin(self) -> int:
        return self.charge - self.cost

    @property
    def drift(self) -> int | None:
        """Parts per million by which the stated cost exceeds the computed one; None: there is nothing to compare."""
        return None if not self.computed else (self.stated - self.computed) * 1_000_000 // self.computed


class Margins(msgspec.Struct, kw_only=True):
    """The margins of calls that began in [start, end), in milliseconds; the highest charge first."""

    start: int
    end: int
    models: list[Margin]


def margins(connection: Connection, end: int, progress: Callable[[int, int], None]) -> Margins:
    """Add up the calls of the last 30 days. `progress` is called with the number of accounts done and in total."""
    start, total = end - PERIOD_MS, count_accounts(connection)
    found: dict[tuple[str, str], Margin] = {}
    for number, account_id in enumerate(every_account(connection), start=1):
        for provider, model, calls, cost, charge in margin_sums(connection, account_id, start, end):
            each = found.setdefault((provider, model), Margin(provider=provider, model=model))
            each.calls, each.cost, each.charge = each.calls + calls, each.cost + cost, each.charge + charge
        for provider, model, stated, computed in stated_costs(connection, account_id, start, end):
            each = found.setdefault((provider, model), Margin(provider=provider, model=model))
            each.stated_calls, each.stated = each.stated_calls + 1, each.stated + stated
            each.computed += round(Fraction(computed))
        progress(number, max(number, total))
    models = sorted(found.values(), key=lambda each: (-each.charge, -each.cost, each.provider, each.model))
    return Margins(start=start, end=end, models=models)
