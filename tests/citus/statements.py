"""Records every statement that a server sends to its cluster, and the number of tasks into which Citus divides it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from farebox.storage.postgres import connecting
from tests.postgres.server import in_a_loop

_PLANNED = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_TASKS = re.compile(r"Task Count: (\d+)")


@dataclass(slots=True)
class Statements:
    """The texts of statements with the last values of each, recorded while it is `open`."""

    seen: dict[str, Sequence[Any]] = field(default_factory=dict)
    open: bool = False

    def note(self, sql: str, values: Sequence[Any]) -> None:
        if self.open:
            self.seen[sql] = values

    def tasks(self, url: str) -> dict[str, int]:
        """Statement with a plan → its number of tasks; 0 if it stays on the coordinator."""

        async def explain() -> dict[str, int]:
            session = await asyncpg.connect(url, ssl=False, server_settings={"citus.override_table_visibility": "off"})
            await session.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=str, format="text")
            try:
                return {
                    sql: max(map(int, _TASKS.findall("\n".join(row[0] for row in lines))), default=0)
                    for sql, values in self.seen.items()
                    if _PLANNED.match(sql)
                    for lines in [await session.fetch(f"EXPLAIN (COSTS OFF) {sql}", *values)]
                }
            finally:
                await session.close()

        return in_a_loop(explain)


def recorded(monkeypatch: pytest.MonkeyPatch) -> Statements:
    """Record all sessions that Farebox opens in this process from here on."""
    statements = Statements()

    class Recorded(asyncpg.Connection):  # type: ignore[misc,unused-ignore]
        async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
            statements.note(query, args)
            said: str = await super().execute(query, *args, timeout=timeout)
            return said

        async def fetch(self, query: str, *args: Any, **more: Any) -> list[Any]:
            statements.note(query, args)
            found: list[Any] = await super().fetch(query, *args, **more)
            return found

        async def fetchval(self, query: str, *args: Any, **more: Any) -> Any:
            statements.note(query, args)
            return await super().fetchval(query, *args, **more)  # type: ignore[no-untyped-call]

        async def prepare(self, query: str, **more: Any) -> Any:
            prepared = await super().prepare(query, **more)  # type: ignore[no-untyped-call]

            async def fetchval(*args: Any) -> Any:
                statements.note(query, args)
                return await prepared.fetchval(*args)

            return SimpleNamespace(fetchval=fetchval)

    recording = SimpleNamespace(connect=partial(asyncpg.connect, connection_class=Recorded))
    monkeypatch.setattr(connecting, "asyncpg", recording)
    return statements
