"""The cache on a server that all gateways share: its content, who finds it, and that its failures do not affect
calls."""

import asyncio
import datetime
import ipaddress
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from farebox.clock import SystemClock
from farebox.metrics.families import SHARED_CACHE
from farebox.metrics.metrics import Metrics
from farebox.runtime.opening import _shared_cache
from farebox.settings import SettingsError, load
from farebox.storage.cached_responses import CacheBounds, CachedResponse
from farebox.storage.shared_responses import SharedResponses
from farebox.vault import Vault
from tests.calls.kit import caching, differences, set_gateway, set_provider
from tests.calls.test_cache import CHAT, STREAM, post, status
from tests.calls.test_repeated_hits import Repeater, emptied
from tests.clocks import Ahead
from tests.engines import read_now
from tests.http.support import GATEWAY_FIELDS, http
from tests.shared_cache.server import PASSWORD, PROGRAM, CacheServer, cache_server
from tests.support import Customer, Farebox, running_on
from tests.waiting import until

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no valkey-server or redis-server on the PATH")

CLOCK = Ahead()
VAULT = Vault(bytes(32))
BOUNDS = CacheBounds(100_000, 2**30)


@pytest.fixture(scope="module")
def server() -> Iterator[CacheServer]:
    with cache_server() as started:
        yield started


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def farebox(server: CacheServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    folder = tmp_path_factory.mktemp("shared")
    with running_on(uvloop.new_event_loop, CLOCK, folder, cache_url=server.url) as served:
        set_provider(served, "openai")
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return caching(farebox)


def forget_memory(farebox: Farebox) -> None:
    """Drop the responses that the process keeps in memory for a second, and wait until pending ones are stored."""
    until(lambda: not farebox.services.tasks.running("cached responses"))
    CLOCK.ahead_ms += 1_500


def test_responses_are_stored_there_encrypted_and_nowhere_else(
    server: CacheServer, farebox: Farebox, customer: Customer
) -> None:
    for body in (CHAT, STREAM):
        first = post(customer, body)
        forget_memory(farebox)
        again = post(customer, body)
        assert (status(first), status(again), again.content) == ("MISS", "HIT", first.content)
        assert again.headers["content-type"] == first.headers["content-type"]
    entries = server.entries()
    assert len(entries) == 2
    stored = b"".join((*entries, *entries.values()))
    assert not any(text in stored for text in (b"choices", b"text/event", customer.account_id.encode(), b"default"))
    assert read_now(farebox.services.database, lambda c: c.execute("SELECT 1 FROM cached_responses").fetchall()) == []
    assert all(0 < ttl <= 600_000 for ttl in ttls(server))

    other = farebox.funded("5")
    set_gateway(other, cache_ttl=600)
    assert status(post(other)) == "MISS"
    forget_memory(farebox)
    url = f"{customer.api_url}/ai-gateway/gateways/default"
    fields = GATEWAY_FIELDS | {"cache_ttl": 600, "cache_invalidate_on_update": True}
    assert http.put(url, json=fields, headers=customer.headers).status_code == 200
    assert (status(post(customer)), status(post(other))) == ("MISS", "HIT")
    assert differences(farebox) == []


def test_a_response_stored_before_the_cache_was_emptied_is_not_reused(farebox: Farebox, customer: Customer) -> None:
    """Not even on a connection on which it was a hit, although the shared cache still has it."""
    with closing(Repeater(customer)) as connection:
        before = connection.repeat()
        emptied(customer)
        forget_memory(farebox)
        asked = farebox.demo_stats()["requests"]
        after = connection.repeat()
        forget_memory(farebox)
        _, headers, body = connection.ask()
    assert (headers["cf-aig-cache-status"], body == before, body == after) == ("HIT", False, True)
    assert farebox.demo_stats()["requests"] == asked + 1


def ttls(server: CacheServer) -> list[int]:
    with server.client() as client:
        return [client.pttl(name) for name in client.keys("*")]


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_calls_continue_without_the_cache_and_it_is_used_again(
    server: CacheServer, farebox: Farebox, customer: Customer, how: str
) -> None:
    assert status(post(customer)) == "MISS"
    forget_memory(farebox)
    counted = counts(farebox)
    if how == "killed":
        server.stop()
    else:
        server.send(signal.SIGSTOP)
    answers = []
    for number in range(8):
        answers.append(status(post(customer, CHAT | {"seed": number})))
        forget_memory(farebox)
    assert answers == ["MISS"] * 8
    failed, skipped = (counts(farebox)[name] - counted[name] for name in ("failed", "skipped"))
    assert (failed, skipped) == (1, 15), "it is tried once, and then skipped for a while"
    if how == "killed":
        server.start()
    else:
        server.send(signal.SIGCONT)
    until(lambda: used_again(farebox, customer))
    assert differences(farebox) == []


def used_again(farebox: Farebox, customer: Customer) -> bool:
    post(customer)
    forget_memory(farebox)
    return status(post(customer)) == "HIT"


def counts(farebox: Farebox) -> dict[str, int]:
    place = farebox.services.metrics.place
    return {result: place.counter(SHARED_CACHE, result).value for result in ("failed", "skipped")}


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def store(server: CacheServer) -> AsyncIterator[SharedResponses]:
    with server.client() as client:
        client.flushall()
    opened = SharedResponses(server.url, VAULT, SystemClock(), lambda _: None)
    yield opened
    await opened.close()


def entry(account: str, number: int, body: bytes = b"x" * 9_488, seconds: int = 60) -> CachedResponse:
    """An entry of 10,000 bytes; entries with lower numbers expire sooner."""
    expires_at = SystemClock().now_ms() + seconds * 1000 + number
    return CachedResponse(account, "default", f"key{number}", expires_at, "text/plain; charset=utf-8", body)


async def found(store: SharedResponses, account: str, number: int) -> CachedResponse | None:
    return await store.find(account, "default", f"key{number}", SystemClock().now_ms())


async def test_an_account_has_its_bound_and_others_keep_theirs(server: CacheServer, store: SharedResponses) -> None:
    await store.keep([entry("modest", 1)], BOUNDS)
    await store.keep([entry("greedy", number) for number in range(12)], BOUNDS)
    assert [await found(store, "greedy", number) is not None for number in (0, 1, 2, 11)] == [False, False, True, True]
    kept = await found(store, "modest", 1)
    assert kept is not None
    assert (kept.content_type, kept.body) == ("text/plain; charset=utf-8", b"x" * 9_488)
    for _ in range(20):  # replacing the same entry repeatedly
        await store.keep([entry("modest", 2)], BOUNDS)
    assert await found(store, "modest", 1) is not None
    await store.keep([entry("short", number, seconds=1) for number in range(10)], BOUNDS)
    await asyncio.to_thread(until, lambda: len(server.entries()) == 12)  # those of "short" have expired
    await store.keep([entry("short", 20), entry("short", 21)], BOUNDS)
    assert await found(store, "short", 20) is not None, "expired entries do not count"


async def test_entries_cannot_be_forged_moved_or_kept_alive(server: CacheServer, store: SharedResponses) -> None:
    await store.keep([entry("a", 1, b"of a"), entry("b", 1, b"of b")], BOUNDS)
    (first, one), (second, other) = server.entries().items()
    with server.client() as client:
        client.mset({first: other, second: one})
        assert (await found(store, "a", 1), await found(store, "b", 1)) == (None, None)
        client.mset({first: one[:-1] + bytes([one[-1] ^ 1]), second: b"short"})
        assert (await found(store, "a", 1), await found(store, "b", 1)) == (None, None)
        client.mset({first: one, second: other})  # without an expiry
        assert await found(store, "a", 1) is not None
        assert await store.find("a", "default", "key1", SystemClock().now_ms() + 61_000) is None
    stranger = SharedResponses(server.url, Vault(b"1" * 32), SystemClock(), lambda _: None)
    assert await found(stranger, "a", 1) is None
    await stranger.close()


async def test_a_full_server_is_not_a_failure(server: CacheServer, store: SharedResponses) -> None:
    with server.client() as client:
        await store.keep([entry("a", 1)], BOUNDS)
        client.config_set("maxmemory", "1")
        try:
            await store.keep([entry("a", 2)], BOUNDS)
            assert await found(store, "a", 1) is not None
        finally:
            client.config_set("maxmemory", "0")
        await store.keep([entry("a", 2)], BOUNDS)
        assert await found(store, "a", 2) is not None


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cache")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "cache.crt", folder / "cache.key"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return public, private


async def test_tls_is_verified(tmp_path: Path) -> None:
    public, private = certificate(tmp_path)
    results: list[str] = []
    with cache_server("--tls-cert-file", str(public), "--tls-key-file", str(private)) as server:
        at = f"valkeys://:{PASSWORD}@127.0.0.1:{server.port}/0"
        for url, result in ((f"{at}?ssl_ca_certs={public}", "kept"), (at, "failed")):
            store = SharedResponses(url, VAULT, SystemClock(), results.append)
            await store.keep([entry("a", 1)], BOUNDS)
            assert results.pop() == result
            await store.close()


def test_its_setting_is_checked_and_its_client_loaded_only_for_it() -> None:
    for url in ("http://:secret@cache", "valkey:/cache", "valkey://:secret@cache:port"):
        with pytest.raises(SettingsError, match="FAREBOX_CACHE_URL") as refused:
            _shared_cache(AsyncExitStack(), load({}, cache_url=url), VAULT, CLOCK, Metrics())
        assert "secret" not in str(refused.value)
    loaded = "import json, sys, farebox.app; print(json.dumps('redis' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True)
    assert json.loads(done.stdout) is False
