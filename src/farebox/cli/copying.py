"""`farebox copy`: moves a whole installation from one database to another."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farebox.cli.output import show
from farebox.cli.session import Stopped, session_of
from farebox.cli.values import AsJson

if TYPE_CHECKING:
    from farebox.operator.copying import CopyResult
    from farebox.settings import Settings

_URL = "URL"


def register(app: typer.Typer) -> None:
    app.command("copy")(copy)


def copy(
    context: typer.Context,
    source_url: Annotated[
        str, typer.Option("--from", metavar=_URL, help="Database to copy: sqlite:///PATH or postgresql://….")
    ],
    target_url: Annotated[
        str, typer.Option("--to", metavar=_URL, help="Empty database to copy into; a missing file is created.")
    ],
    buckets: Annotated[
        int | None,
        typer.Option(min=1, max=1024, metavar="N", help="Buckets to spread the accounts over [FAREBOX_BUCKETS]."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a whole installation to another database.

    From SQLite to PostgreSQL, back, or to another PostgreSQL. Stop all servers first. Everything is verified: counts
    and sums of all tables on both sides, and `farebox check` on each. Until that is done no other command opens the
    target. To resume an interrupted copy, run the same command again. The source stays as it is, except that the schema
    of an older release is migrated.

    \b
    Examples:
      farebox copy --from sqlite:///data/farebox.db --to postgresql://farebox@db.example/farebox
      farebox copy --from postgresql://farebox@db.example/farebox --to sqlite:///data/farebox.db
    """
    from farebox.operator.copying import CopyRefused, copy_installation
    from farebox.storage import dbcopy

    session = session_of(context)
    settings = session.settings
    buckets = buckets or settings.buckets
    origin, destination = _at(settings, source_url, "--from"), _at(settings, target_url, "--to")
    if origin.database_shown == destination.database_shown:
        raise Stopped("--from and --to name the same database")
    with (
        closing(dbcopy.source(origin)) as source,
        closing(dbcopy.target(destination, buckets)) as target,
        _progress(shown=not as_json) as report,
    ):
        try:
            copied = copy_installation(
                source,
                target,
                origin=origin.database_shown,
                buckets=buckets,
                now_ms=session.clock.now_ms(),
                report=report,
            )
        except CopyRefused as error:
            raise Stopped(str(error)) from error
    _print_copied(copied, settings, destination, target_url, as_json=as_json)


def _at(settings: "Settings", url: str, option: str) -> "Settings":
    """The settings for this database."""
    if not url.startswith(("sqlite:///", "postgresql://", "postgres://")):
        raise typer.BadParameter("write sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME", param_hint=option)
    return replace(settings, database_url=url)


def _print_copied(
    copied: "CopyResult", settings: "Settings", destination: "Settings", url: str, *, as_json: bool
) -> None:
    key = Path(settings.data_dir) / "secret.key"
    journal = Path(settings.data_dir) / "journal"
    to_move = [str(path) for path in (key, journal) if path.exists()]
    data = {
        "database": destination.database_shown,
        "tables": copied.tables,
        "rows": copied.rows,
        "rows_now": copied.rows_now,
        "accounts": copied.accounts,
        "buckets": copied.buckets,
        "to_move": to_move,
    }
    text = (
        f"Copied {copied.rows} rows of {copied.tables} tables into {destination.database_shown}: "
        f"{_count(copied.accounts, 'account')} in {_count(copied.buckets, 'bucket')}.\n"
        "Counts and sums of all tables agree, and the books of both sides balance.\n"
        "\n"
        f"Serve from it with FAREBOX_DATABASE_URL={destination.database_shown if '@' in url else url}"
        f"{' and the password' if '@' in url else ''}.\n"
        "Not in the database, and needed wherever it is served from:\n"
        f"  {key} (or FAREBOX_SECRET_KEY): without it all tokens and provider keys are void\n"
        f"  {journal}{'/' if journal.exists() else '/, if there is one'}: charges that wait to be posted\n"
        "  the settings: environment variables, the file that FAREBOX_CONFIG names"
    )
    show(data, as_json=as_json, text=text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr for each step, if it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield report
