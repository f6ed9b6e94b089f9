"""Waiting for money that other calls hold: a call is woken when any hold of its account ends in this process."""

import asyncio


class Waiters:
    """Calls that wait, by account."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    async def wait(self, account_id: str, seconds: float) -> bool:
        """Wait for a wake-up of the account, at most so long. Whether one came."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(account_id, set())
        waiting.add(future)
        try:
            done, _ = await asyncio.wait([future], timeout=seconds)
            return bool(done)
        finally:
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(account_id, None)

    def wake(self, account_id: str) -> None:
        """Let everyone who waits for this account try again."""
        for future in self._waiting.get(account_id, ()):
            if not future.done():
                future.set_result(None)
