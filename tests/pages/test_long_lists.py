"""Accounts with more of anything than a page shows: nothing is lost, each is found, and no page becomes heavy."""

import json
import re
from html import unescape

import httpx
import pytest

from farebox.http.pages import (
    dynamic_routes,
    gateways,
    limits,
    members,
    names,
    policies,
    price_list,
    provider_keys,
    providers,
    token_names,
    tokens,
)
from farebox.identity import membership, sessions
from farebox.model import Permission, Role
from tests.pages.forms import FormReader, form_of
from tests.pages.people import Person, person
from tests.pages.test_matrix import GATEWAY, ROUTE
from tests.support import Customer, Farebox

pytestmark = [pytest.mark.both_engines, pytest.mark.usefixtures("engine")]


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    return person(farebox, Role.OWNER, customer.account_id)


def pages(owner: Person, path: str, link: str = "page") -> list[str]:
    """The page at the path, and those that its links lead to, one after another."""
    found = [owner.get(path).text]
    while further := re.search(rf'href="([^"]*\b{link}=\d+)">Next', found[-1]):
        found.append(owner.get(unescape(further[1])).text)
    back = re.search(rf'href="([^"]*\b{link}=\d+)">Previous', found[-1])
    assert (back is not None) == (len(found) > 1)
    return found


def pages_of_tokens(owner: Person) -> list[list[str]]:
    """The IDs of the tokens on each page of their list."""
    return [re.findall(r'href="/ui/tokens/([\w-]+)" class="name"', page) for page in pages(owner, "/ui/tokens")]


