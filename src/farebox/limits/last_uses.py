"""When keys were last used: collected in memory, and written together by a job (runtime.last_uses)."""

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["token", "provider_config", "provider"]
"""Kind of a key: an access token, an account's stored key, or the operator's key at a provider."""
WAITING_MAX: Final = 100_000
"""Maximum number of keys whose use waits to be written. Uses of further keys are not recorded until these are
written."""

Used: TypeAlias = tuple[str, Kind, str]
"""A key: its account (for the operator's keys, the operator's account), its kind, and its ID, which is unique within
the kind."""


class LastUses:
    """The uses that are not written yet. Times are milliseconds since the Unix epoch."""

    def __init__(self) -> None:
        self._waiting: dict[Used, int] = {}

    def note(self, key: Used, at: int) -> None:
        """Record that a key was used at this time."""
        waiting = self._waiting
        if key in waiting or len(waiting) < WAITING_MAX:
            waiting[key] = at

    def take(self) -> dict[Used, int]:
        """Take all uses that wait to be written."""
        waiting, self._waiting = self._waiting, {}
        return waiting

    def put_back(self, uses: Iterable[tuple[Used, int]]) -> None:
        """Return uses that could not be written. Later uses of the same keys are kept."""
        self._waiting = dict(uses) | self._waiting
