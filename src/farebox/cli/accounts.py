"""`farebox account` and `user`: who pays, and who may use the control plane."""

from typing import Annotated

import typer

from farebox.cli.output import Row, show, show_rows
from farebox.cli.session import session_of
from farebox.cli.values import AsJson, balance_row, moment_text
from farebox.model import Account
from farebox.money import format_usd

_ALL = 1_000_000

account = typer.Typer(no_args_is_help=True, help="Accounts: the tenants who pay.")
user = typer.Typer(no_args_is_help=True, help="Users of the API: people with an e-mail address and a key.")


def register(app: typer.Typer) -> None:
    app.add_typer(account, name="account")
    app.add_typer(user, name="user")


def _account_row(found: Account) -> Row:
    return {"account_id": found.account_id, "name": found.name, "created_at": moment_text(found.created_at)}


@account.command("create")
def create_account(
    context: typer.Context,
    name: Annotated[str, typer.Option(metavar="NAME", help="Display name.")],
    account_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The ID to use in URLs; generated if omitted.")
    ] = None,
    time_zone: Annotated[
        str | None,
        typer.Option("--time-zone", metavar="ZONE", help="IANA name; determines days, weeks and months."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create an account.

    Its ID is part of the URLs to call: /v1/ID/default/… . It starts without money: see `farebox grant`.

    \b
    Examples:
      farebox account create --name "Acme"
      farebox account create --name "Acme" --id acme --json
    """
    from farebox.operator import administer

    session = session_of(context)
    with session.writing() as connection:
        made = administer.create_account(
            connection,
            session.ids,
            by=session.operator,
            name=name,
            account_id=account_id,
            at=session.clock.now_ms(),
            buckets=session.settings.buckets,
        )
        if time_zone is not None:
            administer.set_account(
                connection, by=session.operator, account_id=made.account_id, at=made.created_at, since=0,
                time_zone=time_zone,
            )  # fmt: skip
    show(_account_row(made), as_json=as_json, text=f"Created account {made.account_id} ({made.name}).")


@account.command("set")
def set_account(
    context: typer.Context,
    account_id: Annotated[str, typer.Argument(metavar="ID", help="ID of the account.")],
    time_zone: Annotated[
        str | None,
        typer.Option("--time-zone", metavar="ZONE", help="IANA name; determines days, weeks and months."),
    ] = None,
    spend_alerts: Annotated[
        bool | None,
        typer.Option("--spend-alerts/--no-spend-alerts", help="Messages at 50, 80 and 100 % of a limit."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change an account's settings.

    A new time zone applies to the next windows; those in progress end as before.

    \b
    Examples:
      farebox account set acme --time-zone Europe/Berlin
      farebox account set acme --no-spend-alerts
    """
    from farebox.operator import administer

    session = session_of(context)
    with session.writing() as connection:
        found = administer.set_account(
            connection,
            by=session.operator,
            account_id=account_id,
            at=session.clock.now_ms(),
            time_zone=time_zone,
            spend_alerts=spend_alerts,
        )
    alerts = "on" if found.spend_alerts else "off"
    row: Row = {"account_id": account_id, "time_zone": found.zone, "spend_alerts": found.spend_alerts}
    show(row, as_json=as_json, text=f"Account {account_id}: time zone {found.zone}, alerts about spending {alerts}.")


@account.command("list")
def list_accounts(context: typer.Context, as_json: AsJson = False) -> None:
    """List the accounts."""
    from farebox.storage import accounts

    with session_of(context).reading() as connection:
        found = accounts.list_accounts(connection, limit=_ALL)
    columns = {"account_id": "ACCOUNT", "name": "NAME", "created_at": "CREATED"}
    empty = "No accounts yet: create one with `farebox account create --name NAME`."
    show_rows([_account_row(item) for item in found], as_json=as_json, columns=columns, empty=empty)


@account.command("show")
def show_account(
    context: typer.Context,
    account_id: Annotated[str, typer.Argument(metavar="ID", help="ID of the account.")],
    as_json: AsJson = False,
) -> None:
    """Show one account and its money.

    \b
    Example:
      farebox account show acme
    """
    from farebox.operator.administer import balance_of, require_account

    with session_of(context).reading() as connection:
        found = require_account(connection, account_id)
        balance = balance_of(connection, account_id)
    text = (
        f"Account    {found.account_id}\nName       {found.name}\nCreated    {moment_text(found.created_at)}\n"
        f"Available  {format_usd(balance.available)} USD"
    )
    show({**_account_row(found), **balance_row(balance)}, as_json=as_json, text=text)


# --- users ------------------------------------------------------------------------------------------------------------


@user.command("create")
def create_user(
    context: typer.Context,
    email: Annotated[str, typer.Option(metavar="EMAIL", help="Sent as X-Auth-Email.")],
    account_ids: Annotated[
        list[str], typer.Option("--account", metavar="ID", help="An account the user may act for; may be repeated.")
    ],
    as_json: AsJson = False,
) -> None:
    """Create a user of the API for some accounts, and print their key. This is the only time.

    A user has every permission of the API on these accounts, but no role on the pages (see `farebox member`). An
    existing user keeps their other accounts, and gets a new key that replaces the old one.

    \b
    Example:
      farebox user create --email ana@example.com --account acme --account beta
    """
    from farebox.operator import administer

    session = session_of(context)
    with session.writing() as connection:
        key = administer.create_user(
            connection,
            session.ids,
            session.vault,
            by=session.operator,
            email=email,
            account_ids=account_ids,
            at=session.clock.now_ms(),
        )
    text = f"{key}\n\nKey of {email}, to be sent as X-Auth-Key. Keep it: it cannot be shown again."
    show({"key": key, "email": email, "account_ids": account_ids}, as_json=as_json, text=text)