def test_tokens(farebox: Farebox, owner: Person, customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SHOWN", 2)
    for _ in range(4):
        farebox.create_token(customer.account_id, Permission.RUN)
    listed = pages_of_tokens(owner)
    assert [len(each) for each in listed] == [2, 2, 1]
    ids = [token_id for each in listed for token_id in each]
    assert len(set(ids)) == 5
    assert f'<input type="hidden" name="token" value="{ids[0]}"' in owner.get("/ui/tokens").text
    owner.submit("/ui/tokens/revoke", token=ids[0])
    assert ids[0] in pages(owner, "/ui/tokens")[-1], "those that are active come first"
    (found,) = pages(owner, "/ui/tokens?find=" + ids[3][:20].upper())
    assert re.findall(r'href="/ui/tokens/([\w-]+)" class="name"', found) == [ids[3]]
    beyond = owner.get("/ui/tokens?page=999999").text
    assert re.findall(r'href="/ui/tokens/([\w-]+)" class="name"', beyond) == pages_of_tokens(owner)[-1]
    assert "No matching tokens" in owner.get("/ui/tokens", find="100%").text
    assert "No matching tokens" in owner.get("/ui/tokens", find="100%", page="9").text
    monkeypatch.setattr(token_names, "CHOICES", 1)
    for path in ("/ui/limits", "/ui/calls"):
        assert ids[4] not in owner.get(path).text
        assert f'<option value="{ids[4]}" selected>' in owner.get(path, token=ids[4]).text


def sent_from(owner: Person, address: str, action: str, **fields: str) -> httpx.Response:
    """The response to the first form of the page that leads to this path."""
    forms = FormReader(owner.get(address).text).forms
    form = next(form for form in forms if form[""].partition("?")[0] == action)
    return owner.send(form.pop(""), **form | fields)


def test_a_change_leads_back_to_its_part_of_the_list(
    farebox: Farebox, owner: Person, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, constant in ((tokens, "SHOWN"), (limits, "_SHOWN"), (members, "_PAGE")):
        monkeypatch.setattr(module, constant, 1)
    for number in range(3):
        farebox.create_token(customer.account_id, Permission.RUN)
        farebox.run(membership.add(farebox.services, customer.account_id, f"{number}@example.com", Role.VIEWER))
        owner.submit("/ui/limits", limit=str(number + 1), window="day", technique="sliding", gateway="default")
    page = sent_from(owner, "/ui/limits?page=2", "/ui/limits/try", limit="much").text
    assert "Enter the limit" in page
    assert re.search(r'name="limit" value="much"', page)
    assert 'href="/ui/limits?page=1">Previous' in page, "a refused form shows the same part"
    for address, action, back in (
        ("/ui/tokens?page=2", "/ui/tokens/revoke", "/ui/tokens?page=2"),
        ("/ui/limits?page=2&policies=1&token=x", "/ui/limits/remove", "/ui/limits?page=2&policies=1"),
        ("/ui/limits", "/ui/limits/remove", "/ui/limits"),
        ("/ui/members?page=3", "/ui/members/remove", "/ui/members?page=3"),
    ):
        response = sent_from(owner, address, action)
        assert (response.status_code, response.headers["location"]) == (303, back)
    found = FormReader(owner.get("/ui/tokens?find=te+%26+st&page=2").text).forms
    assert "/ui/tokens?find=te+%26+st&page=2" in [form[""] for form in found]

    monkeypatch.setattr(sessions, "CONFIRMED_MS", 0)
    there = "/ui/confirm?next=/ui/members%3Fpage%3D2"
    assert f'href="{there}"' in owner.get("/ui/members?page=2").text
    assert sent_from(owner, "/ui/members?page=2", "/ui/members/link").headers["location"] == there


def test_limits_and_policies(owner: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_SHOWN", 2)
    owner.get("/ui/gateways")
    owner.submit("/ui/gateways", name="other")
    for number, gateway in enumerate(("default", "other", "default", "other", "default"), 1):
        owner.submit("/ui/limits", limit=str(number), window="day", technique="sliding", gateway=gateway)
        here = f"/ui/gateways/{gateway}/policies"
        fields = {"name": f"policy-{number}", "action.type": "block", "actor": "all"}
        page = owner.submit(here, **form_of(owner.get(here).text, name="") | fields, do="draft")
        assert "not in force yet" in page
    found = pages(owner, "/ui/limits")
    listed = [re.findall(r'<strong class="rule">(\d)\.00 USD', page) for page in found]
    assert sorted(number for each in listed for number in each) == ["1", "2", "3", "4", "5"]
    assert [len(each) for each in listed] == [2, 2, 1]
    assert re.findall(r'<strong class="rule">(\d)\.00 USD', owner.get("/ui/limits?page=9").text) == listed[-1]
    found = pages(owner, "/ui/limits", "policies")
    listed = [re.findall(r'<strong class="name">policy-(\d)', page) for page in found]
    assert sorted(number for each in listed for number in each) == ["1", "2", "3", "4", "5"]
    assert [len(each) for each in listed] == [2, 2, 1]
    assert re.findall(r'<strong class="name">policy-(\d)', owner.get("/ui/limits?policies=9").text) == listed[-1]
    both = unescape(owner.get("/ui/limits?page=2&policies=2").text)
    for link in ("policies=2&page=1", "policies=2&page=3", "page=2&policies=1", "page=2&policies=3"):
        assert f'href="/ui/limits?{link}"' in both, "one list stays while the other is paged"


def test_members(farebox: Farebox, owner: Person, customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "_PAGE", 2)
    for number in range(5):
        farebox.run(membership.add(farebox.services, customer.account_id, f"long{number}@example.com", Role.VIEWER))
    listed = [re.findall(r"<strong class=\"name\">long(\d)@", page) for page in pages(owner, "/ui/members")]
    assert listed == [["0", "1"], ["2", "3"], ["4"]]


def test_aliases(owner: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_ALIASES", 2)
    owner.get("/ui/gateways")
    here = "/ui/gateways/default/names"
    for number in range(3):
        owner.submit(
            f"{here}/alias", alias=f"alias-{number}", scope=("gateway", "account")[number % 2], targets="demo/demo-1"
        )
    listed = [re.findall(r"<strong class=\"name\">alias-(\d)<", page) for page in pages(owner, here)]
    assert listed == [["0", "2"], ["1"]]


SENT_MAX = 60_000
"""Bytes of a page with its style sheet, scripts and icon. Pages are not compressed (docs/pages.md, "Security")."""


def made(customer: Customer, path: str, body: dict[str, object], method: str = "POST") -> str:
    response = httpx.request(method, f"{customer.api_url}/{path}", headers=customer.headers, json=body)
    assert response.status_code == 200, response.text
    return str((response.json().get("result") or {}).get("id"))


def furnished(customer: Customer, count: int, length: int) -> str:
    """Give the account this many of everything, with names of this length; returns the ID of a provider with costs."""
    named = [f"n{number:02}".ljust(length, "x") for number in range(count)]
    for name in named:
        made(customer, "ai-gateway/gateways", GATEWAY | {"id": name})
    here = f"ai-gateway/gateways/{named[0]}"
    key: dict[str, object] = {"default_config": False, "secret": "sk-1"}
    policy: dict[str, object] = {"resource": "*", "action": {"type": "no-limit"}}
    for name in named:
        made(customer, f"{here}/provider_configs", key | {"alias": name, "provider_slug": "google-ai-studio"})
        made(customer, f"{here}/routes", {"name": name, "elements": ROUTE})
        made(customer, f"{here}/policies?commit=true", policy | {"name": name, "actor": name})
        made(customer, f"{here}/custom-domains", {"domain": f"{name[:60]}.example.com"})
        alias = f"farebox/gateways/{named[0]}/model-aliases/{name}"
        made(customer, alias, {"targets": [f"demo/{name}"]}, "PUT")
        base_url = f"https://{name[:60]}.example.com/v1"
        provider = made(customer, "ai-gateway/custom-providers", {"name": name, "slug": name, "base_url": base_url})
    for name in named:
        cost = {"account_provider_id": provider, "model": name, "cost_in": 1e-7, "cost_out": 1e-7}
        made(customer, "ai-gateway/custom-providers/costs", cost)
    return provider


def test_lists_of_the_api(customer: Customer, owner: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, constant in (
        (dynamic_routes, "ROUTES_SHOWN"),
        (gateways, "SHOWN"),
        (names, "_DOMAINS"),
        (policies, "SHOWN"),
        (provider_keys, "SHOWN"),
        (providers, "SHOWN"),
        (providers, "COSTS_SHOWN"),
    ):
        monkeypatch.setattr(module, constant, 2)
    provider = furnished(customer, 5, 3)
    here = "/ui/gateways/n00"
    for path, link, item in (
        ("/ui/gateways", "page", r'class="name">(n\d+)</a>'),
        (f"{here}/keys", "page", r'<span class="name">(n\d+)</span>'),
        (f"{here}/routes", "page", r'class="name">(n\d+)</a>'),
        (f"{here}/policies", "page", r'<strong class="name">(n\d+)</strong>'),
        (f"{here}/names", "domain_page", r'<strong class="name">(n\d+)\.example\.com</strong>'),
        ("/ui/providers", "page", r'class="name">(n\d+)</a>'),
        (f"/ui/providers/{provider}", "page", r'<strong class="name">(n\d+)</strong>'),
    ):
        listed = [re.findall(item, page) for page in pages(owner, path, link)]
        everything = sorted(name for each in listed for name in each)
        assert everything[:5] == ["n00", "n01", "n02", "n03", "n04"], path
        assert all(0 < len(each) <= 2 for each in listed), path
        beyond = owner.get(f"{path}?{link}=99").text
        assert re.findall(item, beyond) == listed[-1], path
    for path, change in ((f"{here}/policies", "policy"), (f"/ui/providers/{provider}", "cost")):
        last = pages(owner, path)[-1]
        address = unescape(re.search(rf'href="([^"]*\?{change}=[^"]*)#', last)[1])  # type: ignore[index]
        opened = owner.get(address).text
        assert re.findall(rf'href="[^"]*\?{change}=([\w-]+)', opened) == re.findall(
            rf'href="[^"]*\?{change}=([\w-]+)', last
        ), "the page of the list stays"


def test_pages_stay_light(farebox: Farebox, customer: Customer, owner: Person) -> None:
    provider = furnished(customer, 45, 64)
    account_id = customer.account_id
    for number in range(45):
        email = f"{number:02}{'x' * 60}@example.com"
        farebox.run(membership.add(farebox.services, account_id, email, Role.VIEWER))
        farebox.create_token(account_id, Permission.RUN)
    for number in range(35):
        customer.chat(user=f"user-{number}", headers={"cf-aig-metadata": '{"team": "research"}'})
    rule: dict[str, object] = {"limitType": "cost", "window": 86_400, "technique": "fixed"}
    rules = [rule | {"limit": number + 1} for number in range(20)]
    name = "n00".ljust(64, "x")
    made(customer, f"ai-gateway/gateways/{name}", {"spend_limits": {"enabled": True, "rules": rules}}, "PATCH")
    here = f"/ui/gateways/{name}"
    overview = owner.get("/ui/overview").text
    assets = sorted(set(re.findall(r'(?:href|src)="(/ui/assets/[^"]+)"', overview)))
    own = 0
    for asset in assets:
        response = owner.http.get(asset, headers={"accept-encoding": "gzip"})
        assert response.headers["content-encoding"] == "gzip"
        own += response.num_bytes_downloaded
    assert own <= 15_000
    parts = ("", "/settings", "/keys", "/routes", "/new-route", "/guardrails", "/policies", "/names")
    lists = ("gateways", "providers", "tokens", "members", "limits", "calls", "try", "usage", "dlp-profiles")
    sent: dict[str, int] = {}
    for path in (*(here + part for part in parts), *(f"/ui/{name}" for name in lists), f"/ui/providers/{provider}"):
        response = owner.http.get(path, headers={"accept-encoding": "gzip, br"})
        assert response.status_code == 200
        assert "content-encoding" not in response.headers, "a compressed page reveals its secrets by its length"
        sent[path] = own + len(response.content)
    assert {path: size for path, size in sent.items() if size > SENT_MAX} == {}


def test_limits_with_many_long_values_stay_light(customer: Customer, owner: Person) -> None:
    """Their beginnings and ends distinguish values."""
    many = [f"demo/{number:03}{'x' * 228}{number:03}!" for number in range(200)]
    metadata = {f"{number}{'k' * 63}": {"mode": "partition"} for number in range(5)}
    rule: dict[str, object] = {"limitType": "cost", "window": 86_400, "technique": "fixed", "limit": 5}
    counting = rule | {"user": {"mode": "partition"}, "metadata": {"team": {"mode": "partition"}}}
    of_many = {"model": {"mode": "filter", "values": many}}
    of_all = {name: {"mode": "filter", "values": many[:50]} for name in ("model", "provider", "token", "user")}
    for number in range(15):
        rules = [rule | of_all | {"metadata": metadata}] if number else [counting, rule | of_many]
        limits = {"enabled": True, "rules": rules}
        made(customer, "ai-gateway/gateways", GATEWAY | {"id": f"n{number:02}", "spend_limits": limits})
    customer.gateway_url = customer.gateway_url.replace("/default", "/n00")
    for number in range(35):
        team = json.dumps({"team": "t" * 240})
        customer.chat("x", headers={"cf-aig-metadata": team, "farebox-end-user": f"{'u' * 239}{number:02}"})
    policy: dict[str, object] = {"resource": {"model": many[:100]}, "action": {"type": "no-limit"}}
    for number in range(20):
        body = policy | {"name": f"{number:128}", "actor": "a" * 256, "condition": f"user == '{'c' * 480}'"}
        made(customer, "ai-gateway/gateways/n00/policies?commit=true", body)
    sizes = {path: len(owner.get(path).content) for path in ("/ui/limits", "/ui/gateways/n00/policies")}
    assert max(sizes.values()) + 15_000 <= SENT_MAX, sizes
    page = owner.get("/ui/limits").text
    assert len(set(re.findall(r"…u+(\d\d)", page))) == page.count("…u")
    assert re.search(r"model demo/000x+…x+000! or demo/001x+…x+001! or .*…x+009! or 190 others", page)


def test_prices_and_markups_of_the_operator(farebox: Farebox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_list, "SHOWN", 2)
    operator = person(farebox, Role.OPERATOR, "")
    named = [f"long-list-{number}" for number in range(5)]
    for model in named:
        operator.submit("/ui/prices", provider="demo", model=model, input_mtok="1", do="set")
        operator.submit("/ui/prices/markup", provider="demo", model=model, percent="10", do="set")
    for link, item in (("page", r"demo/(long-list-\d)<"), ("markup_page", r"demo, (long-list-\d)<")):
        listed = [re.findall(item, page) for page in pages(operator, "/ui/prices", link)]
        assert sorted(name for each in listed for name in each) == named
