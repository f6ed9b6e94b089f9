"""The store of cached responses, by account, gateway and key; bounded for each account and for all together.

A key begins with the generation of its gateway's cache. Emptying the cache starts a new generation: the entries of the
previous one are no longer found, and are removed bit by bit afterwards (`leave_responses`, `forget_leftovers`).

Times are milliseconds since the Unix epoch.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeAlias

import msgspec

from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, by_bucket, key_of
from farebox.storage.every_bucket import rows_available, rows_everywhere
from farebox.storage.sql import Connection, row, rows

ROW_BYTES = 512
"""Bytes that an entry counts in addition to its body, so that many small entries are bounded too."""
_STEP = 100
_STEP_BYTES = 2**20
"""How many entries one step removes, and at most how many bytes together, unless a single entry is larger."""
_OF_GATEWAY = f"{OF_ACCOUNT} AND gateway_id = ?"
_BY_END = f"{OF_ACCOUNT} AND size >= 0"
"""All entries of an account, by the index cached_responses_by_end. Only statements with `size >= 0` can use that index;
otherwise PostgreSQL would use it for look-ups of single keys too, and read all of the account's entries, until it has
statistics of the table."""
_Name: TypeAlias = tuple[str, str, str]
"""Account, gateway and key of an entry."""


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
    """The most that cached responses may take, in bytes."""

    account: int
    all: int


def generation_prefix(generation: int) -> str:
    """The prefix of this generation's keys; those of later generations are greater."""
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


def keep_responses(connection: Connection, bucket: int, responses: Iterable[CachedResponse], most: int) -> None:
    """Store responses of the bucket's accounts, and remove others until none of these accounts has more than `most`.
    Responses of calls that began before the gateway's cache was emptied, and of accounts that are no longer in the
    bucket, are not stored.

    Takes four statements, however many responses there are, and four more for each account that has too much.
    """
    named = {(each.account_id, each.gateway_id, each.key): each for each in responses}
    replaced = _sizes_replaced(connection, bucket, named)  # of two with the same name, the last is stored
    if not replaced:
        return
    _put(connection, bucket, [named[name] for name in replaced])
    added: dict[str, int] = {}
    for name, size in replaced.items():
        added[name[0]] = added.get(name[0], 0) + named[name].size - size
    for account_id, total in _count(connection, bucket, added).items():
        _shrink(connection, AccountKey(bucket, account_id), total - most)


def accounts_above(connection: Connection, most: int) -> tuple[dict[int, list[str]], int]:
    """If all accounts together have more than `most`: the accounts, by bucket, that must shrink, and how much each may
    keep. The largest lose first, so that no account can take the room of others."""
    found = row(connection, "SELECT bytes FROM cache_sum")
    if found is None or int(found[0]) <= most:
        return {}, most
    totals = _totals(rows_everywhere(connection, _TOTALS))
    share = fair_share([size for _, size in totals], most)
    return by_bucket(connection, (account_id for account_id, size in totals if size > share), str), share


def shrink(connection: Connection, account_ids: Iterable[str], most: int) -> None:
    """Remove responses of each of these accounts until it has no more than `most`."""
    for account_id in account_ids:
        key = key_of(connection, account_id)
        found = row(connection, f"SELECT bytes FROM cache_totals WHERE {OF_ACCOUNT}", key)
        if found is not None:
            _shrink(connection, key, int(found[0]) - most)


def leave_responses(connection: Connection, key: AccountKey, gateway_id: str) -> None:
    """Note that the gateway's cache was emptied and its entries are still to be removed. Until then they count for the
    account."""
    if row(connection, f"SELECT 1 FROM cached_responses WHERE {_OF_GATEWAY} LIMIT 1", (*key, gateway_id)) is not None:
        connection.execute(
            "INSERT INTO cache_leftovers (bucket, account_id, gateway_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (*key, gateway_id),
        )


def list_leftovers(connection: Connection) -> list[tuple[str, str]]:
    """Account and gateway of each emptied cache that still has entries to remove."""
    found = rows_available(connection, "SELECT account_id, gateway_id FROM cache_leftovers WHERE bucket = ?")
    return [(str(account_id), str(gateway_id)) for account_id, gateway_id in found]


def forget_leftovers(connection: Connection, account_id: str, gateway_id: str) -> bool:
    """Remove some entries of earlier generations from the gateway's cache; returns whether there may be more."""
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
    return [str(account_id) for account_id, _ in _totals(rows_available(connection, _TOTALS))]


def forget_expired(connection: Connection, account_id: str, at: int) -> bool:
    """Remove some of the account's expired entries; returns whether there may be more."""
    key = key_of(connection, account_id)
    expired = rows(
        connection,
        f"SELECT gateway_id, key, size FROM cached_responses WHERE {_BY_END} AND expires_at <= ? LIMIT ?",
        (*key, at, _STEP),
    )
    step = _bounded(expired)
    _remove(connection, key, step)
    return len(expired) == _STEP or len(step) < len(expired)


def sum_difference(connection: Connection) -> int:
    """By how many bytes the accounts' totals together exceed the kept sum. On Citus they differ after the coordinator
    was lost between the commit of an account's node and its own, as the sum is a row of the coordinator. A batch that
    is being stored may be in one of them only, so only a difference that persists is an error. Raises NodeUnavailable.
    """
    found = row(connection, "SELECT bytes FROM cache_sum")
    kept = 0 if found is None else int(found[0])
    return sum(int(size) for (size,) in rows_everywhere(connection, _TOTAL_OF_BUCKET)) - kept


