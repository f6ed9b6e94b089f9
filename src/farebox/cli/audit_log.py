"""`farebox audit`: what operators have done."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from farebox.cli.output import Row, show_rows
from farebox.cli.session import session_of
from farebox.cli.values import AsJson, moment_text

if TYPE_CHECKING:
    from farebox.storage.operator_acts import OperatorAct


def register(app: typer.Typer) -> None:
    app.command("audit")(audit)


def audit(
    context: typer.Context,
    account_id: Annotated[
        str | None, typer.Option("--account", metavar="ID", help="Only what was done to this account.")
    ] = None,
    last: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Maximum number, newest first.")] = 50,
    before: Annotated[int | None, typer.Option(metavar="NUMBER", help="Only acts before this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the acts of operators: the audit log.

    Each act shows who did what, on the pages or on the command line, with the state before and after. It is written in
    the transaction that it reports, and never changed. `farebox check` finds rows that were changed or deleted, even at
    the end. Someone who can write to the database can also reset the newest digest, or compute all digests again: keep
    the newest one elsewhere if that matters.

    \b
    Examples:
      farebox audit
      farebox audit --account acme --json
    """
    from farebox.storage.operator_acts import list_acts

    with session_of(context).reading() as connection:
        found = list_acts(connection, before=before, account_id=account_id, limit=last)
    columns = {
        "number": "NUMBER", "at": "TIME", "who": "WHO", "way": "WAY", "act": "ACT", "account_id": "ACCOUNT",
        "subject": "SUBJECT", "after": "AFTER",
    }  # fmt: skip
    rows = [_row(act) for act in found]
    if not as_json:
        rows = [{**row, "after": json.dumps(row["after"], ensure_ascii=False) if row["after"] else ""} for row in rows]
    show_rows(rows, as_json=as_json, columns=columns, empty="Nothing was done yet.")


def _row(act: "OperatorAct") -> Row:
    return {
        "number": act.number, "at": moment_text(act.at), "who": act.who, "way": act.way, "act": act.act,
        "account_id": act.account_id or None, "subject": act.subject or None,
        "before": None if act.before is None else json.loads(act.before),
        "after": None if act.after is None else json.loads(act.after),
    }  # fmt: skip
