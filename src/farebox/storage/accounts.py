"""Stores of the directory: accounts, access tokens, users."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from farebox.model import AccessToken, Account, Balance, Permission, RateLimit
from farebox.storage.account_keys import OF_ACCOUNT, key_of, was_moved
from farebox.storage.buckets import bucket_of
from farebox.storage.config import note_change
from farebox.storage.sql import Connection, NodeUnavailable, RowMissing, containing, contains, row, rows

_LABELS_AT_ONCE: Final = 500
_TOKEN_CONTAINS: Final = f"({contains('name')} OR {contains('token_id')})"
ACCOUNT: Final = "account_id, bucket, name, created_at, frozen_at"


def add_account(connection: Connection, account_id: str, name: str, at: int, buckets: int = 1) -> Account:
    """Create an account with an empty balance, in one of this many buckets."""
    account = Account(account_id, bucket_of(account_id, buckets), name, at)
    connection.execute(
        "INSERT INTO accounts (account_id, bucket, name, created_at) VALUES (?, ?, ?, ?)",
        (account.account_id, account.bucket, account.name, account.created_at),
    )
    connection.execute("INSERT INTO balances (bucket, account_id) VALUES (?, ?)", (account.bucket, account.account_id))
    return account


def find_account(connection: Connection, account_id: str) -> Account | None:
    found = row(
        connection,
        f"SELECT {ACCOUNT} FROM accounts WHERE account_id = ?",
        (account_id,),
    )
    return None if found is None else Account(*found)


def account_of(connection: Connection, account_id: str) -> Account:
    """The account that a row names. Raises RowMissing."""
    account = find_account(connection, account_id)
    if account is None:
        raise RowMissing(f"there is no account {account_id}")
    return account


def set_frozen(connection: Connection, account_id: str, at: int | None) -> None:
    """Freeze the account, or with None unfreeze it."""
    connection.execute("UPDATE accounts SET frozen_at = ? WHERE account_id = ?", (at, account_id))
    note_change(connection, account_id)


def find_buckets(connection: Connection, account_ids: list[str]) -> dict[str, int]:
    """The bucket of each of these accounts that exists. For PostgreSQL."""
    return dict(rows(connection, "SELECT account_id, bucket FROM accounts WHERE account_id = ANY (?)", (account_ids,)))


def list_accounts(connection: Connection, *, after: str = "", limit: int = 100) -> list[Account]:
    """Accounts in order of their ID, from the first one above `after`."""
    found = rows(
        connection,
        f"SELECT {ACCOUNT} FROM accounts WHERE account_id > ? ORDER BY account_id LIMIT ?",
        (after, limit),
    )
    return [Account(*fields) for fields in found]


def count_accounts(connection: Connection) -> int:
    found = row(connection, "SELECT count(*) FROM accounts")
    return int(found[0]) if found else 0


def count_some_accounts(connection: Connection, most: int) -> int:
    """How many accounts there are; no more than `most` are counted."""
    found = row(connection, "SELECT count(*) FROM (SELECT 1 FROM accounts LIMIT ?) AS few", (most,))
    return int(found[0]) if found else 0


def balances_of(connection: Connection, accounts: Sequence[Account]) -> dict[str, Balance]:
    """The balances of accounts that were just read, by their ID: one statement for each of their buckets. Those on a
    node that is unavailable are missing. Call it outside a transaction."""
    found: dict[str, Balance] = {}
    for bucket in {account.bucket for account in accounts}:
        there = [account.account_id for account in accounts if account.bucket == bucket]
        places = ", ".join("?" for _ in there)
        sql = f"SELECT account_id, posted, held FROM balances WHERE bucket = ? AND account_id IN ({places})"
        with suppress(NodeUnavailable):
            found |= {account_id: Balance(*sums) for account_id, *sums in rows(connection, sql, (bucket, *there))}
    return found


def read_balance(connection: Connection, account_id: str) -> Balance | None:
    """The account's balance, or None if there is no such account."""
    found = row(
        connection,
        f"SELECT posted, held FROM balances WHERE {OF_ACCOUNT}",
        key_of(connection, account_id),
    )
    if found is None and was_moved(connection, account_id):
        return read_balance(connection, account_id)
    return None if found is None else Balance(*found)


def read_owed(connection: Connection, account_id: str) -> int:
    """What was taken back from the account beyond what it had left, in nano-dollars; 0 if there is none."""
    found = row(
        connection,
        f"SELECT owed FROM balances WHERE {OF_ACCOUNT}",
        key_of(connection, account_id),
    )
    if found is None and was_moved(connection, account_id):
        return read_owed(connection, account_id)
    return 0 if found is None else int(found[0])


