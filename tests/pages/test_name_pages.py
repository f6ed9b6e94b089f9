"""Model aliases, custom domains and the destination of logs on the pages."""

import re
from html import unescape
from typing import Any

import httpx
import pytest

from farebox.http.pages.names import STATES
from farebox.model import Role
from tests.pages.forms import form_of
from tests.pages.people import Person, person
from tests.support import Customer, Farebox

HOSTILE = """"><script>alert(1)</script>"""
HERE = "/ui/gateways/default/names"


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    made = person(farebox, Role.OWNER, customer.account_id)
    made.get("/ui/gateways")
    return made


def found(customer: Customer, path: str) -> Any:
    """The result of the API."""
    return httpx.get(f"{customer.api_url}/{path}", headers=customer.headers).json()["result"]


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_aliases_are_created_called_and_deleted(owner: Person, customer: Customer) -> None:
    said = owner.submit(f"{HERE}/alias", alias="smart", scope="gateway", targets="demo/none\ndemo/demo-1")
    assert "Programs can now use smart" in said
    assert customer.chat("x", model="smart").status_code == 200
    owner.submit(f"{HERE}/alias", alias="shared", scope="account", targets="demo/demo-1 3\ndemo/demo-2  1")
    (alias,) = found(customer, "farebox/model-aliases")
    assert alias["targets"] == [{"model": "demo/demo-1", "weight": 3}, {"model": "demo/demo-2", "weight": 1}]
    page = owner.get(HERE).text
    assert "demo/demo-1 3, demo/demo-2 1" in page
    assert "all gateways" in page
    owner.submit(f"{HERE}/alias/delete", alias="shared", scope="gateway")  # no alias has this name
    assert found(customer, "farebox/model-aliases") == [alias]
    for name, scope in (("smart", "gateway"), ("shared", "account")):
        assert "Deleted" in owner.submit(f"{HERE}/alias/delete", alias=name, scope=scope)
    assert found(customer, "farebox/model-aliases") == []


@pytest.mark.parametrize(
    ("form", "at"),
    [
        ({"alias": HOSTILE, "targets": "demo/demo-1"}, "alias"),
        ({"alias": "-1", "targets": "demo/demo-1"}, "alias"),
        ({"alias": "a", "targets": ""}, "targets"),
        ({"alias": "a", "targets": "nowhere/x"}, "targets"),
        ({"alias": "a", "targets": "demo/demo-1 9999"}, "targets"),
    ],
)
def test_invalid_aliases_are_explained(owner: Person, form: dict[str, str], at: str) -> None:
    page = owner.submit(f"{HERE}/alias", scope="gateway", **form)
    assert f'id="{at}-fault"' in page
    if form["alias"] == "-1":
        assert "An alias begins with a letter or digit" in page
    assert "<script>alert" not in page
    assert form_of(page, alias=form["alias"])["targets"].split() == form["targets"].split()


def test_a_domain_waits_for_its_record(owner: Person, customer: Customer) -> None:
    assert "once its TXT record is found" in owner.submit(f"{HERE}/domain", domain="AI.example.com")
    (domain,) = found(customer, "ai-gateway/gateways/default/custom-domains")
    page = owner.get(HERE).text
    for text in (domain["verification"]["name"], domain["verification"]["value"], STATES[domain["status"]][1]):
        assert text in page
    for wrong in ("x", HOSTILE, "ai.example.com"):
        assert 'id="domain-fault"' in owner.submit(f"{HERE}/domain", domain=wrong)
    assert "Deleted" in owner.submit(f"{HERE}/domain/delete", hostname="ai.example.com")
    assert "no longer exists" in owner.submit(f"{HERE}/domain/check", hostname="ai.example.com")


def test_logs_are_pushed_to_the_destination_on_the_page(owner: Person, customer: Customer) -> None:
    here = "/ui/log-destination"
    form = form_of(owner.get(here).text, url="") | {"type": "s3", "url": "https://s3.example.com", "region": "eu-1"}
    page = owner.submit(here, **form | {"bucket": "!", "secret_access_key": "x"})
    assert 'id="bucket-fault"' in page
    keys = {"bucket": "logs", "access_key_id": "AKIA1", "secret_access_key": "a-long-secret-key-wxyz"}
    assert "The destination has been set" in owner.submit(here, **form | keys)
    page = owner.get(here).text
    assert "a-long-secret" not in page
    again = form_of(page, url="https://s3.example.com")
    assert again["secret_access_key"] == "…wxyz"
    assert "The destination has been set" in owner.submit(here, **again | {"prefix": "x/"})
    assert found(customer, "farebox/logpush")["destination"]["prefix"] == "x/"
    http = {"type": "http", "url": "https://logs.example.com/in", "headers": "X-Key: a-long-secret-key"}
    assert "The destination has been set" in owner.submit(here, **http)
    settings = "/ui/gateways/default/settings"
    logs = form_of(owner.get(settings).text, group="logs")
    assert "saved" in owner.submit(settings, **logs | {"logpush": "on"})
    assert re.search(r"default</a>", owner.get(here).text)
    assert "First switch pushing off in the settings of these gateways: default" in unescape(
        owner.submit(f"{here}/delete")
    )
    assert "saved" in owner.submit(settings, **{name: text for name, text in logs.items() if name != "logpush"})
    assert "Deleted" in owner.submit(f"{here}/delete")
    assert found(customer, "farebox/logpush")["destination"] is None
