"""The store of re-ratings, and of the amounts by which each changed the charges of calls."""

from typing import Any, NamedTuple

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.calls import ReceiptRow, receipt_row
from farebox.storage.log_totals import id_at
from farebox.storage.sql import Connection, row, rows
from farebox.storage.transfer_statement import NO_CHARGE


class Correction(NamedTuple):
    """How a re-rating changed the charge of one call. Nano-dollars, milliseconds."""

    log_id: str
    rerate_id: str
    amount: int
    """Above zero: given back. Below zero: charged."""
    charge: int
    """The call's charge at the corrected price."""
    price_version: str
    correction_id: str
    """The ID in the transfer `correction:{correction_id}`, which is for several calls together."""
    at: int


class CallToPrice(NamedTuple):
    """A call with its receipt. Times in milliseconds."""

    log_id: str
    created_at: int
    duration: int
    success: bool
    row: ReceiptRow
    request: bytes | None
    """The body of the request, if it was asked for and is stored."""
    detail: str


def page_of_calls(
    connection: Connection, account_id: str, *, after: str, start: int, end: int, limit: int, bodies: bool = False
) -> list[CallToPrice]:
    """The account's calls that began in [start, end) and have a receipt, beginning after the ID `after`, in the order
    in which they began."""
    body = "request" if bodies else "NULL"
    found = rows(
        connection,
        "SELECT receipt, account_id, log_id, gateway_id, provider, model, detail, cost, charge, created_at, duration, "
        f"success, {body} FROM calls WHERE {OF_ACCOUNT} AND log_id > ? AND log_id >= ? AND log_id < ? "
        "AND receipt IS NOT NULL ORDER BY log_id LIMIT ?",
        (*key_of(connection, account_id), after, id_at(start), id_at(end), limit),
    )
    return [_call(fields) for fields in found]


def _call(fields: tuple[Any, ...]) -> CallToPrice:
    *of_receipt, created_at, duration, success, request = fields
    receipt = receipt_row(tuple(of_receipt))
    return CallToPrice(receipt.log_id, created_at, duration, bool(success), receipt, request, str(fields[6]))


def count_calls(connection: Connection, account_id: str, start: int, end: int) -> int:
    """How many calls with a receipt `page_of_calls` finds in all."""
    found = row(
        connection,
        f"SELECT count(*) FROM calls WHERE {OF_ACCOUNT} AND log_id >= ? AND log_id < ? AND receipt IS NOT NULL",
        (*key_of(connection, account_id), id_at(start), id_at(end)),
    )
    return 0 if found is None else int(found[0])


def corrected_between(connection: Connection, account_id: str, first: str, last: str) -> dict[str, int]:
    """What was given back so far to the calls with IDs from `first` to `last`; nano-dollars."""
    found = rows(
        connection,
        f"SELECT log_id, sum(amount) FROM corrected_calls WHERE {OF_ACCOUNT} AND log_id >= ? AND log_id <= ? "
        "GROUP BY log_id",
        (*key_of(connection, account_id), first, last),
    )
    return {log_id: int(amount) for log_id, amount in found}


def add_corrections(connection: Connection, account_id: str, corrections: list[Correction]) -> None:
    key = key_of(connection, account_id)
    for each in corrections:
        connection.execute(
            "INSERT INTO corrected_calls (bucket, account_id, log_id, rerate_id, amount, charge, price_version, "
            "correction_id, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*key, *each),
        )


def corrections_of(connection: Connection, account_id: str, log_id: str) -> list[Correction]:
    """The corrections of a call, the first one first."""
    found = rows(
        connection,
        "SELECT log_id, rerate_id, amount, charge, price_version, correction_id, at FROM corrected_calls "
        f"WHERE {OF_ACCOUNT} AND log_id = ? ORDER BY at, rerate_id",
        (*key_of(connection, account_id), log_id),
    )
    return [Correction(*fields) for fields in found]


class CorrectionSums(NamedTuple):
    """What a re-rating changed for an account. Nano-dollars."""

    calls: int
    given_back: int
    charged: int


def sums_of(connection: Connection, account_id: str, rerate_id: str) -> CorrectionSums:
    found = row(
        connection,
        "SELECT count(*), coalesce(sum(CASE WHEN amount > 0 THEN amount END), 0), "
        "coalesce(sum(CASE WHEN amount < 0 THEN -amount END), 0) FROM corrected_calls "
        f"WHERE {OF_ACCOUNT} AND rerate_id = ?",
        (*key_of(connection, account_id), rerate_id),
    )
    assert found is not None
    return CorrectionSums(*(int(value) for value in found))


class LotDraws(NamedTuple):
    """What charges took from a lot, less what corrections have given back to it. Nano-dollars."""

    lot_id: str
    book: str
    amount: int


def drawn_since(connection: Connection, account_id: str, since: int) -> list[LotDraws]:
    """The lots that charges since then have drawn on, the most recently used one first. Reads all transfers of the
    account."""
    found = rows(
        connection,
        "SELECT lot_id, book, sum(amount) FROM ("
        "SELECT lot_id, from_book AS book, amount, version FROM transfers "
        f"WHERE {OF_ACCOUNT} AND kind = 'charge' AND at >= ? UNION ALL "
        f"SELECT lot_id, to_book, -amount, 0 FROM transfers WHERE {OF_ACCOUNT} AND kind = 'correction' "
        f"AND from_book = 'revenue' AND lot_id <> transfer_id AND {NO_CHARGE}"
        ") moved GROUP BY lot_id, book HAVING sum(amount) > 0 ORDER BY max(version) DESC",
        (*key_of(connection, account_id), since, *key_of(connection, account_id)),
    )
    return [LotDraws(lot_id, book, int(amount)) for lot_id, book, amount in found]


def given_to_lots(connection: Connection, account_id: str, correction_id: str) -> dict[str, int]:
    """What a correction gave to each lot."""
    cause = f"correction:{correction_id}"
    found = rows(
        connection,
        f"SELECT lot_id, amount FROM transfers WHERE {OF_ACCOUNT} AND {NO_CHARGE} "
        "AND (transfer_id = ? OR (transfer_id >= ? AND transfer_id < ?))",
        (*key_of(connection, account_id), cause, f"{cause}/", f"{cause}0"),
    )
    return {lot_id: int(amount) for lot_id, amount in found}


def begin_rerate(connection: Connection, spec: str, new_id: str, at: int) -> str:
    """The ID of the unfinished re-rating that was started with this request, or else of a new one."""
    found = row(
        connection,
        "SELECT rerate_id FROM rerates WHERE spec = ? AND finished_at IS NULL ORDER BY created_at LIMIT 1",
        (spec,),
    )
    if found is not None:
        return str(found[0])
    connection.execute("INSERT INTO rerates (rerate_id, spec, created_at) VALUES (?, ?, ?)", (new_id, spec, at))
    return new_id


def finish_rerate(connection: Connection, rerate_id: str, at: int) -> None:
    connection.execute("UPDATE rerates SET finished_at = ? WHERE rerate_id = ?", (at, rerate_id))
