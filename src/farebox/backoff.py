"""How long to wait before something is tried again: by how often it has failed, or by how long it has gone on.

A wait has the unit of the bounds that are given. What has a schedule of its own (messages, the jobs of a process) is a
table beside it.
"""


def doubling(failures: int, first: int, longest: int) -> int:
    """After so many failures in a row: `first`, doubled with each further one up to `longest`."""
    return min(first << min(failures - 1, _DOUBLINGS_MAX), longest)


_DOUBLINGS_MAX = 40
"""Beyond every bound there is."""


def with_age(age: int, shortest: int, longest: int, *, share: int = 1) -> int:
    """As long again as it has gone on, or the given share of that, within bounds: what is asked so doubles its age."""
    return min(max(age // share, shortest), longest)
