"""The receipt on the page of a call: since when its price is valid, and which tier, hours and length of input it is
for."""

import re
from collections.abc import Iterator
from html import unescape

import httpx
import msgspec
import pytest

from farebox.model import Role
from farebox.storage.sql import Connection
from tests.calls.kit import set_provider
from tests.engines import ON_BOTH_ENGINES
from tests.pages.people import person
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES
LONG = "gpt-5.6-sol"
"""Its list price has a date, and other rates above 272,000 input tokens."""


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("receipts")) as served:
        set_provider(served, "openai")
        yield served


def called(customer: Customer, model: str, words: int = 2, **more: str) -> str:
    """The log ID of a call with this number of input tokens."""
    response = httpx.post(
        f"{customer.gateway_url}/openai/chat/completions",
        json={
            "model": model,
            "max_completion_tokens": 100,
            "messages": [{"role": "user", "content": "a " * words}],
            **more,
        },
        headers=customer.headers | {"x-demo": "tokens=100"},
    )
    assert response.status_code == 200, response.text
    return response.headers["cf-aig-log-id"]


def facts(customer: Customer, log_id: str) -> dict[str, str]:
    """The facts of the receipt as the page shows them, and its lines' notes."""
    page = person(customer.farebox, Role.OWNER, customer.account_id).get(f"/ui/calls/{log_id}").text
    receipt = page.partition('<section id="receipt"')[2].partition("</section>")[0]
    found = re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", receipt, re.DOTALL)
    notes = re.findall(r'<p class="hint">(.*?)</p>', receipt.partition("</table>")[0], re.DOTALL)
    return {unescape(name): unescape(value).strip() for name, value in found} | {"notes": unescape("|".join(notes))}


def test_a_price_of_the_list_says_its_date_tier_and_length_of_input(farebox: Farebox) -> None:
    customer = farebox.funded("100")
    short = facts(customer, called(customer, LONG))
    assert short["Price from"] == "genai-prices " + short["Price"].split("/")[1]
    assert short["Valid from"] == "21 Aug 2026"
    assert (short["Tier"], short["Input length"], short["notes"]) == ("standard", "lowest tier", "")
    log_id = called(customer, LONG, 272_100)
    long = facts(customer, log_id)
    assert long["Input length"] == "tier above 272,000 tokens"
    assert "rate for more than 272,000 input tokens" in long["notes"]
    receipt = customer.receipt(log_id)
    assert {line["above_input_tokens"] for line in receipt["lines"]} == {272_000}
    assert len({line["nanos_per_unit"] for line in receipt["lines"]}) == 2, "the rates of that tier"


def test_a_service_tier_is_said(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    flex = facts(customer, called(customer, "gpt-5-mini", service_tier="flex"))
    assert flex["Tier"] == "service tier flex"
    assert re.fullmatch(r"\d+ \w{3} 20\d\d", flex["Valid from"])
    log_id = called(customer, "gpt-5-mini")
    standard = facts(customer, log_id)
    assert (standard["Tier"], standard["Valid from"]) == ("standard", "the list gives no date")
    assert "Input length" not in standard, "its rates do not depend on it"
    assert "above_input_tokens" not in str(customer.receipt(log_id))


def test_the_operator_s_price_and_markup_say_since_when(farebox: Farebox) -> None:
    customer, operator = farebox.funded("5"), person(farebox, Role.OPERATOR, "")
    scope = {"provider": "openai", "model": "gpt-5-mini", "account": customer.account_id}
    day = {"from": "2026-01-31"}
    assert "has the new price" in operator.submit(
        "/ui/prices", do="set", **scope, input_mtok="1", output_mtok="2", **day
    )
    assert "is charged" in operator.submit("/ui/prices/markup", do="set", percent="10", **scope, **day)
    own = facts(customer, called(customer, "gpt-5-mini", service_tier="flex"))
    assert (own["Price from"], own["Valid from"]) == ("the operator", "31 Jan 2026, 00:00 UTC")
    assert own["Markup"] == "+10 %"
    assert "is added to" in operator.submit("/ui/prices/markup", do="set", percent="0", **scope)
    assert facts(customer, called(customer, "gpt-5-mini"))["Markup"] == "0 %"
    assert own["Markup valid from"] == "31 Jan 2026, 00:00 UTC"
    assert own["Tier"] == "service tier flex"


def test_what_an_earlier_release_did_not_record_is_said(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    log_id = called(customer, LONG)

    def age(connection: Connection) -> None:
        """As release 0.5 wrote it."""
        sql = "SELECT receipt FROM calls WHERE account_id = ? AND log_id = ?"
        ((stored,),) = connection.execute(sql, (customer.account_id, log_id)).fetchall()
        old = msgspec.json.decode(stored)
        assert old.pop("tiers") == [0, 0]
        del old["other_meters"]
        sql = "UPDATE calls SET receipt = ? WHERE account_id = ? AND log_id = ?"
        connection.execute(sql, (msgspec.json.encode(old).decode(), customer.account_id, log_id))

    farebox.run(farebox.services.database.write(age))
    found = facts(customer, log_id)
    assert found["Input length"] == "tier not recorded"
    assert found["Valid from"] == "21 Aug 2026"
