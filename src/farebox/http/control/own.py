"""Ours beside Cloudflare's: exact balances, the statement of transfers, receipts. Money is in nano-dollars."""

import msgspec

from farebox.http.control.wire import Paging, iso
from farebox.http.envelope import Answer, ok, page
from farebox.http.request import Request
from farebox.usecases import logs, reports


class ExactBalance(msgspec.Struct, frozen=True):
    """posted: sum of the transfers; held: sum of the open holds; available: what a new call may hold."""

    posted_nanos: int
    held_nanos: int
    available_nanos: int


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


async def balance(request: Request, _: None) -> Answer:
    money = reports.balance(request.services, request.account_id)
    return ok(ExactBalance(money.posted, money.held, money.available))


async def transfers(request: Request, query: Paging) -> Answer:
    window = query.window()
    found, total = await reports.statement(request.services, request.account_id, window.offset, window.per_page)
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


async def receipt(request: Request, _: None) -> Answer:
    return ok(msgspec.Raw(await logs.receipt(request.services, request.account_id, request.path["log_id"])))
