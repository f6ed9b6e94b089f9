"""The audit of lots: each must agree with its transfers."""

from collections.abc import Iterator, Mapping
from typing import Any

from farebox.ledger.audit_keys import IN_PAGE, Key, Page
from farebox.ledger.differences import Difference
from farebox.storage.sql import Connection
from farebox.storage.transfer_statement import NO_CHARGE


def check_lots(
    connection: Connection, page: Page, filled: Mapping[str, tuple[Mapping[tuple[str, str], int], int]]
) -> Iterator[Difference]:
    """Compare each lot with the transfer that filled it, and with the remainder after the replay. `filled`: for each
    account that has transfers, the remainders by book and ID, and the number of lots that were filled."""
    found = connection.execute(
        "SELECT account_id, lot_id, book, amount, remaining, spent, "
        "(SELECT max(t.amount) FROM transfers t WHERE t.bucket = ?1 AND t.account_id = lots.account_id "
        f"AND t.transfer_id = lots.lot_id AND t.{NO_CHARGE} AND t.to_book = lots.book) "
        f"FROM lots WHERE {IN_PAGE} ORDER BY account_id, lot_id",
        page,
    )
    lots: dict[str, list[tuple[Any, ...]]] = {account_id: [] for account_id in filled}
    for account_id, *lot in found:
        lots.setdefault(account_id, []).append(tuple(lot))
    for account_id, of_account in lots.items():
        yield from _check(connection, (page[0], account_id), of_account, *filled.get(account_id, ({}, 0)))


def _check(
    connection: Connection,
    key: Key,
    lots: list[tuple[Any, ...]],
    left_of: Mapping[tuple[str, str], int],
    filled: int,
) -> Iterator[Difference]:
    matched, unseen = 0, len(left_of)
    for lot_id, book, amount, remaining, spent, opened in lots:
        matched += opened is not None
        unseen -= (book, lot_id) in left_of
        if amount != opened:
            yield _of_lot(key, "lot_opening", lot_id, opened, amount)
        left = left_of.get((book, lot_id), 0)
        if remaining != left:
            yield _of_lot(key, "lot_remaining", lot_id, left, remaining)
        if spent != (remaining == 0):
            yield _of_lot(key, "lot_spent", lot_id, int(remaining == 0), spent)
    if matched != filled or unseen:
        yield from _missing(connection, key)


def _missing(connection: Connection, key: Key) -> Iterator[Difference]:
    found = connection.execute(
        "SELECT transfer_id, amount FROM transfers t WHERE to_book IN ('credit', 'granted') AND "
        "bucket = ?1 AND account_id = ?2 AND NOT EXISTS (SELECT 1 FROM lots l WHERE l.bucket = ?1 AND "
        "l.account_id = ?2 AND l.lot_id = CASE kind WHEN 'correction' THEN coalesce(t.lot_id, t.transfer_id) "
        "ELSE t.transfer_id END AND l.book = t.to_book)",
        key,
    )
    for transfer_id, amount in found:
        yield _of_lot(key, "lot_missing", transfer_id, amount, None)


def _of_lot(key: Key, what: str, lot_id: str, expected: Any, found: Any) -> Difference:
    return Difference(account_id=key[1], what=what, expected=expected, found=found, transfer_id=lot_id)
