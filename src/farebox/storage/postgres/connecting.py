"""Connections to PostgreSQL, and its failures translated to the errors that the rest of the program knows."""

import asyncio
import re
import socket
from collections.abc import Coroutine, Mapping
from typing import Any

import asyncpg
from asyncpg import exceptions as of

from farebox.storage.postgres.url import ConnectionTarget, parse
from farebox.storage.sql import DatabaseDamaged, DatabaseFull, DatabaseUnavailable, NodeUnavailable

CONNECT_SECONDS = 5.0
RECONNECTS_MAX = 6
"""How often an operation is restarted because its session was terminated by an administrator or a pooler. Usually
another session works at once; if all are terminated, the database counts as unavailable."""
STATEMENTS_KEPT = 1000
"""Prepared statements cached by a connection: enough for all statements of the stores."""

_CLIENT_TIMEOUTS = {
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""The server ends a connection whose client is unreachable, and releases its locks."""

_ISOLATION = {"default_transaction_isolation": "read committed"}
"""Overrides the default of server, database and role: after waiting for a lock, a job must see what was committed
in the meantime."""

_CITUS = {"citus.override_table_visibility": "off", "citus.node_connection_timeout": "3000"}
"""On Citus: asyncpg's look-up of types takes seconds if table visibility is overridden; and with this connection
timeout, a statement for a node that does not respond fails before our own timeout. PostgreSQL without Citus ignores
both."""

_SETTINGS = {"jit": "off", **_CLIENT_TIMEOUTS, **_ISOLATION, **_CITUS}
"""Set after connecting, not as startup parameters: a pooler rejects those that it does not know, or ignores them if
configured to."""

_PLANNED = {"plan_cache_mode": "force_custom_plan"}
"""A generic plan assumes that every account is of average size: to find the latest fifty calls of a large account it
reads all of its calls. PostgreSQL makes such a plan at the sixth execution and keeps it."""

TRY_AGAIN = (of.SerializationError, of.DeadlockDetectedError)
"""The transaction was rolled back on behalf of another; retrying may succeed."""

_UNAVAILABLE = (
    OSError,
    asyncio.TimeoutError,
    of.PostgresConnectionError,
    of.InterfaceError,
    of.InternalClientError,
    of.OperatorInterventionError,  # shut down, crashed, starting, canceled
    of.InsufficientResourcesError,  # disk full, too many connections
    of.ReadOnlySQLTransactionError,  # a standby: another server is the primary now
    of.InvalidAuthorizationSpecificationError,
    of.InvalidCatalogNameError,
    of.TargetServerAttributeNotMatched,
)

POOLED = (
    "a pooler in transaction mode is in front of PostgreSQL, and Farebox needs sessions of its own: set pool_mode = "
    "session for this database, or connect to PostgreSQL directly (docs/postgresql.md)"
)
_OF_A_POOLER = (of.DuplicatePreparedStatementError, of.InvalidSQLStatementNameError)
"""The errors that occur if one session's statements are used, or prepared again, in another."""
_DAMAGED = (of.DataCorruptedError, of.IndexCorruptedError)

_OF_CITUS = ("postmaster was shut down", "loaded Citus library version differs", "connection marked as essential")
"""Internal errors of Citus that go away by themselves: those of a session that waits for another node while its own
server is killed; those of a node whose Citus is being upgraded, between the installation of the package and ALTER
EXTENSION; and those of a transaction whose connection to a node has failed."""
_WITHOUT_CITUS = "function assign_distributed_transaction_id("
"""What a node lacks whose database has lost the extension, as one that was restored or replaced without it."""

_ON_A_NODE = "while executing command on "
_TO_A_NODE = re.compile(
    r"(?:connection to the remote node (?:\S+@)?|failure on connection marked as essential: "
    r"|could not establish any connections to the node )([^\s@]+:\d+)"
)
"""How Citus names the node that refuses, breaks off, or does not answer (13.2.2)."""

Session = asyncpg.Connection


def node_unavailable(error: BaseException) -> NodeUnavailable | None:
    """NodeUnavailable if the Citus coordinator responds and reports another node as unavailable; None for other
    errors."""
    if not isinstance(error, of.PostgresError) or not (isinstance(error, _UNAVAILABLE) or _is_of_citus(error)):
        return None
    context = getattr(error, "context", None) or ""
    found = _TO_A_NODE.search(str(error))
    if found is not None:
        node = found[1]
    elif _ON_A_NODE in context:
        node = context.partition(_ON_A_NODE)[2].split()[0]
    else:
        return None
    return NodeUnavailable(f"a node of the database cannot be used now: {error}", node)


def _is_of_citus(error: BaseException) -> bool:
    if isinstance(error, of.UndefinedFunctionError):
        return _WITHOUT_CITUS in str(error)
    return isinstance(error, of.InternalServerError) and any(text in str(error) for text in _OF_CITUS)


class translate_errors:
    """Failures of PostgreSQL or the connection become DatabaseUnavailable; errors of a wrong statement are raised
    unchanged. (A class, because every query uses it: as a generator it took several times as long.)"""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and (found := _translated(error)) is not None:
            raise found from error


def _translated(error: BaseException) -> DatabaseUnavailable | None:
    """The translated error; None if the error is to be raised unchanged."""
    if isinstance(error, _OF_A_POOLER):
        return DatabaseUnavailable(POOLED)
    if isinstance(error, _DAMAGED):
        return DatabaseDamaged(f"the database is damaged: {error}")
    if not isinstance(error, _UNAVAILABLE) and not _is_of_citus(error):
        return None
    if (unavailable := node_unavailable(error)) is not None:
        return unavailable
    if "statement pooling mode" in str(error):
        return DatabaseUnavailable(POOLED)
    # A server that shuts down because its disk is full reports that last, and then the connection is lost.
    full = isinstance(error, of.DiskFullError) or isinstance(error.__cause__, of.DiskFullError)
    kind = DatabaseFull if full else DatabaseUnavailable
    return kind(f"the database cannot be used now: {str(error) or type(error).__name__}")


_TERMINATED = (of.AdminShutdownError, of.ConnectionDoesNotExistError, of.InternalClientError)
"""asyncpg 0.32 raises InternalClientError if the server ends a session at the moment when a statement begins."""
_ENDED = (ConnectionError, of.CrashShutdownError, *_TERMINATED)


def has_ended(session: Session, error: DatabaseUnavailable) -> bool:
    """Whether the session has ended, as opposed to the database being unreachable or too slow."""
    return session.is_closed() or (isinstance(error.__cause__, _ENDED) and not isinstance(error, NodeUnavailable))


async def connect(url: str, *, timeout: float, name: str = "farebox", plan_each: bool = False) -> Session:
    """A connection to the primary. `timeout` is the longest a statement may take, in seconds. With `plan_each`,
    statements are planned for their values every time.

    A URL may name several hosts (`postgresql://a,b/farebox`): all are tried at once, because a dead one may not respond
    at all, and the one that accepts writes is used. Raises DatabaseUnavailable; SettingsError if the URL is invalid.
    """
    target = parse(url)
    for _ in range(RECONNECTS_MAX - 1):
        try:
            return await _connected(target, timeout, name, plan_each)
        except DatabaseUnavailable as error:
            if not isinstance(error.__cause__, _TERMINATED):
                raise
    return await _connected(target, timeout, name, plan_each)


async def _connected(target: ConnectionTarget, timeout: float, name: str, plan_each: bool) -> Session:
    with translate_errors():
        attempts = [_connect(target, host, port, timeout, name, plan_each) for host, port in target.hosts]
        return await (attempts[0] if len(attempts) == 1 else _first(attempts))


async def _connect(
    target: ConnectionTarget, host: str | None, port: int | None, timeout: float, name: str, plan_each: bool
) -> Session:
    if target.application_name:
        name = f"{name} {target.application_name}"
    session: Session = await asyncpg.connect(
        host=host,
        port=port,
        **target.arguments,
        timeout=min(target.connect_seconds or CONNECT_SECONDS, timeout),
        command_timeout=timeout,
        statement_cache_size=STATEMENTS_KEPT,
        max_cached_statement_lifetime=0,
        target_session_attrs="primary",
        server_settings={"application_name": name, "timezone": "UTC", **target.startup},
    )
    try:
        await _prepare(session, target, _SETTINGS | _PLANNED if plan_each else _SETTINGS)
    except BaseException:  # above all the caller's cancellation: nothing else would ever close the connection
        session.terminate()
        raise
    return session


async def _prepare(session: Session, target: ConnectionTarget, settings: Mapping[str, str]) -> None:
    await session.execute("; ".join(f"SET {key} = '{value}'" for key, value in settings.items()))
    if target.search_path:
        await session.fetchval("SELECT set_config('search_path', $1, false)", target.search_path)
    # Sums of bigint are numeric, and always whole numbers.
    await session.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text")
    connected = session._transport.get_extra_info("socket")
    if connected.family != socket.AF_UNIX:
        for option in target.socket_options:
            connected.setsockopt(*option)


async def _first(attempts: list[Coroutine[Any, Any, Session]]) -> Session:
    """The first connection that succeeds; the others are abandoned. Raises the errors of all of them."""
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
        raise DatabaseUnavailable("no host accepts writes: " + "; ".join(f"{failure}" for failure in failures))
    return found[0]


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)
