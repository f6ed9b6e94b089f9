"""Searches for accounts by whatever is known about them."""

import re
from typing import Final, NamedTuple

from farebox.model import Account
from farebox.storage.accounts import ACCOUNT, list_accounts
from farebox.storage.sql import Connection, containing, contains, rows

LOOKED_THROUGH: Final = 100_000
"""How many accounts' IDs and names one search compares: about ten milliseconds of processor time on SQLite."""
_BY_NAME = "accounts INDEXED BY accounts_by_name"
_NAME_CONTAINS, _ID_CONTAINS = contains("name"), contains("account_id")
_OF_IDS = re.compile(r"[\w-]+", re.ASCII)
"""Texts that can be part of an account's ID."""
_ABOVE_ALL = "~"
"""No account has an ID above this one."""


class FoundAccounts(NamedTuple):
    """One part of the results of a search, in order of ID."""

    accounts: list[Account]
    after: str | None
    """The search continues above this ID; None: it is finished."""


def search_accounts(connection: Connection, text: str, *, after: str = "", limit: int) -> FoundAccounts:
    """Accounts above `after` that have the text in their ID or name, or are those of exactly this member's e-mail
    address, access token, payment or customer.

    Compares the IDs and names of LOOKED_THROUGH accounts. Exact matches are all in the first part, and appear again in
    the part that reaches their ID.
    """
    if not text:
        listed = list_accounts(connection, after=after, limit=limit + 1)
        return FoundAccounts(listed[:limit], listed[limit - 1].account_id if len(listed) > limit else None)
    last = _last(connection, after)
    found = {*_like(connection, text, after, last, limit + 1), *_exactly(connection, text, after, limit + 1)}
    ids = sorted(found)[:limit]
    if len(found) > limit:
        last = ids[-1] if last is None else min(ids[-1], last)
    return FoundAccounts(_accounts(connection, ids), last)


def _last(connection: Connection, after: str) -> str | None:
    """The last ID that a search above `after` reaches; None: it reaches the end."""
    sql = f"SELECT account_id FROM {_BY_NAME} WHERE account_id > ? ORDER BY account_id LIMIT 2 OFFSET ?"
    found = rows(connection, sql, (after, LOOKED_THROUGH - 1))
    return str(found[0][0]) if len(found) > 1 else None


def _like(connection: Connection, text: str, after: str, last: str | None, limit: int) -> list[str]:
    """The IDs of accounts above `after`, up to `last`, that have the text in their ID or name."""
    by_id, wanted = "", [text]
    if _OF_IDS.fullmatch(text):
        by_id = f" OR {_ID_CONTAINS}"
        wanted.append(text)
    lowered = ""
    if not text.isascii():  # SQLite ignores case for ASCII letters only
        lowered = f" OR {_NAME_CONTAINS}"
        wanted.append(text.lower())
    found = rows(
        connection,
        f"SELECT account_id FROM {_BY_NAME} WHERE account_id > ? AND account_id <= ? "
        f"AND ({_NAME_CONTAINS}{by_id}{lowered}) ORDER BY account_id LIMIT ?",
        (after, last or _ABOVE_ALL, *map(containing, wanted), limit),
    )
    return [account_id for (account_id,) in found]


def _exactly(connection: Connection, text: str, after: str, limit: int) -> list[str]:
    found = rows(
        connection,
        "SELECT account_id FROM (SELECT account_id FROM members WHERE email = ? "
        "UNION SELECT account_id FROM access_tokens WHERE token_id = ? "
        "UNION SELECT account_id FROM payments WHERE payment_id = ? "
        "UNION SELECT account_id FROM customers WHERE customer_id = ?) AS known "
        "WHERE account_id > ? ORDER BY account_id LIMIT ?",
        (text.lower(), text, text, text, after, limit),
    )
    return [account_id for (account_id,) in found]


def _accounts(connection: Connection, there: list[str]) -> list[Account]:
    places = ", ".join("?" for _ in there)
    sql = f"SELECT {ACCOUNT} FROM accounts WHERE account_id IN ({places}) ORDER BY account_id"
    return [Account(*fields) for fields in rows(connection, sql, tuple(there))] if there else []
