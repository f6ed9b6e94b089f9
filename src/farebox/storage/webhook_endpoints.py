"""The store of endpoints: the URLs that messages are sent to. Times are milliseconds since the Unix epoch."""

import json
from dataclasses import dataclass, field
from typing import Any

from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where messages go. `account_id` None: the operator's own, for the messages of every account."""

    endpoint_id: str
    account_id: str | None
    url: str
    secret: bytes = field(repr=False)
    """Encrypted, bound to the endpoint."""
    kinds: tuple[str, ...]
    """Kinds of notice; empty: all."""
    created_at: int

    def wants(self, kind: str) -> bool:
        return not self.kinds or kind in self.kinds


_COLUMNS = "endpoint_id, account_id, url, secret, kinds, created_at"


def add_endpoint(connection: Connection, endpoint: Endpoint) -> None:
    connection.execute(
        f"INSERT INTO webhook_endpoints ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        (
            endpoint.endpoint_id,
            endpoint.account_id,
            endpoint.url,
            endpoint.secret,
            json.dumps(endpoint.kinds),
            endpoint.created_at,
        ),
    )


def remove_endpoint(connection: Connection, endpoint_id: str) -> bool:
    """Delete the endpoint; returns whether there was one."""
    connection.execute("DELETE FROM webhook_endpoints WHERE endpoint_id = ?", (endpoint_id,))
    return connection.changes() == 1


def find_endpoint(connection: Connection, endpoint_id: str) -> Endpoint | None:
    found = row(connection, f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE endpoint_id = ?", (endpoint_id,))
    return None if found is None else _endpoint(found)


def endpoints_of(connection: Connection, account_id: str | None) -> list[Endpoint]:
    """The account's own endpoints, or the operator's; the oldest first."""
    where, values = ("account_id IS NULL", ()) if account_id is None else ("account_id = ?", (account_id,))
    found = rows(
        connection, f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE {where} ORDER BY created_at, endpoint_id", values
    )
    return [_endpoint(fields) for fields in found]


def all_endpoints(connection: Connection) -> list[Endpoint]:
    """The endpoints of all accounts, the operator's first."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM webhook_endpoints "
        "ORDER BY account_id IS NOT NULL, account_id, created_at, endpoint_id",
    )
    return [_endpoint(fields) for fields in found]


def _endpoint(fields: tuple[Any, ...]) -> Endpoint:
    endpoint_id, account_id, url, secret, kinds, created_at = fields
    return Endpoint(
        endpoint_id=endpoint_id,
        account_id=account_id,
        url=url,
        secret=bytes(secret),
        kinds=tuple(json.loads(kinds)),
        created_at=created_at,
    )
