"""The reference pages agree with the program."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import fields
from inspect import getsource
from pathlib import Path

import pytest

import farebox
from farebox.demo_provider import provider
from farebox.demo_provider.directives import FALSIFICATIONS, Directives
from farebox.demo_provider.received_calls import Stats
from farebox.storage.schema import OLDEST, OLDEST_RELEASE, VERSION
from tests.repo.providers_page import providers_page
from tests.repo.reference import PAYMENTS, ROOT, cli_page, commands, pages_page, payments_page, settings_page

LEAVES = [(path, text) for path, text in commands() if "COMMAND [ARGS]" not in text]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("settings.md", settings_page),
        ("cli.md", cli_page),
        ("providers.md", providers_page),
        ("pages.md", pages_page),
    ],
)
def test_the_reference_is_up_to_date(page: str, text: Callable[[], str]) -> None:
    assert (ROOT / "docs" / page).read_text() == text(), "run `make docs`"


def test_the_documented_life_of_a_top_up_is_current() -> None:
    assert PAYMENTS.read_text() == payments_page(), "run `make docs`"


@pytest.mark.parametrize(("path", "text"), LEAVES, ids=[path for path, _ in LEAVES])
def test_every_command_has_json_output_and_an_example(path: str, text: str) -> None:
    assert "--json" in text
    needs_arguments = "[required]" in text
    examples = [line.split() for line in text.splitlines() if line.startswith("    farebox ")]
    assert examples or not needs_arguments
    for words in examples:
        assert path.split()[-1] in words


def test_every_directive_of_the_demo_provider_is_documented() -> None:
    page = (ROOT / "docs" / "demo-provider.md").read_text()
    assert re.findall(r"^\| `(\w+)=", page, re.MULTILINE) == [field.name for field in fields(Directives)]
    (lies,) = re.findall(r"^\| `usage=.*$", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", lies)) == set(FALSIFICATIONS)
    assert set(re.findall(r"`(\w+ /_demo/\w+)", page)) == set(re.findall(r'"(\w+ /_demo/\w+)"', getsource(provider)))
    assert set(re.findall(r"`(\w+)`", page.partition("counts: ")[2].splitlines()[0])) == {
        field.name for field in fields(Stats)
    }


def test_the_versions_of_the_database_are_documented() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    assert f"| {OLDEST} (Farebox {OLDEST_RELEASE}), " in page
    assert f"upgrades it to {VERSION} |\n| {VERSION} | uses it |\n" in page
    assert f"| below {OLDEST} | refuses it: " in page
    assert f"| above {VERSION} | refuses it: " in page


def test_the_release_is_stated_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == farebox.__version__
    headings = re.findall(r"^## \[?v?(\d[^\s\]]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:1] == [farebox.__version__]


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
COMMANDS = dict(commands()) | {"farebox lane": "the name of a session, not a command"}
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _code(page: str) -> list[str]:
    """The code on the page: spans, and the lines of blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```|^((?:    .*\n)+)", page, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for text in block for line in text.splitlines()]
    return [*lines, *re.findall(r"`([^`\n]+)`", page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists(page: Path) -> None:
    unknown = []
    for line in _code(page.read_text()):
        for said in re.findall(r"(?<![\w./-])farebox((?: [a-z][a-z-]*)+)", line):
            words = said.split()
            path = f"farebox {words[0]}"
            is_group = "COMMAND [ARGS]" in COMMANDS.get(path, "")
            if path not in COMMANDS or (is_group and len(words) > 1 and f"{path} {words[1]}" not in COMMANDS):
                unknown.append(line.strip())
        unknown += [line for target in re.findall(r"(?:^|[ =\d])make ([a-z]+)$", line) if target not in TARGETS]
    assert unknown == []