def posted_and_owed(connection: Connection, account_id: str) -> tuple[int, int]:
    """The account's posted balance and what it owes (`read_owed`), in nano-dollars. The account exists."""
    found = row(
        connection,
        f"SELECT posted, owed FROM balances WHERE {OF_ACCOUNT}",
        key_of(connection, account_id),
    )
    assert found is not None, f"there is no account {account_id}"
    posted, owed = found
    return posted, owed


_COLUMNS = (
    "token_id, account_id, name, permissions, created_at, expires_at, revoked_at, models, "
    "rate_limit, rate_period, sliding, gateways"
)


def add_token(connection: Connection, token: AccessToken, token_hash: bytes) -> None:
    connection.execute(
        f"INSERT INTO access_tokens ({_COLUMNS}, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            token.token_id,
            token.account_id,
            token.name,
            json.dumps(sorted(token.permissions)),
            token.created_at,
            token.expires_at,
            token.revoked_at,
            _list(token.models),
            *_rate(token.rate),
            _list(token.gateways),
            token_hash,
        ),
    )
    note_change(connection, token.account_id)


def find_token(connection: Connection, token_hash: bytes) -> AccessToken | None:
    """The token with this hash, revoked or expired ones included."""
    found = row(connection, f"SELECT {_COLUMNS} FROM access_tokens WHERE hash = ?", (token_hash,))
    return None if found is None else _token(found)


def list_tokens(connection: Connection, account_id: str | None = None) -> list[AccessToken]:
    where = "" if account_id is None else "WHERE account_id = ?"
    values = () if account_id is None else (account_id,)
    found = rows(connection, f"SELECT {_COLUMNS} FROM access_tokens {where} ORDER BY created_at, token_id", values)
    return [_token(fields) for fields in found]


class TokenPage(NamedTuple):
    """A part of an account's tokens, and how many there are in all."""

    tokens: list[AccessToken]
    total: int


def token_page(
    connection: Connection, account_id: str, at: int, *, find: str = "", offset: int = 0, limit: int
) -> TokenPage:
    """Tokens of the account, those active at `at` first, the newest first; with `find`, only those with this text in
    their name or ID."""
    where = f"account_id = ? AND {_TOKEN_CONTAINS}" if find else "account_id = ?"
    values = (account_id, containing(find), containing(find)) if find else (account_id,)
    counted = row(connection, f"SELECT count(*) FROM access_tokens WHERE {where}", values)
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM access_tokens WHERE {where} ORDER BY "
        "CASE WHEN revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?) THEN 0 ELSE 1 END, "
        "created_at DESC, token_id DESC LIMIT ? OFFSET ?",
        (*values, at, limit, offset),
    )
    return TokenPage([_token(fields) for fields in found], int(counted[0]) if counted else 0)


def tokens_without_gateway(connection: Connection, account_id: str, at: int, limit: int) -> list[AccessToken]:
    """Tokens that are active at `at` and reach no gateway, since those that they were limited to are deleted."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM access_tokens WHERE account_id = ? AND gateways = '[]' AND revoked_at IS NULL "
        "AND (expires_at IS NULL OR expires_at > ?) ORDER BY created_at DESC, token_id DESC LIMIT ?",
        (account_id, at, limit),
    )
    return [_token(fields) for fields in found]


def count_tokens(connection: Connection, account_id: str) -> tuple[int, int]:
    """How many tokens the account has, and how many of them are not revoked."""
    sql = "SELECT count(*), count(*) - count(revoked_at) FROM access_tokens WHERE account_id = ?"
    found = row(connection, sql, (account_id,))
    return (0, 0) if found is None else (int(found[0]), int(found[1]))


def token_labels(connection: Connection, account_id: str, token_ids: Iterable[str]) -> dict[str, str]:
    """What pages call these tokens of the account, by their IDs."""
    wanted, found = sorted(set(token_ids)), dict[str, str]()
    for some in (wanted[at : at + _LABELS_AT_ONCE] for at in range(0, len(wanted), _LABELS_AT_ONCE)):
        places = ", ".join("?" for _ in some)
        sql = f"SELECT {_COLUMNS} FROM access_tokens WHERE account_id = ? AND token_id IN ({places})"
        tokens = map(_token, rows(connection, sql, (account_id, *some)))
        found |= {token.token_id: token.label for token in tokens}
    return found


def token_of(connection: Connection, account_id: str, token_id: str) -> AccessToken | None:
    """The account's token with this ID."""
    found = token_by_id(connection, token_id)
    return found if found is not None and found.account_id == account_id else None


