"""Watching the database: whether it is available, and whether a synchronous standby is streaming from it.

Once a second the primary is queried on a dedicated connection. The first failure of any statement marks the database as
unavailable, so that nothing else waits for it: every request then fails at once. Each failure is checked immediately:
if it concerned only its own connection, the mark is cleared after a few milliseconds.

The mark is cleared when a commit has succeeded. A read does not suffice: commits wait for a synchronous standby.
After a full disk there must be space for a new file, too: a small commit may still fit where a call's does not.
"""

import asyncio
import contextlib
from typing import Literal

import asyncpg
import structlog

from farebox.storage.postgres.connecting import RECONNECTS_MAX, Session, connect, has_ended, translate_errors
from farebox.storage.sql import (
    DatabaseDamaged,
    DatabaseDiskFull,
    DatabaseFull,
    DatabaseUnavailable,
    NodeUnavailable,
    StandbyMissing,
)

Standby = Literal["ignore", "require"]

PROBE_EVERY_SECONDS = 1.0
DAMAGE_SECONDS = 600.0
"""How long damage is reported after it was last found: only a complete check could show that it is gone."""
COMMIT_PROBE_SECONDS = 2.0
"""Longest wait for the commit that proves that the database is available again."""
NODE_PROBE_SECONDS = 4.0
"""Longest wait for a node of Citus to respond: longer than a new connection to it may take."""

WATCH = "farebox watch"
"""The application name of the watch's connection: each gateway process has one."""

_ALIVE = "SELECT 1 AS streaming"
_STREAMING = (
    "SELECT count(*) AS streaming FROM pg_stat_replication "
    "WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')"
)
_COMMIT_PROBE = "SELECT pg_logical_emit_message(true, 'farebox', '')"
_ROOM = (
    "BEGIN; SET LOCAL work_mem = '64kB'; SELECT count(*) FROM "
    "(SELECT repeat('x', 100) || number FROM generate_series(1, 4000) AS number ORDER BY 1 OFFSET 0) AS sorted; COMMIT"
)
"""Sorts more rows than fit into its memory, and so writes a temporary file of half a megabyte."""
_CITUS = "SELECT 1 FROM get_current_transaction_id()"
"""Fails while the versions of the Citus library and its extension differ, unlike a statement that uses no table."""
_NODE = f"SELECT success FROM master_run_on_worker(ARRAY[$1], ARRAY[$2::integer], ARRAY['{_CITUS}'], false)"
_FIT = (
    "SELECT current_user, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees, "
    "current_setting('synchronous_commit') AS waits"
)

log = structlog.get_logger("farebox.storage")


