"""`farebox grant`, `correct`, `balance`: an account's money, by hand."""

from typing import Annotated

import typer

from farebox.cli.output import show
from farebox.cli.session import session_of
from farebox.cli.values import (
    AccountId,
    Amount,
    AsJson,
    Expires,
    GivenAmount,
    TakenAmount,
    balance_row,
    optional_moment_text,
)
from farebox.money import format_usd

Cause = Annotated[
    str | None, typer.Option("--id", metavar="ID", help="Identifies the operation, so that repeating it is harmless.")
]


def register(app: typer.Typer) -> None:
    app.command("grant")(grant)
    app.command("correct")(correct)
    app.command("balance")(balance)


def grant(
    context: typer.Context,
    account_id: AccountId,
    amount: Amount,
    expires: Expires = None,
    priority: Annotated[
        int, typer.Option(metavar="N", min=0, max=100, help="Lower is spent first; top-ups have 50.")
    ] = 50,
    grant_id: Cause = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="Reason, shown on the statement.")] = "",
    as_json: AsJson = False,
) -> None:
    """Grant credit to an account.

    Scripts that may run twice should give the grant an ID: a repeat then changes nothing, and says so.

    \b
    Examples:
      farebox grant --account acme --amount 12.34
      farebox grant --account acme --amount 5 --expires 2027-01-31 --id welcome-2026
    """
    from farebox.operator import administer

    session = session_of(context)
    with session.writing() as connection:
        posted = administer.grant(
            connection,
            session.ids,
            by=session.operator,
            account_id=account_id,
            amount=amount,
            grant_id=grant_id,
            priority=priority,
            expires_at=expires,
            note=note,
            at=session.clock.now_ms(),
        )
    data = {
        "grant_id": posted.cause_id,
        "account_id": account_id,
        "amount_nanos": amount,
        "amount": format_usd(amount),
        "expires_at": optional_moment_text(expires),
        "repeated": posted.repeated,
        **balance_row(posted.balance),
    }
    did = (
        f"Grant {posted.cause_id} was already made; nothing changed"
        if posted.repeated
        else f"Granted {format_usd(amount)} USD"
    )
    show(
        data,
        as_json=as_json,
        text=f"{did}. Account {account_id} has {format_usd(posted.balance.available)} USD available.",
    )


def correct(
    context: typer.Context,
    account_id: AccountId,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Recorded in the books.")],
    give: GivenAmount = None,
    take: TakenAmount = None,
    correction_id: Cause = None,
    as_json: AsJson = False,
) -> None:
    """Correct an earlier charge.

    Returns money as credit, or charges what was missed, and records the reason in the books.

    \b
    Examples:
      farebox correct --account acme --give 0.25 --reason "charged at the old price"
      farebox correct --account acme --take 0.10 --reason "free by mistake" --id fix-7
    """
    from farebox.operator import administer

    if (give is None) == (take is None):
        raise typer.BadParameter("give exactly one of the two", param_hint="--give / --take")
    amount = give if give is not None else -(take or 0)
    session = session_of(context)
    with session.writing() as connection:
        posted = administer.correct(
            connection,
            session.ids,
            by=session.operator,
            account_id=account_id,
            amount=amount,
            reason=reason,
            correction_id=correction_id,
            at=session.clock.now_ms(),
        )
    data = {
        "correction_id": posted.cause_id,
        "account_id": account_id,
        "amount_nanos": amount,
        "amount": format_usd(amount),
        "repeated": posted.repeated,
        **balance_row(posted.balance),
    }
    did = (
        f"Correction {posted.cause_id} was already made; nothing changed"
        if posted.repeated
        else f"{'Gave back' if amount > 0 else 'Took'} {format_usd(abs(amount))} USD"
    )
    show(
        data,
        as_json=as_json,
        text=f"{did}. Account {account_id} has {format_usd(posted.balance.available)} USD available.",
    )


def balance(context: typer.Context, account_id: AccountId, as_json: AsJson = False) -> None:
    """Show an account's balance.

    Posted is the sum of all its transfers; held is what calls in flight reserve; available is the rest.

    \b
    Examples:
      farebox balance --account acme
      farebox balance --account acme --json | jq .available_nanos
    """
    from farebox.operator.administer import balance_of

    with session_of(context).reading() as connection:
        found = balance_of(connection, account_id)
    lines = (("Posted", found.posted), ("Held", found.held), ("Available", found.available))
    width = max(len(format_usd(nanos)) for _, nanos in lines)
    text = "\n".join(f"{word:<9}  {format_usd(nanos):>{width}} USD" for word, nanos in lines)
    show({"account_id": account_id, **balance_row(found)}, as_json=as_json, text=text)