def correct_sum(connection: Connection, difference: int) -> None:
    """Add the difference to the kept sum, if it is still the same. Callers that store or remove responses wait for the
    row that is locked here, and then add to the corrected sum. A batch that a Citus node has not committed yet, though
    the coordinator has, makes the difference another one: the next attempt corrects the sum. Raises NodeUnavailable.
    """
    connection.execute("INSERT INTO cache_sum (one, bytes) VALUES (1, 0) ON CONFLICT (one) DO NOTHING")
    connection.execute("UPDATE cache_sum SET bytes = bytes")
    if sum_difference(connection) == difference:
        connection.execute("UPDATE cache_sum SET bytes = bytes + ?", (difference,))


def fair_share(sizes: Sequence[int], most: int) -> int:
    """The most that each may have so that all fit into `most`: those that have less keep everything."""
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
_TOTAL_OF_BUCKET = "SELECT coalesce(sum(bytes), 0) FROM cache_totals WHERE bucket = ?"


def _totals(found: Iterable[tuple[object, ...]]) -> list[tuple[str, int]]:
    return [(str(account_id), int(str(size))) for account_id, size in found]


def _sizes_replaced(connection: Connection, bucket: int, names: Collection[_Name]) -> dict[_Name, int]:
    """The names that begin with the current generation of their gateway, each with the size of the entry stored under
    it; 0: there is none."""
    found = rows(  # subqueries, because PostgreSQL joins in a bad order until it has statistics of the tables
        connection,
        f"WITH named (account_id, gateway_id, key) AS (VALUES {_lines(_NAME, names)}) "
        "SELECT n.account_id, n.gateway_id, n.key, (SELECT g.cache_generation FROM gateways g "
        "WHERE g.bucket = ? AND g.account_id = n.account_id AND g.gateway_id = n.gateway_id), "
        "(SELECT r.size FROM cached_responses r WHERE r.bucket = ? AND r.account_id = n.account_id "
        "AND r.gateway_id = n.gateway_id AND r.key = n.key) FROM named n",
        (*chain.from_iterable(names), bucket, bucket),
    )
    return {
        (account_id, gateway_id, key): int(size or 0)
        for account_id, gateway_id, key, generation, size in found
        if generation is not None and key.startswith(generation_prefix(int(generation)))
    }


def _generation(connection: Connection, key: AccountKey, gateway_id: str) -> int | None:
    """The generation of the gateway's cache; None if there is no such gateway."""
    found = row(connection, f"SELECT cache_generation FROM gateways WHERE {_OF_GATEWAY}", (*key, gateway_id))
    return None if found is None else int(found[0])


def _bounded(entries: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """The first entries, as many as one transaction removes."""
    step, size = [], 0
    for entry in entries:
        step.append(entry)
        size += int(str(entry[2]))
        if size >= _STEP_BYTES:
            break
    return step


def _put(connection: Connection, bucket: int, responses: Collection[CachedResponse]) -> None:
    values = (
        (bucket, of.account_id, of.gateway_id, of.key, of.size, of.expires_at, of.content_type, of.body)
        for of in responses
    )
    connection.execute(
        "INSERT INTO cached_responses (bucket, account_id, gateway_id, key, size, expires_at, content_type, body) "
        f"VALUES {_lines(_ENTRY, responses)} ON CONFLICT (bucket, account_id, gateway_id, key) DO UPDATE SET "
        "size = excluded.size, expires_at = excluded.expires_at, content_type = excluded.content_type, "
        "body = excluded.body",
        tuple(chain.from_iterable(values)),
    )


def _shrink(connection: Connection, key: AccountKey, over: int) -> None:
    """Remove the entries that expire soonest, until `over` bytes are freed."""
    while over > 0:
        oldest = rows(
            connection,
            f"SELECT gateway_id, key, size FROM cached_responses WHERE {_BY_END} ORDER BY expires_at LIMIT ?",
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
    """Remove entries of an account: gateway, key and size of each."""
    if not entries:
        return
    of_gateways: dict[object, list[object]] = {}
    for gateway_id, name, _ in entries:
        of_gateways.setdefault(gateway_id, []).append(name)
    for gateway_id, names in of_gateways.items():  # as a join with all names, PostgreSQL may read all of the account's
        places = ", ".join("?" for _ in names)
        connection.execute(
            f"DELETE FROM cached_responses WHERE {_OF_GATEWAY} AND key IN ({places})", (*key, gateway_id, *names)
        )
    _count(connection, key.bucket, {key.account_id: -sum(int(str(size)) for _, _, size in entries)})


def _count(connection: Connection, bucket: int, added: Mapping[str, int]) -> dict[str, int]:
    """Note how many bytes these accounts have more than before. Returns how many each has now."""
    totals = rows(
        connection,
        f"INSERT INTO cache_totals (bucket, account_id, bytes) VALUES {_lines(_TOTAL, added)} "
        "ON CONFLICT (bucket, account_id) DO UPDATE SET bytes = cache_totals.bytes + excluded.bytes "
        "RETURNING account_id, bytes",
        tuple(chain.from_iterable((bucket, account_id, more) for account_id, more in added.items())),
    )
    connection.execute(
        "INSERT INTO cache_sum (one, bytes) VALUES (1, ?) "
        "ON CONFLICT (one) DO UPDATE SET bytes = cache_sum.bytes + excluded.bytes",
        (sum(added.values()),),
    )
    return dict(_totals(totals))


_NAME = "(?, ?, ?)"
_ENTRY = "(?, ?, ?, ?, ?, ?, ?, ?)"
_TOTAL = "(?, ?, ?)"


def _lines(line: str, items: Collection[object]) -> str:
    """The text after VALUES: `line` once for each item."""
    return ", ".join([line] * len(items))
