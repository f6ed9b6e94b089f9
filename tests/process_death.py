"""Simulates processes that die at any point: there is one before and after each call of functions
that commit or send requests.

A dead process does nothing more. So what ends it here is not an Exception: no error handler runs, only code that frees
memory and connections, as the system would. What it left open is ended as at the next start.
"""

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pytest
import structlog

from farebox.ledger.recovery import Policy, holds_of, resolve_lost
from tests.support import Customer


class ProcessDied(BaseException):
    """The process, at this point."""


class CrashPoint:
    """The process dies at point number `point`; a context manager. Background jobs continue."""

    def __init__(self, point: int, functions: tuple[tuple[Any, str], ...]) -> None:
        self.point = point
        self.died = False
        self._passed = 0
        self._functions = functions
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> "CrashPoint":
        for owner, name in self._functions:
            self._patch.setattr(owner, name, self._intercepted(getattr(owner, name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        self._patch.undo()
        return isinstance(error, ProcessDied)

    def _intercepted(self, function: Any) -> Any:
        async def intercepted(*arguments: Any, **named: Any) -> Any:
            task = asyncio.current_task()
            if task is not None and task.get_name().startswith("job "):
                return await function(*arguments, **named)
            self._pass()
            result = await function(*arguments, **named)
            self._pass()
            return result

        return intercepted

    def _pass(self) -> None:
        self._passed += 1
        if self._passed == self.point:
            self.died = True
            raise ProcessDied(self.point)


def crash_at_each_point(*functions: tuple[Any, str], at_least: int, at_most: int = 60) -> Iterator[CrashPoint]:
    """One run for each point, until a run passes them all. Fails if there are fewer than `at_least` points, because
    then some commits or requests are not intercepted."""
    for point in range(1, at_most):
        crash = CrashPoint(point, functions)
        yield crash
        if not crash.died:
            assert point > at_least, "there are fewer points than expected"
            return
    pytest.fail("the number of points does not end")


def recover(customer: Customer, policy: Policy = "release") -> None:
    """End what the dead process left open on the account, as the next process does."""
    services = customer.farebox.services

    async def end() -> None:
        left = await services.database.scan(lambda connection: holds_of(connection, services.instance))
        mine = [hold for hold in left if hold.account_id == customer.account_id]
        at, log = services.clock.now_ms(), structlog.get_logger("farebox")
        await resolve_lost(services.ledger, services.database, mine, policy=policy, at=at, log=log)

    customer.farebox.run(end())
