"""A ledger in which every command is a job of the database: on PostgreSQL, for the commands that the lanes leave to
it."""

from collections.abc import Sequence
from functools import partial

from farebox.ledger.commands import CallWritten, Command, Outcome, Verdict
from farebox.ledger.posting import apply
from farebox.storage.accounts import find_account
from farebox.storage.database import Database
from farebox.storage.sql import Connection


class JobLedger:
    """Commands as jobs of the database, like everything else that is written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def do(self, command: Command) -> Verdict:
        return await self._database.write(partial(_apply, command))

    def check(self, account_id: str) -> None:
        """Does nothing: whether the database works shows only when a job (a write) runs."""

    async def record(self, account_id: str, record: CallWritten) -> None:
        await self._database.write(partial(_record, account_id, record))

    async def record_all(self, records: Sequence[tuple[str, CallWritten]]) -> None:
        for account_id, record in records:
            await self.record(account_id, record)

    async def close(self) -> None:
        """Does nothing: the database finishes what was sent."""


def _apply(command: Command, connection: Connection) -> Verdict:
    return apply(connection, command)


def _record(account_id: str, record: CallWritten, connection: Connection) -> None:
    account = find_account(connection, account_id)
    if account is not None:
        record.write(connection, account.bucket, Verdict(Outcome.UNKNOWN))
