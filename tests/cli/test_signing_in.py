"""`farebox sign-in`, `billing-link`, `member`."""

import re

import pytest

from farebox.cli.session import CliSession
from farebox.model import Role
from farebox.storage.sessions import SignIn, find
from tests.cli.conftest import Cli


def test_a_billing_link_is_created_for_an_account(cli: Cli, acme: str) -> None:
    made = cli("billing-link", "--account", acme)
    assert re.fullmatch(r"http://127\.0\.0\.1:8787/billing/open\?link=[\w-]{43}\n", made.out)
    other = cli("billing-link", "--account", acme, "--json").json
    assert other["account_id"] == acme
    assert other["link"] not in made.out
    assert other["expires_at"].endswith("Z")


def test_the_link_begins_with_the_public_address(cli: Cli, acme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAREBOX_PUBLIC_URL", "https://ai.example/")
    assert cli("billing-link", "--account", acme).out.startswith("https://ai.example/billing/open?link=")


def test_an_unknown_account_gets_no_link(cli: Cli, acme: str) -> None:
    refused = cli("billing-link", "--account", "nobody")
    assert refused.status == 1
    assert "nobody" in refused.err


@pytest.mark.parametrize(
    ("options", "role", "operator"),
    [
        (("--account", "acme"), Role.OWNER, False),
        (("--account", "acme", "--role", "viewer"), Role.VIEWER, False),
        (("--operator",), None, True),
        (("--account", "acme", "--operator"), Role.OWNER, True),
    ],
)
def test_a_sign_in_link_has_its_role(
    cli: Cli, acme: str, options: tuple[str, ...], role: Role | None, operator: bool
) -> None:
    made = cli("sign-in", *options, "--json").json
    found = _of_link(made["link"])
    assert (found.account_id, found.role, found.operator, found.email) == (
        made["account_id"] or "",
        role,
        operator,
        None,
    )


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--operator", "--role", "viewer"),
        ("--account", "acme", "--role", "operator"),
        ("--account", "acme", "--role", "viewer", "--email", "ada@example.com"),
    ],
)
def test_an_invalid_sign_in_link_is_refused(cli: Cli, acme: str, options: tuple[str, ...]) -> None:
    assert cli("sign-in", *options).status == 2


def test_members_are_added_listed_and_removed(cli: Cli, acme: str) -> None:
    unknown = cli("sign-in", "--account", acme, "--email", "ada@example.com")
    assert (unknown.status, "farebox member set" in unknown.err) == (1, True)
    assert cli("member", "set", "Ada@Example.com", "--account", acme, "--role", "billing").status == 0
    assert cli("member", "set", "ada@example.com", "--account", acme, "--role", "owner").status == 0
    assert cli("member", "set", "root@example.com", "--operator").status == 0
    (member,) = cli("member", "list", "--account", acme, "--json").json
    assert (member["email"], member["role"]) == ("ada@example.com", "owner")
    assert [each["role"] for each in cli("member", "list", "--operator", "--json").json] == ["operator"]
    link = cli("sign-in", "--account", acme, "--email", "ADA@example.com").out.strip()
    assert (_of_link(link).email, _of_link(link).role) == ("ada@example.com", None)
    assert cli("member", "remove", "ada@example.com", "--account", acme).status == 0
    with pytest.raises(AssertionError):
        _of_link(link)  # their session ended with the membership
    assert cli("member", "remove", "ada@example.com", "--account", acme).status == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-address", "--account", "acme", "--role", "owner"),
        ("ada@example.com", "--account", "acme", "--role", "operator"),
        ("ada@example.com", "--account", "nobody", "--role", "owner"),
        ("ada@example.com", "--account", "acme"),
        ("ada@example.com", "--role", "owner"),
    ],
)
def test_an_invalid_member_is_refused(cli: Cli, acme: str, arguments: tuple[str, ...]) -> None:
    assert cli("member", "set", *arguments).status in (1, 2)


def _of_link(link: str) -> SignIn:
    session = CliSession()
    with session.reading() as connection:
        found = find(
            connection, session.vault.hash_token(link.partition("link=")[2]), "link", at=session.clock.now_ms()
        )
    assert found is not None
    return found


@pytest.mark.parametrize("command", [("sign-in",), ("member", "list"), ("member", "set", "ada@example.com")])
def test_without_an_account_both_ways_are_named(cli: Cli, command: tuple[str, ...]) -> None:
    refused = cli(*command)
    assert refused.status == 2
    assert refused.err.endswith("Error: Missing option: give --account ID or --operator.\n")
