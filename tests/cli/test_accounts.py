"""Accounts, tokens and users on the command line."""

import re
from pathlib import Path

from farebox.model import Permission
from farebox.settings import load
from farebox.storage.accounts import take_gateway_from_tokens
from tests.cli.conftest import Cli
from tests.engines import write_now


def test_an_account_is_created_listed_and_shown(cli: Cli) -> None:
    made = cli("account", "create", "--name", "Acme", "--json").json
    assert made["name"] == "Acme"
    assert len(made["account_id"]) == 32

    assert [row["account_id"] for row in cli("account", "list", "--json").json] == [made["account_id"]]
    assert made["account_id"] in cli("account", "list").out
    shown = cli("account", "show", made["account_id"], "--json").json
    assert (shown["name"], shown["available_nanos"]) == ("Acme", 0)


def test_an_account_id_may_be_chosen_once(cli: Cli, acme: str) -> None:
    again = cli("account", "create", "--name", "Other", "--id", acme)
    assert (again.status, again.out) == (1, "")
    assert again.err.startswith("farebox: the account “acme” already exists")


def test_an_account_has_a_name_of_bounded_length(cli: Cli) -> None:
    for name in ("  ", "x" * 201):
        refused = cli("account", "create", "--name", name)
        assert (refused.status, refused.err.count("1 to 200 characters")) == (1, 1)
    assert cli("account", "create", "--name", "x" * 200).status == 0


def test_an_account_id_must_fit_into_a_url(cli: Cli) -> None:
    for wrong in ("a/b", "", "é", "x" * 65):
        refused = cli("account", "create", "--name", "N", "--id", wrong)
        assert refused.status == 1
        assert "cannot be an account ID" in refused.err


def test_a_token_is_shown_once(cli: Cli, acme: str, data_dir: Path) -> None:
    made = cli(
        "token", "create", "--account", acme, "--permission", "AI Gateway Write", "--permission", "ai gateway run",
        "--name", "shop", "--json",
    ).json  # fmt: skip
    assert made["token"].startswith("fbx_")
    assert made["account_id"] == acme
    assert made["permissions"] == ["AI Gateway Run", "AI Gateway Write"]

    (listed,) = cli("token", "list", "--json").json
    assert listed["token_id"] == made["token_id"]
    assert listed["active"] is True
    assert "token" not in listed
    for command in (("token", "list"), ("token", "list", "--account", acme), ("account", "show", acme)):
        assert made["token"] not in cli(*command).out
    for file in data_dir.iterdir():
        assert made["token"].encode() not in file.read_bytes()


def test_a_token_is_revoked(cli: Cli, acme: str) -> None:
    made = cli("token", "create", "--account", acme, "--permission", "AI Gateway Run", "--json").json
    assert cli("token", "revoke", made["token_id"]).status == 0
    (first,) = cli("token", "list", "--json").json
    assert first["active"] is False
    assert cli("token", "revoke", made["token_id"]).status == 0
    assert cli("token", "list", "--json").json == [first]

    unknown = cli("token", "revoke", "nope")
    assert unknown.status == 1
    assert "farebox token list" in unknown.err


def test_a_token_has_a_rate_limit(cli: Cli, acme: str) -> None:
    create = "token", "create", "--account", acme, "--permission", "AI Gateway Run"
    made = cli(*create, "--rate-limit", "5", "--json").json
    assert made["rate_limit"] == "5 in 60 s, fixed"
    rate = ("--rate-limit", "100", "--rate-interval", "3600", "--sliding")
    changed = cli("token", "set", made["token_id"], *rate, "--json").json
    assert changed["rate_limit"] == "100 in 3600 s, sliding"
    assert "100 in 3600 s, sliding" in cli("token", "list").out
    assert "no rate limit" in cli("token", "set", made["token_id"], "--rate-limit", "0").out
    (listed,) = cli("token", "list", "--json").json
    assert listed["rate_limit"] is None
    unknown = cli("token", "set", "nope", "--rate-limit", "1")
    assert (unknown.status, unknown.out) == (1, "")
    assert cli("token", "set", made["token_id"]).status == 2


