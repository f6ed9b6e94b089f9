"""The greeting of `make run`: an account with 5 USD, its token, a link to its pages, and three snippets to paste."""

import os
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from farebox.cli.server_file import write_private
from farebox.cli.session import CliSession
from farebox.gateway import DEFAULT_GATEWAY, gateway_path
from farebox.model import Permission, Role
from farebox.money import NANOS_PER_USD, format_usd
from farebox.settings import Settings

if TYPE_CHECKING:
    from farebox.app import Ready
    from farebox.host_resources import HostResources
    from farebox.storage.sql import Connection

ACCOUNT = "demo"
MODEL = "demo/demo-1"
GRANT = 5 * NANOS_PER_USD
GRANT_ID = "welcome"
FILE = "demo.json"


class DemoAccount(msgspec.Struct, frozen=True):
    """The first account and its token, as kept in the data folder for later starts."""

    account_id: str
    token: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """The content of the greeting."""

    demo_account: DemoAccount
    available: int
    link: str = field(compare=False, repr=False)
    """A new link at every start: each signs a browser in once, as the account's owner and as an operator."""


def prepare(session: CliSession, settings: Settings) -> Welcome:
    """Create the account, the grant and the token if missing; the same on every start."""
    from farebox.identity import sessions
    from farebox.operator import administer, tokens
    from farebox.storage.accounts import find_account

    at = session.clock.now_ms()
    with session.writing() as connection:
        if find_account(connection, ACCOUNT) is None:
            administer.create_account(
                connection,
                session.ids,
                by=session.operator,
                name="Demo",
                account_id=ACCOUNT,
                at=at,
                buckets=settings.buckets,
            )
        posted = administer.grant(
            connection, session.ids, by=session.operator, account_id=ACCOUNT, amount=GRANT, grant_id=GRANT_ID, at=at
        )
        path = Path(settings.data_dir) / FILE
        demo_account = _read(path)
        if demo_account is None or not _is_active(session, connection, demo_account, at):
            made = tokens.create_token(
                connection,
                session.ids,
                session.vault,
                account_id=ACCOUNT,
                permissions=list(Permission),
                name="welcome",
                at=at,
                by=session.operator,
            )
            demo_account = DemoAccount(ACCOUNT, made.secret)
            write_private(
                path, msgspec.json.encode(demo_account) + b"\n"
            )  # before the commit: a file without a token is replaced later, a token without a file is lost
        holder = sessions.LinkHolder(account_id=demo_account.account_id, role=Role.OWNER, operator=True)
        link = sessions.new_link(
            connection, session.vault, session.ids, settings.base_url, holder, at=at, by=session.operator
        )
    return Welcome(demo_account, posted.balance.available, link)


def _read(path: Path) -> DemoAccount | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=DemoAccount)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _is_active(session: CliSession, connection: "Connection", demo_account: DemoAccount, at: int) -> bool:
    from farebox.storage.accounts import find_token

    token = find_token(connection, session.vault.hash_token(demo_account.token))
    return token is not None and token.account_id == demo_account.account_id and token.active(at)


def text(welcome: Welcome, info: "Ready | HostResources", settings: Settings) -> str:
    """The greeting. The snippets are pasted as they are, so nothing in them is wrapped or colored."""
    demo_account, base_url = welcome.demo_account, info.base_url
    compat = f"{base_url}{gateway_path(demo_account.account_id, DEFAULT_GATEWAY)}/compat"
    command = _own_command()
    if settings.data_dir != Settings().data_dir:
        command += f" --data-dir {shlex.quote(settings.data_dir)}"
    return f"""
Farebox is listening on {base_url}

Account  {demo_account.account_id}, with {format_usd(welcome.available)} USD
Token    {demo_account.token}
Open     {welcome.link}
         (the pages: usage, calls, billing, tokens; the link works once, within an hour)
{_processor(info)}
curl
----
curl {compat}/chat/completions \\
  -H 'Authorization: Bearer {demo_account.token}' \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

Python (pip install openai)
---------------------------
from openai import OpenAI

client = OpenAI(
    base_url="{compat}",
    api_key="{demo_account.token}",
)
answer = client.chat.completions.create(
    model="{MODEL}",
    messages=[{{"role": "user", "content": "Hello!"}}],
)
print(answer.choices[0].message.content)

TypeScript (npm install openai)
-------------------------------
import OpenAI from "openai";

const client = new OpenAI({{
  baseURL: "{compat}",
  apiKey: "{demo_account.token}",
}});
const answer = await client.chat.completions.create({{
  model: "{MODEL}",
  messages: [{{ role: "user", content: "Hello!" }}],
}});
console.log(answer.choices[0].message.content);

Check the balance, in another terminal
--------------------------------------
{command} balance --account {demo_account.account_id}

Get another sign-in link
------------------------
{command} sign-in --account {demo_account.account_id} --operator

Ctrl-C stops the server.
"""


def _processor(info: "Ready | HostResources") -> str:
    if info.fake_stripe_url is None:
        return "Stripe   configured by FAREBOX_STRIPE_SECRET_KEY\n"
    return f"Stripe   {info.fake_stripe_url} (fake; its test cards are in packages/fake_stripe/README.md)\n"


def _own_command() -> str:
    """How to run this program again from here: `farebox` if it is on the PATH, else its path."""
    here = Path(sys.argv[0]).resolve()
    found = shutil.which("farebox")
    if found is not None and Path(found).resolve() == here:
        return "farebox"
    if here.name != "farebox":  # it was started as a module
        return f"{shlex.quote(sys.executable)} -m farebox.cli.main"
    return shlex.quote(os.path.relpath(here) if here.is_relative_to(Path.cwd()) else str(here))
