"""Prices before a call, attempts on receipts, policies on the limits page, and limits of tokens."""

import re
from html import unescape
from typing import Any

import httpx
import pytest

from farebox.http.pages import labels, tokens
from farebox.http.pages.policy_lines import lines_of
from farebox.model import Role
from farebox.storage.policies import PolicyRow
from tests.http.support import GATEWAY_FIELDS
from tests.pages.forms import form_of
from tests.pages.people import Person, person
from tests.pages.valid import faults_of
from tests.support import Customer, Farebox

HOSTILE = """"><script>alert(1)</script>"""


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    made = person(farebox, Role.OWNER, customer.account_id)
    made.get("/ui/gateways")
    return made


def test_the_shown_cost_of_a_call_is_its_hold(farebox: Farebox, owner: Person, customer: Customer) -> None:
    farebox.grant(customer.account_id, "1000")
    asked = {"model": "demo/demo-1", "text": "Größe? " * 50, "gateway": "default"}
    before = farebox.demo_stats()
    page = unescape(owner.send("/ui/try/price", **asked).text)
    found = re.search(r"at most ([\d.,]+) USD", page)
    assert found is not None, page
    assert farebox.demo_stats() == before, "no provider was called"
    assert form_of(page, model="demo/demo-1")["text"] == asked["text"]
    made = owner.send("/ui/try", **asked)
    log_id = made.headers["location"].rpartition("/")[2]
    assert round(float(found[1].replace(",", "")) * 10**9) == customer.receipt(log_id)["hold_nanos"]
    assert ">1.00<" in page, "per million input tokens"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"model": "demo/none"}, "has no price"),
        ({"model": "dynamic/x"}, "depends on the model"),
        ({"model": "nowhere/x"}, ">The provider “nowhere” of the model is unknown.<"),
        ({"model": "demo/demo-1", "text": " "}, ">Enter a question.<"),
        ({"model": "custom-x/y"}, "provider does not exist"),
        ({"model": "x"}, ">Enter a model as provider/model.<"),
        ({"gateway": "nowhere"}, "gateway does not exist"),
        ({"model": HOSTILE + "/x"}, ""),
    ],
)
def test_unknown_prices_are_explained(owner: Person, asked: dict[str, str], said: str) -> None:
    page = owner.submit("/ui/try/price", **{"model": "demo/demo-1", "text": "x", "gateway": "default"} | asked)
    assert said in unescape(page)
    assert "<script>alert" not in page


def test_a_call_on_an_own_key_costs_no_credit(owner: Person, customer: Customer) -> None:
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    key = {"alias": "default", "default_config": True, "provider_slug": "demo", "secret": "sk-own"}
    assert httpx.post(url, headers=customer.headers, json=key).status_code == 200
    page = owner.submit("/ui/try/price", model="demo/demo-1", text="x", gateway="default")
    assert "uses no credit" in page


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


