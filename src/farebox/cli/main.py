"""The command line's entry point: the tree of commands, and what every failure looks like."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from farebox.cli import (
    accounts,
    audit_log,
    balances,
    bills,
    books,
    copying,
    fake_stripe,
    freezing,
    messages,
    moving,
    overruns,
    payments,
    price_sources,
    prices,
    providers,
    refunds,
    rerating,
    serving,
    signing_in,
    status,
    taxes,
    tokens,
    what_if,
)
from farebox.cli.failures import in_one_line
from farebox.cli.session import CliSession, session_of

_HELP = """Farebox: a self-hosted AI gateway with prepaid billing.

\b
Try it without any configuration:
  farebox serve --demo --welcome

\b
Set one up:
  farebox init
  farebox provider set openai --api-key-stdin < openai.key
  farebox account create --name "Acme"
  farebox token create --account ID --permission "AI Gateway Run"
  farebox grant --account ID --amount 25
  farebox serve


Sell credit (docs/payments.md):
  FAREBOX_STRIPE_SECRET_KEY=sk_… FAREBOX_STRIPE_WEBHOOK_SECRET=whsec_… farebox serve
  farebox billing-link --account ID

Every command accepts --json. All but `copy` work while a server runs on the same database. The exit status is 0 if the
command succeeded, 1 if it was refused (one line on stderr says why and what to do), 2 if the command line is invalid.
Settings come from FAREBOX_… variables or the file that FAREBOX_CONFIG names: see docs/settings.md.
"""

_ORDER = (
    "serve", "init", "migrate", "account", "token", "user", "grant", "correct", "balance", "sign-in", "member",
    "billing-link", "top-ups", "refund", "payments", "tax", "invoice", "statement", "webhook", "messages", "provider",
    "price", "markup", "receipt", "rerate", "what-if", "bill", "overruns", "status", "audit", "check", "copy",
    "fake-stripe", "version",
)  # fmt: skip


class _OrderedGroup(TyperGroup):
    """Lists the commands in the order in which they are usually needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    cls=_OrderedGroup,
    help=_HELP,
    rich_markup_mode=None,  # plain help loads twice as fast, and can be piped and copied
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def start(
    context: typer.Context,
    data_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the database and the secret key [FAREBOX_DATA_DIR].")
    ] = None,
    traceback: Annotated[bool, typer.Option("--traceback", help="On failure, print a traceback.")] = False,
) -> None:
    session = session_of(context)
    session.data_dir, session.traceback = data_dir, traceback


for family in (
    serving, accounts, tokens, freezing, balances, signing_in, refunds, payments, taxes, messages, providers, prices,
    price_sources, books, rerating, what_if, bills, overruns, status, audit_log, copying, moving, fake_stripe,
):  # fmt: skip
    family.register(app)


@functools.cache
def command() -> Callable[..., Any]:
    """The tree of commands, ready to run. Building it takes some 15 ms: once in a process."""
    return typer.main.get_command(app)


def run() -> None:
    """What `farebox` calls. Ends the process with the exit status."""
    _keep_standard_descriptors()
    session = CliSession()
    try:
        command()(prog_name="farebox", obj=session)
    except Exception as error:
        if session.traceback:
            raise
        typer.echo(f"farebox: {in_one_line(error)}", err=True)
        sys.exit(1)


def _keep_standard_descriptors() -> None:
    """If a standard stream is closed, its descriptor must not be reused for a file, or messages would go there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


if __name__ == "__main__":
    run()
