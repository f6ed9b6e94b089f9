"""What needs somebody stands at the top of their first page, with what to do about it beside it."""

import re
from collections.abc import Iterator
from functools import partial
from html import unescape

import httpx
import pytest

from farebox.calls.spending import near_limits
from farebox.http.pages import attention
from farebox.http.pages.operator_keys import keys_of
from farebox.model import Role
from farebox.payments.model import Dispute
from farebox.storage.account_keys import key_of
from farebox.storage.buckets import OPERATOR
from farebox.storage.deliveries import add_delivery
from farebox.storage.findings import Finding, add_finding
from farebox.storage.operator_alarms import Alarm, put_alarm
from farebox.storage.refunds import put_dispute
from farebox.storage.sql import Connection
from tests.calls.kit import set_provider
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import GATEWAY_FIELDS
from tests.pages.people import Person, person
from tests.pages.test_matrix import ROUTE
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server of its own: the operator's list is about all accounts."""
    with running_farebox(tmp_path_factory.mktemp("attention")) as served:
        yield served


def lines(who: Person, path: str = "/ui/overview") -> dict[str, str]:
    """Each line, with the address of what to do about it."""
    response = who.http.get(path, follow_redirects=True)
    assert response.status_code == 200, response.text
    page = response.text
    found = re.findall(r'<p class="note \w+">(.*?)</p>', page, re.DOTALL)
    return {
        unescape(re.sub(r" ?<a .*?</a>", "", text)): unescape(link[1])
        if (link := re.search(r'href="(.*?)"', text))
        else ""
        for text in found
    }


def one(found: dict[str, str], *words: str) -> tuple[str, str]:
    """The line with these words, and its address."""
    ((text, path),) = [(text, path) for text, path in found.items() if all(word in text for word in words)]
    return text, path


def dispute(account_id: str, state: str, cents: int, at: int = 1) -> Dispute:
    return Dispute(
        account_id=account_id, dispute_id=f"du_{state}_{cents}_{account_id}", top_up_id="t", state=state,
        amount_cents=cents, credit_cents=0, reason="fraudulent", created_at=at, updated_at=at,
    )  # fmt: skip


def finding(account_id: str | None, name: str, cents: int) -> Finding:
    return Finding(
        finding_id=f"{name}:{account_id}",
        kind="test",
        account_id=account_id,
        amount_cents=cents,
        detail="x",
        found_at=1,
    )


def put_rules(customer: Customer, *rules: dict[str, object], gateway_id: str = "default") -> None:
    body = {"spend_limits": {"enabled": True, "rules": list(rules)}}
    url = f"{customer.api_url}/ai-gateway/gateways/{gateway_id}"
    assert (made := httpx.patch(url, json=body, headers=customer.headers)).status_code == 200, made.text
    customer.farebox.run(customer.farebox.services.configuration.notice_changes())


def put_policy(customer: Customer, usd: float, policy_id: str = "", actor: str = "team:{metadata.team}") -> str:
    """A policy with a daily limit, in force; or this one, changed. Returns its ID."""
    action = {"type": "limit", "amount": usd, "period": "daily", "technique": "named-interval"}
    body = {"name": "p", "actor": actor, "resource": "*", "action": action}
    url = f"{customer.api_url}/ai-gateway/gateways/default/policies"
    put = httpx.put if policy_id else httpx.post
    made = put(f"{url}/{policy_id}?commit=true".replace("/?", "?"), json=body, headers=customer.headers)
    assert made.is_success, made.text
    return str(made.json()["result"]["id"])


