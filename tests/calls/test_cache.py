"""A gateway's cache: which responses are reused, for whom and for how long; and that hits are free."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
import uvloop

from farebox import periodic_jobs
from farebox.limits.fair_memory import ENTRY_BYTES, FairMemory
from farebox.model import Role
from farebox.runtime.response_cache import DatabaseStore
from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.cached_responses import (
    ROW_BYTES,
    CacheBounds,
    CachedResponse,
    correct_sum,
    find_response,
    forget_leftovers,
    generation_prefix,
    keep_responses,
    sum_difference,
)
from farebox.storage.gateways import find_gateway, put_gateway
from farebox.storage.sql import Connection, Rows, rows
from tests.calls.kit import caching, differences, forget, log_row, log_rows, set_gateway, set_provider
from tests.calls.upstream import serving
from tests.clocks import Ahead
from tests.engines import ON_BOTH_ENGINES, read_now
from tests.http.support import GATEWAY_FIELDS, http
from tests.pages.people import person
from tests.sdks import openai
from tests.support import Customer, Farebox, running_on
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}
STREAM = CHAT | {"stream": True}


CLOCK = Ahead()


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_on(uvloop.new_event_loop, CLOCK, tmp_path_factory.mktemp("cache")) as served:
        set_provider(served, "openai")
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return caching(farebox)


def post(
    customer: Customer,
    body: Any = CHAT,
    gateway: str = "default",
    path: str = "openai/chat/completions",
    **headers: str,
) -> httpx.Response:
    """A call; header names with underscores."""
    url = f"{customer.farebox.url}/v1/{customer.account_id}/{gateway}/{path}"
    ours = {"cf-aig-authorization": f"Bearer {customer.token}", "content-type": "application/json"}
    ours |= {name.replace("_", "-"): value for name, value in headers.items()}
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = http.post(url, headers=ours, timeout=60, **content)
    assert response.status_code == 200, response.text
    return response


def status(response: httpx.Response) -> str | None:
    found: str | None = response.headers.get("cf-aig-cache-status")
    return found


def stored(customer: Customer) -> list[tuple[Any, ...]]:
    """Gateway and size of the account's entries, once all have been written."""
    services = customer.farebox.services
    until(lambda: not services.tasks.running("cached responses"))

    def read(connection: Connection) -> list[tuple[Any, ...]]:
        key = key_of(connection, customer.account_id)
        return rows(connection, f"SELECT gateway_id, size FROM cached_responses WHERE {OF_ACCOUNT}", key)

    return read_now(services.database, read)


