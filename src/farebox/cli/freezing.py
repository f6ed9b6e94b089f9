"""`farebox account freeze`, `unfreeze`: an account that makes no calls for a while."""

from typing import Annotated

import typer

from farebox.cli.accounts import account
from farebox.cli.output import show
from farebox.cli.session import session_of
from farebox.cli.values import AsJson


def register(_: typer.Typer) -> None:
    """Registers nothing: the commands belong to `farebox account`."""


@account.command("freeze")
def freeze(
    context: typer.Context,
    account_id: Annotated[str, typer.Argument(metavar="ID", help="ID of the account.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Recorded in the audit log.")],
    as_json: AsJson = False,
) -> None:
    """Freeze an account: no calls, no holds, no purchases.

    This takes effect on every running server within a second. The account's tokens can still read. Calls in flight are
    completed and charged; WebSockets end at their next message.

    \b
    Example:
      farebox account freeze acme --reason "the card was stolen"
    """
    _freeze(context, account_id, reason, frozen=True, as_json=as_json)


@account.command("unfreeze")
def unfreeze(
    context: typer.Context,
    account_id: Annotated[str, typer.Argument(metavar="ID", help="ID of the account.")],
    as_json: AsJson = False,
) -> None:
    """Unfreeze an account. It can then make calls and purchases again.

    \b
    Example:
      farebox account unfreeze acme
    """
    _freeze(context, account_id, "", frozen=False, as_json=as_json)


def _freeze(context: typer.Context, account_id: str, reason: str, *, frozen: bool, as_json: bool) -> None:
    from farebox.operator.administer import set_frozen

    session = session_of(context)
    at = session.clock.now_ms()
    with session.writing() as connection:
        changed = set_frozen(
            connection, by=session.operator, account_id=account_id, frozen=frozen, reason=reason, at=at
        )
    text = f"Account {account_id} is {'' if changed else 'already '}{'frozen' if frozen else 'not frozen'}."
    show({"account_id": account_id, "frozen": frozen, "changed": changed}, as_json=as_json, text=text)