def put_route(customer: Customer, usd: float, route_id: str = "") -> str:
    """A route with a limit for each day; or a deployed version of this one. Returns its ID."""
    limit = {"key": "", "limit": usd, "limitType": "cost", "window": 86_400, "technique": "fixed"}
    outputs = {"success": {"elementId": "model"}, "fallback": {"elementId": "end"}}
    elements = [
        {"type": "start", "id": "start", "outputs": {"next": {"elementId": "limit"}}},
        {"type": "rate", "id": "limit", "properties": limit, "outputs": outputs},
        *ROUTE[1:],
    ]
    url = f"{customer.api_url}/ai-gateway/gateways/default/routes"
    if not route_id:
        made = httpx.post(url, headers=customer.headers, json={"name": "cheap", "elements": elements})
        assert made.is_success, made.text
        return str(made.json()["result"]["id"])
    made = httpx.post(f"{url}/{route_id}/versions", headers=customer.headers, json={"elements": elements})
    assert made.is_success, made.text
    version = made.json()["result"]["version_id"]
    url = f"{url}/{route_id}/deployments"
    assert httpx.post(url, headers=customer.headers, json={"version_id": version}).is_success
    return route_id


def fill(customer: Customer, budgets: dict[str, float], slots: int = 1) -> None:
    """Count these US dollars in each scope, in equal parts in its latest slots."""
    account_id, now = customer.account_id, customer.farebox.services.clock.now_ms()

    def write(connection: Connection) -> None:
        key = key_of(connection, account_id)
        for scope, usd in budgets.items():
            for slot in range(slots):
                part = int(usd * 10**9) // slots
                connection.execute(
                    "INSERT INTO budgets (bucket, account_id, scope, start, spent, held, ends_at, most) "
                    "VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
                    (*key, scope, now - slot, part, now + 86_400_000, 10**10),
                )

    customer.farebox.run(customer.farebox.services.database.write(write))


def test_money_that_is_contested_or_owed_stands_on_the_overview(farebox: Farebox) -> None:
    customer, other = farebox.funded("5"), farebox.funded("5")
    account_id = customer.account_id
    owner = person(farebox, Role.OWNER, account_id)
    assert lines(owner) == {}

    def trouble(connection: Connection) -> None:
        put_dispute(connection, 0, dispute(account_id, "open", 1250))
        put_dispute(connection, 0, dispute(account_id, "inquiry", 700))
        put_dispute(connection, 0, dispute(account_id, "lost", 900))
        put_dispute(connection, 0, dispute(other.account_id, "open", 4444))
        add_finding(connection, finding(account_id, "a", -300))
        add_finding(connection, finding(other.account_id, "a", -4444))
        connection.execute("UPDATE balances SET owed = 2500000000 WHERE account_id = ?", (account_id,))

    farebox.run(farebox.services.database.write(trouble))
    found = lines(owner)
    assert len(found) == 4
    assert one(found, "12.50 USD is disputed")[1] == "/billing#top-ups"
    assert one(found, "A payment of 7.00 USD is questioned by the bank")[1] == "/billing#top-ups"
    assert one(found, "2.50 USD is owed")[1] == "/billing#buy"
    assert one(found, "disagree about a payment (3.00 USD)")[1] == "/billing#top-ups"
    assert lines(person(farebox, Role.BILLING, account_id)) == found
    for role in (Role.VIEWER, Role.DEVELOPER):
        assert lines(person(farebox, role, account_id)) == {}, "money is not for them"
    owed = "UPDATE balances SET owed = 0 WHERE account_id = ?"
    farebox.run(farebox.services.database.write(lambda c: c.execute(owed, (account_id,)).fetchall()))


