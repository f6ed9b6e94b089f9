"""Custom domains: unowned until a TXT record proves ownership, owned by one account at a time, and only for model
calls."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from farebox.calendar import DAY_MS
from farebox.operator.custom_domains import check
from farebox.storage.custom_domains import PENDING_MS, CustomDomain, Seen, find_domain, judge
from farebox.storage.sql import Connection
from tests.calls.kit import log_rows, set_gateway
from tests.engines import ON_BOTH_ENGINES
from tests.http.dns_server import DnsServer, dns_server
from tests.http.support import errors, http, result
from tests.sdks import openai
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES


@pytest.fixture(scope="module")
def dns() -> Iterator[DnsServer]:
    with dns_server() as server:
        yield server


@pytest.fixture(scope="module")
def farebox(engine: str, dns: DnsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    settings = {"dns_servers": dns.address, "public_url": "http://gateway.example.net"}
    with running_farebox(tmp_path_factory.mktemp("domains"), **settings) as served:
        served.url = f"http://127.0.0.1:{served.port}"  # the other setting is for the lookup
        yield served


@pytest.fixture(scope="module")
def behind(engine: str, dns: DnsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """The same server, with this machine as a trusted proxy."""
    settings = {"dns_servers": dns.address, "trusted_proxies": "127.0.0.1"}
    with running_farebox(tmp_path_factory.mktemp("proxied"), **settings) as served:
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return owner(farebox)


def owner(farebox: Farebox) -> Customer:
    customer = farebox.funded("5")
    set_gateway(customer)
    return customer


def url(customer: Customer, hostname: str = "", gateway: str = "default") -> str:
    rest = f"/{hostname}" if hostname else ""
    return f"{customer.api_url}/ai-gateway/gateways/{gateway}/custom-domains{rest}"


def create(customer: Customer, domain: str, **more: Any) -> httpx.Response:
    body = {"domain": domain, "zone_id": "395566f4c8a5b9d2a5fc0d457b007c44", **more}
    return http.post(url(customer), json=body, headers=customer.headers)


def get(customer: Customer, hostname: str) -> Any:
    return result(http.get(url(customer, hostname), headers=customer.headers))


def publish(dns: DnsServer, domain: Any) -> None:
    record = domain["verification"]
    assert record["type"] == "TXT"
    dns.records.setdefault(record["name"], []).append(record["value"])


def serving(customer: Customer, dns: DnsServer, domain: str) -> None:
    publish(dns, result(create(customer, domain)))
    assert get(customer, domain)["status"] == "active"


def chat(
    customer: Customer,
    host: str,
    path: str = "/compat/chat/completions",
    *,
    model: str = "demo/demo-1",
    **headers: str,
) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    return http.post(customer.farebox.url + path, json=body, headers={**customer.headers, "host": host, **headers})


def test_a_domain_serves_once_its_record_is_there(customer: Customer, dns: DnsServer) -> None:
    made = result(create(customer, "AI.Acme.example."))
    assert (made["hostname"], made["status"], made["gateway_id"]) == ("ai.acme.example", "pending_dcv", "default")
    assert (made["cname_target"], made["ssl_hostname_id"]) == ("gateway.example.net", None)
    assert made["created_at"] > 10**12, "milliseconds"
    assert get(customer, "ai.acme.example")["status"] == "pending_dcv"
    assert chat(customer, "ai.acme.example").status_code == 404
    dns.records["_farebox.ai.acme.example"] = ["v=spf1 -all", "farebox-domain=another"]
    assert get(customer, "ai.acme.example")["status"] == "pending_dcv"
    dns.broken.add("_farebox.ai.acme.example")
    assert get(customer, "ai.acme.example")["status"] == "pending_dcv"
    dns.broken.clear()
    publish(dns, made)
    found = get(customer, "ai.acme.example")
    assert (found["status"], found["created_at"]) == ("active", made["created_at"])
    for host in ("ai.acme.example", "AI.acme.example:443", "ai.acme.example."):
        response = chat(customer, host)
        assert response.status_code == 200, response.text
    native = chat(customer, "ai.acme.example", "/demo/v1/chat/completions", model="demo-1")
    assert native.status_code == 200, native.text
    assert [row["path"] for row in log_rows(customer)] == ["v1/chat/completions"] * 4
    listed = http.get(url(customer), params={"status": "active", "search": "ACME"}, headers=customer.headers)
    assert result(listed) == [found]
    assert result(http.get(url(customer), params={"status": "error"}, headers=customer.headers)) == []
    assert result(http.delete(url(customer, "ai.acme.example"), headers=customer.headers)) == found
    assert chat(customer, "ai.acme.example").status_code == 404
    assert http.get(url(customer, "ai.acme.example"), headers=customer.headers).status_code == 404


def test_only_model_calls_are_served_on_a_custom_domain(customer: Customer, dns: DnsServer) -> None:
    serving(customer, dns, "only.example.org")
    own = f"/v1/{customer.account_id}/default/compat/chat/completions"
    for path in (own, "/v1/chat/completions", "/rest/chat/completions", "/", "/unknown/chat"):
        response = chat(customer, "only.example.org", path)
        assert (response.status_code, response.json()["internalCode"]) == (404, 7003), path
    for path in ("/healthz", "/openapi.json", "/billing", "/client/v4/accounts", "/metrics"):
        response = http.get(customer.farebox.url + path, headers={**customer.headers, "host": "only.example.org"})
        assert response.status_code == 404, path
    assert chat(customer, "gateway.example.net", own).status_code == 200
    other = owner(customer.farebox)
    assert chat(other, "only.example.org").status_code == 401, "another account's token"
    with openai.OpenAI(
        base_url=f"{customer.farebox.url}/compat", api_key=customer.token, default_headers={"host": "only.example.org"}
    ) as client:
        answer = client.chat.completions.create(model="demo/demo-1", messages=[{"role": "user", "content": "Hi"}])
        assert answer.choices[0].message.content
    assert http.delete(customer.api_url + "/ai-gateway/gateways/default", headers=customer.headers).status_code == 200
    assert chat(customer, "only.example.org").status_code == 404


def test_a_name_is_one_accounts_at_a_time(customer: Customer, dns: DnsServer) -> None:
    other = owner(customer.farebox)
    mine, theirs = result(create(customer, "shared.example.com")), result(create(other, "shared.example.com"))
    assert errors(create(customer, "shared.example.com"))[0][0] == 7001
    assert mine["verification"]["value"] != theirs["verification"]["value"]
    assert http.get(url(customer, "shared.example.com"), headers=other.headers).status_code == 403
    publish(dns, theirs)
    assert get(customer, "shared.example.com")["status"] == "pending_dcv", "the record of another account"
    assert get(other, "shared.example.com")["status"] == "active"
    publish(dns, mine)
    assert get(customer, "shared.example.com")["status"] == "blocked", (
        "both records exist: the serving account keeps serving"
    )
    assert chat(other, "shared.example.com").status_code == 200
    assert chat(customer, "shared.example.com").status_code == 401
    dns.records["_farebox.shared.example.com"] = [mine["verification"]["value"]]
    assert get(customer, "shared.example.com")["status"] == "active"
    assert get(other, "shared.example.com")["status"] == "error"
    assert chat(customer, "shared.example.com").status_code == 200
    assert chat(other, "shared.example.com").status_code == 401


def test_a_record_that_is_missing_for_a_week(customer: Customer, dns: DnsServer) -> None:
    services, hostname = customer.farebox.services, "gone.example.com"
    serving(customer, dns, hostname)
    del dns.records[f"_farebox.{hostname}"]

    def read() -> Any:
        return customer.farebox.run(
            services.database.get(lambda connection: find_domain(connection, customer.account_id, hostname))
        )

    customer.farebox.run(check(services, read()))
    found = read()
    assert (found.status, found.failing_since is not None) == ("active", True)
    dns.broken.add(f"_farebox.{hostname}")
    customer.farebox.run(check(services, read()))
    assert read().failing_since == found.failing_since
    dns.broken.clear()
    later = found.failing_since + PENDING_MS
    assert judged(customer, hostname, later - 1).status == "active"
    assert judged(customer, hostname, later).status == "error"
    customer.farebox.run(services.configuration.notice_changes())
    assert chat(customer, hostname).status_code == 404
    pending = result(create(customer, "never.example.com"))
    late = judged(customer, "never.example.com", pending["created_at"] + 8 * DAY_MS)
    assert (late.status, late.next_at) == ("error", None)


def judged(customer: Customer, hostname: str, at: int, seen: Seen = "missing") -> CustomDomain:
    """The state of the domain after a check with this result at that time."""

    def write(connection: Connection) -> CustomDomain | None:
        stored = find_domain(connection, customer.account_id, hostname)
        return None if stored is None else judge(connection, stored, seen, at)

    found = customer.farebox.run(customer.farebox.services.database.write(write))
    assert found is not None
    return found


def raw(farebox: Farebox, target: str, *lines: str, token: str) -> tuple[int, bytes]:
    """The response to a call with these head lines, byte for byte."""
    body = json.dumps({"model": "demo/demo-1", "messages": [{"role": "user", "content": "Hi"}]})
    head = [f"POST {target} HTTP/1.1", *lines, f"authorization: Bearer {token}", f"content-length: {len(body)}"]
    with socket.create_connection(("127.0.0.1", farebox.port), 10) as connection:
        connection.sendall("\r\n".join([*head, "connection: close", "", body]).encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return int(answer.split()[1]), answer


def test_tricks_with_the_host(customer: Customer, dns: DnsServer) -> None:
    """No request is routed by one name while addressed to another, and no spelling bypasses the lookup."""
    farebox, token, call = customer.farebox, customer.token, "/compat/chat/completions"
    serving(customer, dns, "mine.example.info")
    other = owner(farebox)
    serving(other, dns, "theirs.example.info")
    for host in ("mine.example.info", "MINE.Example.INFO", "mine.example.info:8787", "mine.example.info:",
                 "mine.example.info.", "mine.example.info.:443"):  # fmt: skip
        assert raw(farebox, call, f"Host: {host}", token=token)[0] == 200, host
    for host in ("mine.example.info..", "mine.example.info:x", "mine.example.info:80:80", "x@mine.example.info",
                 "mine.example.info/", "mine.example.info, theirs.example.info", ".mine.example.info", "*.example.info",
                 "mine.example.info%00", "mine。example。info", "xn--mine-.example.info", "[::1]", ""):  # fmt: skip
        assert raw(farebox, call, f"Host: {host}", token=token)[0] in (400, 404), host
    mine, theirs = "Host: mine.example.info", "Host: theirs.example.info"
    assert raw(farebox, call, mine, theirs, token=token)[0] == 400, "two hosts"
    assert raw(farebox, call, theirs, token=token)[0] == 401
    for target in ("http://theirs.example.info", "http://theirs.example.info:80", "HTTP://THEIRS.EXAMPLE.INFO"):
        status, answer = raw(farebox, f"{target}{call}", mine, token=token)
        assert status == 401, answer  # the target's host takes precedence (RFC 9112, 3.2.2)
    own = f"/v1/{other.account_id}/default{call}"
    for path in (
        f"//{own}", f"/compat/..{own}", f"/compat/%2e%2e{own}", f"/compat/..%2f..{own}", f"/.{own}", f"/./..{own}",
        "/compat/../../../client/v4/accounts", "/compat/..;/healthz", "/%63ompat/../healthz", f"/demo/../..{own}",
    ):  # fmt: skip
        status, answer = raw(farebox, path, mine, token=token)
        assert status in (400, 404), (path, answer)
    assert log_rows(other) == []


def test_a_deleted_domain_proves_nothing_any_more(customer: Customer, dns: DnsServer) -> None:
    """The record of a released name does not prove it for the next account that requests it, nor for its former
    owner."""
    serving(customer, dns, "former.example.info")
    assert http.delete(url(customer, "former.example.info"), headers=customer.headers).status_code == 200
    other = owner(customer.farebox)
    for asking in (customer, other):
        assert result(create(asking, "former.example.info"))["status"] == "pending_dcv"
        assert get(asking, "former.example.info")["status"] == "pending_dcv"
        assert chat(asking, "former.example.info").status_code == 404
    assert http.delete(customer.api_url + "/ai-gateway/gateways/default", headers=customer.headers).status_code == 200
    set_gateway(customer)
    assert result(http.get(url(customer), headers=customer.headers)) == []


def test_one_of_many_concurrent_accounts_gets_a_name(farebox: Farebox, dns: DnsServer) -> None:
    owners = [owner(farebox) for _ in range(4)]
    for each in owners:
        publish(dns, result(create(each, "race.example.info")))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda each: get(each, "race.example.info"), owners * 2))
    found = [get(each, "race.example.info")["status"] for each in owners]
    assert sorted(found) == ["active", "blocked", "blocked", "blocked"]
    statuses = [chat(each, "race.example.info").status_code for each in owners]
    assert statuses == [200 if status == "active" else 401 for status in found]


def test_a_failing_lookup_of_a_record_times_out(customer: Customer) -> None:
    made = result(create(customer, "silent.example.info"))
    for late, status in ((PENDING_MS - 1, "pending_dcv"), (PENDING_MS, "error")):
        assert judged(customer, "silent.example.info", made["created_at"] + late, "unknown").status == status


def test_a_name_leaves_room_for_the_name_of_its_record(customer: Customer, dns: DnsServer) -> None:
    longest = ".".join(["a" * 60] * 4)
    assert len(longest) == 243
    made = result(create(customer, f"{longest}"))
    publish(dns, made)
    assert get(customer, longest)["status"] == "active"
    assert create(customer, f"ab.{longest}").json()["errors"][0]["path"] == ["body", "domain"]


def test_wrong_domains(customer: Customer) -> None:
    for domain in (
        "localhost", "127.0.0.1", "10.1", "https://x.example", "x.example:443", "*.x.example", "x..example",
        "-a.example", "ü.example", "a" * 64 + ".example", "gateway.example.net", "a b.example", "x.example/y",
    ):  # fmt: skip
        response = create(customer, domain)
        assert response.status_code == 400, domain
        assert response.json()["errors"][0]["path"] == ["body", "domain"]
    assert create(customer, "x.example", minTLS="1.2").json()["errors"][0]["path"] == ["body", "minTLS"]
    assert (
        http.post(url(customer, gateway="none"), json={"domain": "x.example"}, headers=customer.headers).status_code
        == 404
    )
    assert result(http.get(url(customer), headers=customer.headers)) == []


def test_a_forwarded_host_counts_only_from_a_trusted_proxy(customer: Customer, behind: Farebox, dns: DnsServer) -> None:
    serving(customer, dns, "direct.example.com")
    assert chat(customer, "127.0.0.1", **{"x-forwarded-host": "direct.example.com"}).status_code == 404
    assert chat(customer, "direct.example.com", **{"x-forwarded-host": "elsewhere"}).status_code == 200
    proxied = owner(behind)
    serving(proxied, dns, "proxied.example.com")
    assert chat(proxied, "127.0.0.1", **{"x-forwarded-host": "proxied.example.com"}).status_code == 200
    assert chat(proxied, "127.0.0.1", **{"x-forwarded-host": "proxied.example.com, inner"}).status_code == 404
    assert chat(proxied, "proxied.example.com", **{"x-forwarded-host": "elsewhere"}).status_code == 404
    assert chat(proxied, "proxied.example.com").status_code == 200


def test_a_connection_follows_its_host_to_another_gateway(customer: Customer, dns: DnsServer) -> None:
    """The state cached with a connection's head belongs to the gateway that the name stood for then."""
    set_gateway(customer)
    fields = {"id": "second", "cache_invalidate_on_update": False, "cache_ttl": 0, "collect_logs": True}
    limits = {"rate_limiting_interval": 0, "rate_limiting_limit": 0}
    made = http.post(f"{customer.api_url}/ai-gateway/gateways", json=fields | limits, headers=customer.headers)
    assert made.status_code == 200, made.text
    serving(customer, dns, "moves.example.com")
    with httpx.Client(base_url=customer.farebox.url, headers={**customer.headers, "host": "moves.example.com"}) as kept:
        body = {"model": "demo/demo-1", "messages": [{"role": "user", "content": "Hi"}]}
        assert kept.post("/compat/chat/completions", json=body).status_code == 200
        assert http.delete(url(customer, "moves.example.com"), headers=customer.headers).status_code == 200
        assert kept.post("/compat/chat/completions", json=body).status_code == 404
        again = {"domain": "moves.example.com"}
        again = result(http.post(url(customer, gateway="second"), json=again, headers=customer.headers))
        publish(dns, again)
        found = http.get(url(customer, "moves.example.com", gateway="second"), headers=customer.headers)
        assert result(found)["status"] == "active"
        assert kept.post("/compat/chat/completions", json=body).status_code == 200
    assert (len(log_rows(customer)), len(log_rows(customer, "second"))) == (1, 1)
