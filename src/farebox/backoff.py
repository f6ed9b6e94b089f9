"""How long to wait before a retry, by the number of failures or by the age of what is retried.

A wait has the unit of the given bounds. Fixed schedules (messages, the jobs of a process) are tables in the modules
that use them.
"""


def doubling(failures: int, first: int, longest: int) -> int:
    """The wait after this many failures in a row: `first`, doubled with each further one up to `longest`."""
    return min(first << min(failures - 1, _DOUBLINGS_MAX), longest)


_DOUBLINGS_MAX = 40
"""More doublings than any bound needs."""


def with_age(age: int, shortest: int, longest: int, *, share: int = 1) -> int:
    """A wait equal to the age so far, or the given fraction of it, within bounds: so the age
    doubles between retries.
    """
    return min(max(age // share, shortest), longest)