def test_policies_are_listed_with_the_limits(owner: Person, customer: Customer) -> None:
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
    for said in (
        "at most 5.00 USD per day",
        "refuses calls that do not match",
        'where user == "x"',
        "user:{user}",
        "draft",
    ):
        assert said in shown, said
    assert "model demo/* or a/b" in shown
    viewer = person(owner.farebox, Role.VIEWER, customer.account_id).get("/ui/limits").text
    assert "at most 5.00 USD per day" in viewer


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
    assert "1,000 calls in 60 s" in page
    token_id = re.findall(r'<a href="/ui/tokens/(\w+)" class="name">limited', page)[0]
    here = f"/ui/tokens/{token_id}"
    caller = Customer(farebox, customer.account_id, secret)
    assert caller.chat("x").status_code == 200
    form = form_of(owner.get(here).text, rate_limiting_limit="1000")
    limited = form | {"rate_limiting_limit": "1", "rate_limiting_interval": "3600", "models": "demo/demo-1\nopenai/*"}
    assert "The token has been changed" in owner.submit(here, **limited)
    assert form_of(owner.get(here).text, rate_limiting_limit="1")["models"].split() == ["demo/demo-1", "openai/*"]
    assert [caller.chat("x").status_code for _ in range(2)] == [200, 429]
    assert "The token has been changed" in owner.submit(
        here, **form | {"rate_limiting_limit": "", "models": "demo/other"}
    )
    assert caller.chat("x").status_code == 403
    for wrong, said in (
        ({"models": "nonsense"}, "nonsense"),
        ({"rate_limiting_limit": "-1"}, "a number of at least"),
        ({"expires_at": "soon"}, "Enter a time such as"),
    ):
        assert said in unescape(owner.submit(here, **form | wrong))
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
        said = unescape(owner.submit("/ui/tokens", name="refused", run="on", models="", expires="", gateways=wrong))
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
    (link,) = re.findall(r'href="(/ui/limits[?][^"#]*)', owner.get(here).text)
    assert form_of(owner.get(unescape(link)).text, gateway="team-a")["only_token"], "a limit where it counts"
    assert caller.chat("x").status_code == 200
    assert "The token has been changed" in owner.submit(here, **form | {"gateways": "team-a"})
    assert caller.chat("x").json()["internalCode"] == 2972
    assert "The account has no gateway “nowhere”" in unescape(owner.submit(here, **form | {"gateways": "nowhere"}))
    httpx.delete(f"{customer.api_url}/ai-gateway/gateways/team-a", headers=customer.headers)
    emptied = owner.get(here).text
    assert "This token cannot reach any gateway" in emptied
    form = form_of(emptied, expires_at="")
    assert form["gateways"].split() == []
    assert "The token has been changed" in owner.submit(here, **form | {"rate_limiting_limit": "9"})
    assert "This token cannot reach any gateway" in owner.get(here).text, "an empty field does not free it"
    assert caller.chat("x").json()["internalCode"] == 2972
    assert "The token has been changed" in owner.submit(here, **form | {"gateways": "default"})
    assert caller.chat("x").status_code == 200
    form = form_of(owner.get(here).text, expires_at="")
    assert "The token has been changed" in owner.submit(here, **form | {"gateways": ""})
    assert "reaches no gateway" not in owner.get(here).text


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_a_page_that_is_out_of_date_lifts_no_limit_of_a_token(
    farebox: Farebox, owner: Person, customer: Customer
) -> None:
    """The lists that a form sends as its page showed them are not changes."""
    body = {**GATEWAY_FIELDS, "id": "team-a"}
    httpx.post(f"{customer.api_url}/ai-gateway/gateways", headers=customer.headers, json=body)
    _, token_id = _caller(farebox, owner, customer, "stale", gateways="team-a")
    here, url = f"/ui/tokens/{token_id}", f"{customer.api_url}/farebox/tokens/{token_id}"

    def lists() -> tuple[object, object]:
        found = httpx.get(url, headers=customer.headers).json()["result"]
        return found["gateways"], found["models"]

    def set_lists(**changes: object) -> None:
        assert httpx.put(url, headers=customer.headers, json=changes).status_code == 200

    httpx.delete(f"{customer.api_url}/ai-gateway/gateways/team-a", headers=customer.headers)
    assert lists() == ([], None)
    page = form_of(owner.get(here).text, expires_at="")
    set_lists(gateways=["default"], models=["demo/demo-1"])
    assert "The token has been changed" in owner.submit(here, **page)
    assert lists() == (["default"], ["demo/demo-1"])
    refused = form_of(owner.submit(here, **page | {"rate_limiting_limit": "-1"}), expires_at="")
    assert "The token has been changed" in owner.submit(here, **refused | {"rate_limiting_limit": "9"})
    assert lists() == (["default"], ["demo/demo-1"]), "nor does the page of a refusal"
    of_default = form_of(owner.get(here).text, expires_at="")
    set_lists(gateways=None, models=["demo/*"])
    assert "The token has been changed" in owner.submit(here, **of_default)
    assert lists() == (None, ["demo/*"])
    assert "The token has been changed" in owner.submit(here, **of_default | {"gateways": "", "models": ""})
    assert lists() == (None, None), "an emptied field means all"


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_the_message_about_a_deleted_gateway_names_the_tokens_that_reach_none_now(
    farebox: Farebox, owner: Person, customer: Customer
) -> None:
    for gateway_id in ("team-a", "other"):
        body = {**GATEWAY_FIELDS, "id": gateway_id}
        httpx.post(f"{customer.api_url}/ai-gateway/gateways", headers=customer.headers, json=body)
    for name, gateways in (
        ("one", "team-a"), ("<b>two", "team-a"), ("three", "team-a"), ("four", "team-a"), ("both", "team-a other"),
    ):  # fmt: skip
        owner.send("/ui/tokens", name=name, run="on", models="", expires="", gateways=gateways)
    page = owner.submit("/ui/gateways/team-a/delete")
    said = "Deleted the gateway team-a. It was the only gateway of these tokens, which can no longer reach any:"
    assert f"{said} one, <b>two, three and 1 more." in unescape(page)
    assert "<b>two" not in page
    said = "Deleted the gateway other. It was the only gateway of these tokens, which can no longer reach any: both."
    assert said in unescape(owner.submit("/ui/gateways/other/delete"))


