"""Farebox extension: exact balances and receipts. Money is in nano-dollars."""

import msgspec

from farebox.billing import account_reports
from farebox.calls import logs
from farebox.http.control.wire import require
from farebox.http.envelope import Response, ok
from farebox.http.request import Request


class ExactBalance(msgspec.Struct, frozen=True):
    """posted: sum of the transfers; held: sum of the open holds; available: what a new call may hold; owed: what was
    paid back after it had been spent, which the next credit pays first."""

    posted_nanos: int
    held_nanos: int
    available_nanos: int
    owed_nanos: int


async def balance(request: Request, _: None) -> Response:
    money = await account_reports.balance(request.services, request.account_id)
    owed = await account_reports.owed(request.services, request.account_id)
    return ok(ExactBalance(money.posted, money.held, money.available, owed))


async def receipt(request: Request, _: None) -> Response:
    found = await logs.receipt(request.services, request.account_id, request.path["log_id"])
    assert request.caller is not None
    return ok(require(found if request.caller.may_reach(found.gateway_id) else None))
