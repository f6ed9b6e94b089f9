"""How often a test repeats itself: a few times in `make test`, many in `make long`, which sets FAREBOX_TEST_LONG."""

import os

LONG = bool(os.environ.get("FAREBOX_TEST_LONG"))


def times(few: int, many: int) -> int:
    """`many` where the long proofs run."""
    return many if LONG else few
