"""Prices before a call, attempts on receipts, policies on the limits, and what tokens are limited to."""

import re
from html import unescape
from typing import Any

import httpx
import pytest

from farebox.http.pages.policy_lines import lines_of
from farebox.model import Role
from farebox.storage.policies import PolicyRow
from tests.http.support import GATEWAY_FIELDS
from tests.pages.forms import form_of
from tests.pages.people import Person, person
from tests.support import Customer, Farebox

HOSTILE = """"><script>alert(1)</script>"""


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    made = person(farebox, Role.OWNER, customer.account_id)
    made.get("/ui/gateways")
    return made


def test_what_a_call_would_cost_is_what_is_held_for_it(farebox: Farebox, owner: Person, customer: Customer) -> None:
    farebox.grant(customer.account_id, "1000")
    asked = {"model": "demo/demo-1", "text": "Größe? " * 50, "gateway": "default"}
    before = farebox.demo_stats()
    page = unescape(owner.send("/ui/try/price", **asked).text)
    found = re.search(r"at most ([\d.,]+) USD", page)
    assert found is not None, page
    assert farebox.demo_stats() == before, "nothing was called"
    assert form_of(page, model="demo/demo-1")["text"] == asked["text"]
    made = owner.send("/ui/try", **asked)
    log_id = made.headers["location"].rpartition("/")[2]
    assert round(float(found[1].replace(",", "")) * 10**9) == customer.receipt(log_id)["hold_nanos"]
    assert ">1.00<" in page, "for a million tokens of input"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"model": "demo/none"}, "has no price"),
        ({"model": "dynamic/x"}, "depends on the model"),
        ({"model": "nowhere/x"}, "is unknown"),
        ({"model": "custom-x/y"}, "provider does not exist"),
        ({"model": "x"}, "Write a model as provider/model"),
        ({"gateway": "nowhere"}, "gateway does not exist"),
        ({"model": HOSTILE + "/x"}, ""),
    ],
)
def test_prices_that_are_not_known_are_explained(owner: Person, asked: dict[str, str], said: str) -> None:
    page = owner.told("/ui/try/price", **{"model": "demo/demo-1", "text": "x", "gateway": "default"} | asked)
    assert said in unescape(page)
    assert "<script>alert" not in page


def test_a_call_on_an_own_key_costs_no_credit(owner: Person, customer: Customer) -> None:
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    key = {"alias": "default", "default_config": True, "provider_slug": "demo", "secret": "sk-own"}
    assert httpx.post(url, headers=customer.headers, json=key).status_code == 200
    page = owner.told("/ui/try/price", model="demo/demo-1", text="x", gateway="default")
    assert "costs no credit" in page


def test_a_receipt_names_each_attempt(farebox: Farebox, owner: Person, customer: Customer) -> None:
    farebox.script("status=500", "")
    answer = customer.chat("x", headers={"cf-aig-max-attempts": "2", "cf-aig-retry-delay": "1"})
    log_id = answer.headers["cf-aig-log-id"]
    assert len(customer.receipt(log_id)["attempts"]) == 2
    page = unescape(re.sub(r"\s+", " ", owner.get(f"/ui/calls/{log_id}").text))
    assert "Attempts" in page
    assert page.count("not charged") == 1
    for status in ("500", "200"):
        assert re.search(rf">{status}[<,]", page)
    plain = customer.chat("y").headers["cf-aig-log-id"]
    assert "Attempts" not in owner.get(f"/ui/calls/{plain}").text


def test_policies_are_among_the_limits(owner: Person, customer: Customer) -> None:
    url = f"{customer.api_url}/ai-gateway/gateways/default/policies"
    limit = {"type": "limit", "amount": 5, "period": "daily", "technique": "named-interval"}
    policy: dict[str, Any] = {
        "name": HOSTILE,
        "actor": "user:{user}",
        "resource": "*",
        "condition": "true",
        "action": limit,
    }
    blocks = {"type": "block", "except": True}
    other = policy | {
        "name": "b",
        "action": blocks,
        "condition": 'user == "x"',
        "resource": {"model": ["demo/*", "a/b"]},
    }
    for body, query in ((policy, "?commit=true"), (other, "")):
        assert httpx.post(url + query, headers=customer.headers, json=body).status_code < 300
    page = owner.get("/ui/limits").text
    assert "<script>alert" not in page
    shown = unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page)))
    for said in ("at most 5.00 USD in a day", "refuses every other call", 'where user == "x"', "user:{user}", "draft"):
        assert said in shown, said
    assert "model demo/* or a/b" in shown
    viewer = person(owner.farebox, Role.VIEWER, customer.account_id).get("/ui/limits").text
    assert "at most 5.00 USD in a day" in viewer


