"""Farebox extension: the statement of transfers as JSON or CSV, and the lots of credit. Money is in nano-dollars."""

import asyncio
from collections.abc import Iterable
from typing import Literal

import msgspec

from farebox.billing import account_reports
from farebox.http.control.wire import Moment, Paging, iso, iso_or_none, moment
from farebox.http.csv_output import CSV, asks_for_csv, csv_table
from farebox.http.envelope import Response, page
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.ledger.books import TRANSFERS
from farebox.money import format_usd
from farebox.storage.transfer_statement import TransferFilter, TransferRow

CSV_ROWS_MAX = 10_000
"""Maximum rows of one CSV response; the next page has the following ones."""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable movement of money between two books of the account. `version` counts 1, 2, 3 … without gaps."""

    version: int
    transfer_id: str
    kind: str
    from_book: str
    to_book: str
    amount_nanos: int
    lot_id: str | None
    created_at: str
    note: str | None


class TransfersQuery(Paging, frozen=True, kw_only=True):
    """`from` is included, `to` is not. The `Accept` header `text/csv` has the same effect as `csv`."""

    kind: str | None = None
    from_: Moment | None = msgspec.field(name="from", default=None)
    to: Moment | None = None
    format: Literal["json", "csv"] | None = None


class LotsQuery(Paging, frozen=True, kw_only=True):
    spent: bool = False
    """Whether to include used-up and expired lots."""


class Lot(msgspec.Struct, frozen=True, kw_only=True):
    """Credit that came in at one time, and what is left of it. Lots are spent in the order of the list."""

    lot_id: str
    book: str
    """credit: bought; granted: given by the operator."""
    amount_nanos: int
    remaining_nanos: int
    expires_at: str | None
    created_at: str


async def transfers(request: Request, query: TransfersQuery) -> Response:
    if query.kind is not None and query.kind not in TRANSFERS:
        choices = " | ".join(f"'{kind}'" for kind in TRANSFERS)
        raise invalid(f"Invalid enum value. Expected {choices}", "query", "kind")
    wanted = TransferFilter(query.kind, moment(query.from_, "from"), moment(query.to, "to"))
    as_csv = asks_for_csv(request, query.format)
    if as_csv and all(name != "per_page" for name, _ in request.query_pairs()):
        query = msgspec.structs.replace(query, per_page=CSV_ROWS_MAX)
    window = query.window(CSV_ROWS_MAX if as_csv else 100)
    services, account_id = request.services, request.account_id
    found, total = await account_reports.statement(services, account_id, window.offset, window.per_page, wanted)
    if as_csv:
        return await asyncio.to_thread(_csv, found, total)
    shown = [
        Transfer(
            version=transfer.version,
            transfer_id=transfer.transfer_id,
            kind=transfer.kind,
            from_book=transfer.from_book,
            to_book=transfer.to_book,
            amount_nanos=transfer.amount,
            lot_id=transfer.lot_id,
            created_at=iso(transfer.at),
            note=transfer.note,
        )
        for transfer in found
    ]
    return page(shown, window.page, window.per_page, total)


CSV_COLUMNS = (
    "version",
    "created_at",
    "kind",
    "from_book",
    "to_book",
    "amount_usd",
    "amount_nanos",
    "lot_id",
    "transfer_id",
    "note",
)


def _csv(found: Iterable[TransferRow], total: int) -> Response:
    def cells(transfer: TransferRow) -> tuple[object, ...]:
        kinds = (transfer.kind, transfer.from_book, transfer.to_book)
        amounts = (format_usd(transfer.amount), transfer.amount)
        ends = (transfer.lot_id or "", transfer.transfer_id, transfer.note or "")
        return (transfer.version, iso(transfer.at), *kinds, *amounts, *ends)

    headers = (
        ("content-disposition", 'attachment; filename="transfers.csv"'),
        ("x-content-type-options", "nosniff"),
        ("x-total-count", str(total)),
    )
    return Response(csv_table(CSV_COLUMNS, map(cells, found)), content_type=CSV, headers=headers)


async def lots(request: Request, query: LotsQuery) -> Response:
    window = query.window()
    found, total = await account_reports.lots(
        request.services, request.account_id, window.offset, window.per_page, spent=query.spent
    )
    shown = [
        Lot(
            lot_id=lot.lot_id,
            book=lot.book,
            amount_nanos=lot.amount,
            remaining_nanos=lot.remaining,
            expires_at=iso_or_none(lot.expires_at),
            created_at=iso(lot.created_at),
        )
        for lot in found
    ]
    return page(shown, window.page, window.per_page, total)
