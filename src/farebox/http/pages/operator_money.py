"""The operator's page of money: purchases of all accounts, refunds, disputes, and findings of reconciliation."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from farebox.errors import NOT_FOUND, Problem
from farebox.http.pages.operator_forms import invalid, run_action, signed_amount, text
from farebox.http.pages.table import Fields, Shown
from farebox.http.pages.visit import Visit
from farebox.money import format_usd
from farebox.operator import installation
from farebox.storage import findings, refunds, top_ups
from farebox.storage.sql import Connection

SHOWN: Final = 50
_CENTS: Final = re.compile(r"-?[0-9]{1,18}")
VIEWS: Final = {"purchases": "Purchases", "refunds": "Refunds", "disputes": "Disputes", "findings": "Findings"}


_READS: Final[Mapping[str, Callable[[Connection, int], tuple[Sequence[object], bool]]]] = {
    "purchases": top_ups.latest_everywhere,
    "refunds": refunds.latest_refunds,
    "disputes": refunds.latest_disputes,
    "findings": lambda connection, limit: (findings.list_findings(connection, limit), True),
}
"""The latest of each kind, and whether none are missing because a node of the database is unavailable."""


async def money(visit: Visit) -> Shown:
    """The latest items of one kind; every list shows the number of open findings."""
    view = dict(visit.request.query_pairs()).get("view", "purchases")
    if view not in VIEWS:
        raise Problem(NOT_FOUND, "This list does not exist")

    def read(connection: Connection) -> Shown:
        found, complete = _READS[view](connection, SHOWN)
        return {"rows": found, "complete": complete, "open": len(findings.open_findings(connection))}

    tabs = [(name, f"/ui/money?view={key}") for key, name in VIEWS.items()]
    return {
        "view": view,
        "tabs": tabs,
        "current": VIEWS[view],
        "shown": SHOWN,
        "payments": visit.services.processor is not None,
        **await visit.services.database.scan(read),
    }


async def accept(visit: Visit, form: Fields) -> str:
    """Accept a finding as correct."""
    at = visit.services.clock.now_ms()
    finding_id, seen, note = text(form, "finding"), _cents(form), text(form, "note")
    await run_action(
        visit,
        lambda connection, by: installation.accept_finding(connection, finding_id, seen, note, by=by, at=at),
    )
    return "Accepted the finding: it reopens only if its amount changes."


async def correct(visit: Visit, form: Fields) -> str:
    """Give an amount back to the account of a finding, or charge it, and accept the finding."""
    services, finding_id, seen, signed = visit.services, text(form, "finding"), _cents(form), signed_amount(form)
    posted = await run_action(
        visit,
        lambda connection, by: installation.correct_finding(
            connection, services.ids, finding_id, seen, signed, text(form, "reason"), by=by, at=services.clock.now_ms()
        ),
    )
    return f"Corrected the account: {format_usd(posted.balance.available)} USD is available."


def _cents(form: Fields) -> int:
    """The amount of the finding that the page showed. Raises Problem."""
    given = text(form, "seen")
    if not _CENTS.fullmatch(given):
        raise invalid("This form is out of date: reload the page and try again")
    return int(given)
