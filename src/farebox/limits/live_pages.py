"""The number of pages that receive live updates from this process: per person, per account, and in total."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

PERSON_MAX = 4
"""A browser opens at most six connections to a server, and needs some for the pages themselves."""
ACCOUNT_MAX = 20
PROCESS_MAX = 200


class LivePages:
    """Counts these pages, and ends their updates when the process stops."""

    __slots__ = ("_counts", "_stopped", "_total")

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        """By account and person; the person is empty for the account's total."""
        self._total = 0
        self._stopped: set[asyncio.Event] = set()

    @contextlib.contextmanager
    def place(self, account_id: str, person: str) -> Iterator[asyncio.Event | None]:
        """A place for one page of this person: an event that is set when its updates must end; None if there is no
        room."""
        of_account, of_person = (account_id, ""), (account_id, person)
        if (
            self._total >= PROCESS_MAX
            or self._counts[of_account] >= ACCOUNT_MAX
            or self._counts[of_person] >= PERSON_MAX
        ):
            yield None
            return
        stopped = asyncio.Event()
        self._stopped.add(stopped)
        self._add(1, of_account, of_person)
        try:
            yield stopped
        finally:
            self._stopped.discard(stopped)
            self._add(-1, of_account, of_person)

    def stop(self) -> None:
        """The process is stopping: end all live updates."""
        for stopped in self._stopped:
            stopped.set()

    def _add(self, one: int, *keys: tuple[str, str]) -> None:
        self._total += one
        for key in keys:
            self._counts[key] += one
            if not self._counts[key]:
                del self._counts[key]
