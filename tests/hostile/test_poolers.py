"""Poolers that answer every query but give each transaction another server session, which shows only in the server's
process IDs. PgBouncer 1.18 is detected earlier (test_pgbouncer.py)."""

import contextlib
from collections.abc import Iterator
from itertools import cycle, repeat
from typing import Any, cast

import pytest

from farebox.storage.postgres.connecting import Session
from farebox.storage.postgres.pooler import require_sessions
from farebox.storage.sql import DatabaseUnavailable

POOLERS_OWN = 99


class Pooled:
    """A client's connection, and the server process that each of its queries reaches."""

    def __init__(self, processes: Iterator[int], *, named: int = POOLERS_OWN) -> None:
        self._processes = processes
        self._named = named

    def get_server_pid(self) -> int:
        return self._named

    async def fetchval(self, query: str) -> int:
        return next(self._processes)

    def transaction(self) -> "contextlib.AbstractAsyncContextManager[Any]":
        return contextlib.nullcontext()

    def terminate(self) -> None:
        """Nothing to close."""


async def check_sessions(mine: Iterator[int], others: Iterator[int], **more: int) -> None:
    async def another() -> Session:
        return cast(Session, Pooled(others))

    await require_sessions(cast(Session, Pooled(mine, **more)), another)


async def test_one_session_per_connection_is_required() -> None:
    await check_sessions(repeat(11), repeat(12))


async def test_without_a_pooler_no_second_session_is_opened() -> None:
    await check_sessions(iter([11]), iter(()), named=11)


@pytest.mark.parametrize(
    ("mine", "others"),
    [((11,), (11,)), ((11, 12), (13,)), ((11,), (12, 13))],
    ids=["one for both", "several for one", "several for the other"],
)
async def test_poolers_with_changing_sessions_are_refused(mine: tuple[int, ...], others: tuple[int, ...]) -> None:
    with pytest.raises(DatabaseUnavailable, match="pool_mode = session"):
        await check_sessions(cycle(mine), cycle(others))
