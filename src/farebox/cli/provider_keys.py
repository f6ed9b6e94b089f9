"""`farebox provider key`: several keys at one provider, which share its calls."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from farebox.cli.output import Row, show, show_rows
from farebox.cli.session import CliSession, Stopped, session_of
from farebox.cli.values import AsJson, optional_moment_text

key = typer.Typer(no_args_is_help=True, help="Several keys of yours at one provider, which share its calls.")

Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="As shown by `farebox provider list`.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name for it; `default` is the one of `provider set`.")]


@key.command("set")
def set_key(
    context: typer.Context,
    provider: Provider,
    name: Name,
    weight: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=1_000, help="Its share of the calls, relative to the others; 1 at first."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Your key. Visible in `ps` and shell history.")
    ] = None,
    api_key_stdin: Annotated[bool, typer.Option("--api-key-stdin", help="Read your key from standard input.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add a key at a provider, or change its weight or the key itself.

    Calls are distributed by weight; a key with the weight 0 is not used. A key that the provider refuses or rate limits
    is paused, and another is used.

    \b
    Examples:
      farebox provider key set openai second --api-key-stdin < second.key
      farebox provider key set openai default --weight 3
    """
    from farebox.operator import shared_keys

    if api_key is not None and api_key_stdin:
        raise typer.BadParameter("give the key in only one way", param_hint="--api-key / --api-key-stdin")
    if weight is None and api_key is None and not api_key_stdin:
        raise typer.BadParameter("give at least one of them", param_hint="--weight / --api-key / --api-key-stdin")
    if api_key_stdin:
        api_key = sys.stdin.read().strip()
    if api_key == "":
        raise typer.BadParameter("the key is empty", param_hint="--api-key / --api-key-stdin")
    session = session_of(context)
    with _hinted(f"farebox provider set {provider} --api-key-stdin"), session.writing() as connection:
        stored = shared_keys.set_key(
            connection,
            session.vault,
            by=session.operator,
            provider=provider,
            name=name,
            at=session.clock.now_ms(),
            api_key=api_key,
            weight=weight,
        )
    text = f"The key {name} at {provider} has the weight {stored.weight}."
    show({"provider": provider, "name": name, "weight": stored.weight}, as_json=as_json, text=text)


@key.command("list")
def list_keys(context: typer.Context, as_json: AsJson = False) -> None:
    """List your keys at providers.

    Shows their last characters, their weights, and when each was last used, which is recorded up to a minute late.
    """
    from farebox.operator.shared_keys import FIRST
    from farebox.runtime.operator_access import provider_place
    from farebox.storage import config
    from farebox.storage.buckets import OPERATOR
    from farebox.storage.last_uses import uses_of

    session = session_of(context)
    with session.reading() as connection:
        used = uses_of(connection, OPERATOR, "provider")
        found = [
            (row.name, FIRST, row.weight, row.api_key, provider_place(row.name), row.name)
            for row in config.list_providers(connection)
            if row.api_key is not None
        ]
        found += [
            (row.provider, row.name, row.weight, row.api_key, provider_place(row.provider, row.name), "")
            for row in config.list_provider_keys(connection)
        ]
    rows: list[Row] = [
        {
            "provider": provider,
            "name": name,
            "api_key": mask(session, place, sealed),
            "weight": weight,
            "last_used_at": optional_moment_text(used.get(key_id or f"{provider}/{name}")),
        }
        for provider, name, weight, sealed, place, key_id in sorted(found, key=lambda row: (row[0], row[5] == ""))
    ]
    columns = {
        "provider": "PROVIDER", "name": "NAME", "api_key": "KEY", "weight": "WEIGHT", "last_used_at": "LAST USED",
    }  # fmt: skip
    empty = "No keys yet: store one with `farebox provider set NAME --api-key-stdin`."
    show_rows(rows, as_json=as_json, columns=columns, empty=empty)


@key.command("remove")
def remove_key(context: typer.Context, provider: Provider, name: Name, as_json: AsJson = False) -> None:
    """Remove an additional key at a provider. This takes effect on every running server within a second.

    \b
    Example:
      farebox provider key remove openai second
    """
    from farebox.operator import shared_keys

    session = session_of(context)
    at = session.clock.now_ms()
    with _hinted(f'farebox provider set {provider} --api-key ""'), session.writing() as connection:
        shared_keys.remove_key(connection, by=session.operator, provider=provider, name=name, at=at)
    show({"provider": provider, "name": name}, as_json=as_json, text=f"Removed the key {name} at {provider}.")


@contextmanager
def _hinted(command: str) -> Iterator[None]:
    """If something is refused because it is about the first key, the error names the command for that key."""
    from farebox.operator.shared_keys import OfFirstKey

    try:
        yield
    except OfFirstKey as refused:
        raise Stopped(f"{refused}: `{command}`") from refused


def mask(session: CliSession, place: str, stored_key: bytes) -> str:
    """The part of an encrypted key that may be shown; `place` is what its encryption is bound to."""
    from farebox.vault import SecretUnreadable, masked

    try:
        return masked(session.vault.decrypt(stored_key, place))
    except SecretUnreadable:
        return "unreadable: FAREBOX_SECRET_KEY is not the one it was stored under"
