"""Cache hits on a connection that repeats its request: they take a fast path, and count like any other hit."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop

from farebox.calls.hit_records import _ROW_BYTES
from farebox.http.data_plane import DataPlane
from farebox.http.repeated_hits import hit_in_memory
from farebox.http.server.write_buffer import WRITE_HIGH
from farebox.metrics.families import CACHE_LOOKUPS, CALLS
from farebox.operator import administer, tokens
from farebox.storage.sql import Connection
from tests.calls.kit import caching, differences, forget, later_row, set_gateway, set_provider
from tests.calls.upstream import serving
from tests.clocks import Ahead
from tests.engines import ON_BOTH_ENGINES, TESTER
from tests.http.support import http as client
from tests.support import Customer, Farebox, running_on
from tests.waiting import pauses, until

pytestmark = ON_BOTH_ENGINES

CHAT = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}).encode()
STREAM = CHAT[:-1] + b', "stream": true}'
CLOCK = Ahead()
HOT_MS = 60_000
AHEAD = 15
"""The number of requests whose responses, of 750 kB each, exceed what the system buffers for a client that does not
read."""
CARD = b"4111 1111 1111 1111"


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_on(uvloop.new_event_loop, CLOCK, tmp_path_factory.mktemp("hits")) as served:
        set_provider(served, "openai")
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return caching(farebox)


@pytest.fixture(autouse=True)
def long_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep responses in memory for long, however slow the machine is."""
    monkeypatch.setattr("farebox.runtime.response_cache.HOT_MS", HOT_MS)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A list with whether each request took the fast path, written before its response is sent."""
    results, answer = list[bool](), DataPlane._answered

    def counted(self: DataPlane, *request: Any) -> bool:
        results.append(False)
        return answer(self, *request)

    def found(*request: Any) -> Any:
        hit = hit_in_memory(*request)
        results[-1] = hit is not None
        return hit

    monkeypatch.setattr(DataPlane, "_answered", counted)
    monkeypatch.setattr("farebox.http.data_plane.hit_in_memory", found)
    return results


class Repeater:
    """One connection, whose requests all have the same head and are each sent in one piece."""

    def __init__(self, customer: Customer, path: str = "openai/chat/completions") -> None:
        parts, self._tasks = urlsplit(customer.farebox.url), customer.farebox.services.tasks
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=60)
        self._received = self._socket.makefile("rb")
        lines = [f"POST /v1/{customer.account_id}/default/{path} HTTP/1.1", "host: farebox", "user-agent: repeater"]
        lines += ["content-type: application/json", f"authorization: Bearer {customer.token}", ""]
        self._head = "\r\n".join(lines).encode()

    def buffer_little(self) -> None:
        """Limit the system's receive buffer to 64 KiB."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)

    def send(self, body: bytes = CHAT, times: int = 1) -> None:
        self._socket.sendall((self._head + b"content-length: %d\r\n\r\n%b" % (len(body), body)) * times)

    def receive(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self._received.readline().split()[1])
        fields = http.client.parse_headers(self._received)
        body = self._received.read(int(fields["content-length"])) if "content-length" in fields else self._chunks()
        return status, {name.lower(): value for name, value in fields.items()}, body

    def _chunks(self) -> bytes:
        chunks = []
        while size := int(self._received.readline(), 16):
            chunks.append(self._received.read(size))
            self._received.readline()
        self._received.readline()
        return b"".join(chunks)

    def ask(self, body: bytes = CHAT) -> tuple[int, dict[str, str], bytes]:
        self.send(body)
        return self.receive()

    def repeat(self, body: bytes = CHAT) -> bytes:
        """Repeat the request until it takes the fast path; the first response."""
        status, headers, first = self.ask(body)
        assert (status, headers["cf-aig-cache-status"]) == (200, "MISS")
        until(lambda: not self._tasks.running("cached responses"))
        assert self.ask(body)[2] == first
        return first

    def close(self) -> None:
        self._received.close()
        self._socket.close()


@pytest.fixture
def connection(customer: Customer) -> Iterator[Repeater]:
    with closing(Repeater(customer)) as made:
        yield made


def counts(farebox: Farebox) -> tuple[int, int]:
    """The counts of hits and of free calls, read by the server's thread: it counts a call after responding."""

    async def read() -> tuple[int, int]:
        place = farebox.services.metrics.place
        return place.counter(CACHE_LOOKUPS, "hit").value, place.counter(CALLS, "openai", "free").value

    return farebox.run(read())


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
def test_each_repeated_hit_has_a_row_and_counts_like_any_other(
    farebox: Farebox, customer: Customer, connection: Repeater, at_once: list[bool], body: bytes
) -> None:
    first = connection.repeat(body)
    spent, before, asked = customer.balance.posted, counts(farebox), farebox.demo_stats()["requests"]
    answers = [connection.ask(body) for _ in range(5)]
    assert len(at_once) == 5
    assert sum(at_once) >= 4, "one may take the usual path if a configuration change is noticed just then"
    assert [(status, sent) for status, _, sent in answers] == [(200, first)] * 5
    ids = [headers["cf-aig-log-id"] for _, headers, _ in answers]
    assert len(set(ids)) == 5
    assert sorted(ids) == ids, "the newest row has the largest ID"
    for _, headers, _ in answers:
        assert headers["cf-aig-cache-status"] == "HIT"
        assert headers["cf-aig-event-id"] == headers["cf-aig-request-id"] == headers["cf-aig-log-id"]
    assert tuple(now - then for now, then in zip(counts(farebox), before, strict=True)) == (5, 5)
    assert (customer.balance.posted, farebox.demo_stats()["requests"]) == (spent, asked)
    with closing(Repeater(customer)) as other:
        _, usual, _ = other.ask(body)
    as_usual = row_of(customer, usual["cf-aig-log-id"])
    assert as_usual["cached"]
    assert as_usual["farebox"]["charge_nanos"] == 0
    assert [headers.keys() for _, headers, _ in answers] == [usual.keys()] * 5
    assert [row_of(customer, log_id) for log_id in ids] == [as_usual] * 5
    assert differences(farebox) == []