def test_credit_that_running_calls_hold_is_not_gone(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    sql = "UPDATE balances SET held = {} WHERE account_id = ?"
    for held, said in (("posted", "Running calls hold all the credit"), ("0", "")):
        write = partial(_execute, sql=sql.format(held), account_id=customer.account_id)
        farebox.run(farebox.services.database.write(write))
        found = lines(person(farebox, Role.OWNER, customer.account_id))
        assert [text.startswith(said) for text in found] == ([True] if said else [])


def _execute(connection: Connection, sql: str, account_id: str) -> None:
    connection.execute(sql, (account_id,))


def test_many_of_a_kind_are_some(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    ours = [finding(customer.account_id, f"{number}", number) for number in range(1, 20)]

    def trouble(connection: Connection) -> None:
        for each in ours:
            add_finding(connection, each)

    farebox.run(farebox.services.database.write(trouble))
    owner = person(farebox, Role.OWNER, customer.account_id)
    assert len(lines(owner)) == attention.EACH
    first, _, further = owner.get("/ui/overview").text.partition("<summary>2 more need attention</summary>")
    assert [part.count('class="note warn"') for part in (first, further)] == [3, 2], "the balance is not pushed away"


def test_tokens_that_reach_no_gateway_stand_on_the_overview(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    owner = person(farebox, Role.OWNER, customer.account_id)
    with httpx.Client(base_url=customer.api_url, headers=customer.headers) as api:
        for gateway in ("one", "two"):
            api.post("/ai-gateway/gateways", json={"id": gateway, **GATEWAY_FIELDS}).raise_for_status()
        limited = {"name": "narrow", "run": "on", "gateways": "one two"}
        owner.send("/ui/tokens", **limited)
        token_id = next(each["id"] for each in api.get("/farebox/tokens").json()["result"] if each["name"] == "narrow")
        api.delete("/ai-gateway/gateways/one").raise_for_status()
        assert "cannot reach any gateway" not in owner.get("/ui/overview").text
        api.delete("/ai-gateway/gateways/two").raise_for_status()
    assert one(lines(owner), "The token narrow cannot reach any gateway")[1] == f"/ui/tokens/{token_id}"
    assert one(lines(person(farebox, Role.VIEWER, customer.account_id)), "The token narrow")[1] == ""
    owner.submit("/ui/tokens/revoke", token=token_id)
    assert "cannot reach any gateway" not in owner.get("/ui/overview").text


def test_limits_that_are_nearly_used_up_stand_on_the_overview(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = farebox.funded("5")
    customer.chat("Hello")
    owner, developer = (person(farebox, role, customer.account_id) for role in (Role.OWNER, Role.DEVELOPER))
    all_calls = {"id": "all", "limit": 4, "limitType": "cost", "window": 86_400}
    each_user = all_calls | {"id": "users", "user": {"mode": "partition"}}
    put_rules(customer, all_calls, each_user)
    for user in ("ada", "bob"):
        assert customer.chat("Hello", user=user).status_code == 200
    assert lines(owner) == {}, "most is left"

    def spend(rule: str, usd: float) -> None:
        sql = "UPDATE budgets SET spent = ?, held = 100000000 WHERE account_id = ? AND scope LIKE ?"
        values = (int(usd * 10**9), customer.account_id, f"default/{rule}/%")
        farebox.run(farebox.services.database.write(lambda c: c.execute(sql, values).fetchall()))

    spend("all", 3.1)
    text, path = one(lines(owner), "of a limit of the gateway default is used", "4.00 USD per day")
    assert text.startswith("80 % "), "with what is held"
    assert path == "/ui/limits"
    assert lines(developer) == lines(owner)
    spend("all", 3.88)
    assert one(lines(owner), "USD per day")[0].startswith("Nearly all of a limit")
    spend("all", 5)
    assert one(lines(owner), "USD per day")[0].startswith("100 % ")
    put_rules(customer, all_calls | {"limit": 20}, each_user)
    assert lines(owner) == {}, "it was raised"
    put_rules(customer, all_calls | {"limit": 1e9}, each_user)
    assert customer.chat("Hello").status_code == 200
    spend("all", 9e8)
    assert one(lines(owner), "1,000,000,000.00 USD per day")[0].startswith("90 % "), "the highest limit there is"
    put_rules(customer, all_calls | {"enabled": False}, each_user)
    assert lines(owner) == {}, "it is off"
    spend("users", 3.9)
    users = lines(developer)
    assert len(users) == 2
    text, path = one(users, "each end user (ada)")
    assert (text[:5], path) == ("100 %", "/ui/limits")
    monkeypatch.setattr(attention, "EACH", 1)
    assert len(lines(owner)) == 1
    monkeypatch.setattr(near_limits, "PAGES", 0)
    assert lines(owner) == {}, "only the first are looked at"


def test_limits_of_policies_and_routes_lead_to_their_page(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    customer.chat("Hello")
    owner = person(farebox, Role.OWNER, customer.account_id)
    policy_id = put_policy(customer, 10)
    route_id = put_route(customer, 10)
    fill(
        customer,
        {
            'policy:default/daily/*/"team:red"': 9,
            'policy:default/daily/*/"user:red"': 10,
            'policy:default/weekly/*/"team:red"': 10,
            f"route:{route_id}/limit/86400f/": 9.95,
            f"route:{route_id}/limit/60f/": 10,
            f"route:{route_id}/limit/86400f/0badc0de": 10,
            f"route:{route_id}/gone/86400f/": 10,
            "route:gone/limit/86400f/": 10,
        },
    )
    found = lines(owner)
    assert len(found) == 2
    text, policies = one(found, "of a policy’s daily limit for team:red is used")
    assert text.startswith("90 % ")
    text, route = one(found, "of the limit at limit of the dynamic route cheap is used")
    assert text.startswith("Nearly all of ")
    for path in (policies, route):
        assert owner.get(path).status_code == 200
    assert set(lines(person(farebox, Role.VIEWER, customer.account_id)).values()) == {""}

    put_policy(customer, 20, policy_id)
    put_route(customer, 20, route_id)
    assert lines(owner) == {}, "they were raised"
    put_policy(customer, 9, policy_id)
    put_route(customer, 9, route_id)
    assert {text[:5] for text in lines(owner)} == {"100 %"}, "they were lowered"
    put_policy(customer, 9, policy_id, actor="team:{metadata.group}:{user}")
    assert len(lines(owner)) == 1, "another actor has other budgets"
    url = f"{customer.api_url}/ai-gateway/gateways/default"
    for path in (f"policies/{policy_id}", f"routes/{route_id}"):
        assert httpx.delete(f"{url}/{path}?commit=true", headers=customer.headers).status_code == 200
    assert lines(owner) == {}, "they are gone"


def test_a_changed_rule_is_not_near_its_limit_by_what_counted_before(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    customer.chat("Hello")
    owner = person(farebox, Role.OWNER, customer.account_id)
    rule: dict[str, object] = {"id": "r", "limit": 100, "limitType": "cost", "window": 30 * 86_400}
    put_rules(customer, rule)
    fill(customer, {f"default/r/{30 * 86_400}s": 100})
    assert one(lines(owner), "100 %", "100.00 USD per 30 days")
    put_rules(customer, rule | {"limit": 10, "window": 86_400})
    assert lines(owner) == {}, "nothing has counted in a day yet"

    put_rules(customer, rule | {"user": {"mode": "partition"}})
    fill(customer, {f'default/r/{30 * 86_400}s/{{"user":"ada"}}': 100})
    assert one(lines(owner), "each end user (ada)")
    put_rules(customer, rule)
    assert not any("ada" in text for text in lines(owner)), "users are no longer counted apart"


def test_what_is_left_behind_hides_no_limit(farebox: Farebox, monkeypatch: pytest.MonkeyPatch) -> None:
    customer = farebox.funded("5")
    customer.chat("Hello")
    owner = person(farebox, Role.OWNER, customer.account_id)
    rules: list[dict[str, object]] = [
        {"id": name, "limit": usd, "limitType": "cost", "window": 86_400}
        for name, usd in (("a", 10), ("b", 11), ("users", 10))
    ]
    put_rules(customer, *rules[:2], rules[2] | {"user": {"mode": "partition"}})
    url = f"{customer.api_url}/ai-gateway/gateways"
    assert httpx.post(url, json=GATEWAY_FIELDS | {"id": "zeta"}, headers=customer.headers).status_code == 200
    put_rules(customer, rules[0] | {"limit": 20}, gateway_id="zeta")
    route_id = put_route(customer, 10)
    put_policy(customer, 10)
    monkeypatch.setattr(near_limits, "PAGE", 6)
    monkeypatch.setattr(attention, "EACH", 9)
    users = {f'default/users/86400s/{{"user":"u{number:03}"}}': 1.0 for number in range(100)}
    gone = {f"default/gone{number:03}/86400s": 10.0 for number in range(30)}
    other = {"zeta/a/86400s": 20.0, f"route:{route_id}/limit/86400f/": 10.0, 'policy:default/daily/*/"team:red"': 10.0}
    fill(customer, users | gone | other)
    found = lines(owner)
    assert len(found) == 3
    assert one(found, "of the gateway zeta")
    fill(customer, {"default/a/86400s": 10}, slots=2)
    fill(customer, {"default/b/86400s": 11}, slots=5)
    assert sorted(text[:5] for text in lines(owner) if "default is used" in text) == ["100 %"] * 2, "none in part"


def test_the_operator_s_first_page_says_what_needs_them(farebox: Farebox, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, services = person(farebox, Role.OPERATOR, ""), farebox.services
    account_id = farebox.create_account()

    def clear(connection: Connection) -> None:
        for table in ("findings", "disputes", "operator_alarms", "deliveries"):
            connection.execute(f"DELETE FROM {table}")

    farebox.run(services.database.write(clear))
    assert lines(operator) == {}

    def trouble(connection: Connection) -> None:
        put_dispute(connection, 0, dispute(account_id, "open", 100))
        put_dispute(connection, 0, dispute(account_id, "won", 100))
        add_finding(connection, finding(account_id, "a", 1))
        add_finding(connection, finding(None, "b", 1))
        for number in range(3):
            add_delivery(connection, 0, account_id, "n", f"we_{number}", 1)
        connection.execute("UPDATE deliveries SET next_at = NULL")
        for kind, about in (("provider_key_trouble", "openai"), ("overrun", "demo/demo-1")):
            put_alarm(connection, Alarm(kind=kind, about=about, content={}, first_at=1, last_at=1))

    farebox.run(services.database.write(trouble))
    set_provider(farebox, "openai")
    access = services.configuration.provider("openai")
    assert access is not None
    key = keys_of(access)[0].key_id
    now = services.clock.now_ms()
    monkeypatch.setattr(services.jobs, "late", lambda: ["expiry"])
    services.jobs._in_a_row |= {"broken": 2, "stumbled": 1}
    try:
        services.paused_keys.pause(OPERATOR, key, "old", now - 1)
        services.paused_keys.pause(OPERATOR, key, "gpt-5", now + 60_000)
        assert one(lines(operator), "A key at openai is paused for gpt-5 until")[1] == "/ui/provider-keys"
        services.paused_keys.pause(OPERATOR, key, "gpt-6", now + 60_000)
        assert one(lines(operator), "A key at openai is paused for 2 models, the longest until")
        services.paused_keys.pause(OPERATOR, key, "", now + 60_000)
        found = lines(operator)
    finally:
        del services.jobs._in_a_row["broken"], services.jobs._in_a_row["stumbled"]
        services.paused_keys.forget_all()
    assert not any("stumbled" in text for text in found), "it failed only once"
    assert one(found, "1 dispute is undecided")[1] == "/ui/money?view=disputes"
    assert one(found, "2 findings are open")[1] == "/ui/money?view=findings"
    assert one(found, "3 deliveries of messages")[1] == "/ui/messages"
    assert one(found, "A provider rejects your key: openai")[1] == "/ui/provider-keys"
    assert one(found, "demo/demo-1")[1] == "/ui/system#alarms"
    assert one(found, "A key at openai is paused until")[1] == "/ui/provider-keys"
    assert one(found, "The background job expiry is stuck")[1] == "/ui/system#jobs"
    assert one(found, "The background job broken keeps failing")[1] == "/ui/system#jobs"
    for path in set(found.values()):
        assert operator.get(path).status_code == 200, path
    assert lines(operator, "/ui/accounts?find=x") == {}, "only on the first page"
    farebox.run(services.database.write(clear))
