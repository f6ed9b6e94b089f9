"""What holds are made of: the most that a call can cost, as far as it is known by now."""

from collections.abc import Callable

import msgspec
from msgspec import structs

from farebox.calls.counting import Counted
from farebox.pricing.estimate import affordable_output, estimate
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.unseen import Outside, Rules, with_single_uses


class Offer(msgspec.Struct, frozen=True):
    """What holds are made of."""

    demand: Demand
    price: ModelPrice
    markup: Markup
    outside: Callable[[Demand], Outside]
    counted: Counted | None = None
    limit: int | None = None
    """Output tokens per choice that the operator's cap on a call allows, where the request may take more."""

    in_slices: bool = False
    """Whether a part of the output may be held, and more as it passes (calls.slices)."""

    def estimate(self, output_tokens: int | None = None) -> Estimate:
        """The most that the call can cost, with this many output tokens per choice if they are limited."""
        demand = self.demand
        if output_tokens is not None:
            demand = structs.replace(demand, output_max=output_tokens)
        return estimate(
            demand,
            self.price,
            self.markup,
            exact_input_tokens=None if self.counted is None else self.counted.tokens,
            whole=self.counted is not None and self.counted.whole,
            outside=self.outside(demand),
        )

    def output_within(self, available: int) -> int:
        """Output tokens per choice that so much money affords."""
        return affordable_output(
            self.demand,
            self.price,
            self.markup,
            available=available,
            exact_input_tokens=None if self.counted is None else self.counted.tokens,
            whole=self.counted is not None and self.counted.whole,
            outside=self.outside(self.demand),
        )

    def with_single_uses(self, rules: Rules) -> "Offer | None":
        """The same with one use of each tool whose needs are learned, where it is allowed more."""
        fewer = with_single_uses(self.demand, rules)
        return None if fewer is None else structs.replace(self, demand=fewer)

    def why(self, tokens: int) -> str:
        """What makes the hold large, where that is input which is not in the request; and what to do about it."""
        kinds = ", ".join(dict.fromkeys(unseen.kind for unseen in self.demand.unseen))
        if not kinds:
            return ""
        return (
            f" What it may read cannot be seen from here ({kinds}), so up to {tokens} input tokens are held for it: "
            "send the input itself instead, or allow the tools fewer uses (max_uses, max_tool_calls)."
        )
