"""A model's context window: the upper bound of input that the request does not show."""

from farebox.pricing.model import ModelPrice

WINDOW_UNKNOWN = 1_048_576
"""The window assumed if the price list has none."""

WINDOW_ROUNDING = 105
"""In percent: price lists round windows, such as 1,000,000 for 1,047,576."""


def context_window(price: ModelPrice) -> int:
    """The most tokens that the model reads for one response. If a more expensive tier begins at or above the listed
    window, the model has a larger one too (Claude Sonnet 4.5: 200,000, and 1,000,000 on request)."""
    listed = price.context_window
    if listed is None:
        return WINDOW_UNKNOWN
    window = listed * WINDOW_ROUNDING // 100
    if any(start >= listed for rate in price.rates for start, _ in rate.tiers):
        return max(window, WINDOW_UNKNOWN)
    return window
