"""Writes the reference pages from the program itself: docs/settings.md, docs/cli.md and the table of a top-up's life in
src/farebox/payments/README.md. `make docs` calls it.

The tests beside it check that the pages are what it would write now.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from farebox.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PAYMENTS = ROOT / "src/farebox/payments/README.md"

_SETTINGS_HEAD = """# Settings

Written by `make docs` from `src/farebox/settings.py`.

Every setting has a default: `farebox serve --demo` needs none of them. A setting comes from, in this order:

1. the command line, where an option sets it (`--data-dir`, `--host`, `--port`);
2. the environment variable below;
3. the TOML file that `FAREBOX_CONFIG` names, with the same names in lower case and without `FAREBOX_`:

   ```toml
   data_dir = "/var/lib/farebox"
   port = 80
   ```

A setting that is wrong, or that does not exist, is refused at start with what to do about it. Settings are read once:
restart the server after a change. (Accounts, tokens, providers, prices and markups are no settings: `farebox` changes
them in the database, and a running server sees that within a second.)

| setting | default | what it sets |
| --- | --- | --- |
"""

_CLI_HEAD = """# The command line

Written by `make docs` from the commands' own `--help`.

`farebox` is what an operator uses. It works on the database itself, also while a server runs on it, and a running
server sees a change within a second. After `make setup` it is `.venv/bin/farebox`.

- `--json`, after any command, prints the result as JSON on stdout and nothing else. Lists are arrays. Money is given
  twice: as an integer of nano-dollars (`…_nanos`, 10⁻⁹ USD) and as text in US dollars. Times are ISO 8601 in UTC.
- The exit status is 0 only where the command did what it says; 1 where it was refused or failed; 2 where it was
  mistyped. The reason is one line on stderr, with `--json` too: stdout then stays empty (but `farebox check` prints
  what differs, and ends with 1; docs/operating.md has its other statuses).
- Tokens, users' keys and provider keys are printed when they are made, and never again.
- Reading commands need a database that is there; the others make one where there is none yet.

"""


def settings_page() -> str:
    """docs/settings.md."""
    rows = [f"| `{PREFIX}CONFIG` | | TOML file to read settings from. |"]
    for item in fields(Settings):
        low, high = item.metadata["low"], item.metadata["high"]
        bounds = f" From {low} to {high}." if low is not None else ""
        default = f"`{item.default}`" if item.default != "" else ""
        rows.append(f"| `{PREFIX}{item.name.upper()}` | {default} | {item.metadata['help']}{bounds} |")
    return _SETTINGS_HEAD + "\n".join(rows) + "\n"


def cli_page() -> str:
    """docs/cli.md."""
    sections = [f"## {path}\n\n```text\n{text}\n```\n" for path, text in commands()]
    return _CLI_HEAD + "\n".join(sections)


_LIFE = re.compile(r"(?<=<!-- the table, written by `make docs` -->\n).*?(?=<!-- its end -->)", re.DOTALL)


def payments_page() -> str:
    """src/farebox/payments/README.md, with the table of a top-up's life as the program has it."""
    return _LIFE.sub(lambda _: _life(), PAYMENTS.read_text())


def _life() -> str:
    from farebox.billing import top_up_machine, top_up_steps

    rows = ["", "| in state | when this is heard | this is done | and the state then is | asked next |"]
    rows.append("| --- | --- | --- | --- | --- |")
    done: dict[str, str] = {}
    for before, event, action, after, then in top_up_machine.TABLE:
        states = [", ".join(f"`{state}`" for state in names.split()) for names in (before, after)]
        asked = f"`{then.__name__}`" if then else ""
        rows.append(f"| {states[0]} | `{event}` | `{action.__name__}` | {states[1]} | {asked} |")
        done[action.__name__] = _first_sentence(action)
    steps = [getattr(top_up_steps, name) for name in _STEPS]
    rows += _glossary("heard", top_up_steps.EVENTS)
    rows += _glossary("done, in one transaction", done)
    rows += _glossary("asked", {step.__name__: _first_sentence(step) for step in steps})
    return "\n".join(rows) + "\n\n"


_STEPS = ("open_invoice", "read_opened", "look", "charge", "void", "open_page", "look_at_page")


def _glossary(heading: str, words: Mapping[str, str]) -> list[str]:
    return ["", f"| {heading} | |", "| --- | --- |", *(f"| `{word}` | {text} |" for word, text in words.items())]


def _first_sentence(what: Callable[..., object]) -> str:
    text = " ".join((what.__doc__ or "").split())
    return re.split(r"(?<=[.])\s", text)[0]


def example(page: str, name: str) -> str:
    """An example file of a page of docs/, by the name in its first line."""
    text = (ROOT / "docs" / page).read_text()
    [found] = re.findall(rf"```yaml\n# {re.escape(name)}\n(.*?)```", text, re.DOTALL)
    return str(found)


def commands() -> Iterator[tuple[str, str]]:
    """Each command with its help, the program itself first."""
    import typer

    from farebox.cli.main import app

    yield from _below(typer.main.get_command(app), "farebox", None)


def _below(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=100, **command.context_settings
    )
    yield context.command_path, command.get_help(context).strip()
    if hasattr(command, "commands"):
        for child in command.list_commands(context):
            yield from _below(command.commands[child], child, context)


if __name__ == "__main__":
    for page, text in (("settings.md", settings_page()), ("cli.md", cli_page())):
        (ROOT / "docs" / page).write_text(text)
        sys.stdout.write(f"docs/{page}\n")
    PAYMENTS.write_text(payments_page())
    sys.stdout.write(f"{PAYMENTS.relative_to(ROOT)}\n")