def test_a_policy_with_a_draft_is_shown_as_it_is_in_force() -> None:
    text = '{"name": "n", "actor": "a", "resource": "*", "action": {"type": "%s"}}'
    (line,) = lines_of([PolicyRow("a", "g", "p", text % "block", text % "no-limit", 1, 1)])
    assert (line.does, line.state, line.condition) == ("refuses the call", "changed", "")


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_a_token_is_limited_on_its_page(farebox: Farebox, owner: Person, customer: Customer) -> None:
    made = owner.send("/ui/tokens", name="limited", run="on", models="", expires="", rate_limiting_limit="1000")
    secret = re.findall(r"fbx_[\w-]{43}", made.text)[0]
    page = owner.get("/ui/tokens").text
    assert "1,000 in 60 s" in page
    token_id = re.findall(r'<a href="/ui/tokens/(\w+)" class="name">limited', page)[0]
    here = f"/ui/tokens/{token_id}"
    caller = Customer(farebox, customer.account_id, secret)
    assert caller.chat("x").status_code == 200
    form = form_of(owner.get(here).text, rate_limiting_limit="1000")
    limited = form | {"rate_limiting_limit": "1", "rate_limiting_interval": "3600", "models": "demo/demo-1\nopenai/*"}
    assert "Changed the token" in owner.told(here, **limited)
    assert form_of(owner.get(here).text, rate_limiting_limit="1")["models"].split() == ["demo/demo-1", "openai/*"]
    assert [caller.chat("x").status_code for _ in range(2)] == [200, 429]
    assert "Changed the token" in owner.told(here, **form | {"rate_limiting_limit": "", "models": "demo/other"})
    assert caller.chat("x").status_code == 403
    for wrong, said in (
        ({"models": "nonsense"}, "nonsense"),
        ({"rate_limiting_limit": "-1"}, "greater than or equal"),
        ({"expires_at": "soon"}, "Expected a time"),
    ):
        assert said in unescape(owner.told(here, **form | wrong))
    assert caller.chat("x").status_code == 403
    assert owner.get("/ui/tokens/none").status_code == 404


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_a_token_is_limited_to_gateways_on_its_page(farebox: Farebox, owner: Person, customer: Customer) -> None:
    for gateway_id in ("team-a", "other"):
        body = {**GATEWAY_FIELDS, "id": gateway_id}
        made = httpx.post(f"{customer.api_url}/ai-gateway/gateways", headers=customer.headers, json=body)
        assert made.status_code == 200, made.text
    for wrong in ("nowhere", HOSTILE, "team-a\x00", "TEAM-A"):
        said = unescape(owner.told("/ui/tokens", name="refused", run="on", models="", expires="", gateways=wrong))
        assert "The account has no gateway" in said
    page = owner.get("/ui/tokens").text
    assert "refused" not in page
    assert "<script>alert" not in page
    made = owner.send("/ui/tokens", name="team", run="on", models="", expires="", gateways="team-a, default\nteam-a")
    caller = Customer(farebox, customer.account_id, re.findall(r"fbx_[\w-]{43}", made.text)[0])
    page = owner.get("/ui/tokens").text
    assert "team-a, default" in page
    here = "/ui/tokens/" + re.findall(r'<a href="/ui/tokens/(\w+)" class="name">team<', page)[0]
    form = form_of(owner.get(here).text, expires_at="")
    assert form["gateways"].split() == ["team-a", "default"]
    assert caller.chat("x").status_code == 200
    assert "Changed the token" in owner.told(here, **form | {"gateways": "team-a"})
    assert caller.chat("x").json()["internalCode"] == 2972
    assert "The account has no gateway 'nowhere'" in unescape(owner.told(here, **form | {"gateways": "nowhere"}))
    httpx.delete(f"{customer.api_url}/ai-gateway/gateways/team-a", headers=customer.headers)
    emptied = owner.get(here).text
    assert "The token reaches no gateway" in emptied
    form = form_of(emptied, expires_at="")
    assert form["gateways"].split() == []
    assert "Changed the token" in owner.told(here, **form | {"rate_limiting_limit": "9"})
    assert "The token reaches no gateway" in owner.get(here).text, "an empty field does not free it"
    assert caller.chat("x").json()["internalCode"] == 2972
    assert "Changed the token" in owner.told(here, **form | {"gateways": "default"})
    assert caller.chat("x").status_code == 200
    form = form_of(owner.get(here).text, expires_at="")
    assert "Changed the token" in owner.told(here, **form | {"gateways": ""})
    assert "reaches no gateway" not in owner.get(here).text
