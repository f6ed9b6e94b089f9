"""The ledger as the rest of the program sees it: send a command, await the verdict."""

from functools import partial
from typing import Protocol

from farebox.ledger.commands import Command, Verdict
from farebox.ledger.posting import apply
from farebox.storage.database import Database
from farebox.storage.sql import Connection


class Ledger(Protocol):
    """Any engine's ledger."""

    async def do(self, command: Command) -> Verdict:
        """Carry out `command`; the verdict comes after it is durable.

        Raises ledger.commands.Conflict, or storage.sql.DatabaseUnavailable: then whether it took effect is unknown,
        and sending the same command again finds out.
        """
        ...


class JobLedger:
    """Commands as jobs of the database, like everything else that is written. On SQLite they share its commits."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def do(self, command: Command) -> Verdict:
        return await self._database.write(partial(_apply, command))


def ledger_of(database: Database) -> Ledger:
    """The ledger that serves calls on this database."""
    return JobLedger(database)


def _apply(command: Command, connection: Connection) -> Verdict:
    return apply(connection, command)
