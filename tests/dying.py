"""Processes that die anywhere: every use of what leaves a process is a point before it and a point after it.

A process that dies does nothing more. So what ends it here is no Exception: nothing that handles errors runs, only what
gives back memory and connections, as the system does. What it has left open is ended as at the next start.
"""

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pytest
import structlog

from farebox.ledger.recovery import Policy, holds_of, resolve_lost
from tests.support import Customer


class Died(BaseException):
    """The process, at this point."""


class Life:
    """One life, in which the process dies at the point of a number: a context. Jobs in the background live on."""

    def __init__(self, point: int, functions: tuple[tuple[Any, str], ...]) -> None:
        self.point = point
        self.died = False
        self._passed = 0
        self._functions = functions
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> "Life":
        for owner, name in self._functions:
            self._patch.setattr(owner, name, self._mortal(getattr(owner, name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        self._patch.undo()
        return isinstance(error, Died)

    def _mortal(self, function: Any) -> Any:
        async def mortal(*arguments: Any, **named: Any) -> Any:
            task = asyncio.current_task()
            if task is not None and task.get_name().startswith("job "):
                return await function(*arguments, **named)
            self._pass()
            result = await function(*arguments, **named)
            self._pass()
            return result

        return mortal

    def _pass(self) -> None:
        self._passed += 1
        if self._passed == self.point:
            self.died = True
            raise Died(self.point)


def lives(*functions: tuple[Any, str], at_least: int, at_most: int = 60) -> Iterator[Life]:
    """A life for every point, until one passes them all. Fails if there are fewer than `at_least`: then what should
    leave the process does not pass here."""
    for point in range(1, at_most):
        life = Life(point, functions)
        yield life
        if not life.died:
            assert point > at_least, "there are not as many points as there should be"
            return
    pytest.fail("it has no end")


def recover(customer: Customer, policy: Policy = "release") -> None:
    """End what the dead process has left open of the account's, as the next one does."""
    services = customer.farebox.services

    async def end() -> None:
        left = await services.database.scan(lambda connection: holds_of(connection, services.instance))
        mine = [hold for hold in left if hold.account_id == customer.account_id]
        at, log = services.clock.now_ms(), structlog.get_logger("farebox")
        await resolve_lost(services.ledger, services.database, mine, policy=policy, at=at, log=log)

    customer.farebox.run(end())
