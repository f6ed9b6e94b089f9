"""`farebox top-ups`, `farebox refund`: what was bought, and money paid back to the card it came from."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from farebox.cli.output import show, show_rows
from farebox.cli.session import Stopped, session_of
from farebox.cli.values import AccountId, AsJson, SomeAmount, optional_moment_text
from farebox.money import NANOS_PER_CENT, format_usd

if TYPE_CHECKING:
    from farebox.payments.model import Refund, TopUp

LISTED = 1000


def register(app: typer.Typer) -> None:
    app.command("top-ups")(top_ups)
    app.command("refund")(refund)


def top_ups(context: typer.Context, account_id: AccountId, as_json: AsJson = False) -> None:
    """List an account's purchases of credit, newest first.

    These are paid top-ups, and those in progress.

    \b
    Example:
      farebox top-ups --account acme
    """
    from farebox.operator.administer import require_account
    from farebox.storage.top_ups import history

    with session_of(context).reading() as connection:
        require_account(connection, account_id)
        found, _ = history(connection, account_id, "all", 0, LISTED)
    columns = {
        "top_up_id": "TOP-UP",
        "kind": "KIND",
        "state": "STATE",
        "paid_at": "PAID",
        "credit": "CREDIT",
        "charge": "CHARGE",
        "refunded": "REFUNDED",
        "disputed": "DISPUTED",
        "payment_id": "PAYMENT",
    }
    rows = [_row(top_up) for top_up in found]
    show_rows(rows, as_json=as_json, columns=columns, empty=f"Account {account_id} has no purchases.")


def refund(
    context: typer.Context,
    account_id: AccountId,
    top_up_id: Annotated[str, typer.Option("--top-up", metavar="ID", help="The top-up, or its payment.")],
    amount: SomeAmount = None,
    allow_spent: Annotated[
        bool, typer.Option("--allow-spent", help="Also refund spent credit: other bought credit makes up for it.")
    ] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason; recorded with the refund.")] = "",
    request_key: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Identifies the operation, so that repeating it is harmless."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Refund a top-up to the card, and take its credit.

    The amount is that of the credit; the card gets the same proportion of what it paid, fee and taxes included. Without
    an amount, everything unspent is refunded. With --allow-spent the account may end up owing what it has spent.

    \b
    Examples:
      farebox refund --account acme --top-up auto-3
      farebox refund --account acme --top-up auto-3 --amount 12.50 --reason "bought twice"
    """
    from farebox.billing import refund as refunds
    from farebox.cli.services import run_with_services

    if amount is not None and amount % NANOS_PER_CENT:
        raise typer.BadParameter("cards are refunded in whole cents", param_hint="--amount")
    session = session_of(context)
    made = run_with_services(
        session,
        partial(
            refunds.refund,
            account_id=account_id,
            top_up_id=top_up_id,
            credit_cents=None if amount is None else amount // NANOS_PER_CENT,
            allow_spent=allow_spent,
            reason=reason,
            request_key=request_key,
            by=session.operator,
        ),
    )
    if made.state == "failed":
        raise Stopped(f"the refund {made.refund_id} failed: {made.error}; the credit has been restored")
    show(_refund(made), as_json=as_json, text=_text(made))


def _text(made: "Refund") -> str:
    money, credit = _usd(made.amount_cents), _usd(made.credit_cents)
    if made.state == "requested":
        return (
            f"Took {credit} USD of credit. The processor has not yet confirmed the {money} USD for the card: "
            f"a running server keeps asking (refund {made.refund_id})."
        )
    is_on_its_way = " The bank has not confirmed it yet." if made.state == "pending" else ""
    return f"Refunded {money} USD to the card and took {credit} USD of credit (refund {made.refund_id}).{is_on_its_way}"


def _refund(made: "Refund") -> dict[str, object]:
    return {
        "refund_id": made.refund_id,
        "account_id": made.account_id,
        "top_up_id": made.top_up_id,
        "state": made.state,
        "amount_cents": made.amount_cents,
        "credit_cents": made.credit_cents,
        "reason": made.reason,
    }


def _row(top_up: "TopUp") -> dict[str, object]:
    return {
        "top_up_id": top_up.top_up_id,
        "kind": top_up.kind,
        "state": top_up.state,
        "paid_at": optional_moment_text(top_up.paid_at),
        "credit": _usd(top_up.credit_cents),
        "charge": _usd(top_up.charge_cents),
        "refunded": _usd(top_up.refunded_cents),
        "disputed": _usd(top_up.disputed_cents),
        "credit_cents": top_up.credit_cents,
        "charge_cents": top_up.charge_cents,
        "refunded_cents": top_up.refunded_cents,
        "disputed_cents": top_up.disputed_cents,
        "payment_id": top_up.payment_id,
    }


def _usd(cents: int) -> str:
    return format_usd(cents * NANOS_PER_CENT)
