"""The store of cached responses: an account's, by gateway and key, within a bound for each account and one for all."""

from collections.abc import Iterable, Sequence

import msgspec

from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, find_key, key_of
from farebox.storage.every_bucket import rows_at_hand, rows_everywhere
from farebox.storage.sql import Connection, row, rows

ROW_BYTES = 512
"""Counted for an entry besides its body, so that many small ones are bounded too."""
_STEP = 100
"""Entries that are removed by one look at an account's."""
_OF_GATEWAY = f"{OF_ACCOUNT} AND gateway_id = ?"


class CachedResponse(msgspec.Struct, frozen=True):
    """A whole response with the status 200, as it was sent."""

    account_id: str
    gateway_id: str
    key: str
    """See calls.cache."""
    began: int
    """When its call began."""
    expires_at: int
    content_type: str
    body: bytes

    @property
    def size(self) -> int:
        return len(self.body) + ROW_BYTES


class CacheBounds(msgspec.Struct, frozen=True):
    """In bytes."""

    account: int
    all: int


def find_response(
    connection: Connection, account_id: str, gateway_id: str, key: str, at: int
) -> tuple[str, bytes] | None:
    """Content type and body, unless it has expired."""
    found = row(
        connection,
        f"SELECT content_type, body FROM cached_responses WHERE {_OF_GATEWAY} AND key = ? AND expires_at > ?",
        (*key_of(connection, account_id), gateway_id, key, at),
    )
    return None if found is None else (str(found[0]), bytes(found[1]))


def keep_responses(connection: Connection, responses: Sequence[CachedResponse], bounds: CacheBounds) -> None:
    """Store responses, and remove others until the bounds are kept. Left out are those whose call began before the
    gateway was changed last: the change may have emptied the cache."""
    touched = set()
    for response in responses:
        key = find_key(connection, response.account_id)
        if key is not None and _stands(connection, key, response):
            _put(connection, key, response)
            touched.add(key)
    for key in touched:
        _shrink(connection, key, bounds.account)
    _shrink_all(connection, bounds.all)


def forget_responses(connection: Connection, account_id: str, gateway_id: str) -> None:
    """Remove all of a gateway."""
    key = key_of(connection, account_id)
    found = row(connection, f"SELECT sum(size) FROM cached_responses WHERE {_OF_GATEWAY}", (*key, gateway_id))
    if found is not None and found[0] is not None:
        connection.execute(f"DELETE FROM cached_responses WHERE {_OF_GATEWAY}", (*key, gateway_id))
        _count(connection, key, -int(found[0]))


def accounts_with_responses(connection: Connection) -> list[str]:
    return [str(account_id) for account_id, _ in _totals(rows_at_hand(connection, _TOTALS))]


def forget_expired(connection: Connection, account_id: str, at: int) -> bool:
    """Remove some of the account's that have expired. Whether there may be more."""
    key = key_of(connection, account_id)
    expired = rows(
        connection,
        f"SELECT gateway_id, key, size FROM cached_responses WHERE {OF_ACCOUNT} AND expires_at <= ? LIMIT ?",
        (*key, at, _STEP),
    )
    _remove(connection, key, expired)
    return len(expired) == _STEP


def fair_share(sizes: Sequence[int], most: int) -> int:
    """What each may have at most so that all fit into `most`: who has less keeps all of it."""
    left = most
    for number, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - number)
        if size > share:
            return share
        left -= size
    return most


_TOTALS = "SELECT account_id, bytes FROM cache_totals WHERE bucket = ? AND bytes > 0"


def _totals(found: Iterable[tuple[object, ...]]) -> list[tuple[str, int]]:
    return [(str(account_id), int(str(size))) for account_id, size in found]


def _stands(connection: Connection, key: AccountKey, response: CachedResponse) -> bool:
    found = row(connection, f"SELECT modified_at FROM gateways WHERE {_OF_GATEWAY}", (*key, response.gateway_id))
    return found is not None and int(found[0]) <= response.began


def _put(connection: Connection, key: AccountKey, response: CachedResponse) -> None:
    of_key = (*key, response.gateway_id, response.key)
    old = row(connection, f"SELECT size FROM cached_responses WHERE {_OF_GATEWAY} AND key = ?", of_key)
    connection.execute(
        "INSERT INTO cached_responses (bucket, account_id, gateway_id, key, size, expires_at, content_type, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (bucket, account_id, gateway_id, key) DO UPDATE SET "
        "size = excluded.size, expires_at = excluded.expires_at, content_type = excluded.content_type, "
        "body = excluded.body",
        (*of_key, response.size, response.expires_at, response.content_type, response.body),
    )
    _count(connection, key, response.size - (0 if old is None else int(old[0])))


def _shrink_all(connection: Connection, most: int) -> None:
    """Those with the most lose what is too much, so that nobody can take the room of others."""
    totals = _totals(rows_everywhere(connection, _TOTALS))
    if sum(size for _, size in totals) <= most:
        return
    share = fair_share([size for _, size in totals], most)
    for account_id, size in totals:
        if size > share:
            _shrink(connection, key_of(connection, account_id), share)


def _shrink(connection: Connection, key: AccountKey, most: int) -> None:
    """Remove what expires soonest."""
    found = row(connection, f"SELECT bytes FROM cache_totals WHERE {OF_ACCOUNT}", key)
    over = 0 if found is None else int(found[0]) - most
    while over > 0:
        oldest = rows(
            connection,
            f"SELECT gateway_id, key, size FROM cached_responses WHERE {OF_ACCOUNT} ORDER BY expires_at LIMIT ?",
            (*key, _STEP),
        )
        if not oldest:
            return
        gone = []
        for entry in oldest:
            if over <= 0:
                break
            gone.append(entry)
            over -= int(entry[2])
        _remove(connection, key, gone)


def _remove(connection: Connection, key: AccountKey, entries: Sequence[tuple[object, ...]]) -> None:
    for gateway_id, name, _ in entries:
        connection.execute(f"DELETE FROM cached_responses WHERE {_OF_GATEWAY} AND key = ?", (*key, gateway_id, name))
    if entries:
        _count(connection, key, -sum(int(str(size)) for _, _, size in entries))


def _count(connection: Connection, key: AccountKey, more: int) -> None:
    connection.execute(
        "INSERT INTO cache_totals (bucket, account_id, bytes) VALUES (?, ?, ?) "
        "ON CONFLICT (bucket, account_id) DO UPDATE SET bytes = cache_totals.bytes + excluded.bytes",
        (*key, more),
    )
