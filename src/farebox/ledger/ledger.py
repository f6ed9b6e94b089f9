"""The ledger as the rest of the program sees it: send a command, await the verdict."""

from functools import partial
from typing import Protocol

from farebox.ledger.commands import Command, Verdict
from farebox.ledger.posting import apply
from farebox.storage.sql import Connection
from farebox.storage.writer import Writer


class Ledger(Protocol):
    """Any engine's ledger."""

    async def do(self, command: Command) -> Verdict:
        """Carry out `command`; the verdict comes after it is durable.

        Raises ledger.commands.Conflict, or storage.sql.DatabaseUnavailable: then whether it took effect is unknown,
        and sending the same command again finds out.
        """
        ...


class SqliteLedger:
    """The embedded ledger: commands share the writer's commits with everything else that is written."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def do(self, command: Command) -> Verdict:
        return await self._writer.run(partial(_apply, command))


def _apply(command: Command, connection: Connection) -> Verdict:
    return apply(connection, command)
