"""Connections to PostgreSQL, and its failures by the name that the rest of the program knows."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from asyncpg import exceptions as of

from farebox.storage.sql import DatabaseUnavailable

CONNECT_SECONDS = 5.0
STATEMENTS_KEPT = 1000
"""Prepared statements kept by a connection: all that the stores have."""

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

    A URL may name several hosts (`postgresql://a,b/farebox`): the one that takes writes is used. Raises
    DatabaseUnavailable.
    """
    with named():
        session: Session = await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            command_timeout=timeout,
            statement_cache_size=STATEMENTS_KEPT,
            max_cached_statement_lifetime=0,
            target_session_attrs="primary",
            server_settings={"application_name": name, "timezone": "UTC", "jit": "off"},
        )
        # Sums of bigint are numeric: whole numbers all the same.
        await session.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text")
    return session


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)
