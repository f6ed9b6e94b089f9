"""Stored keys and custom providers on the pages: encrypted, shown masked, validated by the API."""

import re
from html import unescape
from typing import Any

import httpx
import pytest

from farebox.model import Role
from tests.engines import ON_BOTH_ENGINES
from tests.pages.forms import form_of
from tests.pages.people import Person, person
from tests.support import Customer, Farebox

HOSTILE = """"><script>alert(1)</script>"""
SECRET = "sk-0123456789-secret-abcd"
pytestmark = ON_BOTH_ENGINES


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    made = person(farebox, Role.OWNER, customer.account_id)
    made.get("/ui/gateways")
    return made


def listed(customer: Customer, path: str) -> list[dict[str, Any]]:
    """The list of the API."""
    response = httpx.get(f"{customer.api_url}/ai-gateway/{path}", headers=customer.headers)
    found: list[dict[str, Any]] = response.json()["result"]
    return found


def test_a_key_is_stored_used_replaced_and_deleted(owner: Person, customer: Customer) -> None:
    keys, configs = "/ui/gateways/default/keys", "gateways/default/provider_configs"
    form = form_of(owner.get(keys).text, alias="default") | {"provider_slug": "demo", "secret": SECRET}
    page = owner.submit(keys, **form | {"rate_limit": "1000"})
    assert "Stored the key default for demo" in page
    assert "…abcd" in page
    assert "never" in page
    (stored,) = listed(customer, configs)
    assert (stored["rate_limit"], stored["rate_limit_period"], stored["default_config"]) == (1000, 60, True)
    before = customer.balance
    assert customer.chat("x").status_code == 200
    assert customer.balance == before, "a call with the stored key costs no credit"

    key = f"{keys}/{stored['id']}"
    assert "Changed the key" in owner.submit(key, secret="sk-another-secret-wxyz", weight="7")
    page = owner.get(keys).text
    assert "…wxyz" in page
    assert "weight 7" in page
    assert "Changed the key" in owner.submit(key, secret="", weight="0")
    assert "Weight: Enter a whole number" in owner.submit(key, secret="", weight="1.5")
    assert "…wxyz" in owner.get(keys).text
    assert SECRET not in page
    assert "Deleted" in owner.submit(f"{key}/delete")
    assert listed(customer, configs) == []


@pytest.mark.parametrize(
    ("changed", "at", "said"),
    [
        ({"secret": ""}, "secret", "Fill this in"),
        ({"alias": HOSTILE}, "alias", "Use letters, digits, dots, hyphens and underscores"),
        ({"rate_limit": "1.5"}, "rate_limit", "Enter a whole number"),
        ({"provider_slug": "nonesuch"}, "provider_slug", "This provider does not exist"),
        ({"secret": "fbx_" + "x" * 43}, "secret", "access token of Farebox"),
        ({"secret": "x" * 5_000}, "secret", "too long: it has 5,000 characters, and at most 4,096 are allowed"),
        ({"secret_id": "no spaces"}, "secret_id", "without spaces"),
    ],
)
def test_a_key_that_is_refused_is_not_shown_again(
    owner: Person, customer: Customer, changed: dict[str, str], at: str, said: str
) -> None:
    keys = "/ui/gateways/default/keys"
    form = form_of(owner.get(keys).text, alias="default") | {"provider_slug": "demo", "secret": SECRET} | changed
    page = owner.submit(keys, **form)
    found = re.search(rf'<p id="{at}-fault" class="hint bad">([^<]*)</p>', page)
    assert found is not None, page[-6000:]
    assert said in unescape(found.group(1))
    assert SECRET not in page
    assert "<script>alert" not in page
    assert listed(customer, "gateways/default/provider_configs") == []


def test_a_second_key_of_the_same_alias_is_refused(owner: Person) -> None:
    keys = "/ui/gateways/default/keys"
    form = form_of(owner.get(keys).text, alias="default") | {"provider_slug": "demo", "secret": SECRET, "alias": "a"}
    assert "Stored the key" in owner.submit(keys, **form)
    page = unescape(owner.submit(keys, **form))
    assert "“a” is already the alias of a key for Demo: choose another" in page
    assert "A provider config for" not in page