def test_a_refused_token_keeps_what_was_typed(owner: Person) -> None:
    typed = {
        "name": "careful",
        "read": "on",
        "expires": "30",
        "models": "demo/demo-1\nnonsense",
        "gateways": "default",
        "rate_limiting_limit": "7",
    }
    many = "\n".join(f"demo/m{number}" for number in range(101))
    for wrong, said in (
        ({}, "“nonsense” is not a model"),
        ({"models": many}, "1 to 100 models"),
        ({"read": ""}, "at least one permission"),
        ({"expires": "x"}, "when the token expires"),
        ({"models": "", "gateways": "nowhere"}, "no gateway “nowhere”"),
        ({"rate_limiting_limit": "many"}, "Enter a number"),
    ):
        page = owner.submit("/ui/tokens", **typed | wrong)
        assert said in unescape(page)
        form = form_of(page, rate_limiting_limit=(typed | wrong)["rate_limiting_limit"])
        kept = {name: form.get(name, "").strip() for name in typed}
        assert kept == typed | wrong | ({"expires": ""} if wrong.get("expires") == "x" else {})
        assert "run" not in form, "what was not wanted stays so"
        assert "careful" not in re.sub(r'value="[^"]*"', "", page), "nothing was created"
        assert faults_of(page) == []


def _rule(**more: object) -> dict[str, object]:
    return {"limit": 5, "limitType": "cost", "window": 86_400, "technique": "fixed", **more}


def _set_rules(customer: Customer, gateway_id: str, *rules: dict[str, object]) -> None:
    url = f"{customer.api_url}/ai-gateway/gateways/{gateway_id}"
    body = {"spend_limits": {"enabled": True, "rules": rules}}
    response = httpx.patch(url, headers=customer.headers, json=body)
    assert response.status_code == 200, response.text


