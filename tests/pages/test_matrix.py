"""Every page and form of the table as every kind of user: each role, and users of another account.

No pages are listed here: a new row of the table is tested automatically. A page or form with an ID in its path or in a
field is also tried with IDs of another account.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import httpx
import pytest

from farebox.http.pages.routes import FORM_ROWS, PAGE_ROWS
from farebox.http.pages.table import Form, Page
from farebox.identity import membership, sessions
from farebox.model import Role
from farebox.runtime import last_uses
from farebox.storage.accounts import list_tokens
from farebox.storage.sql import Connection
from farebox.storage.tables import Table, tables
from tests.http.support import save_card
from tests.pages.people import Person, person
from tests.pages.valid import faults_of
from tests.support import Customer, Farebox

ROLES = list(Role)
GATEWAY = {
    "cache_invalidate_on_update": False,
    "cache_ttl": 0,
    "collect_logs": True,
    "rate_limiting_interval": 0,
    "rate_limiting_limit": 0,
}
ALLOWED = (200, 204, 303)
ROUTE = [
    {"type": "start", "id": "start", "outputs": {"next": {"elementId": "model"}}},
    {
        "type": "model",
        "id": "model",
        "properties": {"provider": "demo", "model": "demo-1", "timeout": 0, "retries": 0},
        "outputs": {"success": {"elementId": "end"}},
    },
    {"type": "end", "id": "end", "outputs": {}},
]
MISSING = (303, 404)
"""Another account's objects do not exist: the page says so, or redirects to the account's own list."""


@dataclass
class Furnished:
    """An account with an object of every kind, whose texts are all `word`."""

    customer: Customer
    word: str
    names: dict[str, str]
    """IDs of its objects, by the name of the path parameter or field."""


def _furnished(farebox: Farebox, word: str) -> Furnished:
    account_id = farebox.create_account(word)
    farebox.grant(account_id, "20")
    customer = Customer(farebox, account_id, farebox.create_token(account_id))
    made = httpx.post(
        f"{customer.api_url}/ai-gateway/gateways", headers=customer.headers, json=GATEWAY | {"id": f"of-{word.lower()}"}
    )
    assert made.status_code == 200, made.text
    own = _own(customer, word)
    log_id = customer.chat(word, headers={"cf-aig-metadata": f'{{"team": "{word}"}}'}).headers["cf-aig-log-id"]
    card = save_card(customer)
    email = f"{word.lower()}@example.com"
    farebox.run(membership.add(farebox.services, account_id, email, Role.VIEWER))
    session = person(farebox, Role.OWNER, account_id).session
    assert session is not None
    tokens = farebox.run(farebox.services.database.scan(lambda connection: list_tokens(connection, account_id)))
    names = {
        "account": account_id,
        "account_id": account_id,
        "card": card,
        "email": email,
        "gateway": "default",
        "gateway_id": f"of-{word.lower()}",
        "log_id": log_id,
        "session": session.sign_in.session_id,
        "token": tokens[0].token_id,
        "token_id": tokens[0].token_id,
    } | own
    return Furnished(customer, word, names)


def _own(customer: Customer, word: str) -> dict[str, str]:
    """A custom provider and a stored key."""

    def made(path: str, body: dict[str, object]) -> str:
        response = httpx.post(f"{customer.api_url}/ai-gateway/{path}", headers=customer.headers, json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["result"]["id"])

    provider_id = made("custom-providers", {"name": word, "slug": word.lower(), "base_url": "https://llm.example.com"})
    cost = made("custom-providers/costs", {"account_provider_id": provider_id, "model": word, "cost_in": 0.1})
    key = {"alias": word, "default_config": True, "provider_slug": "openai", "secret": f"sk-{word}"}
    key_id = made(f"gateways/of-{word.lower()}/provider_configs", key)
    route_id = made(f"gateways/of-{word.lower()}/routes", {"name": word, "elements": ROUTE})
    profile: dict[str, object] = {"name": word, "entries": [{"name": word, "keyword": word}]}
    url = f"{customer.api_url}/farebox/dlp-profiles"
    profile_id = httpx.post(url, headers=customer.headers, json=profile).json()["result"]["id"]
    policy: dict[str, object] = {"name": word, "actor": word, "resource": "*", "action": {"type": "no-limit"}}
    policy_id = made(f"gateways/of-{word.lower()}/policies?commit=true", policy)
    alias = f"{customer.api_url}/farebox/gateways/of-{word.lower()}/model-aliases/{word}"
    response = httpx.put(alias, headers=customer.headers, json={"targets": [f"demo/{word}"]})
    assert response.status_code == 200, response.text
    domain = f"{customer.api_url}/ai-gateway/gateways/of-{word.lower()}/custom-domains"
    response = httpx.post(domain, headers=customer.headers, json={"domain": f"{word.lower()}.example.com"})
    assert response.status_code == 200, response.text
    return {
        "alias": word,
        "hostname": f"{word.lower()}.example.com",
        "policy": policy_id,
        "provider_id": provider_id,
        "cost": cost,
        "key_id": key_id,
        "route_id": route_id,
        "profile_id": profile_id,
    }


@pytest.fixture(scope="module")
def ours(farebox: Farebox) -> Furnished:
    return _furnished(farebox, "Ours")


@pytest.fixture(scope="module")
def theirs(farebox: Farebox) -> Furnished:
    return _furnished(farebox, "Theirs")


@pytest.fixture(scope="module")
def people(farebox: Farebox, ours: Furnished) -> dict[Role, Person]:
    return {role: person(farebox, role, ours.customer.account_id) for role in ROLES}


@pytest.fixture(scope="module")
def others(farebox: Farebox) -> dict[Role, Person]:
    """People of the account on which forms are sent."""
    account_id = farebox.create_account("of its own")
    return {role: person(farebox, role, account_id) for role in ROLES}


def _signed_in(who: Person) -> Person:
    """Sign in again if a form has ended the session."""
    if who.session is None:
        who.sign_in()
    return who


def _filled(path: str, place: Furnished) -> str:
    return path.format_map(place.names)


@pytest.mark.parametrize("page", PAGE_ROWS, ids=lambda page: page.path)
def test_a_page_is_shown_to_the_roles_of_its_row(page: Page, ours: Furnished, people: dict[Role, Person]) -> None:
    for role, who in people.items():
        response = who.get(_filled(page.path, ours))
        expected = (*ALLOWED, 404) if role in page.roles else (403,)  # 404: it needs a query to name an object
        assert response.status_code in expected, (role, response.status_code)
        assert "/ui/sign-in" not in response.headers.get("location", "")
        if role in (Role.OWNER, Role.OPERATOR) and page.template and response.text:
            assert faults_of(response.text) == []


@pytest.mark.parametrize("role", ROLES)
def test_nobody_is_shown_links_and_forms_that_are_not_for_them(
    role: Role, ours: Furnished, people: dict[Role, Person]
) -> None:
    who = _signed_in(people[role])
    links: dict[str, str] = {}
    for page in PAGE_ROWS:
        if not page.template or role not in page.roles:
            continue
        shown = who.get(_filled(page.path, ours))
        if shown.status_code != 200:
            assert shown.status_code in (303, 404), page.path  # it leads elsewhere, or lacks a parameter
            continue
        links |= dict.fromkeys(re.findall(r'href="(/[^"?#]*)', shown.text), page.path)
        for action in re.findall(r'method="post" action="([^"]*)"', shown.text):
            (row,) = [each for each in FORM_ROWS if re.fullmatch(re.sub(r"{\w+}", "[^/]+", each.path), action)][:1]
            assert role in row.roles, (page.path, action)
    assert len(links) > 5
    for link, path in links.items():
        assert who.get(link).status_code in ALLOWED, (path, link)


def test_no_two_pages_have_the_same_name() -> None:
    titles, names = Counter(page.title for page in PAGE_ROWS), Counter(page.label for page in PAGE_ROWS if page.label)
    assert {name: times for name, times in (titles | names).items() if times > 1} == {}


@pytest.mark.parametrize("form", FORM_ROWS, ids=lambda form: form.path)
def test_a_form_works_for_the_roles_of_its_row(form: Form, others: dict[Role, Person], theirs: Furnished) -> None:
    for role, who in others.items():
        response = _signed_in(who).send(_filled(form.path, theirs))
        assert response.status_code in (ALLOWED if role in form.roles else (403,)), (role, response.status_code)


@pytest.mark.parametrize("page", PAGE_ROWS, ids=lambda page: page.path)
def test_no_page_shows_anything_of_another_account(
    page: Page, ours: Furnished, theirs: Furnished, people: dict[Role, Person]
) -> None:
    names = re.compile("|".join(map(re.escape, {theirs.word, *theirs.names.values()} - {"default"})), re.IGNORECASE)
    query = {name: value for name, value in theirs.names.items() if f"{{{name}}}" not in page.path}
    for role, who in people.items():
        if role is Role.OPERATOR:
            continue
        path = _filled(page.path, theirs)
        for response in (who.get(path), who.get(path, **query)):
            if "{" in page.path:
                assert response.status_code in (*MISSING, 403), (role, response.status_code)
            shown = re.sub(r'value="[^"]*"', "", response.text)  # filters repeat the query
            assert not names.search(shown), role


@pytest.mark.parametrize("form", FORM_ROWS, ids=lambda form: form.path)
def test_no_form_changes_another_account(
    form: Form, farebox: Farebox, others: dict[Role, Person], theirs: Furnished
) -> None:
    who = _signed_in(others[Role.OWNER])
    before = _rows(farebox, theirs)
    fields = theirs.names | {"amount": "5", "limit-amount": "5", "duration": "daily", "strategy": "fixed"}
    response = who.send(_filled(form.path, theirs), **fields)
    assert response.status_code in ((*ALLOWED, 404) if Role.OWNER in form.roles else (403,))
    said = response.text
    for text in fields.values():  # what was sent may be in the form again
        said = said.replace(f'value="{escape(text)}"', "").replace(f"\n{escape(text)}</textarea>", "")
    assert theirs.word.lower() not in said.lower()
    if (session := who.session) is not None:
        assert session.account_id == who.holder.account_id
    assert _rows(farebox, theirs) == before


def _rows(farebox: Farebox, place: Furnished) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the account, except for those that its background work writes, and its times: jobs change `next_at`,
    and a late event of the processor changes `cards_at`."""
    ignored = {"leases", "instances"}
    looked_at = ("top_ups", "refunds", "long_calls", "evaluations", "export_states", "custom_domains")
    moved = {(table, "next_at") for table in looked_at}
    moved.add(("customers", "cards_at"))

    def columns(table: Table) -> str:
        return ", ".join(name for name in table.columns if (table.name, name) not in moved)

    def read(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
        return {
            table.name: connection.execute(
                f"SELECT {columns(table)} FROM {table.name} WHERE account_id = ? ORDER BY {', '.join(table.key)}",
                (place.customer.account_id,),
            ).fetchall()
            for table in tables()
            if "account_id" in table.columns and table.name not in ignored
        }

    farebox.run(last_uses.write(farebox.services))  # a job would write them between two readings
    return farebox.run(farebox.services.database.scan(read))


# --- members ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(farebox: Farebox, ours: Furnished, theirs: Furnished) -> Iterator[Person]:
    """Ada, an owner of our account and a viewer of the other."""
    farebox.run(membership.add(farebox.services, ours.customer.account_id, "eve@example.com", Role.OWNER))
    for place, role in ((ours, Role.OWNER), (theirs, Role.VIEWER)):
        farebox.run(membership.add(farebox.services, place.customer.account_id, "ada@example.com", role))
    yield Person(farebox, sessions.LinkHolder(account_id=ours.customer.account_id, email="ada@example.com"))
    for place in (ours, theirs):
        farebox.run(membership.add(farebox.services, place.customer.account_id, "ada@example.com", Role.VIEWER))
        farebox.run(membership.remove(farebox.services, place.customer.account_id, "ada@example.com"))


def test_the_role_is_that_on_the_shown_account(both: Person, ours: Furnished, theirs: Furnished) -> None:
    assert both.get("/billing").status_code == 200
    csrf = both.csrf
    assert both.send("/ui/account", account=theirs.customer.account_id).status_code == 303
    assert both.get("/billing").status_code == 403
    assert theirs.word in both.get("/ui/overview").text
    stale = both.http.post(
        "/billing/limit", data={"csrf": csrf, "limit-amount": "5"}
    )  # a form of our account, from another tab
    assert stale.status_code in (400, 403)
    assert both.send("/ui/account", account=ours.customer.account_id).status_code == 303
    assert both.http.post("/billing/limit", data={"csrf": both.csrf, "limit-amount": "5"}).status_code == 200


def test_a_removed_role_ends_at_once(both: Person, farebox: Farebox, ours: Furnished) -> None:
    farebox.run(membership.add(farebox.services, ours.customer.account_id, "ada@example.com", Role.VIEWER))
    assert [both.get(path).status_code for path in ("/billing", "/ui/overview")] == [403, 200]
    farebox.run(membership.remove(farebox.services, ours.customer.account_id, "ada@example.com"))
    assert both.session is None
    assert both.get("/ui/overview").headers["location"].startswith("/ui/sign-in")


def test_accounts_are_shown_only_to_their_members(farebox: Farebox, ours: Furnished, theirs: Furnished) -> None:
    owner = person(farebox, Role.OWNER, ours.customer.account_id)
    farebox.run(membership.add(farebox.services, ours.customer.account_id, "bob@example.com", Role.OWNER))
    bob = Person(farebox, sessions.LinkHolder(account_id=ours.customer.account_id, email="bob@example.com"))
    for who in (owner, bob):
        assert "not a member of this account" in who.submit("/ui/account", account=theirs.customer.account_id)
        assert httpx.get(f"{farebox.url}/ui/overview", cookies=who.http.cookies).status_code == 200
        assert ours.word in who.get("/ui/overview").text
