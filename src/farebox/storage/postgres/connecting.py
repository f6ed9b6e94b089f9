"""Connections to PostgreSQL, and its failures by the name that the rest of the program knows."""

import asyncio
import re
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from asyncpg import exceptions as of

from farebox.storage.sql import DatabaseUnavailable

CONNECT_SECONDS = 5.0
STATEMENTS_KEPT = 1000
"""Prepared statements kept by a connection: all that the stores have."""

_LET_GO = {
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""The server ends a connection whose client was cut off, and with it the turn and the locks that it had."""

_ISOLATION = {"default_transaction_isolation": "read committed"}
"""Whatever the server, the database or the role has: what waited for a lock must see what was committed meanwhile."""

_CITUS = {"citus.override_table_visibility": "off"}
"""On Citus asyncpg's look-up of types takes seconds with it. PostgreSQL without Citus takes no notice."""

TRY_AGAIN = (of.SerializationError, of.DeadlockDetectedError)
"""The transaction was undone for another's sake; the same again may pass."""

_UNAVAILABLE = (
    OSError,
    asyncio.TimeoutError,
    of.PostgresConnectionError,
    of.InterfaceError,
    of.InternalClientError,
    of.OperatorInterventionError,  # shut down, crashed, starting, cancelled
    of.InsufficientResourcesError,  # disk full, too many connections
    of.ReadOnlySQLTransactionError,  # a standby: the primary is another by now
    of.InvalidAuthorizationSpecificationError,
    of.InvalidCatalogNameError,
    of.TargetServerAttributeNotMatched,
)

Session = asyncpg.Connection


@contextmanager
def named() -> Iterator[None]:
    """What PostgreSQL, or the way to it, refuses becomes DatabaseUnavailable; a wrong statement's error stays."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise DatabaseUnavailable(f"the database cannot be used now: {str(error) or type(error).__name__}") from error


async def connect(url: str, *, timeout: float, name: str = "farebox") -> Session:
    """A connection to the primary. `timeout` is the longest a statement may take, in seconds.

    A URL may name several hosts (`postgresql://a,b/farebox`): all are tried at once, because one that is gone may not
    answer at all, and the one that takes writes is used. Raises DatabaseUnavailable.
    """
    urls = one_a_host(url)
    with named():
        if len(urls) == 1:
            session = await _connect(url, timeout, name)
        else:
            session = await _first([_connect(one, timeout, name) for one in urls])
        # Sums of bigint are numeric: whole numbers all the same.
        await session.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text")
    return session


async def _connect(url: str, timeout: float, name: str) -> Session:
    session: Session = await asyncpg.connect(
        url,
        timeout=min(CONNECT_SECONDS, timeout),
        command_timeout=timeout,
        statement_cache_size=STATEMENTS_KEPT,
        max_cached_statement_lifetime=0,
        target_session_attrs="primary",
        server_settings={"application_name": name, "timezone": "UTC", "jit": "off", **_LET_GO, **_ISOLATION, **_CITUS},
    )
    return session


async def _first(attempts: list[Coroutine[Any, Any, Session]]) -> Session:
    """The first connection that is made; the others are given up. Raises what is wrong with all of them."""
    tasks = [asyncio.ensure_future(attempt) for attempt in attempts]
    found: list[Session] = []
    failures: list[BaseException] = []
    try:
        for done in asyncio.as_completed(tasks):
            try:
                found.append(await done)
                break
            except _UNAVAILABLE as failure:
                failures.append(failure)
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Session) and ended not in found:
                ended.terminate()
    if not found:
        raise DatabaseUnavailable("no host takes writes: " + "; ".join(f"{failure}" for failure in failures))
    return found[0]


_SEVERAL_HOSTS = re.compile(r"(\w+://(?:[^@/?]*@)?)([^/?]*,[^/?]*)(.*)")


def one_a_host(url: str) -> list[str]:
    """The URL as it is for each of the hosts that it names."""
    parts = _SEVERAL_HOSTS.fullmatch(url)
    return [url] if parts is None else [f"{parts[1]}{host}{parts[3]}" for host in parts[2].split(",")]


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)
