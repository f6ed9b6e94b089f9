"""Providers, prices and markups on the command line."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

KEY = "sk-0123456789abcdef"


def test_a_provider_key_is_kept_and_never_shown(cli: Cli, data_dir: Path) -> None:
    reported = cli("provider", "set", "openai", "--api-key-stdin", "--json", stdin=KEY + "\n")
    assert reported.json == {"name": "openai", "base_url": "https://api.openai.com/v1", "api_key": "…cdef"}
    listed = {row["name"]: row for row in cli("provider", "list", "--json").json}
    assert listed["openai"]["api_key"] == "…cdef"
    assert listed["groq"]["api_key"] is None
    assert KEY not in reported.out + cli("provider", "list").out
    for file in data_dir.iterdir():
        assert KEY.encode() not in file.read_bytes()


def test_omitted_options_stay_unchanged(cli: Cli) -> None:
    cli("provider", "set", "openai", "--api-key", KEY)
    moved = cli("provider", "set", "openai", "--base-url", "http://127.0.0.1:9/v1/", "--json").json
    assert moved == {"name": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "…cdef"}
    assert cli("provider", "set", "openai", "--api-key", "", "--json").json["api_key"] is None
    assert cli("provider", "set", "xai", "--api-key", KEY, "--json").json["name"] == "grok"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope", "--api-key", KEY),
        ("demo", "--api-key", KEY),
        ("openai", "--api-key", "two words"),
        ("openai", "--base-url", "api.openai.com"),
        ("openai", "--base-url", "ftp://api.openai.com"),
        ("openai", "--base-url", "https://user:pass@api.openai.com"),
        ("openai", "--base-url", "https://api.openai.com/v1?x=1"),
        ("openai", "--base-url", "https://[::1"),
        ("openai", "--base-url", "https://api.openai.com:99999"),
        ("openai", "--base-url", "https://a..b"),
        ("openai", "--base-url", "https://127.1"),
        ("workers-ai", "--api-key", KEY),
    ],
)
def test_a_wrong_provider_is_refused(cli: Cli, arguments: tuple[str, ...]) -> None:
    refused = cli("provider", "set", *arguments)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.count("\n") == 1
    assert KEY not in refused.err


def test_conflicting_options_of_a_provider_are_refused(cli: Cli) -> None:
    assert cli("provider", "set", "openai").status == 2
    assert cli("provider", "set", "openai", "--api-key", KEY, "--api-key-stdin", stdin=KEY).status == 2
    assert cli("provider", "set", "openai", "--api-key-stdin", stdin=" \n").status == 2


def test_several_keys_share_a_providers_calls(cli: Cli, data_dir: Path) -> None:
    early = cli("provider", "key", "set", "openai", "second", "--api-key", KEY)
    assert (early.status, early.out) == (1, "")
    assert "provider set openai" in early.err
    cli("provider", "set", "openai", "--api-key", KEY)
    made = cli(
        "provider", "key", "set", "openai", "second", "--api-key-stdin", "--json", stdin="sk-second-key-7777\n"
    ).json
    assert made == {"provider": "openai", "name": "second", "weight": 1}
    assert cli("provider", "key", "set", "openai", "second", "--weight", "5").status == 0
    assert cli("provider", "key", "set", "openai", "default", "--weight", "2").status == 0
    cli("provider", "set", "openai", "--base-url", "https://example.com/v1")
    listed = cli("provider", "key", "list", "--json").json
    assert [(row["name"], row["api_key"], row["weight"], row["last_used_at"]) for row in listed] == [
        ("default", "…cdef", 2, None),
        ("second", "…7777", 5, None),
    ]
    for file in data_dir.iterdir():
        assert b"sk-second-key-7777" not in file.read_bytes()
    for wrong in (("a b", "--weight", "1"), ("third", "--weight", "1"), ("third", "--api-key", "two words")):
        assert cli("provider", "key", "set", "openai", *wrong).status == 1
    assert cli("provider", "key", "set", "openai", "third").status == 2
    assert cli("provider", "key", "set", "openai", "third", "--weight", "1001", "--api-key", KEY).status == 2
    assert cli("provider", "key", "remove", "openai", "default").status == 1
    assert cli("provider", "key", "remove", "openai", "second").status == 0
    assert cli("provider", "key", "remove", "openai", "second").status == 1
    assert [row["name"] for row in cli("provider", "key", "list", "--json").json] == ["default"]


def test_a_key_sealed_with_another_secret_key_is_reported_as_unreadable(cli: Cli, data_dir: Path) -> None:
    cli("provider", "set", "openai", "--api-key", KEY)
    (data_dir / "secret.key").unlink()
    listed = {row["name"]: row for row in cli("provider", "list", "--json").json}
    assert listed["openai"]["api_key"].startswith("unreadable")


def test_a_price_is_set_and_listed(cli: Cli, acme: str) -> None:
    made = cli(
        "price", "set", "openai", "gpt-x*", "--input", "1.25", "--output", "10", "--cache-read", "0.125",
        "--rate", "requests_kcount=5", "--output-max", "4096", "--account", acme,
        "--valid-from", "2999-01-01T12:00:00+02:00", "--json",
    ).json  # fmt: skip
    assert made["rates"] == {
        "input_mtok": "1.25", "output_mtok": "10", "cache_read_mtok": "0.125", "requests_kcount": "5",
    }  # fmt: skip
    assert made["valid_from"] == "2999-01-01T10:00:00Z"
    assert cli("price", "list", "--json").json == [made]
    assert "input_mtok 1.25" in cli("price", "list").out


def test_setting_a_price_shows_the_price_per_unit(cli: Cli) -> None:
    rates = ("--input", "1.25", "--cache-read", "0.125", "--rate", "requests_kcount=5")
    said = cli("price", "set", "openai", "gpt-x", *rates).out
    assert (
        "1.25 USD per million input tokens, 0.125 USD per million cache read tokens, 5 USD per thousand requests"
        in said
    )


@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        (1, ("nope", "m", "--input", "1")),
        (1, ("openai", " ", "--input", "1")),
        (1, ("openai", "m", "--cache-read", "1")),
        (1, ("openai", "m", "--rate", "input_mtokens=1")),
        (1, ("openai", "m", "--input", "1", "--account", "nope")),
        (2, ("openai", "m")),
        (2, ("openai", "m", "--input", "-1")),
        (2, ("openai", "m", "--input", "1,5")),
        (2, ("openai", "m", "--rate", "input_mtok")),
        (2, ("openai", "m", "--input", "1", "--rate", "input_mtok=2")),
        (2, ("openai", "m", "--input", "1", "--output-max", "0")),
    ],
)
def test_a_wrong_price_is_refused(cli: Cli, acme: str, status: int, arguments: tuple[str, ...]) -> None:
    refused = cli("price", "set", *arguments)
    assert (refused.status, refused.out) == (status, "")
    assert cli("price", "list", "--json").json == []


def test_a_price_and_a_markup_say_when_a_running_server_uses_them(cli: Cli) -> None:
    soon, later = "A running server picks this up within a second.", ("--valid-from", "2099-01-01")
    price, markup = ("price", "set", "demo", "gold", "--input", "0"), ("markup", "set", "5", "--model", "gold")
    assert soon in cli(*price).out
    assert soon in cli(*markup).out
    assert soon not in cli(*price, *later).out
    assert soon not in cli(*markup, *later).out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("20",), "20 % is charged on top of the cost."),
        (
            ("12.5", "--provider", "openai", "--model", "gpt-x*"),
            "12.5 % is charged on top of the cost of openai/gpt-x*.",
        ),
        (("--model", "gpt-x", "--", "-1"), "1 % is taken off the cost of gpt-x."),
        (("0", "--provider", "openai"), "nothing is added to the cost of openai."),
        (("1000", "--account", "acme"), "1,000 % is charged on top of the cost for account acme."),
    ],
)
def test_a_markup_is_confirmed_with_what_it_is_for(cli: Cli, acme: str, options: tuple[str, ...], said: str) -> None:
    options = tuple(acme if option == "acme" else option for option in options)
    assert said.replace("acme", acme) in cli("markup", "set", *options).out


def test_a_markup_is_set_and_listed(cli: Cli, acme: str) -> None:
    made = cli("markup", "set", "12.5", "--provider", "openai", "--account", acme, "--json").json
    assert (made["percent"], made["parts_per_million"]) == ("12.5", 1_125_000)
    less = cli("markup", "set", "--json", "--", "-10").json
    assert (less["percent"], less["parts_per_million"]) == ("-10", 900_000)
    listed = cli("markup", "list", "--json").json
    assert sorted(row["percent"] for row in listed) == ["-10", "12.5"]
    assert cli("markup", "set", "--", "-101").status == 1
    assert cli("markup", "set", "lots").status == 2
    assert cli("markup", "set", "5", "--provider", "nope").status == 1
