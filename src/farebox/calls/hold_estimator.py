"""What the estimate of a hold is computed from, as far as it is known."""

from collections.abc import Callable

import msgspec
from msgspec import structs

from farebox.calls.counting_work import InputCount
from farebox.pricing.estimate import affordable_output, estimate
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.unseen import UnseenRules, UnseenTokens, with_single_uses


class HoldEstimator(msgspec.Struct, frozen=True):
    """What the estimate of a hold is computed from."""

    demand: Demand
    price: ModelPrice
    markup: Markup
    unseen_tokens: Callable[[Demand], UnseenTokens]
    counted: InputCount | None = None
    limit: int | None = None
    """Maximum output tokens per choice that the operator's cap on a call allows, if the request allows more."""

    in_slices: bool = False
    """Whether part of the output may be held first, and more as it passes (calls.slices)."""

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
            unseen=self.unseen_tokens(demand),
        )

    def output_within(self, available: int) -> int:
        """The number of output tokens per choice that this amount affords."""
        return affordable_output(
            self.demand,
            self.price,
            self.markup,
            available=available,
            exact_input_tokens=None if self.counted is None else self.counted.tokens,
            whole=self.counted is not None and self.counted.whole,
            unseen=self.unseen_tokens(self.demand),
        )

    def with_single_uses(self, rules: UnseenRules) -> "HoldEstimator | None":
        """The same with one use of each tool whose needs are learned, if the request allows more; otherwise None."""
        fewer = with_single_uses(self.demand, rules)
        return None if fewer is None else structs.replace(self, demand=fewer)

    def why(self, tokens: int) -> str:
        """An explanation for a hold that is large because of unseen input, with a remedy; empty if there is no such
        input."""
        kinds = ", ".join(dict.fromkeys(unseen.kind for unseen in self.demand.unseen))
        if not kinds:
            return ""
        return (
            f" What it may read cannot be seen from here ({kinds}), so up to {tokens} input tokens are held for it: "
            "send the input itself instead, or allow the tools fewer uses (max_uses, max_tool_calls)."
        )