def _words(page: str, section: str) -> str:
    """The text of a section of a page."""
    (inside,) = re.findall(rf'<section id="{section}".*?</section>', page, re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", inside)))


def _caller(farebox: Farebox, owner: Person, customer: Customer, name: str, **fields: str) -> tuple[Customer, str]:
    """A new token, and its ID."""
    made = owner.send("/ui/tokens", **{"name": name, "run": "on", "models": "", "expires": "", **fields})
    secret = re.findall(r"fbx_[\w-]{43}", made.text)[0]
    found = re.findall(rf'<a href="/ui/tokens/(\w+)" class="name">{name}<', owner.get("/ui/tokens").text)
    return Customer(farebox, customer.account_id, secret), found[0]


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_what_is_left_of_a_tokens_budget_is_on_its_page(farebox: Farebox, owner: Person, customer: Customer) -> None:
    assert customer.chat("x").status_code == 200
    caller, token_id = _caller(farebox, owner, customer, "counted")
    other, other_id = _caller(farebox, owner, customer, "other")
    here, others = f"/ui/tokens/{token_id}", f"/ui/tokens/{other_id}"
    _set_rules(customer, "default", _rule(id="all"), _rule(id="models", model={"mode": "partition"}))
    empty = _words(owner.get(here).text, "budget")
    assert "No budget" in empty, "limits that are not for the token alone are not its budget"
    assert "no budget" in _words(owner.get("/ui/tokens").text, "tokens")
    each = _rule(id="each", token={"mode": "partition"})
    both = _rule(
        id="both", limit=0.5, period="monthly", window=30 * 86_400,
        token={"mode": "filter", "values": [token_id, other_id]},
        model={"mode": "filter", "values": ["demo/demo-1", "x/y"]},
    )  # fmt: skip
    by_model = _rule(id="by", limit=7, token={"mode": "partition"}, model={"mode": "partition"})
    off = _rule(id="off", limit=9, enabled=False, token={"mode": "partition"})
    strangers = _rule(id="strangers", limit=8, token={"mode": "filter", "values": ["f" * 32]})
    _set_rules(customer, "default", each, both, by_model, off, strangers)
    nothing_yet = _words(owner.get(here).text, "budget")
    assert "5.00 of 5.00 USD left 0.00 USD spent" in nothing_yet
    charges = [customer.receipt(caller.chat("x").headers["cf-aig-log-id"])["charge_nanos"] for _ in range(2)]
    spent, more = sum(charges), customer.receipt(other.chat("x").headers["cf-aig-log-id"])["charge_nanos"]
    budget = _words(owner.get(here).text, "budget")
    assert f"{labels.exact_usd(5 * 10**9 - spent)} of 5.00 USD left {labels.exact_usd(spent)} USD spent" in budget
    shared = 5 * 10**8 - spent - more
    assert f"{labels.exact_usd(shared)} of 0.50 USD left {labels.exact_usd(spent + more)} USD spent" in budget
    assert budget.count("shared with other tokens") == 1
    assert "Counted separately for each" in budget
    assert "9.00" not in budget
    assert "8.00" not in budget
    states = httpx.get(f"{customer.api_url}/farebox/gateways/default/spend-limits", headers=customer.headers).json()
    mine = next(state for state in states["result"] if state["partition"] == {"token": token_id})
    assert mine["spent_nanos"] == spent
    assert f'datetime="{mine["resets_at"][:16]}' in owner.get(here).text
    assert f"{labels.exact_usd(5 * 10**9 - more)} of 5.00 USD left" in _words(owner.get(others).text, "budget")
    assert f"{labels.exact_usd(shared)} USD of 0.50" in _words(owner.get("/ui/tokens").text, "tokens")
    rules = _words(owner.get("/ui/limits").text, "rules")
    assert f"counted: {labels.exact_usd(5 * 10**9 - spent)} of 5.00 USD left" in rules, "tokens have their names"
    assert token_id not in rules
    (link,) = re.findall(r'href="(/ui/limits[?][^"#]*)', owner.get(here).text)
    form = form_of(owner.get(unescape(link)).text, only_token=token_id)
    assert form["gateway"] == "default"
    form_of(owner.get("/ui/limits?token=none&gateway=none").text, only_token="", gateway="default")


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_the_list_of_tokens_reads_only_so_many_budgets(
    farebox: Farebox, owner: Person, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert customer.chat("x").status_code == 200
    for name in ("one", "two"):
        _caller(farebox, owner, customer, name)
    rules = [_rule(id=name, token={"mode": "partition"}) for name in ("a", "b")]
    _set_rules(customer, "default", *rules)
    url = f"{customer.api_url}/ai-gateway/gateways/default/policies?commit=true"
    action = {"type": "limit", "period": "daily", "technique": "named-interval", "amount": 5}
    policy = {"name": "p", "actor": "{token.id}", "action": action, "condition": "true", "resource": "*"}
    assert httpx.post(url, headers=customer.headers, json=policy).is_success

    def shown() -> tuple[int, int]:
        words = _words(owner.get("/ui/tokens").text, "tokens")
        return words.count("see token"), words.count("of 5.00")

    assert shown() == (0, 3)
    for most, listed in ((9, 3), (8, 2), (3, 1), (2, 0), (1, 0)):
        monkeypatch.setattr(tokens, "BUDGETS_READ", most)
        assert shown() == (3 - listed, listed)


def test_a_policys_limit_for_a_token_is_its_budget(farebox: Farebox, owner: Person, customer: Customer) -> None:
    assert customer.chat("x").status_code == 200
    caller, token_id = _caller(farebox, owner, customer, "policed")
    limit = {"type": "limit", "period": "daily", "technique": "named-interval"}
    for name, actor, condition, amount in (
        ("mine", "{token.id}", "true", 2),
        ("named", "of {token.name}", "token.name == 'policed'", 3),
        ("strangers", "{cf.user.id}", "token.name == 'somebody'", 4),
        ("users", "{token.id} {user}", "true", 6),
        ("everybody", "all", "true", 7),
    ):
        action = limit | {"amount": amount}
        policy = {"name": name, "actor": actor, "action": action, "condition": condition, "resource": "*"}
        url = f"{customer.api_url}/ai-gateway/gateways/default/policies?commit=true"
        made = httpx.post(url, headers=customer.headers, json=policy)
        assert made.status_code < 300, made.text
    charge = customer.receipt(caller.chat("x").headers["cf-aig-log-id"])["charge_nanos"]
    budget = _words(owner.get(f"/ui/tokens/{token_id}").text, "budget")
    for amount, said in ((2, "policy mine: at most 2.00 USD per day, all models"), (3, "policy named: at most 3.00")):
        assert said in budget
        assert f"{labels.exact_usd(amount * 10**9 - charge)} of {amount}.00 USD left" in budget
    for absent in ("strangers", "users", "everybody"):
        assert absent not in budget
    assert budget.count("shared with other tokens") == 1, "the name may be that of others"


def test_a_token_has_the_budgets_of_the_gateways_that_it_reaches(
    farebox: Farebox, owner: Person, customer: Customer
) -> None:
    for gateway_id in ("team-a", "other"):
        body = {**GATEWAY_FIELDS, "id": gateway_id}
        httpx.post(f"{customer.api_url}/ai-gateway/gateways", headers=customer.headers, json=body)
        _set_rules(customer, gateway_id, _rule(id="each", token={"mode": "partition"}))
    _, token_id = _caller(farebox, owner, customer, "reaching", gateways="team-a")
    budget = _words(owner.get(f"/ui/tokens/{token_id}").text, "budget")
    assert "gateway team-a" in budget
    assert "gateway other" not in budget
