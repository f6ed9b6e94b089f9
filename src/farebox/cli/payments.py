"""`farebox payments`: the processor's events, whether its books and ours match, and who invoices are made out to."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from farebox.cli.output import Row, print_table, show, show_rows
from farebox.cli.session import Stopped, session_of
from farebox.cli.values import AccountId, AsJson, Since, moment_text, optional_moment_text, whole_cents
from farebox.money import NANOS_PER_CENT, format_usd
from farebox.quoting import quoted

if TYPE_CHECKING:
    from farebox.billing.reconcile import ReconciledSums, Reconciliation
    from farebox.model import Operator
    from farebox.runtime.services import Services
    from farebox.storage.customers import CustomerProfile
    from farebox.storage.findings import Finding
    from farebox.storage.processor_events import StoredEvent


payments = typer.Typer(no_args_is_help=True, help="Payments: the processor's events, and reconciliation.")

Cents = Annotated[int | None, typer.Option(parser=whole_cents, metavar="CENTS", help="US cents.")]


def register(app: typer.Typer) -> None:
    app.add_typer(payments, name="payments")


# --- events -----------------------------------------------------------------------------------------------------------


@payments.command("events")
def list_events(
    context: typer.Context,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only failed ones: they are retried for three days, then given up.")
    ] = False,
    last: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Maximum number, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the payment processor's events with their outcome.

    They arrive by webhook or are found by polling.

    \b
    Examples:
      farebox payments events
      farebox payments events --failed --json
    """
    from farebox.storage import processor_events

    with session_of(context).reading() as connection:
        found = processor_events.list_events(connection, failed=failed, limit=last)
    columns = {
        "event_id": "EVENT", "type": "TYPE", "object_id": "OBJECT", "received_at": "RECEIVED", "via": "VIA",
        "attempts": "TRIED", "state": "STATE", "outcome": "OUTCOME",
    }  # fmt: skip
    empty = "No failed events." if failed else "No events yet."
    show_rows([_event_row(event) for event in found], as_json=as_json, columns=columns, empty=empty)


def _event_row(event: "StoredEvent") -> Row:
    state = "given up" if event.given_up else "due" if event.processed_at is None else "done"
    return {
        "event_id": event.event_id, "type": event.type, "object_id": event.object_id, "via": event.via,
        "created_at": moment_text(event.created_at), "received_at": moment_text(event.received_at),
        "processed_at": optional_moment_text(event.processed_at), "attempts": event.attempts, "state": state,
        "next_at": optional_moment_text(event.next_at), "outcome": event.outcome,
    }  # fmt: skip


@payments.command("replay")
def replay(
    context: typer.Context,
    event_id: Annotated[str | None, typer.Argument(metavar="[EVENT_ID]", help="As shown by `payments events`.")] = None,
    since: Since = None,
    as_json: AsJson = False,
) -> None:
    """Process events again, in the running server, within a second.

    An event only names what has changed; the current state is fetched again. So a replay is harmless, and does nothing
    twice.

    \b
    Examples:
      farebox payments replay evt_1Qx5Zr2eZvKYlo2C
      farebox payments replay --since 2027-01-31
    """
    from farebox.operator.installation import replay_events

    if (event_id is None) == (since is None):
        raise typer.BadParameter("name one event, or give --since", param_hint="EVENT_ID")
    session = session_of(context)
    with session.writing() as connection:
        count = replay_events(
            connection, by=session.operator, at=session.clock.now_ms(), event_id=event_id, since=since
        )
    if event_id is not None and not count:
        raise Stopped(f"there is no event {quoted(event_id)}: `farebox payments events` shows them")
    text = f"{count} {'event is' if count == 1 else 'events are'} due again."
    show({"events": count}, as_json=as_json, text=text)


# --- reconciliation ---------------------------------------------------------------------------------------------------