def token_by_id(connection: Connection, token_id: str) -> AccessToken | None:
    found = row(connection, f"SELECT {_COLUMNS} FROM access_tokens WHERE token_id = ?", (token_id,))
    return None if found is None else _token(found)


def change_token(connection: Connection, token: AccessToken) -> None:
    """Store a change of the token's models, gateways, expiry or rate limit."""
    connection.execute(
        "UPDATE access_tokens SET models = ?, expires_at = ?, rate_limit = ?, rate_period = ?, sliding = ?, "
        "gateways = ? WHERE token_id = ?",
        (_list(token.models), token.expires_at, *_rate(token.rate), _list(token.gateways), token.token_id),
    )
    note_change(connection, token.account_id)


def take_gateway_from_tokens(connection: Connection, account_id: str, gateway_id: str) -> None:
    """The gateway is deleted: no token that is limited to gateways reaches another one of its name. The caller notes
    the change."""
    for token in tokens_of_gateway(connection, account_id, gateway_id):
        left = tuple(each for each in token.gateways or () if each != gateway_id)
        sql = "UPDATE access_tokens SET gateways = ? WHERE token_id = ?"
        connection.execute(sql, (_list(left), token.token_id))


def tokens_of_gateway(connection: Connection, account_id: str, gateway_id: str) -> list[AccessToken]:
    """The tokens that are limited to this gateway, alone or among others."""
    found = list_tokens(connection, account_id)
    return [token for token in found if token.gateways is not None and gateway_id in token.gateways]


def _list(names: tuple[str, ...] | None) -> str | None:
    return None if names is None else json.dumps(names)


def _rate(rate: RateLimit | None) -> tuple[int | None, int | None, int | None]:
    return (None, None, None) if rate is None else (rate.calls, rate.seconds, int(rate.sliding))


def revoke_token(connection: Connection, token_id: str, at: int) -> bool:
    """Revoke a token; returns whether it exists. Revoking it again keeps the time of the first revocation."""
    found = row(connection, "SELECT account_id FROM access_tokens WHERE token_id = ?", (token_id,))
    if found is None:
        return False
    note_change(connection, str(found[0]))
    connection.execute(
        "UPDATE access_tokens SET revoked_at = coalesce(revoked_at, ?) WHERE token_id = ?", (at, token_id)
    )
    return True


def _token(fields: tuple[object, ...]) -> AccessToken:
    token_id, account_id, name, permissions, created_at, expires_at, revoked_at, models, *rate, gateways = fields
    calls, seconds, sliding = (None if value is None else int(str(value)) for value in rate)
    return AccessToken(
        str(token_id),
        str(account_id),
        str(name),
        frozenset(Permission(text) for text in json.loads(str(permissions))),
        int(str(created_at)),
        None if expires_at is None else int(str(expires_at)),
        None if revoked_at is None else int(str(revoked_at)),
        None if models is None else tuple(json.loads(str(models))),
        None if calls is None or seconds is None else RateLimit(calls, seconds, bool(sliding)),
        None if gateways is None else tuple(json.loads(str(gateways))),
    )


def add_user(connection: Connection, email: str, key_hash: bytes, account_ids: list[str], at: int) -> None:
    """Create a user, or give an existing one a new key and further accounts."""
    connection.execute(
        "INSERT INTO users (email, key_hash, created_at) VALUES (?, ?, ?) "
        "ON CONFLICT (email) DO UPDATE SET key_hash = excluded.key_hash",
        (email, key_hash, at),
    )
    for account_id in account_ids:  # no process caches users
        connection.execute(
            "INSERT INTO memberships (email, account_id) VALUES (?, ?) ON CONFLICT DO NOTHING", (email, account_id)
        )


def find_user(connection: Connection, email: str) -> tuple[bytes, frozenset[str]] | None:
    """The hash of the user's key and the accounts the user is a member of."""
    found = row(connection, "SELECT key_hash FROM users WHERE email = ?", (email,))
    if found is None:
        return None
    accounts = rows(connection, "SELECT account_id FROM memberships WHERE email = ?", (email,))
    return bytes(found[0]), frozenset(account_id for (account_id,) in accounts)
