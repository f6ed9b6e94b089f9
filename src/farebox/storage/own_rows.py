"""Tables of things that accounts set up for themselves, one per row: they are found, listed, stored and deleted by key.

A table's columns are the fields of its dataclass. A row's key is its account and the columns in `key`. It begins with
`account_id`, so a prefix of a key selects all rows of an account, or of a gateway.
"""

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, Generic, TypeVar

from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.config import note_change
from farebox.storage.sql import Connection, row, rows

R = TypeVar("R")


class OwnRows(Generic[R]):
    """One table. `made` creates a row from its columns, which begin with `account_id`."""

    def __init__(
        self, table: str, columns: str, key: tuple[str, ...], order: str, made: Callable[..., R], *, served: bool
    ) -> None:
        """`order` is the order of lists. `served`: calls depend on the rows, so changes are recorded for other
        processes' caches."""
        names = columns.split(", ")
        changed = [name for name in names if name not in ("account_id", "created_at", *key)]
        wheres = [OF_ACCOUNT + "".join(f" AND {name} = ?" for name in key[:count]) for count in range(len(key) + 1)]
        self._find = f"SELECT {columns} FROM {table} WHERE {wheres[-1]}"
        self._list = [
            f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?" for where in wheres[:-1]
        ]
        self._delete = [f"DELETE FROM {table} WHERE {where}" for where in wheres[1:]]
        self._put = (
            f"INSERT INTO {table} (bucket, {columns}) VALUES ({', '.join('?' * (len(names) + 1))}) "
            f"ON CONFLICT (bucket, account_id, {', '.join(key)}) "
            f"DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in changed)}"
        )
        self._values: Callable[[R], tuple[Any, ...]] = attrgetter(*names)
        self._made = made
        self._served = served

    def statements(self) -> Iterator[str]:
        """All statements that it executes."""
        yield from (self._find, self._put, *self._list, *self._delete)

    def find(self, connection: Connection, account_id: str, *key: str) -> R | None:
        found = row(connection, self._find, (*key_of(connection, account_id), *key))
        return None if found is None else self._made(*found)

    def list(self, connection: Connection, account_id: str, *part: str, offset: int = 0, limit: int = 2**31) -> list[R]:
        """The rows whose keys begin with these values."""
        values = (*key_of(connection, account_id), *part, limit, offset)
        found = rows(connection, self._list[len(part)], values)
        return [self._made(*fields) for fields in found]

    def put(self, connection: Connection, made: R) -> None:
        """Create the row, or replace all of it except its key and creation time. Does nothing if there is no such
        account."""
        account_id, *values = self._values(made)
        key = find_key(connection, account_id)
        if key is None:
            return
        if self._served:
            note_change(connection, account_id)
        connection.execute(self._put, (*key, *values))

    def delete(self, connection: Connection, account_id: str, *key: str) -> None:
        if self._served:
            note_change(connection, account_id)
        self.clear(connection, account_id, *key)

    def clear(self, connection: Connection, account_id: str, *part: str) -> None:
        """Delete the rows whose keys begin with these values; the caller records the change."""
        connection.execute(self._delete[len(part) - 1], (*key_of(connection, account_id), *part))
