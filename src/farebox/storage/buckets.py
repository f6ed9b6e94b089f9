"""Buckets: which one an account is assigned to, and their numbers.

The number is what Citus hashes to find the node (docs/citus.md). So the numbers are chosen such that, with as many
shards as there are buckets, each bucket has its own shard: consecutive numbers would leave some nodes idle. On one
machine the numbers mean nothing. An account keeps its bucket until `farebox account move` gives it another
(storage.bucket_moves).
"""

import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import count

OPERATOR = ""
"""The account ID of the operator's own rows in the tables of accounts. They are in bucket 0."""

KNOWN_MAX = 100_000
"""Most accounts whose bucket is remembered. When there are more, all are forgotten: looking one up again takes
microseconds."""

_HASHES = 2**32
_LOWEST = -(2**31)


class KnownBuckets(dict[str, int]):
    """The known buckets of accounts: a process has one, or a single transaction."""

    forgotten = 0
    """How often something was forgotten. What was read before that may be out of date."""

    def remember(self, found: Mapping[str, int], *, read_at: int) -> None:
        """Add buckets that were read when `forgotten` was `read_at`, unless something has been forgotten since."""
        if read_at != self.forgotten:
            return
        if len(self) + len(found) > KNOWN_MAX:
            self.clear()
        self.update(found)

    def forget(self, account_ids: Iterable[str]) -> None:
        """Forget the buckets of these accounts: they may have been moved."""
        self.forgotten += 1
        for account_id in account_ids:
            self.pop(account_id, None)

    def forget_all(self) -> None:
        self.forgotten += 1
        self.clear()


def bucket_of(account_id: str, buckets: int) -> int:
    """The bucket of a new account, if accounts are spread over this many."""
    if account_id == OPERATOR:
        return 0
    return bucket_numbers(buckets)[zlib.crc32(account_id.encode()) % buckets]


@lru_cache
def bucket_numbers(buckets: int) -> tuple[int, ...]:
    """The numbers of this many buckets; the first is 0, and each is the lowest that falls into its own shard."""
    owner: dict[int, int] = {}
    for number in count():
        owner.setdefault(shard_of(number, buckets), number)
        if len(owner) == buckets:
            return tuple(sorted(owner.values()))
    raise AssertionError("unreachable")


def shard_of(number: int, shards: int) -> int:
    """Which of `shards` equal shards Citus puts the number into."""
    return min((hashint4(number) - _LOWEST) // (_HASHES // shards), shards - 1)


def hashint4(number: int) -> int:
    """PostgreSQL's function of this name for a number that is not negative: Bob Jenkins's hash of one word."""
    a = b = c = (0x9E3779B9 + 4 + 3923095) % _HASHES
    a = (a + number) % _HASHES
    c = _mixed(c, b, 14)
    a = _mixed(a, c, 11)
    b = _mixed(b, a, 25)
    c = _mixed(c, b, 16)
    a = _mixed(a, c, 4)
    b = _mixed(b, a, 14)
    c = _mixed(c, b, 24)
    return c - _HASHES if c >= 2**31 else c


def _mixed(word: int, other: int, turn: int) -> int:
    rotated = (other << turn | other >> (32 - turn)) % _HASHES
    return ((word ^ other) - rotated) % _HASHES