@payments.command("reconcile")
def reconcile(
    context: typer.Context,
    days: Annotated[int, typer.Option(metavar="N", min=1, max=3650, help="How far back to look.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Compare our books with the payment processor's.

    They are compared in both directions, to the cent. A server does this every night. Each difference is a line, and
    the exit status is 1. Missed events are applied if at most 100 US dollars are at stake; nothing else is corrected
    automatically.

    \b
    Examples:
      farebox payments reconcile
      farebox payments reconcile --days 365 --json
    """
    from farebox.cli.services import run_with_services

    session = session_of(context)
    done = run_with_services(session, partial(_examine, days=days, by=session.operator))
    if as_json:
        show(_reconciled_row(done), as_json=True, text="")
    else:
        _print_reconciled(done)
    if done.findings:
        raise typer.Exit(1)


async def _examine(services: "Services", days: int, by: "Operator") -> "Reconciliation":
    from farebox.billing import cards
    from farebox.billing.reconcile import examine_for

    with cards.translate_processor_errors("reconcile"):
        return await examine_for(services, days, by=by)


def _reconciled_row(done: "Reconciliation") -> Row:
    return {
        "clean": not done.findings,
        "payments": done.payments,
        "applied": done.applied,
        "theirs": _sums_row(done.theirs),
        "ours": _sums_row(done.ours),
        "findings": [_finding_row(finding) for finding in done.findings],
    }


def _sums_row(sums: "ReconciledSums") -> Row:
    return {
        f"{name}_cents": cents
        for name, cents in (("captured", sums.captured), ("refunded", sums.refunded), ("disputed", sums.disputed))
    }


def _print_reconciled(done: "Reconciliation") -> None:
    lines = [
        [word, _usd(theirs), _usd(ours)]
        for word, theirs, ours in (
            ("Captured", done.theirs.captured, done.ours.captured),
            ("Refunded", done.theirs.refunded, done.ours.refunded),
            ("Disputed", done.theirs.disputed, done.ours.disputed),
        )
    ]
    print_table(["USD", "PROCESSOR", "HERE"], lines, numbers=["PROCESSOR", "HERE"])
    for finding in done.findings:
        typer.echo(f"{finding.finding_id}: {_usd(finding.amount_cents)} USD, {finding.detail}")
    if done.applied:
        typer.echo(f"Applied {done.applied} missed {'event' if done.applied == 1 else 'events'}.")
    count = len(done.findings)
    result = f"{count} {'difference' if count == 1 else 'differences'}" if count else "the books match"
    typer.echo(f"Compared {done.payments} {'payment' if done.payments == 1 else 'payments'}: {result}.")


@payments.command("findings")
def list_findings(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Include resolved ones.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the differences found by reconciliation and events. An empty list means that the books match.

    Differences that a later reconciliation no longer finds are resolved.

    \b
    Examples:
      farebox payments findings
      farebox payments findings --all --json
    """
    from farebox.storage import findings

    with session_of(context).reading() as connection:
        found = findings.list_findings(connection) if everything else findings.open_findings(connection)
    columns = {
        "kind": "KIND", "account_id": "ACCOUNT", "payment_id": "PAYMENT", "amount": "USD", "found_at": "FOUND",
        "resolved_at": "RESOLVED", "detail": "DETAIL",
    }  # fmt: skip
    show_rows([_finding_row(finding) for finding in found], as_json=as_json, columns=columns, empty="Nothing differs.")


def _finding_row(finding: "Finding") -> Row:
    return {
        "finding_id": finding.finding_id, "kind": finding.kind, "account_id": finding.account_id,
        "payment_id": finding.payment_id, "amount_cents": finding.amount_cents,
        "amount": _usd(finding.amount_cents), "detail": finding.detail,
        "found_at": moment_text(finding.found_at), "resolved_at": optional_moment_text(finding.resolved_at),
    }  # fmt: skip


def _usd(cents: int) -> str:
    return format_usd(cents * NANOS_PER_CENT)


# --- profile ----------------------------------------------------------------------------------------------------------


@payments.command("profile")
def profile(
    context: typer.Context,
    account_id: AccountId,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Company or person.")] = None,
    email: Annotated[str | None, typer.Option(metavar="EMAIL", help="For messages and receipts.")] = None,
    address: Annotated[str | None, typer.Option(metavar="TEXT", help="`|` separates its lines.")] = None,
    country: Annotated[str | None, typer.Option(metavar="CC", help="Two letters; determines the tax.")] = None,
    tax_id: Annotated[str | None, typer.Option(metavar="ID", help="Such as DE123456789.")] = None,
    topup_min: Cents = None,
    topup_max: Cents = None,
    low_balance: Annotated[
        int | None,
        typer.Option(
            parser=whole_cents, metavar="CENTS", help="Notify the owner when the balance falls below this; 0: never."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show or change the billing profile of an account.

    Whom its invoices are made out to, and its own top-up limits. Changes apply to invoices issued from now on.

    \b
    Examples:
      farebox payments profile --account acme
      farebox payments profile --account acme --name "Acme GmbH" --email billing@acme.example --country DE \\
          --tax-id DE123456789 --topup-min 2000 --topup-max 500000 --low-balance 1000
    """
    import msgspec

    from farebox.billing.cards import put_profile
    from farebox.errors import Problem
    from farebox.operator.administer import require_account
    from farebox.storage.customers import find_profile

    given = {
        "name": name,
        "email": email,
        "address": None if address is None else "\n".join(line.strip() for line in address.split("|")),
        "country": country,
        "tax_id": tax_id,
        "top_up_min_cents": topup_min,
        "top_up_max_cents": topup_max,
        "low_balance_cents": low_balance,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    session = session_of(context)
    at, by = session.clock.now_ms(), session.operator
    if not changes:
        with session.reading() as connection:
            require_account(connection, account_id)
            shown = find_profile(connection, account_id)
    else:
        with session.writing() as connection:
            require_account(connection, account_id)
            wanted = msgspec.structs.replace(find_profile(connection, account_id), **changes)
            try:
                shown = put_profile(connection, session.settings, account_id, wanted, at, by=by)
            except Problem as problem:
                field = str(problem.path[-1]) if problem.path else "profile"
                raise Stopped(f"{field.replace('_', ' ')}: {problem.message}") from problem
    show(
        {"account_id": account_id, **msgspec.to_builtins(shown)},
        as_json=as_json,
        text=_profile_text(account_id, shown),
    )


def _profile_text(account_id: str, shown: "CustomerProfile") -> str:
    facts = {
        "Account": account_id,
        "Name": shown.name,
        "E-mail": shown.email,
        "Address": shown.address.replace("\n", "\n             "),
        "Country": shown.country,
        "Tax id": shown.tax_id,
        "Smallest": None if shown.top_up_min_cents is None else f"{_usd(shown.top_up_min_cents)} USD",
        "Largest": None if shown.top_up_max_cents is None else f"{_usd(shown.top_up_max_cents)} USD",
        "Low below": None if shown.low_balance_cents is None else f"{_usd(shown.low_balance_cents)} USD",
    }
    return "\n".join(f"{word:<11}  {value}" for word, value in facts.items() if value)