def test_a_tokens_models_and_expiry_are_changed(cli: Cli, acme: str) -> None:
    token_id = cli("token", "create", "--account", acme, "--permission", "AI Gateway Run", "--json").json["token_id"]
    several = ("--model", "openai/*", "--model", "demo/demo-1", "--expires", "2999-01-31")
    changed = cli("token", "set", token_id, *several, "--json").json
    assert (changed["models"], changed["expires_at"][:10]) == (["openai/*", "demo/demo-1"], "2999-01-31")
    output = cli("token", "set", token_id, "--rate-limit", "5").out
    assert "calls openai/*, demo/demo-1, expires: 2999-01-31" in output, "the rest stays as it is"
    assert "calls all models, expires: never" in cli("token", "set", token_id, "--all-models", "--never-expires").out
    for wrong in (("--model", "openai"), ("--expires", "2001-01-31")):
        assert cli("token", "set", token_id, *wrong).status == 1
    assert cli("token", "set", token_id, "--model", "a/b", "--all-models").status == 2


def test_a_tokens_gateways_are_named_and_changed(cli: Cli, acme: str) -> None:
    create = "token", "create", "--account", acme, "--permission", "AI Gateway Run"
    made = cli(*create, "--gateway", "default", "--gateway", "default", "--json").json
    token_id = made["token_id"]
    assert made["gateways"] == ["default"]
    for wrong in ("nowhere", "", "Default", "a\nb", "x" * 65):
        for refused in (cli(*create, "--gateway", wrong), cli("token", "set", token_id, "--gateway", wrong)):
            assert (refused.status, refused.out) == (1, "")
            assert "has no gateway" in refused.err
    (listed,) = cli("token", "list", "--json").json
    assert listed["gateways"] == ["default"]
    assert "reaches default, calls all" in cli("token", "set", token_id, "--rate-limit", "5").out, (
        "the rest stays as it is"
    )
    assert cli("token", "set", token_id, "--gateway", "default", "--all-gateways").status == 2
    assert "reaches all gateways" in cli("token", "set", token_id, "--all-gateways").out
    assert cli("token", "list", "--json").json[0]["gateways"] is None


def test_the_list_of_tokens_shows_what_each_is_limited_to(cli: Cli, acme: str) -> None:
    create = "token", "create", "--account", acme, "--permission", "AI Gateway Run"
    for more in ((), ("--gateway", "default", "--model", "openai/*", "--model", "demo/demo-1")):
        assert cli(*create, *more).status == 0
    out = cli("token", "list").out
    assert {"MODELS", "GATEWAYS"} <= set(re.split(r"\s{2,}|\n", out))
    free, limited = (re.split(r"\s{2,}", line.strip()) for line in out.splitlines()[1:])
    assert free.count("all") == 2, out
    assert {"default", "openai/*, demo/demo-1"} <= set(limited), out
    write_now(load(), lambda connection: take_gateway_from_tokens(connection, acme, "default"))
    assert "none" in re.split(r"\s{2,}", cli("token", "list").out)


def test_a_token_may_expire(cli: Cli, acme: str) -> None:
    create = "token", "create", "--account", acme, "--permission", "AI Gateway Run"
    assert cli(*create, "--expires", "2999-01-31", "--json").json["expires_at"] == "2999-01-31T00:00:00Z"
    past = cli(*create, "--expires", "2020-01-31")
    assert (past.status, past.out) == (1, "")
    assert "in the past" in past.err


def test_a_token_needs_an_account_and_a_known_permission(cli: Cli, acme: str) -> None:
    assert cli("token", "create", "--account", "nope", "--permission", "AI Gateway Run").status == 1
    assert cli("token", "create", "--account", acme).status == 2
    assert cli("token", "create", "--account", acme, "--permission", "Everything").status == 2
    assert cli("token", "list", "--account", "nope").status == 1
    assert cli("token", "list", "--json").json == []


def test_permissions_are_written_as_they_are_named_elsewhere(cli: Cli, acme: str) -> None:
    help_text = " ".join(cli("token", "create", "--help").out.split())
    refused = cli("token", "create", "--account", acme, "--permission", "AI Gateway Rn").err
    for permission in Permission:
        assert f"`{permission}`" in help_text
        assert f"`{permission}`" in refused
        for spelling in (permission, permission.lower()):
            made = cli("token", "create", "--account", acme, "--permission", spelling, "--json").json
            assert made["permissions"] == [permission]


def test_a_user_gets_a_key_once(cli: Cli, acme: str, data_dir: Path) -> None:
    made = cli("user", "create", "--email", "ana@example.com", "--account", acme, "--json").json
    assert made["account_ids"] == [acme]
    for file in data_dir.iterdir():
        assert made["key"].encode() not in file.read_bytes()
    assert cli("user", "create", "--email", "ana", "--account", acme).status == 1
    assert cli("user", "create", "--email", "bo@example.com", "--account", "nope").status == 1