def test_a_provider_is_added_changed_priced_and_deleted(owner: Person, customer: Customer) -> None:
    form = form_of(owner.get("/ui/providers").text, name="") | {
        "name": HOSTILE,
        "slug": "cluster",
        "base_url": "https://llm.example.com/v1",
        "headers": f"X-Key: {SECRET}\nX-Team: a: b",
    }
    page = owner.submit("/ui/providers", **form)
    assert "<script>alert" not in page
    (made,) = listed(customer, "custom-providers")
    assert made["headers"] == '{"x-key":"…abcd","x-team":"…"}'
    here = f"/ui/providers/{made['id']}"
    form = form_of(owner.get(here).text, slug="cluster")
    assert form["logo"] == "", "the generated logo is not its own"
    assert "Saved the provider" in owner.submit(here, **form | {"name": "Our cluster", "position": "3"})
    (changed,) = listed(customer, "custom-providers")
    assert (changed["name"], changed["position"], changed["headers"]) == ("Our cluster", 3, made["headers"])
    assert "Provider" in owner.get("/ui/gateways/default").text
    assert "/default/custom-cluster" in owner.get("/ui/gateways/default").text

    cost = form_of(owner.get(here).text, model="") | {"model": "m", "cost_in": "0.0000005", "cost_out": "2e-6"}
    assert "Saved" in owner.submit(f"{here}/costs", **cost | {"token_pricing.input_image_count": "0.02"})
    page = owner.get(here).text
    for text in (">0.50<", ">2.00<", "input image count 0.02 each"):
        assert text in page
    (stored,) = listed(customer, "custom-providers/costs")
    changing = form_of(owner.get(here, cost=stored["id"]).text, cost=stored["id"], model="m")
    assert (changing["cost_in"], changing["token_pricing.input_image_count"]) == ("0.0000005", "0.02")
    assert "Saved" in owner.submit(f"{here}/costs", **changing | {"cost_out": ""})
    (after,) = listed(customer, "custom-providers/costs")
    assert "cost_out" not in after
    assert "Removed" in owner.submit(f"{here}/costs/remove", cost=stored["id"])
    assert "Deleted" in owner.submit(f"{here}/delete")
    assert owner.get(here).status_code == 404


def test_errors_of_a_provider_or_cost_are_shown_at_their_field(owner: Person, customer: Customer) -> None:
    form = form_of(owner.get("/ui/providers").text, name="")
    page = unescape(
        owner.submit("/ui/providers", **form | {"base_url": "ftp://x", "headers": "Host: x", "position": "-1"})
    )
    for at in ("name", "slug", "position"):
        assert f'id="{at}-fault"' in page
    page = unescape(
        owner.submit("/ui/providers", **form | {"name": "n", "slug": "s", "base_url": "https://a@b.example"})
    )
    assert "A base URL cannot have a user name" in page
    fine = {"name": "n", "slug": "s", "base_url": "https://llm.example.com"}
    for wrong, said in (
        ({"base_url": "https://127.0.0.1"}, "ask the operator to allow its network"),
        ({"headers": '{"a":'}, "Enter one header per line, as Name: value"),
        ({"headers": "a: b\nnocolon"}, "Enter one header per line, as Name: value"),
        ({"position": "1e400"}, "Enter a number of at most"),
        ({"position": "9" * 40}, "Enter a number of at most"),
    ):
        page = unescape(owner.submit("/ui/providers", **form | fine | wrong))
        assert said in page, wrong
        assert "FAREBOX_" not in page
        assert "JSON object" not in page
    owner.submit("/ui/providers", **form | {"name": "n", "slug": "s", "base_url": "https://llm.example.com"})
    (made,) = listed(customer, "custom-providers")
    here = f"/ui/providers/{made['id']}"
    bad = {"model": "", "cost_in": "-1", "token_pricing.output_tokens": "much"}
    page = unescape(owner.submit(f"{here}/costs", **form_of(owner.get(here).text, model="") | bad))
    for at in ("model", "cost_in", "token_pricing.output_tokens"):
        assert f'id="cost-{at}-fault"' in page
    assert '<details class="wide" open>' in page
    assert listed(customer, "custom-providers/costs") == []
    page = owner.submit(here, **form_of(owner.get(here).text, slug="s") | {"headers": "nocolon"})
    assert "Enter one header per line, as Name: value" in page
    page = owner.submit(here, **form_of(owner.get(here).text, slug="s") | {"base_url": "nowhere"})
    assert 'id="base_url-fault"' in page
