"""`farebox serve`, `init`, `migrate`, `version`: the service itself."""

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

import farebox
from farebox import lean_imports
from farebox.cli.fake_stripe import need_fake_stripe
from farebox.cli.output import show
from farebox.cli.session import CliSession, Stopped, make_data_dir, make_secret_key, session_of
from farebox.cli.values import AsJson
from farebox.settings import Settings

if TYPE_CHECKING:
    from farebox.app import Ready
    from farebox.cli.welcome import Welcome
    from farebox.host_resources import HostResources


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)
    app.command("init")(init)
    app.command("migrate")(migrate)
    app.command("version")(version)


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Address to listen on [FAREBOX_HOST].")] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", help="Port to listen on [FAREBOX_PORT].")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Add the demo provider, with the model demo-1.")] = False,
    welcome: Annotated[
        bool, typer.Option("--welcome", help="With --demo: a first account with 5 USD, a token and snippets.")
    ] = False,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="Gateway processes. More than one needs PostgreSQL.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM. Calls in flight are completed.

    The database and the secret key are created in the data folder on first start. The demo provider runs on this
    machine, needs no key, and costs 1 USD per million input tokens and 2 USD per million output tokens.

    \b
    Examples:
      farebox serve
      farebox serve --host 0.0.0.0 --port 80
      farebox serve --demo --welcome
      FAREBOX_DATABASE_URL=postgresql://… farebox serve --workers 4
    """
    if welcome and not demo:
        raise typer.BadParameter("requires --demo", param_hint="--welcome")
    session = session_of(context)
    settings = session.load_settings(host=host, port=port)
    if workers > 1 and settings.engine == "sqlite":
        raise Stopped(
            "an SQLite database is served by one process: omit --workers, or set FAREBOX_DATABASE_URL to a "
            "PostgreSQL database (docs/postgresql.md)"
        )
    if demo and not settings.stripe_secret_key:
        need_fake_stripe()
    make_secret_key(settings)  # before anything else is started, because its refusal says what to do
    greeting = _greeting(session, settings) if welcome else None

    def ready(info: "Ready | HostResources") -> None:
        cleanup.callback(server_file.remove, settings)
        server_file.write(settings, info)
        with suppress(OSError, ValueError):  # standard output is closed: serve anyway
            _announce(settings, info, greeting, as_json=as_json)

    lean_imports.load_for_server()
    import uvloop

    from farebox.cli import server_file
    from farebox.host_resources import AlreadyRunning
    from farebox.http.server import AddressInUse

    try:
        with ExitStack() as cleanup:
            if workers == 1:
                from farebox import app

                uvloop.run(app.serve(settings, demo=demo, on_ready=ready))
            else:
                from farebox.cli.workers import serve_with_workers

                uvloop.run(serve_with_workers(settings, workers, demo=demo, on_ready=ready))
    except (AddressInUse, AlreadyRunning) as error:
        raise Stopped(str(error)) from error


def _greeting(session: CliSession, settings: Settings) -> "Welcome":
    from farebox.cli.welcome import prepare

    return prepare(session, settings)


def _announce(settings: Settings, info: "Ready | HostResources", greeting: "Welcome | None", *, as_json: bool) -> None:
    if as_json:
        made = None if greeting is None else greeting.demo_account
        demo_account = (
            {}
            if greeting is None or made is None
            else {"account_id": made.account_id, "token": made.token, "link": greeting.link}
        )
        line = {"base_url": info.base_url, "demo": info.demo_url is not None, **demo_account}
        typer.echo(msgspec.json.encode(line))  # one line: a program that reads it waits for its end
    elif greeting is not None:
        from farebox.cli.welcome import text

        typer.echo(text(greeting, info, settings))
    else:
        typer.echo(f"Farebox is listening on {info.base_url}")


def init(context: typer.Context, as_json: AsJson = False) -> None:
    """Create the data folder, the secret key and the database. Existing ones stay as they are.

    Keep a copy of the secret key apart from the database: without it, stored provider keys and all tokens are void.

    \b
    Examples:
      farebox init
      farebox --data-dir /var/lib/farebox init
    """
    session = session_of(context)
    settings = session.settings
    key_path = Path(settings.data_dir) / "secret.key"
    new_database = settings.engine == "sqlite" and not settings.database_path.exists()
    new_key = not (settings.secret_key or key_path.exists())
    make_secret_key(settings)
    with session.writing():
        pass  # opening brings the schema up to date
    data = {
        "database": settings.database_shown,
        "secret_key": "FAREBOX_SECRET_KEY" if settings.secret_key else str(key_path),
        "database_created": new_database,
        "secret_key_created": new_key,
    }
    text = (
        f"Database    {data['database']} ({'created' if new_database else 'already existed'})\n"
        f"Secret key  {data['secret_key']} ({'created' if new_key else 'already existed'})"
    )
    show(data, as_json=as_json, text=text)


def migrate(
    context: typer.Context,
    citus: Annotated[
        bool, typer.Option("--citus", help="Then distribute the tables over the nodes of Citus, by FAREBOX_BUCKETS.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Migrate the database to this release's schema.

    Every command and every start does this automatically; this one shows what it did. Stop the servers of an older
    release first.

    \b
    Examples:
      farebox migrate
      FAREBOX_BUCKETS=16 farebox migrate --citus
    """
    from farebox.storage.database import migrate_now

    settings = session_of(context).settings
    if citus and (settings.engine == "sqlite" or settings.buckets == 1):
        raise Stopped(
            "--citus spreads buckets over the nodes of a cluster: set FAREBOX_DATABASE_URL to its coordinator and "
            "FAREBOX_BUCKETS to 4 to 8 for each node you may ever have (docs/citus.md)"
        )
    make_data_dir(settings)
    done = migrate_now(settings, citus=citus)
    did = f"Applied {', '.join(str(number) for number in done.applied)}" if done.applied else "Nothing to do"
    text = f"{did}: the schema is at {done.version}."
    data: dict[str, object] = {"applied": done.applied, "schema_version": done.version}
    if (found := done.distribution) is not None:
        data["citus"] = {
            "buckets": settings.buckets,
            "nodes": found.nodes,
            "distributed": found.distributed,
            "replicated": found.replicated,
        }
        spread = f"{settings.buckets} buckets on {found.nodes} node{'' if found.nodes == 1 else 's'}"
        if found.distributed or found.replicated:
            text += (
                f"\nDistributed {len(found.distributed)} tables over {spread}, and copied {len(found.replicated)} to "
                "every node."
            )
        else:
            text += f"\nAll tables were placed before: {spread}."
    show(data, as_json=as_json, text=text)


def version(as_json: AsJson = False) -> None:
    """Show the version."""
    show({"version": farebox.__version__}, as_json=as_json, text=f"farebox {farebox.__version__}")
