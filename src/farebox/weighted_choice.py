"""Random choice by weights."""

from collections.abc import Sequence


def weighted_index(weights: Sequence[int], chance: float) -> int:
    """The index of a weight chosen at random in proportion to the weights. `chance` is from 0 up to, but not including,
    1; at least one weight must be above 0."""
    mark = chance * sum(weights)
    for place, weight in enumerate(weights):
        mark -= weight
        if mark < 0:
            return place
    return max(place for place, weight in enumerate(weights) if weight)  # a rounding error can pass the last one
