"""The operator's pages of reports that take long to compute: whether the books balance, and the margins of calls."""

from functools import partial
from typing import Any, Final

import msgspec

from farebox.http.pages.operator_forms import invalid
from farebox.http.pages.table import Fields, Shown
from farebox.http.pages.visit import Visit
from farebox.operator import long_reports
from farebox.operator.margins import Margins
from farebox.operator.report_process import CheckReport, Kind

_REFRESH: Final = "2"
_SHOWN: Final = 60
"""Models that one page of the margins shows."""


async def check(visit: Visit) -> Shown:
    """What the latest check found."""
    return await _shown(visit, "check", CheckReport)


async def margins(visit: Visit) -> Shown:
    """What calls cost, and what was charged for them, by model."""
    shown = await _shown(visit, "margins", Margins)
    found: Margins | None = shown["report"]
    models = [] if found is None else found.models
    return {
        **shown,
        **visit.part_of("models", models, _SHOWN),
        "cost": sum(each.cost for each in models),
        "charge": sum(each.charge for each in models),
    }


async def _shown(visit: Visit, kind: Kind, of: type[Any]) -> dict[str, Any]:
    found, interrupted = await long_reports.latest(visit.services, kind)
    running = found is not None and found.state == "running" and not interrupted
    done = found is not None and found.state == "done"
    return {
        "run": found,
        "running": running,
        "interrupted": interrupted,
        "report": msgspec.json.decode(found.report or "", type=of) if found is not None and done else None,
        "refresh": _REFRESH if running else None,
    }


async def _begin(visit: Visit, _: Fields, kind: Kind) -> str:
    if not await long_reports.begin(visit.services, kind, visit.operator):
        raise invalid("It is already running: wait until it has finished")
    return "It has been started. This page shows its progress."


begin_check = partial(_begin, kind="check")
begin_margins = partial(_begin, kind="margins")
