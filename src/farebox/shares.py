"""Drawing one of several by their weights."""

from collections.abc import Sequence


def drawn(weights: Sequence[int], chance: float) -> int:
    """The place of one that is drawn; `chance` from 0 up to, but not including, 1. There is a weight above 0."""
    mark = chance * sum(weights)
    for place, weight in enumerate(weights):
        mark -= weight
        if mark < 0:
            return place
    return max(place for place, weight in enumerate(weights) if weight)  # rounding has passed the last
