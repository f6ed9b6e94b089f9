"""The operator's pages."""

from functools import partial

from farebox.http.pages import charts
from farebox.http.pages.table import Shown
from farebox.http.pages.visit import Visit
from farebox.storage.accounts import count_accounts, list_accounts

_SHOWN = 50


async def accounts(visit: Visit) -> Shown:
    """The accounts of this installation, in order of ID."""
    after = dict(visit.request.query_pairs()).get("after", "")
    found = await visit.services.database.scan(partial(list_accounts, after=after, limit=_SHOWN + 1))
    total = await visit.services.database.scan(count_accounts)
    more = found[_SHOWN - 1].account_id if len(found) > _SHOWN else ""
    return {"accounts": found[:_SHOWN], "total": total, "more": more}


async def styles(visit: Visit) -> Shown:
    """Every component, with made-up contents."""
    amounts = [0, 3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46]
    now = [charts.Value(f"{number:02d}:00", amount, f"{amount} USD") for number, amount in enumerate(amounts)]
    then = [charts.Value(f"{number:02d}:00", amount, f"{amount} USD") for number, amount in enumerate(amounts[::-1])]
    return {"chart": charts.bars("chart", "A chart", "Hour", now, what="Today", then=then, what_then="Yesterday")}
