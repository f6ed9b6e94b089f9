"""Detects a pooler in front of PostgreSQL that gives each transaction a different server session.

Statements are prepared, settings made and locks taken per session: with such a pooler they would end up in other
clients' sessions.
"""

from collections.abc import Awaitable, Callable

from farebox.storage.postgres.connecting import POOLED, Session
from farebox.storage.sql import DatabaseUnavailable

ROUNDS = 3


async def require_sessions(session: Session, another: Callable[[], Awaitable[Session]]) -> None:
    """Raises DatabaseUnavailable unless the session stays with one server process for as long as it lasts.

    Without a pooler the server process is the one reported when we connected, and nothing else is checked. A pooler
    reports one of its own. In transaction mode two clients that are connected at once then share a server process, or
    one of them uses several.
    """
    if await session.fetchval("SELECT pg_backend_pid()") == session.get_server_pid():
        return
    second = await another()
    try:
        mine, others = set(), set()
        for _ in range(ROUNDS):
            for _ in range(2):  # twice: a pooler may hand out idle sessions in turn
                mine.add(await _process(session))
            async with second.transaction():
                others.add(await second.fetchval("SELECT pg_backend_pid()"))
                mine.add(await _process(session))
    finally:
        second.terminate()
    if len(mine) > 1 or len(others) > 1 or mine & others:
        raise DatabaseUnavailable(POOLED)


async def _process(session: Session) -> int:
    async with session.transaction():
        return int(await session.fetchval("SELECT pg_backend_pid()"))
