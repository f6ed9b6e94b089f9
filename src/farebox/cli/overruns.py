"""`farebox overruns`: how far holds covered what calls cost."""

from typing import Annotated

import typer

from farebox.cli.output import show_rows
from farebox.cli.session import session_of
from farebox.cli.values import AsJson, moment_text
from farebox.money import format_usd


def register(app: typer.Typer) -> None:
    app.command("overruns")(overruns)


def overruns(
    context: typer.Context,
    days: Annotated[int, typer.Option(metavar="N", min=1, max=3650, help="Show the last N days, including today.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Show how well holds covered what calls cost.

    Lists, by day, provider, model and kind, the calls with input that requests do not show (files, earlier responses,
    searches), and all others that cost more than was held. What was written off is your loss: a rule in
    FAREBOX_UNSEEN_INPUT may prevent it (docs/operating.md).

    \b
    Examples:
      farebox overruns
      farebox overruns --days 30 --json
    """
    from farebox.calendar import DAY_MS
    from farebox.storage.overruns import hold_coverage

    session = session_of(context)
    now = session.clock.now_ms()
    with session.reading() as connection:
        found = hold_coverage(connection, now - now % DAY_MS - (days - 1) * DAY_MS)
    rows = [
        {
            "day": moment_text(row.day)[:10],
            "provider": row.provider,
            "model": row.model,
            "kinds": list(row.kinds),
            "calls": row.calls,
            "held_usd": format_usd(row.held),
            "charged_usd": format_usd(row.charged),
            "above_hold_usd": format_usd(row.above),
            "written_off_usd": format_usd(row.written_off),
        }
        for row in found
    ]
    columns = {
        "day": "DAY", "provider": "PROVIDER", "model": "MODEL", "kinds": "UNSEEN INPUT", "calls": "CALLS",
        "held_usd": "HELD USD", "charged_usd": "CHARGED USD", "above_hold_usd": "ABOVE THE HOLD USD",
        "written_off_usd": "WRITTEN OFF USD",
    }  # fmt: skip
    show_rows(rows, as_json=as_json, columns=columns, empty="Every hold covered what its call cost.")