def row_of(customer: Customer, log_id: str) -> dict[str, Any]:
    """A hit's row and receipt, without the fields that differ between hits."""
    row, receipt = later_row(customer, log_id), customer.receipt(log_id)
    assert row.pop("id") == receipt.pop("log_id") == log_id
    assert row.pop("created_at")
    return row | {"duration": 0, "receipt": receipt}


def patch(customer: Customer, **fields: Any) -> None:
    url = f"{customer.api_url}/ai-gateway/gateways/default"
    assert client.patch(url, json=fields, headers=customer.headers).status_code == 200


def without_cache(customer: Customer) -> None:
    patch(customer, cache_ttl=0)


def emptied(customer: Customer) -> None:
    patch(customer, cache_invalidate_on_update=True)


def screened(customer: Customer) -> None:
    policy = {"id": "cards", "enabled": True, "action": "BLOCK", "check": ["REQUEST"], "profiles": ["payment_cards"]}
    patch(customer, dlp={"enabled": True, "policies": [policy]})


def forbidden(customer: Customer) -> None:
    url = f"{customer.api_url}/ai-gateway/gateways/default/policies?commit=true"
    policy = {"name": "none", "actor": "none", "resource": "*", "action": {"type": "block"}}
    assert client.post(url, json=policy, headers=customer.headers).status_code == 200


def full(customer: Customer) -> None:
    patch(customer, log_management=10_000, log_management_strategy="STOP_INSERTING")


def revoked(customer: Customer) -> None:
    (token,) = client.get(f"{customer.api_url}/farebox/tokens", headers=customer.headers).json()["result"]
    write(customer.farebox, partial(tokens.revoke_token, token_id=token["id"], at=CLOCK.now_ms(), by=TESTER))


def frozen(customer: Customer) -> None:
    freeze = partial(administer.set_frozen, account_id=customer.account_id, frozen=True, reason="a test")
    write(customer.farebox, partial(freeze, by=TESTER, at=CLOCK.now_ms()))


def write(farebox: Farebox, what: Callable[[Connection], object]) -> None:
    farebox.run(farebox.services.database.write(what))
    forget(farebox)


def expired(_: Customer) -> None:
    CLOCK.ahead_ms += 601_000


def on_a_domain(customer: Customer) -> None:
    """Make the host a custom domain, which does not have this path."""
    customer.farebox.services.configuration.domains["farebox"] = (customer.account_id, "default")


Change = Callable[[Customer], None]
AFTERWARDS: dict[Change, tuple[int, str | None]] = {
    without_cache: (200, None),
    emptied: (200, "MISS"),
    screened: (400, "HIT"),
    forbidden: (403, None),
    full: (200, "HIT"),
    revoked: (401, None),
    frozen: (403, None),
    expired: (200, "MISS"),
    on_a_domain: (404, None),
}
"""Changes, with the status and cache status of the next request."""


@pytest.mark.parametrize("change", AFTERWARDS, ids=lambda change: change.__name__)
def test_a_change_applies_to_the_next_request_of_the_connection(
    customer: Customer, connection: Repeater, at_once: list[bool], change: Change
) -> None:
    body = CHAT.replace(b"Hello there", CARD)
    connection.repeat(body)
    change(customer)
    try:
        status, headers, _ = connection.ask(body)
        assert (status, headers.get("cf-aig-cache-status")) == AFTERWARDS[change]
        assert at_once in ([], [False]), "the permit is a new one, or is requested again"
    finally:
        customer.farebox.services.configuration.domains.pop("farebox", None)


def test_a_cache_that_was_emptied_is_filled_again(
    farebox: Farebox, customer: Customer, connection: Repeater, at_once: list[bool]
) -> None:
    connection.repeat()
    emptied(customer)
    asked = farebox.demo_stats()["requests"]
    again = connection.repeat()
    spent = customer.balance.posted
    for pause in pauses("hits come from memory again"):  # a busy server may learn late that the cache was emptied
        answers = [connection.ask() for _ in range(2)]
        assert [(headers["cf-aig-cache-status"], body) for _, headers, body in answers] == [("HIT", again)] * 2
        if at_once[-2:] == [True] * 2:
            break
        time.sleep(pause)
    assert (customer.balance.posted, farebox.demo_stats()["requests"]) == (spent, asked + 1)


