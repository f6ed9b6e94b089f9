"""Waiting for money that other calls hold: a call is woken when any hold of its account ends in this process.

Holds that end in other processes of the same database cannot wake it: then a waiting call checks periodically.
"""

import asyncio

CHECK_SECONDS = 0.05
"""How soon a waiting call notices that a call of another process has returned money."""


class Waiters:
    """Calls that wait, by account."""

    def __init__(self, *, check_seconds: float | None = None) -> None:
        """`check_seconds`: longest wait without checking again; None if no other process serves."""
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._check_seconds = check_seconds

    async def wait(self, account_id: str, seconds: float) -> bool:
        """Wait until it is worth trying again, at most this long. Returns False if the time is up."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(account_id, set())
        waiting.add(future)
        check = self._check_seconds is not None and self._check_seconds < seconds
        try:
            done, _ = await asyncio.wait([future], timeout=self._check_seconds if check else seconds)
            return check or bool(done)
        finally:
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(account_id, None)

    def wake(self, account_id: str) -> None:
        """Wake every call that waits for this account."""
        for future in self._waiting.get(account_id, ()):
            if not future.done():
                future.set_result(None)
