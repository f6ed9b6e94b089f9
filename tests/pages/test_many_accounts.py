"""The operator's pages of an installation that is larger than a page can search at once."""

import re
from collections.abc import Iterator
from html import unescape

import pytest

from farebox.calendar import DAY_MS
from farebox.identity import membership
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from farebox.operator.price_effect import PAST_MS
from farebox.storage.sql import Connection
from tests.engines import ON_BOTH_ENGINES
from tests.pages.people import Person
from tests.support import Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES

HOUR_MS = 3_600_000
IDS = [f"acc{number}" for number in range(6)]


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("many")) as served:
        for account_id in IDS:
            served.create_account(f"Tenant {account_id}", account_id)
        yield served


@pytest.fixture
def operator(farebox: Farebox) -> Person:
    return Person(farebox, LinkHolder(operator=True))


def test_hours_before_the_period_do_not_use_up_the_bound_of_a_price_preview(
    farebox: Farebox, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    period = farebox.services.clock.now_ms() - PAST_MS

    def add(connection: Connection) -> None:
        for account_id in IDS[1:]:
            for hours in range(20):
                _add_sum(connection, account_id, period - DAY_MS - hours * HOUR_MS)
        for days in (1, 2, 3):
            _add_sum(connection, IDS[-1], period + days * DAY_MS)

    farebox.run(farebox.services.database.write(add))

    def preview() -> str:
        price = {"provider": "demo", "model": "demo-1", "input_mtok": "3", "output_mtok": "4"}
        return unescape(operator.send("/ui/prices", do="preview", **price).text)

    without = len(IDS) - 1
    monkeypatch.setattr("farebox.storage.past_usage.LOOKED_AT", without + 3 + 1)
    whole = preview()
    assert "3 calls with 30 tokens of input and 60 of output" in whole
    assert "does not cover all" not in whole
    monkeypatch.setattr("farebox.storage.past_usage.LOOKED_AT", without + 2)
    part = preview()
    assert "2 calls with 20 tokens" in part
    assert "This does not cover all accounts" in part
    monkeypatch.setattr("farebox.storage.past_usage.LOOKED_AT", without)
    assert "No such call of the last 30 days was found" in preview()


def _add_sum(connection: Connection, account_id: str, at: int) -> None:
    connection.execute(
        "INSERT INTO usage_hours (bucket, account_id, hour, provider, model, calls, charge, tokens_in, tokens_out) "
        "VALUES (0, ?, ?, 'demo', 'demo-1', 1, 1000000000, 10, 20)",
        (account_id, at - at % HOUR_MS),
    )


def test_a_search_examines_a_bounded_number_of_accounts_at_a_time(
    farebox: Farebox, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farebox.storage.account_search.LOOKED_THROUGH", 4)
    monkeypatch.setattr("farebox.http.pages.accounts.SHOWN", 2)
    farebox.run(membership.add(farebox.services, IDS[-1], "ada@example.com", Role.VIEWER))

    def found(page: str) -> list[str]:
        return re.findall(r'href="/ui/accounts/(\w+)"', page)

    def further(page: str, label: str) -> str:
        link = re.search(rf'href="([^"]+)"[^>]*>{label}<', page)
        assert link is not None, page
        return operator.http.get(unescape(link[1])).text

    page, seen = operator.get("/ui/accounts", find="tENANT").text, []
    while "Next" in page:
        seen.append(found(page))
        page = further(page, "Next")
    assert [*seen, found(page)] == [IDS[:2], IDS[2:4], IDS[4:]]

    page = operator.get("/ui/accounts", find="acc5").text
    assert found(page) == []
    assert "None found yet" in page
    assert "No matching account" not in page
    page = further(page, "Continue searching")
    assert found(page) == ["acc5"]
    assert "Continue searching" not in page
    monkeypatch.setattr("farebox.storage.account_search.LOOKED_THROUGH", len(IDS))
    assert "No matching account" in operator.get("/ui/accounts", find="nobody").text, "it reached the end"

    assert found(operator.get("/ui/accounts", find="Ada@example.com").text) == ["acc5"], "found at once"
