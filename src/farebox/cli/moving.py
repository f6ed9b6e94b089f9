"""`farebox account move`: from one bucket to another."""

from typing import Annotated

import typer

from farebox.cli.accounts import account
from farebox.cli.output import Row, show
from farebox.cli.session import session_of
from farebox.cli.values import AsJson


def register(app: typer.Typer) -> None:
    """Nothing to add: it is a command of `account`."""


@account.command("move")
def move_account(
    context: typer.Context,
    account_id: Annotated[str, typer.Argument(metavar="ID", help="ID of the account.")],
    to: Annotated[int, typer.Option("--to", metavar="BUCKET", help="Number of the bucket.")],
    rows_max: Annotated[int, typer.Option("--rows-max", metavar="N", help="Refuse if it has more rows.")] = 20_000,
    as_json: AsJson = False,
) -> None:
    """Move an account to another bucket.

    Its former bucket then has less to do. For PostgreSQL with several FAREBOX_BUCKETS. Servers may run: calls of the
    account wait during the move (docs/citus.md).

    \b
    Example:
      farebox account move acme --to 5
    """
    from farebox.operator.moving import move_account as move

    session = session_of(context)
    buckets = 1 if session.settings.engine == "sqlite" else session.settings.buckets
    with session.writing() as connection:
        by, at = session.operator, session.clock.now_ms()
        moved = move(connection, by=by, account_id=account_id, at=at, to=to, buckets=buckets, rows_max=rows_max)
    text = f"Account {account_id} is in bucket {to} already."
    if moved.rows:
        text = f"Moved account {account_id} from bucket {moved.from_bucket} to {to}: {moved.rows:,} rows."
    row: Row = {"account_id": account_id, "from": moved.from_bucket, "to": to, "rows": moved.rows}
    show(row, as_json=as_json, text=text)
