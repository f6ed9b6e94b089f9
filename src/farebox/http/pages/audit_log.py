"""The operator's page of the audit log: who did what, before and after."""

from functools import partial
from typing import Final

from farebox.http.pages.table import Shown
from farebox.http.pages.visit import Visit
from farebox.storage.operator_actions import list_actions

SHOWN: Final = 50
_DIGITS_MAX: Final = 18


async def actions(visit: Visit) -> Shown:
    """The latest actions, optionally only those about the account `of`, or before the number `before`."""
    query = dict(visit.request.query_pairs())
    of, given = query.get("of", "").strip()[:64], query.get("before", "")
    before = int(given) if given.isascii() and given.isdigit() and len(given) <= _DIGITS_MAX else None
    found = await visit.services.database.scan(
        partial(list_actions, before=before, account_id=of or None, limit=SHOWN + 1)
    )
    more = found[SHOWN - 1].number if len(found) > SHOWN else None
    return {"actions": found[:SHOWN], "of": of, "before": before, "more": more}
