"""The store of cached responses: an account's, by gateway and key, within a bound for each account and one for all.

A key begins with the generation of its gateway's cache. To empty the cache is to begin another generation: nobody finds
the entries of the one before, which are removed bit by bit afterwards (`leave_responses`, `forget_leftovers`).
"""

from collections.abc import Iterable, Sequence

import msgspec

from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, by_bucket, find_key, key_of
from farebox.storage.every_bucket import rows_at_hand, rows_everywhere
from farebox.storage.sql import Connection, row, rows

ROW_BYTES = 512
"""Counted for an entry besides its body, so that many small ones are bounded too."""
_STEP = 100
_STEP_BYTES = 2**20
"""Entries that are removed by one look at an account's, and their bytes, of which one entry may be more."""
_OF_GATEWAY = f"{OF_ACCOUNT} AND gateway_id = ?"


class CachedResponse(msgspec.Struct, frozen=True):
    """A whole response with the status 200, as it was sent."""

    account_id: str
    gateway_id: str
    key: str
    """See calls.cache. It begins with the generation under which its call began (`generation_prefix`)."""
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


def generation_prefix(generation: int) -> str:
    """What the keys of this generation begin with; those of later ones are greater."""
    return f"{generation:016x}"


def find_response(connection: Connection, account_id: str, gateway_id: str, key: str, at: int) -> CachedResponse | None:
    """The response, unless it has expired."""
    found = row(
        connection,
        "SELECT expires_at, content_type, body FROM cached_responses "
        f"WHERE {_OF_GATEWAY} AND key = ? AND expires_at > ?",
        (*key_of(connection, account_id), gateway_id, key, at),
    )
    if found is None:
        return None
    return CachedResponse(account_id, gateway_id, key, int(found[0]), str(found[1]), bytes(found[2]))


def keep_responses(connection: Connection, responses: Sequence[CachedResponse], most: int) -> None:
    """Store responses, and remove others until no account of these has more than `most`. Left out are those of calls
    that began before the gateway's cache was emptied."""
    touched = set()
    for response in responses:
        key = find_key(connection, response.account_id)
        if key is not None and _stands(connection, key, response):
            _put(connection, key, response)
            touched.add(key)
    for key in touched:
        _shrink(connection, key, most)


def accounts_above(connection: Connection, most: int) -> tuple[dict[int, list[str]], int]:
    """The accounts, by bucket, that have too much where the sum of all is more than `most`, and what each of them may
    keep: those with the most lose, so that nobody can take the room of others."""
    found = row(connection, "SELECT bytes FROM cache_sum")
    if found is None or int(found[0]) <= most:
        return {}, most
    totals = _totals(rows_everywhere(connection, _TOTALS))
    share = fair_share([size for _, size in totals], most)
    return by_bucket(connection, (account_id for account_id, size in totals if size > share), str), share


def shrink(connection: Connection, account_ids: Iterable[str], most: int) -> None:
    """Remove responses of each of these accounts until it has no more than `most`."""
    for account_id in account_ids:
        _shrink(connection, key_of(connection, account_id), most)


def leave_responses(connection: Connection, key: AccountKey, gateway_id: str) -> None:
    """The gateway's cache is emptied: what it has is left to be removed. Until then it counts as the account's."""
    if row(connection, f"SELECT 1 FROM cached_responses WHERE {_OF_GATEWAY} LIMIT 1", (*key, gateway_id)) is not None:
        connection.execute(
            "INSERT INTO cache_leftovers (bucket, account_id, gateway_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (*key, gateway_id),
        )


def list_leftovers(connection: Connection) -> list[tuple[str, str]]:
    """Account and gateway."""
    found = rows_at_hand(connection, "SELECT account_id, gateway_id FROM cache_leftovers WHERE bucket = ?")
    return [(str(account_id), str(gateway_id)) for account_id, gateway_id in found]


def forget_leftovers(connection: Connection, account_id: str, gateway_id: str) -> bool:
    """Remove some of what is left in the gateway's cache of earlier generations. Whether there may be more."""
    key = key_of(connection, account_id)
    generation = _generation(connection, key, gateway_id)
    left = rows(
        connection,
        f"SELECT gateway_id, key, size FROM cached_responses WHERE {_OF_GATEWAY} AND key < ? ORDER BY key LIMIT ?",
        (*key, gateway_id, _ABOVE_ALL if generation is None else generation_prefix(generation), _STEP),
    )
    step = _bounded(left)
    _remove(connection, key, step)
    if more := len(left) == _STEP or len(step) < len(left):
        return more
    connection.execute(f"DELETE FROM cache_leftovers WHERE {_OF_GATEWAY}", (*key, gateway_id))
    return False


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
    step = _bounded(expired)
    _remove(connection, key, step)
    return len(expired) == _STEP or len(step) < len(expired)


def fair_share(sizes: Sequence[int], most: int) -> int:
    """What each may have at most so that all fit into `most`: who has less keeps all of it."""
    left = most
    for number, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - number)
        if size > share:
            return share
        left -= size
    return most


_ABOVE_ALL = "g"
"""Greater than each hexadecimal digit."""
_TOTALS = "SELECT account_id, bytes FROM cache_totals WHERE bucket = ? AND bytes > 0"


def _totals(found: Iterable[tuple[object, ...]]) -> list[tuple[str, int]]:
    return [(str(account_id), int(str(size))) for account_id, size in found]


def _stands(connection: Connection, key: AccountKey, response: CachedResponse) -> bool:
    generation = _generation(connection, key, response.gateway_id)
    return generation is not None and response.key.startswith(generation_prefix(generation))


def _generation(connection: Connection, key: AccountKey, gateway_id: str) -> int | None:
    """Of the gateway's cache; None if there is no such gateway."""
    found = row(connection, f"SELECT cache_generation FROM gateways WHERE {_OF_GATEWAY}", (*key, gateway_id))
    return None if found is None else int(found[0])


def _bounded(entries: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """As many of the first as one transaction removes."""
    step, size = [], 0
    for entry in entries:
        step.append(entry)
        size += int(str(entry[2]))
        if size >= _STEP_BYTES:
            break
    return step


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
    connection.execute(
        "INSERT INTO cache_sum (one, bytes) VALUES (1, ?) "
        "ON CONFLICT (one) DO UPDATE SET bytes = cache_sum.bytes + excluded.bytes",
        (more,),
    )
