"""The ledger as the rest of the program sees it: send a command, await the verdict."""

from collections.abc import Sequence
from typing import Protocol

from farebox.ledger.commands import CallWritten, Command, Verdict
from farebox.storage.database import Database


class Ledger(Protocol):
    """The ledger of either engine."""

    async def do(self, command: Command) -> Verdict:
        """Carry out `command`; the verdict comes after it is durable.

        Raises ledger.commands.Conflict, or storage.sql.DatabaseUnavailable: then whether it took effect is unknown,
        and sending the same command again finds out.
        """
        ...

    def check(self, account_id: str) -> None:
        """Raises DatabaseUnavailable if the account's commands are already known to fail, because the node of its
        bucket was unavailable a moment ago. Does not wait."""
        ...

    async def record(self, account_id: str, record: CallWritten) -> None:
        """Write the row of a call for which nothing was held; durable when it returns. A repeat changes nothing, and
        so does a row for an account that does not exist.

        Raises storage.sql.DatabaseUnavailable, as `do` does.
        """
        ...

    async def record_all(self, records: Sequence[tuple[str, CallWritten]]) -> None:
        """`record` for many at once, each with its account. If it raises, some or all of them may have been written."""
        ...

    async def close(self) -> None:
        """Finish what was sent; then nothing more may be. The database stays open."""
        ...


def ledger_of(database: Database, instance: str) -> Ledger:
    """The ledger that serves calls on this database, for the process `instance`; no other ledger may have the same
    name. Call it inside the running loop."""
    if database.engine == "sqlite":
        from farebox.ledger.batches import BatchLedger
        from farebox.storage.sqlite.database import SqliteDatabase

        assert isinstance(database, SqliteDatabase)
        return BatchLedger(database)
    from farebox.ledger.lanes import LaneLedger
    from farebox.storage.postgres.database import PostgresDatabase

    assert isinstance(database, PostgresDatabase)
    return LaneLedger(database, instance)
