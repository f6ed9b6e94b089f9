"""When keys were last used: gathered in memory, and written together by a job (runtime.last_uses)."""

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["token", "provider_config", "provider"]
"""Of a key: an access token, a stored key of an account's, the operator's at a provider."""
WAITING_MAX: Final = 100_000
"""Keys whose use waits to be written. What comes beyond has been used no later than before, until these are written."""

Used: TypeAlias = tuple[str, Kind, str]
"""A key: its account (that of the operator for the operator's), its kind, and its ID, which is unique for the kind."""


class LastUses:
    """The uses that are not written yet. Times in milliseconds since the epoch."""

    def __init__(self) -> None:
        self._waiting: dict[Used, int] = {}

    def note(self, key: Used, at: int) -> None:
        """It has been used at this time."""
        waiting = self._waiting
        if key in waiting or len(waiting) < WAITING_MAX:
            waiting[key] = at

    def take(self) -> dict[Used, int]:
        """What waits, and waits no longer."""
        waiting, self._waiting = self._waiting, {}
        return waiting

    def put_back(self, uses: Iterable[tuple[Used, int]]) -> None:
        """They could not be written: later ones stand."""
        self._waiting = dict(uses) | self._waiting