def test_responses_no_longer_in_memory_take_the_usual_path(connection: Repeater, at_once: list[bool]) -> None:
    first = connection.repeat()
    CLOCK.ahead_ms += 2 * HOT_MS
    again = [connection.ask()[2] for _ in range(2)]
    assert (again, at_once) == ([first] * 2, [False, True])
    assert connection.ask(CHAT.replace(b"there", b"again"))[1]["cf-aig-cache-status"] == "MISS"


@pytest.mark.parametrize("whose", ["gateway", "token"])
def test_repeated_hits_count_in_rate_limits(farebox: Farebox, at_once: list[bool], whose: str) -> None:
    customer = farebox.funded("5")
    rate: dict[str, Any] = {"rate_limiting_limit": 6, "rate_limiting_interval": 86_400}
    set_gateway(customer, cache_ttl=600, **(rate if whose == "gateway" else {}))
    if whose == "token":
        url = f"{customer.api_url}/farebox/tokens"
        (token,) = client.get(url, headers=customer.headers).json()["result"]
        assert client.put(f"{url}/{token['id']}", json=rate, headers=customer.headers).status_code == 200
    with closing(Repeater(customer)) as connection:
        connection.repeat()
        answers = [connection.ask() for _ in range(6)]
    assert [status for status, _, _ in answers] == [200] * 4 + [429] * 2
    assert at_once == [True] * 6, "refusals are rows too"
    _, headers, body = answers[-1]
    refused = json.loads(body)
    assert refused["error"]["code"] == ("rate_limited" if whose == "gateway" else "token_rate_limited")
    assert refused["retry_after"] == int(headers["retry-after"]) > 0
    assert "cf-aig-cache-status" not in headers


def test_a_hit_whose_row_has_to_wait_takes_the_usual_path(
    customer: Customer, connection: Repeater, at_once: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.repeat()
    monkeypatch.setattr("farebox.limits.pending_writes.NUMBER_MAX", 0)
    _, headers, _ = connection.ask()
    assert (headers["cf-aig-cache-status"], at_once) == ("HIT", [False])
    assert row_of(customer, headers["cf-aig-log-id"])["cached"]


def test_no_row_is_lost_if_the_kept_body_is_longer_than_the_received_one(
    customer: Customer, connection: Repeater, at_once: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the operator's key, Farebox adds the request for usage to a stream."""
    first = connection.repeat(STREAM)
    until(lambda: not customer.farebox.services.tasks.running("records of hits"))
    monkeypatch.setattr("farebox.limits.pending_writes.BYTES_MAX", _ROW_BYTES + len(STREAM) + len(first))
    _, headers, _ = connection.ask(STREAM)
    assert (headers["cf-aig-cache-status"], at_once) == ("HIT", [False])
    assert row_of(customer, headers["cf-aig-log-id"])["cached"]


def test_an_account_at_its_limit_of_concurrent_calls_still_gets_hits(
    customer: Customer, connection: Repeater, at_once: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = connection.repeat()
    monkeypatch.setattr(customer.farebox.services.calls, "account_max", 0)
    status, headers, again = connection.ask()
    assert (status, headers["cf-aig-cache-status"], again, at_once) == (200, "HIT", first, [True])
    with closing(Repeater(customer)) as other:
        status, _, refused = other.ask()
        assert (status, json.loads(refused)["internalCode"]) == (429, 2918)


def test_pipelined_hits_are_answered_in_order(connection: Repeater, at_once: list[bool]) -> None:
    first = connection.repeat()
    connection.send(times=50)
    answers = [connection.receive() for _ in range(50)]
    assert [(status, body) for status, _, body in answers] == [(200, first)] * 50
    ids = [headers["cf-aig-log-id"] for _, headers, _ in answers]
    assert sorted(set(ids)) == ids


def test_a_slow_reader_gets_complete_hits(farebox: Farebox, customer: Customer, at_once: list[bool]) -> None:
    text = "word " * 150_000
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    with serving() as upstream, closing(Repeater(customer, "groq/chat/completions")) as connection:
        set_provider(farebox, "groq", base_url=upstream.url)
        upstream.response = {"id": "one", "model": "llama-3.1-8b-instant", "choices": [message], "usage": usage}
        body = CHAT.replace(b"gpt-4o-mini", b"llama-3.1-8b-instant")
        first = connection.repeat(body)
        connection.buffer_little()
        connection.send(body, times=AHEAD)
        held = farebox.services.held
        until(lambda: held.held_bytes > WRITE_HIGH, "one waits to be read")
        assert held.by_account.get(customer.account_id, 0) > WRITE_HIGH
        assert [connection.receive()[2] == first for _ in range(AHEAD)] == [True] * AHEAD
        assert connection.ask(body)[2] == first
        # A request that arrives in two pieces takes the usual path.
        assert (len(at_once), at_once[-1]) == (AHEAD + 1, True)
        assert sum(at_once) > AHEAD // 2
    assert customer.account_id not in farebox.services.held.by_account
