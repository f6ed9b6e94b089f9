"""`farebox status`: what the operator should look into."""

from typing import TYPE_CHECKING, Annotated

import typer

from farebox.cli.output import Row, print_table, show
from farebox.cli.server_file import ReportedReadiness, fetch_readiness
from farebox.cli.session import session_of
from farebox.cli.values import AsJson, moment_text
from farebox.quoting import quoted

if TYPE_CHECKING:
    from farebox.storage.operator_alarms import Alarm


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(
    context: typer.Context,
    resolve: Annotated[
        str | None, typer.Option(metavar="KIND", help="Close the open alarms of this kind, or `all`.")
    ] = None,
    about: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With --resolve: only those about this subject.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what needs your attention.

    Lists open alarms, and a server that is not ready, each with what to do about it. The server that serves from this
    data folder is queried as well: only it knows whether the database takes no writes. An alarm stays open until you
    close it with --resolve, and opens again if it is raised again. docs/messages.md lists the kinds.

    \b
    Examples:
      farebox status
      farebox status --resolve provider_key_trouble --about openai
      farebox status --resolve all
    """
    from farebox.operator.installation import resolve_alarms
    from farebox.storage.findings import open_findings
    from farebox.storage.notices import ALARM_KINDS
    from farebox.storage.operator_alarms import open_alarms

    session = session_of(context)
    if resolve is not None and resolve not in (*ALARM_KINDS, "all"):
        raise typer.BadParameter(
            f"{quoted(resolve)} is not one of {', '.join(ALARM_KINDS)}, all", param_hint="--resolve"
        )
    if about is not None and resolve is None:
        raise typer.BadParameter("needs --resolve", param_hint="--about")
    if resolve is not None:
        with session.writing() as connection:
            kind = None if resolve == "all" else resolve
            count = resolve_alarms(connection, by=session.operator, at=session.clock.now_ms(), kind=kind, about=about)
        text = f"{count} {'alarm is' if count == 1 else 'alarms are'} closed."
        show({"resolved": count}, as_json=as_json, text=text)
        return
    server = fetch_readiness(session.settings)
    if not as_json:
        _print_server(server)  # first, because opening the database may fail for the same reason
    with session.reading() as connection:
        alarms, findings = open_alarms(connection), len(open_findings(connection))
    if as_json:
        serving = None if server is None else {"url": server[0], "readiness": server[1]}
        show(
            {"server": serving, "alarms": [_row(alarm) for alarm in alarms], "findings": findings},
            as_json=True,
            text="",
        )
    else:
        _print(alarms, findings)


def _print_server(server: tuple[str, ReportedReadiness | None] | None) -> None:
    """Print only what the operator has to act on."""
    if server is None:
        return
    url, readiness = server
    if readiness is None:
        typer.echo(f"The server at {url} does not respond: check whether it is running, and read its log.")
        return
    if readiness.remedy is not None:
        typer.echo(
            f"The server at {url} does not accept calls because its database is {quoted(readiness.database)}: "
            f"{readiness.remedy}."
        )
    if readiness.journal == "unwritable":
        typer.echo(f"The journal of the server at {url} cannot be written: check the disk of the data folder.")
    if readiness.jobs_late:
        typer.echo(f"Periodic jobs of the server at {url} hang: {', '.join(readiness.jobs_late)}. See its log.")


def _print(alarms: "list[Alarm]", findings: int) -> None:
    from farebox.messages.email_templates import TEXTS

    if findings:
        differ = "1 payment differs" if findings == 1 else f"{findings} payments differ"
        typer.echo(f"{differ} from the processor's books: see `farebox payments findings`.")
    if not alarms:
        typer.echo("No open alarms.")
        return
    lines = [
        [
            moment_text(alarm.last_at), alarm.kind, alarm.about, str(alarm.times),
            ", ".join(f"{name}={value}" for name, value in alarm.content.items()),
        ]
        for alarm in alarms
    ]  # fmt: skip
    print_table(["LAST", "ALARM", "ABOUT", "TIMES", "THE LAST TIME"], lines, numbers=["TIMES"])
    for kind in dict.fromkeys(alarm.kind for alarm in alarms):
        typer.echo(f"\n{kind}: {TEXTS[kind]}\nThen: farebox status --resolve {kind}")


def _row(alarm: "Alarm") -> Row:
    from farebox.messages.email_templates import TEXTS

    return {
        "kind": alarm.kind,
        "about": alarm.about,
        "times": alarm.times,
        "first_at": moment_text(alarm.first_at),
        "last_at": moment_text(alarm.last_at),
        "content": alarm.content,
        "remedy": TEXTS[alarm.kind],
    }