class DatabaseHealth:
    """What is currently known about a database. `watch()` keeps it up to date."""

    def __init__(self, url: str, *, timeout: float, standby: Standby) -> None:
        self._url = url
        self._timeout = timeout
        self._standby: Standby = standby
        self._unavailable: DatabaseUnavailable | None = None
        self._full = ""
        """The error of a full disk, until there is space again."""
        self._standby_missing = False
        self._logged = False
        """Whether the current problem has been logged."""
        self._since = 0.0
        self.failure_count = 0
        self._latest: dict[str, DatabaseUnavailable] = {}
        self._damage: DatabaseDamaged | None = None
        self._damage_met = float("-inf")
        self.is_cluster = False
        """Whether the database is known to be the coordinator of a cluster."""
        self._nodes: dict[str, float] = {}
        """Nodes of Citus that are unavailable: host and port → since when."""
        self._session: Session | None = None
        self._probe_now = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def check_reads(self) -> None:
        """Raises DatabaseUnavailable if the database is unavailable."""
        if self._unavailable is not None:
            raise type(self._unavailable)(str(self._unavailable))

    def check(self) -> None:
        """Raises DatabaseUnavailable if the database is unavailable, or lacks a required standby."""
        self.check_reads()
        if self._standby_missing:
            raise StandbyMissing("no synchronous standby is streaming")

    def failed(self, error: DatabaseUnavailable) -> None:
        """Report that some work failed: nothing else need try before the watch has seen a commit succeed. (While a
        standby is missing, commits that wait for it fail: that is known already.)

        Damage does not make the database unavailable: it was found in one place, and others may be intact. Nor does
        an unavailable node of Citus: work for other nodes continues. In a cluster, a statement that took too long may
        also have waited for a node: the watch finds out whether the coordinator responds."""
        if isinstance(error, NodeUnavailable):
            self.is_cluster = True
            self._mark_node_unavailable(error)
            return
        if self.is_cluster and isinstance(error.__cause__, TimeoutError):
            self._probe_now.set()
            return
        error = self._with_cause(error)
        self.failure_count += 1
        self._latest[error.state] = error
        if isinstance(error, DatabaseDamaged):
            self._damage, self._damage_met = error, asyncio.get_running_loop().time()
            return
        if self._unavailable is None and not self._standby_missing and self._watching is not None:
            self._unavailable = error
            self._since = asyncio.get_running_loop().time()
            self._probe_now.set()

    def _with_cause(self, error: DatabaseUnavailable) -> DatabaseUnavailable:
        """The error; DatabaseDiskFull if the database has shut down because its disk was full."""
        if isinstance(error, DatabaseDiskFull):
            return error
        if isinstance(error, DatabaseFull):
            self._full = str(error)
        elif self._full and not isinstance(error, DatabaseDamaged):
            return DatabaseDiskFull(f"{error}; before that: {self._full}")
        return error

    @property
    def damage(self) -> DatabaseDamaged | None:
        """Damage found in the last minutes."""
        if asyncio.get_running_loop().time() - self._damage_met > DAMAGE_SECONDS:
            return None
        return self._damage

    def take_failures(self) -> list[DatabaseUnavailable]:
        """The failures since the last call, the latest of each state."""
        latest, self._latest = self._latest, {}
        return list(latest.values())

    def watch(self) -> None:
        """Start to watch, until `close`."""
        self._watching = asyncio.ensure_future(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        self._drop()

    async def _watch(self) -> None:
        while True:
            try:
                await self._probe()
            except Exception as error:  # noqa: BLE001 - whatever the error: a watch that ended would never see a recovery
                with contextlib.suppress(Exception):  # nor does it end because logging failed
                    self._mark_unavailable(error)
                self._drop()
            self._probe_now.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_EVERY_SECONDS):  # `wait_for` may swallow that `close` cancels this
                    await self._probe_now.wait()

    async def _probe(self) -> None:
        """Query the primary. Raises DatabaseUnavailable."""
        for _ in range(RECONNECTS_MAX):
            session = self._session = self._session or await connect(self._url, timeout=self._timeout, name=WATCH)
            try:
                await self._probe_session(session)
            except DatabaseUnavailable as error:
                if not has_ended(session, error):
                    raise
                self._drop()  # says nothing about the database
            else:
                return
        self._session = await connect(self._url, timeout=self._timeout, name=WATCH)
        await self._probe_session(self._session)

    async def _probe_session(self, session: Session) -> None:
        with translate_errors():
            query = _STREAMING if self._standby == "require" else _ALIVE
            if await session.fetchval(query) == 0:
                self._mark_standby_missing()
                return
            if self._full:
                await _check_space(session)
            if self._nodes:
                await self._probe_node(session, next(iter(self._nodes)))
            if self._unavailable is not None and isinstance(self._unavailable.__cause__, asyncpg.InternalServerError):
                await session.execute(_CITUS)  # only with Citus does such an error mean that a node is unavailable
            if self._unavailable is not None or self._standby_missing:
                await session.execute(_COMMIT_PROBE, timeout=min(COMMIT_PROBE_SECONDS, self._timeout))
        self._mark_available()

    def _mark_node_unavailable(self, error: NodeUnavailable) -> None:
        if error.node not in self._nodes:
            self._nodes[error.node] = asyncio.get_running_loop().time()
            until = "calls of its accounts are refused, and their charges journaled, until it is back"
            log.error("node unavailable", node=error.node, why=str(error), until=until)

    async def _probe_node(self, session: Session, node: str) -> None:
        """Whether the node is back; the next probe is of another unavailable node."""
        host, _, port = node.rpartition(":")
        there = False
        with contextlib.suppress(TimeoutError):  # it hangs; the coordinator does not
            there = port.isdecimal() and await session.fetchval(_NODE, host, int(port), timeout=NODE_PROBE_SECONDS)
        since = self._nodes.pop(node)
        if there:
            log.warning("node back", node=node, seconds=round(asyncio.get_running_loop().time() - since, 3))
        else:
            self._nodes[node] = since

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(Exception):  # dropped, whatever its state
                session.terminate()

    def _mark_unavailable(self, error: Exception) -> None:
        if self._unavailable is None and not self._standby_missing:
            self._since = asyncio.get_running_loop().time()
        if not isinstance(error, DatabaseUnavailable):
            error = DatabaseUnavailable(f"{type(error).__name__}: {error}")
        self._unavailable = self._with_cause(error)
        if not self._logged:
            self._logged = True
            until = "calls are refused, and charges journaled, until it is back"
            log.error("database unavailable", why=str(self._unavailable), until=until)

    def _mark_standby_missing(self) -> None:
        """Note that the primary responds, but no synchronous standby is streaming from it."""
        if self._unavailable is None and not self._standby_missing:
            self._since = asyncio.get_running_loop().time()
        self._unavailable = None
        if not self._standby_missing:
            self._standby_missing, self._logged = True, True
            log.error("standby missing", until="calls are refused, and charges journaled, until one streams")

    def _mark_available(self) -> None:
        if self._unavailable is None and not self._standby_missing:
            return
        seconds = round(asyncio.get_running_loop().time() - self._since, 3)
        logged, why, self._full = self._logged, str(self._unavailable), ""
        self._unavailable, self._standby_missing, self._logged = None, False, False
        if logged:
            log.warning("database back", seconds=seconds)
        else:
            log.info("database works again", why=why, seconds=seconds)


async def _check_space(session: Session) -> None:
    """Raises asyncpg.DiskFullError if there is no space."""
    try:
        await session.execute(_ROOM)
    except asyncpg.ConfigurationLimitExceededError:  # temp_file_limit: then the small commit that follows must suffice
        await session.execute("ROLLBACK")


async def check_fitness(session: Session, standby: Standby) -> None:
    """If a standby is required: check that its state is visible, and that commits wait for it.

    Raises DatabaseUnavailable, with what to do about it.
    """
    if standby == "ignore":
        return
    role, sees, waits = await session.fetchrow(_FIT)
    if not sees:
        raise DatabaseUnavailable(
            f"FAREBOX_STANDBY is `require`, and {role} cannot see whether a standby is streaming: run "
            f'`GRANT pg_monitor TO "{role}"` as a superuser'
        )
    if waits in ("off", "local"):
        raise DatabaseUnavailable(
            f"FAREBOX_STANDBY is `require`, and commits of {role} do not wait for a standby: set synchronous_commit "
            f"to `on` instead of `{waits}`"
        )
