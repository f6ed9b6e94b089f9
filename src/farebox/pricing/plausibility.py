"""Which usage is plausible. A provider's figures are trusted however large they are, unless the call cannot have used
that much.

The bound is independent of the hold: a true figure above the hold is an overrun, not an error.
"""

from farebox.pricing.ceilings import ceiling_known, output_ceiling
from farebox.pricing.model import Demand, Estimate, ModelPrice
from farebox.pricing.unseen import passes_max
from farebox.pricing.window import WINDOW_UNKNOWN, context_window
from farebox.usage import AbsurdUsage, Usage

UNKNOWN_MARGIN = 4
"""An assumed window or ceiling of a model is multiplied by this."""


def check_plausible(usage: Usage, demand: Demand, price: ModelPrice, bound: Estimate) -> None:
    """Raises AbsurdUsage if a call with this request cannot have used that much: more input than the context window
    holds in each pass that the request allows, or more output than the model can generate in each.

    A request whose tools may run without limit has only the general bound (`usage.METER_MAX`).
    """
    read, written = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    if read <= bound.input_tokens and written <= bound.output_tokens:
        return  # as nearly all calls
    passes = passes_max(demand)
    if passes is None:
        return
    most = passes * max(_window(price), bound.input_tokens)
    if read > most:
        raise AbsurdUsage(f"input_tokens is {read}, and the request can take {most} at most")
    most = max(bound.output_tokens, passes * max(1, demand.choices) * _ceiling(price))
    if written > most:
        raise AbsurdUsage(f"output_tokens is {written}, and the request can take {most} at most")


def _window(price: ModelPrice) -> int:
    return UNKNOWN_MARGIN * WINDOW_UNKNOWN if price.context_window is None else context_window(price)


def _ceiling(price: ModelPrice) -> int:
    return output_ceiling(price) if ceiling_known(price) else UNKNOWN_MARGIN * output_ceiling(price)
