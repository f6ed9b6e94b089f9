"""`farebox audit`: what operators have done."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from farebox.cli.output import Row, show_rows
from farebox.cli.session import session_of
from farebox.cli.values import AsJson, moment_text

if TYPE_CHECKING:
    from farebox.storage.operator_actions import OperatorAction


def register(app: typer.Typer) -> None:
    app.command("audit")(audit)


def audit(
    context: typer.Context,
    account_id: Annotated[
        str | None, typer.Option("--account", metavar="ID", help="Only what was done to this account.")
    ] = None,
    last: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Maximum number, newest first.")] = 50,
    before: Annotated[int | None, typer.Option(metavar="NUMBER", help="Only actions before this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the actions of operators: the audit log.

    Each action shows who did what, on the pages or on the command line, with the state before and after. It is written
    in the transaction that it reports, and never changed. `farebox check` finds rows that were changed or deleted, even
    at the end. Someone who can write to the database can also reset the newest digest, or compute all digests again:
    keep the newest one elsewhere if that matters.

    \b
    Examples:
      farebox audit
      farebox audit --account acme --json
    """
    from farebox.storage.operator_actions import list_actions

    with session_of(context).reading() as connection:
        found = list_actions(connection, before=before, account_id=account_id, limit=last)
    columns = {
        "number": "NUMBER", "at": "TIME", "who": "WHO", "way": "VIA", "act": "ACTION", "account_id": "ACCOUNT",
        "subject": "SUBJECT", "after": "AFTER",
    }  # fmt: skip
    rows = [_row(action) for action in found]
    if not as_json:
        rows = [{**row, "after": json.dumps(row["after"], ensure_ascii=False) if row["after"] else ""} for row in rows]
    show_rows(rows, as_json=as_json, columns=columns, empty="No actions yet.")


def _row(action: "OperatorAction") -> Row:
    return {
        "number": action.number, "at": moment_text(action.at), "who": action.who, "way": action.way, "act": action.act,
        "account_id": action.account_id or None, "subject": action.subject or None,
        "before": None if action.before is None else json.loads(action.before),
        "after": None if action.after is None else json.loads(action.after),
    }  # fmt: skip