def test_a_row_that_cannot_be_written_does_not_take_others_with_it(
    farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = type(farebox.services.ledger)
    write, failed = ledger.record_all, list[int]()

    async def once_broken(self: Any, records: Any) -> None:
        if not failed:
            failed.append(len(records))
            raise LookupError("one of the rows")
        await write(self, records)

    post(customer)
    assert len(stored(customer)) == 1
    monkeypatch.setattr(ledger, "record_all", once_broken)
    hits = [post(customer).headers["cf-aig-log-id"] for _ in range(3)]
    until(lambda: not farebox.services.tasks.running("records of hits"))
    assert failed
    assert all(log_row(customer, log_id)["cached"] for log_id in hits)


def total(customer: Customer) -> int:
    def read(connection: Connection) -> list[tuple[Any, ...]]:
        key = key_of(connection, customer.account_id)
        return rows(connection, f"SELECT bytes FROM cache_totals WHERE {OF_ACCOUNT}", key)

    return sum(size for (size,) in read_now(customer.farebox.services.database, read))


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
def test_a_hit_is_the_original_response_free_and_in_the_log(farebox: Farebox, customer: Customer, body: Any) -> None:
    first = post(customer, body)
    assert status(first) == "MISS"
    assert len(stored(customer)) == 1  # so that the next hit is read from the database
    spent, asked = customer.balance.posted, farebox.demo_stats()["requests"]
    spaced = json.dumps(dict(reversed(body.items())), indent=1)
    for request in (body, spaced.encode()):
        hit = post(customer, request)
        assert (status(hit), hit.content) == ("HIT", first.content)
        assert hit.headers["content-type"] == first.headers["content-type"]
    assert farebox.demo_stats()["requests"] == asked
    assert customer.balance.posted == spent
    assert customer.balance.held == 0
    until(lambda: not farebox.services.tasks.running("records of hits"))  # the client does not wait for them
    row = log_row(customer, hit.headers["cf-aig-log-id"])
    assert (row["cached"], row["cost"], row["tokens_in"], row["tokens_out"], row["success"]) == (True, 0, 0, 0, True)
    assert row["farebox"]["charge_nanos"] == 0
    assert row["response_head"] == first.text[: len(row["response_head"])]
    assert not log_row(customer, first.headers["cf-aig-log-id"])["cached"]
    url = f"{customer.api_url}/ai-gateway/gateways/default/logs?cached=true"
    assert http.get(url, headers=customer.headers).json()["result_info"]["total_count"] == 2
    assert differences(farebox) == []


def test_a_request_controls_the_cache(farebox: Farebox, customer: Customer) -> None:
    first = post(customer)
    again = post(customer, cf_skip_cache="true")
    assert (status(again), again.content != first.content) == ("MISS", True)
    assert post(customer).content == again.content  # it has replaced the other entry
    assert status(post(customer, CHAT | {"temperature": 0}, cf_aig_cache_ttl="0")) is None
    assert status(post(customer, CHAT | {"temperature": 0})) == "MISS"
    named = post(customer, CHAT | {"temperature": 1}, cf_aig_cache_key="mine")
    assert post(customer, CHAT | {"temperature": 2}, cf_aig_cache_key="mine").content == named.content
    assert status(post(customer, STREAM, cf_aig_cache_key="mine")) == "MISS"  # it could not be read as a stream
    for written in (CHAT, dict(reversed(CHAT.items()))):  # the content type of curl's `-d`
        sent = http.post(
            f"{farebox.url}/v1/{customer.account_id}/default/openai/chat/completions",
            content=json.dumps(written),
            headers={"authorization": f"Bearer {customer.token}", "content-type": "application/x-www-form-urlencoded"},
        )
    assert status(sent) == "HIT"
    refused = http.post(
        f"{farebox.url}/v1/{customer.account_id}/default/openai/chat/completions",
        json=CHAT,
        headers={"cf-aig-authorization": f"Bearer {customer.token}", "cf-aig-cache-ttl": "59"},
    )
    assert refused.status_code == 400
    step = {"provider": "openai", "endpoint": "chat/completions", "query": CHAT, "config": {"skipCache": True}}
    assert status(post(customer, [step], path="")) == "MISS"
    assert status(post(customer, [step | {"config": {}}], path="")) == "HIT"

    set_gateway(customer, "off")
    assert [status(post(customer, gateway="off")) for _ in range(2)] == [None, None]
    assert [status(post(customer, gateway="off", cf_aig_cache_ttl="60")) for _ in range(2)] == ["MISS", "HIT"]
    assert [status(post(customer, gateway="off", cf_aig_cache_key="k")) for _ in range(2)] == ["MISS", "HIT"]


def test_who_gets_a_cached_response(farebox: Farebox, customer: Customer) -> None:
    first = post(customer)
    set_gateway(customer, "second", cache_ttl=600)
    other = farebox.funded("5")
    set_gateway(other, cache_ttl=600)
    mine = {"authorization": "Bearer sk-one-of-the-callers-own"}
    for key in ({}, {"cf_aig_cache_key": "same"}):
        post(customer, **key)
        for caller, gateway, headers in (
            (customer, "second", {}),
            (other, "default", {}),
            (customer, "default", mine),
            (customer, "default", {"authorization": "Bearer sk-another-of-them"}),
        ):
            found = post(caller, gateway=gateway, **headers, **key)
            assert (status(found), found.content != first.content) == ("MISS", True), (gateway, headers, key)
        assert status(post(customer, **mine, **key)) == "HIT"
    guarded = post(customer, **mine, x_amzn_bedrock_guardrailidentifier="g")
    assert status(guarded) == "MISS", "that response was not checked by Amazon's guardrail"
    assert not any("sk-" in str(row) for row in log_rows(customer))


def test_how_long_responses_are_reused(farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    post(customer)
    post(customer, STREAM, cf_aig_cache_ttl="60")
    assert len(stored(customer)) == 2
    with monkeypatch.context() as later:
        later.setattr(CLOCK, "ahead_ms", 61_000)
        assert status(post(customer)) == "HIT"
        farebox.run(periodic_jobs._forget_responses(farebox.services))
        assert len(stored(customer)) == 1
        later.setattr(CLOCK, "ahead_ms", 601_000)
        assert status(post(customer)) == "MISS"
    assert stored(customer)
    assert total(customer) == sum(size for _, size in stored(customer))

    url = f"{customer.api_url}/ai-gateway/gateways/default"
    for invalidates, found in ((False, "HIT"), (True, "MISS")):
        fields = GATEWAY_FIELDS | {"cache_ttl": 300, "cache_invalidate_on_update": invalidates}
        before = status(post(customer, CHAT | {"seed": int(invalidates)}))
        stored(customer)
        assert http.put(url, json=fields, headers=customer.headers).status_code == 200
        assert (before, status(post(customer, CHAT | {"seed": int(invalidates)}))) == ("MISS", found)
    owner = person(farebox, Role.OWNER, customer.account_id)
    stored(customer)
    owner.submit("/ui/limits", limit="1", window="day", technique="sliding", gateway="default")
    assert status(post(customer, CHAT | {"seed": 1})) == "MISS", "a limit that is set on the page is an update too"
    assert len(stored(customer)) == 1
    assert http.delete(url, headers=customer.headers).status_code == 200
    assert (stored(customer), total(customer)) == ([], 0)


def test_what_is_not_stored(farebox: Farebox, customer: Customer) -> None:
    large = CHAT | {"messages": [{"role": "user", "content": "word " * 60_000}]}
    assert [status(post(customer, large, authorization="Bearer sk-own")) for _ in range(2)] == [None, None]
    part = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n'
    with serving() as upstream:
        set_provider(farebox, "groq", base_url=upstream.url)
        for body, code, response in (
            (CHAT, 500, b'{"error": {"message": "down"}}'),
            (CHAT, 201, b'{"choices": []}'),
            (STREAM, 200, part),  # without a terminal event
            (STREAM, 200, part * 20_000 + b"data: [DONE]\n\n"),
        ):
            upstream.status = code
            upstream.says(response)
            url = f"{farebox.url}/v1/{customer.account_id}/default/groq/chat/completions"
            ours = {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "Bearer sk-own"}
            answered = [http.post(url, json=body, headers=ours) for _ in range(2)]
            assert [(found.status_code, status(found)) for found in answered] == [(code, "MISS")] * 2
    assert stored(customer) == []


class Store:
    """The store of cached responses, with entries made by the test."""

    def __init__(self, farebox: Farebox) -> None:
        self._farebox = farebox
        self._database = farebox.services.database

    def key(self, whose: Customer, number: int) -> str:
        """A key in the gateway's current generation."""
        configuration = self._farebox.services.configuration
        gateway = self._farebox.run(configuration.gateway(whose.account_id, "default"))
        assert gateway is not None
        return f"{generation_prefix(gateway.cache_generation)}key{number:04}"

    def entry(self, whose: Customer, number: int) -> CachedResponse:
        expires_at, body = CLOCK.now_ms() + 60_000 + number, b"x" * (10_000 - ROW_BYTES)
        return CachedResponse(whose.account_id, "default", self.key(whose, number), expires_at, "text/plain", body)

    def keep(self, of: list[CachedResponse], account: int = 2**30, everyone: int = 2**30) -> None:
        self._farebox.run(DatabaseStore(self._database).keep(of, CacheBounds(account, everyone)))

    def has(self, whose: Customer, number: int) -> bool:
        key, now = self.key(whose, number), CLOCK.now_ms()
        wanted = partial(find_response, account_id=whose.account_id, gateway_id="default", key=key, at=now)
        return self._farebox.run(self._database.get(wanted)) is not None

    @property
    def everyone(self) -> int:
        """The sum of all accounts, as stored."""
        ((kept,),) = read_now(self._database, lambda c: rows(c, "SELECT bytes FROM cache_sum"))
        return int(kept)


def test_a_stream_of_nothing_is_not_stored(customer: Customer) -> None:
    set_gateway(customer, cache_ttl=600)
    for _ in range(2):
        response = customer.chat("nothing at all demo:end=0", stream=True)
        assert (response.text, response.headers["cf-aig-cache-status"]) == ("", "MISS")


def test_bounds_are_kept_and_accounts_do_not_evict_each_other(farebox: Farebox, customer: Customer) -> None:
    other, store = farebox.funded("1"), Store(farebox)
    set_gateway(other, cache_ttl=60)
    store.keep([store.entry(other, n) for n in range(3)])
    store.keep([store.entry(customer, n) for n in range(12)], account=100_000)
    # the entries that expire first have been removed
    assert (total(customer), store.has(customer, 1), store.has(customer, 2)) == (100_000, False, True)
    store.keep([store.entry(customer, 12)], 100_000, store.everyone - 50_000)
    assert (total(customer), store.has(customer, 12)) == (50_000, True)
    assert all(store.has(other, n) for n in range(3))
    ((counted,),) = read_now(farebox.services.database, lambda c: rows(c, "SELECT sum(size) FROM cached_responses"))
    assert store.everyone == counted


def test_a_sum_that_is_wrong_is_corrected_while_others_store(
    farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the loss of a Citus coordinator between the commits of a node and its own."""
    monkeypatch.setattr(periodic_jobs, "SUM_AGAIN_SECONDS", 0.1)
    store, database = Store(farebox), farebox.services.database
    for wrong in ("bytes - 7000000", "bytes + 7000000", "0"):
        farebox.run(database.write(lambda c: c.execute(f"UPDATE cache_sum SET bytes = {wrong}")))  # noqa: B023
        with ThreadPoolExecutor(4) as at_once:
            storing = [at_once.submit(store.keep, [store.entry(customer, number)]) for number in range(4)]
            farebox.run(periodic_jobs._forget_responses(farebox.services))
            for each in storing:
                each.result()
        farebox.run(periodic_jobs._forget_responses(farebox.services))
        assert store.everyone == counted(farebox)


def test_a_sum_that_is_missing_is_counted(
    farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic_jobs, "SUM_AGAIN_SECONDS", 0.1)
    store = Store(farebox)
    store.keep([store.entry(customer, 1)])
    farebox.run(farebox.services.database.write(lambda connection: connection.execute("DELETE FROM cache_sum")))
    farebox.run(periodic_jobs._forget_responses(farebox.services))
    assert store.everyone == counted(farebox) > 0


def test_a_difference_that_is_gone_at_the_second_look_was_no_error(
    farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Citus, the coordinator's part of a batch is visible before that of the account's node."""
    store, database = Store(farebox), farebox.services.database
    store.keep([store.entry(customer, 1)])
    farebox.run(database.write(partial(add_to_sum, size=7_000_000)))
    seen: list[int] = []
    sleep = CLOCK.sleep

    async def arrive(seconds: float) -> None:
        if seconds == periodic_jobs.SUM_AGAIN_SECONDS and not seen:
            seen.append(await database.scan(sum_difference))
            await database.write(partial(add_to_sum, size=-7_000_000))
        else:
            await sleep(seconds)

    monkeypatch.setattr(CLOCK, "sleep", arrive)
    farebox.run(periodic_jobs._correct_sum(farebox.services))
    assert seen == [-7_000_000]
    assert store.everyone == counted(farebox)
    farebox.run(database.write(partial(correct_sum, difference=-7_000_000)))
    assert store.everyone == counted(farebox), "nor is it corrected if it is gone under the lock"


def test_a_right_sum_is_not_locked(farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    store, written = Store(farebox), list[Connection]()
    store.keep([store.entry(customer, 1)])
    monkeypatch.setattr(periodic_jobs, "correct_sum", lambda connection, **_: written.append(connection))
    farebox.run(periodic_jobs._correct_sum(farebox.services))
    assert written == []


def counted(farebox: Farebox) -> int:
    """The sum of the accounts' totals."""
    ((found,),) = read_now(farebox.services.database, lambda c: rows(c, "SELECT sum(bytes) FROM cache_totals"))
    return int(found)


def add_to_sum(connection: Connection, size: int) -> None:
    connection.execute("UPDATE cache_sum SET bytes = bytes + ?", (size,))


def test_accounts_that_store_at_once_do_not_mix(farebox: Farebox, customer: Customer) -> None:
    other = farebox.funded("5")
    set_gateway(other, cache_ttl=600)
    bodies = [CHAT | {"user": f"user {number}"} for number in range(8)]
    calls = [(whose, body) for body in bodies for whose in (customer, other)]
    with ThreadPoolExecutor(len(calls)) as at_once:
        for skip in ("false", "true"):  # the second round replaces all entries
            given = list(at_once.map(partial(post, cf_aig_skip_cache=skip), *zip(*calls, strict=True)))
            assert {status(response) for response in given} == {"MISS"}
            for whose in (customer, other):
                sizes = [size for _, size in stored(whose)]
                assert (len(sizes), sum(sizes)) == (len(bodies), total(whose))
    again = [post(*call) for call in calls]
    assert {status(response) for response in again} == {"HIT"}
    assert [response.content for response in again] == [response.content for response in given]


class Counted:
    """A connection that counts the statements it executes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.count = 0

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> Rows:
        self.count += 1
        return self._connection.execute(sql, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_many_responses_take_as_many_statements_as_one(farebox: Farebox, customer: Customer) -> None:
    store = Store(farebox)

    def count_of(responses: list[CachedResponse], most: int) -> int:
        def keep(connection: Connection) -> int:
            counted = Counted(connection)
            bucket = key_of(connection, customer.account_id).bucket
            keep_responses(counted, bucket, responses, most)
            return counted.count

        return farebox.run(farebox.services.database.write(keep))

    many = [store.entry(customer, number) for number in range(1, 32)]
    assert count_of([store.entry(customer, 0)], 2**30) == count_of(many, 2**30) == 4
    assert count_of([*many, *many], 2**30) == 4  # all are replaced, each twice; the last write wins
    assert (len(stored(customer)), total(customer)) == (32, 320_000)
    assert count_of(many, 160_000) == 8  # half of them have to be removed
    assert (len(stored(customer)), total(customer)) == (16, 160_000)


def test_an_emptied_cache_gives_nothing_and_is_deleted_in_steps(farebox: Farebox, customer: Customer) -> None:
    store, services = Store(farebox), farebox.services
    *old, late = [store.entry(customer, number) for number in range(251)]
    store.keep(old)
    assert (len(stored(customer)), store.has(customer, 1)) == (250, True)

    def empty(connection: Connection) -> None:
        found = find_gateway(connection, customer.account_id, "default")
        assert found is not None
        put_gateway(connection, found, empty_cache=True)

    farebox.run(services.database.write(empty))
    forget(farebox)
    assert (len(stored(customer)), store.has(customer, 1)) == (250, False)
    store.keep([old[0], late])  # from calls that began before the cache was emptied
    new = store.entry(customer, 7)
    store.keep([new])
    left = partial(forget_leftovers, account_id=customer.account_id, gateway_id="default")
    assert farebox.run(services.database.write(left)) is True
    assert len(stored(customer)) == 151
    farebox.run(periodic_jobs._forget_responses(services))
    assert stored(customer) == [("default", new.size)]
    assert (total(customer), store.has(customer, 7)) == (new.size, True)


def test_a_found_response_is_served_from_memory_for_a_second(
    farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = post(customer)
    assert len(stored(customer)) == 1
    assert status(post(customer)) == "HIT"

    def remove(connection: Connection) -> None:
        key = key_of(connection, customer.account_id)
        connection.execute(f"DELETE FROM cached_responses WHERE {OF_ACCOUNT}", key)

    with monkeypatch.context() as stands_still:
        now = CLOCK.now_ms()
        stands_still.setattr(CLOCK, "now_ms", lambda: now)
        assert status(post(customer)) == "HIT"
        farebox.run(farebox.services.database.write(remove))
        again = post(customer)
        assert (status(again), again.content) == ("HIT", first.content)
        new = post(customer, cf_aig_skip_cache="true")
        assert post(customer).content == new.content != first.content  # a newly stored response is used at once
        stored(customer)
        farebox.run(farebox.services.database.write(remove))
        now += 1_001
        assert status(post(customer)) == "MISS"


def test_memory_is_shared_fairly() -> None:
    memory: FairMemory[int, int] = FairMemory(20 * ENTRY_BYTES, 12 * ENTRY_BYTES)
    for number in range(4):
        memory.put("modest", number, number, 0)
    for number in range(100):
        memory.put("greedy", number, number, 0)
    assert [memory.get("greedy", number) for number in (87, 88)] == [None, 88]
    assert [memory.get("modest", number) for number in range(4)] == [0, 1, 2, 3]
    for number in range(8):
        memory.put("third", number, number, 0)
    assert memory.bytes == 20 * ENTRY_BYTES
    assert all(memory.get(whose, number) is not None for whose, number in (("greedy", 99), ("modest", 3), ("third", 7)))
    memory.put("modest", 3, 30, 12 * ENTRY_BYTES)  # larger than the whole share of the account
    assert memory.get("modest", 3) is None


def test_a_hit_needs_no_credit_and_works_with_the_official_sdk(farebox: Farebox) -> None:
    poor = farebox.funded("0.0002")
    set_gateway(poor, cache_ttl=600)
    base = f"{farebox.url}/v1/{poor.account_id}/default/openai"
    with openai.OpenAI(api_key=poor.token, base_url=base, max_retries=0) as client:
        asked = partial(client.chat.completions.create, model="gpt-4o-mini", messages=CHAT["messages"], max_tokens=50)
        first = asked()
        parts = [str(part) for part in asked(stream=True)]
        url, ours = f"{base}/chat/completions", {"authorization": f"Bearer {poor.token}", "cf-aig-skip-cache": "true"}
        until(lambda: http.post(url, json=CHAT | {"seed": 1}, headers=ours, timeout=120).status_code == 402)
        assert asked() == first
        assert [str(part) for part in asked(stream=True)] == parts
