"""An in-memory database for one thread, used to replay what the ledger would have decided."""

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.sql import Connection
from farebox.storage.sqlite import SqliteConnection, migrate


def scratch_database() -> Connection:
    """An empty database inside a transaction that never ends: nothing is kept."""
    connection = SqliteConnection(":memory:")
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    migrate(connection)
    connection.execute("BEGIN")
    return connection


def forget_ended(connection: Connection, account_id: str) -> None:
    """Delete the ended holds and the transfers of an account of such a database: its balance is kept up to date without
    them."""
    key = key_of(connection, account_id)
    connection.execute(f"DELETE FROM holds WHERE {OF_ACCOUNT} AND state = 'settled'", key)
    connection.execute(f"DELETE FROM transfers WHERE {OF_ACCOUNT}", key)
