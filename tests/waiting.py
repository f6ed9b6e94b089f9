"""Waiting for what another thread or process does: for the condition, not for a time.

The pauses between two looks grow with what has been waited. Whoever looks all the time keeps the others from doing what
is waited for: a look may be a call of the server, or a connection to the database.
"""

import time
from collections.abc import Iterator

SECONDS = 300.0
"""After which it is taken not to come. Only a test that fails waits so long; but on a busy machine a process takes half
a minute to start."""
_SHORTEST, _LONGEST = 0.005, 0.25


def pauses(what: str, seconds: float = SECONDS) -> Iterator[float]:
    """Seconds to pause after each look: a tenth of what has been waited. Fails the test when that is too long."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < seconds:
        yield min(max(_SHORTEST, waited / 10), _LONGEST)
    raise AssertionError(f"{what} did not come true in {seconds} s")
