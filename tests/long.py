"""Numbers of repetitions in tests: few in `make test`, many in `make long`, which sets FAREBOX_TEST_LONG."""

import os

LONG = bool(os.environ.get("FAREBOX_TEST_LONG"))


def times(few: int, many: int) -> int:
    """`many` in `make long`, otherwise `few`."""
    return many if LONG else few
