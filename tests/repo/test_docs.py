"""The reference pages say what the program says."""

import re
import tomllib
from dataclasses import fields
from inspect import getsource

import pytest

import farebox
from farebox.demo import provider
from farebox.demo.directives import FALSIFICATIONS, Directives
from farebox.demo.journal import Stats
from tests.repo.providers_page import providers_page
from tests.repo.reference import PAYMENTS, ROOT, cli_page, commands, pages_page, payments_page, settings_page

LEAVES = [(path, text) for path, text in commands() if "COMMAND [ARGS]" not in text]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("settings.md", settings_page()),
        ("cli.md", cli_page()),
        ("providers.md", providers_page()),
        ("pages.md", pages_page()),
    ],
)
def test_the_reference_is_up_to_date(page: str, text: str) -> None:
    assert (ROOT / "docs" / page).read_text() == text, "run `make docs`"


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


def test_the_release_is_stated_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == farebox.__version__
    headings = re.findall(r"^## \[?v?(\d[^\s\]]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:1] == [farebox.__version__]
