"""Invoices, credit notes and monthly statements: as lists and pages, each with its PDF."""

from functools import partial

from farebox.calendar import month_span
from farebox.documents.content import MOVEMENTS
from farebox.errors import NOT_FOUND, Problem
from farebox.http import documents as api
from farebox.http.control.wire import Paging
from farebox.http.pages import labels
from farebox.http.pages.own_api import invoke
from farebox.http.pages.table import Shown
from farebox.http.pages.visit import Visit
from farebox.http.quotas import DOCUMENTS, spend
from farebox.storage.accounts import find_account

_PAGE = 50
_MONTHS = 36
"""Number of statements that are listed; earlier ones are opened by their month."""
KINDS = {"invoice": "Invoice", "credit_note": "Credit note"}


async def document_list(visit: Visit) -> Shown:
    """Invoices and credit notes, the newest first; and the months with a statement."""
    page = visit.page()
    found = await invoke(visit, api.index, Paging(page=page, per_page=_PAGE))
    return {
        "documents": found,
        "kinds": KINDS,
        "page": page,
        "older": len(found) == _PAGE,
        "months": await _months(visit),
    }


async def _months(visit: Visit) -> list[tuple[str, str]]:
    """The months since the account was created, latest first: key and name."""
    services, account_id = visit.services, visit.account_id
    account = await services.database.get(partial(find_account, account_id=account_id))
    assert account is not None
    months: list[tuple[str, str]] = []
    month = labels.month_key(services.clock.now_ms())
    while len(months) < _MONTHS:
        span = month_span(month)
        if span is None or span[1] <= account.created_at:
            break
        months.append((month, labels.month_name(span[0])))
        month = labels.month_key(span[0] - 1)
    return months


async def statement(visit: Visit) -> Shown:
    """The statement of one month: movements of money, and usage."""
    spend(visit.services, DOCUMENTS, visit.account_id)
    asked = dict(visit.request.query_pairs()).get("month") or labels.month_key(visit.services.clock.now_ms())
    span = month_span(asked)
    if span is None:
        raise Problem(NOT_FOUND, "This month does not exist: write it as 2026-11")
    found = await invoke(visit, api.statement, month=asked)
    charged = -found["movements_nanos"].get("charged", 0)
    return {
        "title": f"Statement for {labels.month_name(span[0])}",
        "found": found,
        "name": labels.month_name(span[0]),
        "movements": [(MOVEMENTS.get(kind, kind), amount) for kind, amount in found["movements_nanos"].items()],
        "usage": sorted(found["usage"], key=lambda line: (-line["charge_nanos"], line["provider"], line["model"])),
        "charged": charged,
        "before": labels.month_key(span[0] - 1),
    }
