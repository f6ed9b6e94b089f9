"""`farebox provider`: how the providers are reached on the operator's account."""

import sys
from typing import Annotated

import typer

from farebox.cli.output import Row, show, show_rows
from farebox.cli.provider_keys import key, mask
from farebox.cli.session import CliSession, session_of
from farebox.cli.values import AsJson, optional_moment_text

provider = typer.Typer(no_args_is_help=True, help="Providers: whose models are called, and with which key.")


def register(app: typer.Typer) -> None:
    provider.add_typer(key, name="key")
    app.add_typer(provider, name="provider")


@provider.command("set")
def set_provider(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As shown by `farebox provider list`.")],
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="URL of its API, if not the default.")] = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help='Your key. Visible in `ps` and shell history. "" removes it.')
    ] = None,
    api_key_stdin: Annotated[bool, typer.Option("--api-key-stdin", help="Read your key from standard input.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set your key at a provider, or its base URL.

    The key is encrypted at rest and never shown again. Whatever you omit stays unchanged. A running server picks
    up the change within a second.

    \b
    Examples:
      farebox provider set openai --api-key-stdin < openai.key
      farebox provider set groq --base-url https://proxy.example.com/groq --api-key "$GROQ_API_KEY"
    """
    from farebox.operator import administer

    if api_key is not None and api_key_stdin:
        raise typer.BadParameter("give the key in only one way", param_hint="--api-key / --api-key-stdin")
    if base_url is None and api_key is None and not api_key_stdin:
        raise typer.BadParameter("give at least one of them", param_hint="--base-url / --api-key / --api-key-stdin")
    if api_key_stdin:
        api_key = sys.stdin.read().strip()
        if not api_key:
            raise typer.BadParameter("standard input is empty", param_hint="--api-key-stdin")
    session = session_of(context)
    with session.writing() as connection:
        stored = administer.set_provider(
            connection,
            session.vault,
            by=session.operator,
            name=name,
            base_url=base_url,
            api_key=api_key,
            at=session.clock.now_ms(),
        )
    data = _row(session, stored.name, stored.base_url, stored.api_key)
    key_text = f"with the key {data['api_key']}" if stored.api_key else "without a key: callers send their own"
    show(data, as_json=as_json, text=f"{stored.name} is called at {stored.base_url} {key_text}.")


@provider.command("list")
def list_providers(context: typer.Context, as_json: AsJson = False) -> None:
    """List every provider that Farebox knows.

    Shows its base URL, the last characters of your key, and when that key was last used, which is recorded up to a
    minute late. `demo` has no key: `farebox serve --demo` runs it on this machine.
    """
    from farebox.providers.catalogue import PROVIDERS
    from farebox.storage import config
    from farebox.storage.buckets import OPERATOR
    from farebox.storage.last_uses import uses_of

    session = session_of(context)
    with session.reading() as connection:
        stored = {row.name: row for row in config.list_providers(connection)}
        used = uses_of(connection, OPERATOR, "provider")
    rows = [
        _row(session, known.slug, stored[known.slug].base_url, stored[known.slug].api_key)
        if known.slug in stored
        else _row(session, known.slug, None if known.slug == "demo" else known.base_url, None)
        for known in PROVIDERS
    ]
    rows = [{**row, "last_used_at": optional_moment_text(used.get(str(row["name"])))} for row in rows]
    columns = {"name": "NAME", "base_url": "BASE URL", "api_key": "KEY", "last_used_at": "LAST USED"}
    show_rows(rows, as_json=as_json, columns=columns, empty="")


def _row(session: CliSession, name: str, base_url: str | None, stored_key: bytes | None) -> Row:
    return {
        "name": name,
        "base_url": base_url,
        "api_key": None if stored_key is None else mask(session, f"provider:{name}", stored_key),
    }
