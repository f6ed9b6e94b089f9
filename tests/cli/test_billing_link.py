"""`farebox billing-link`."""

import re

import pytest

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
