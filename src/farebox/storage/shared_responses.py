"""Cached responses in a server with the Redis protocol (Valkey, Redis), which all gateways share.

Nothing there can be read, forged or moved without the secret key: names are keyed hashes, values are encrypted and
bound to their names. An account's entries are in one slot (`{…}` in their names), with a sorted set of their expiries
and a hash of their sizes, by which a script enforces the account's bound; the bound for all accounts is the server's
own `maxmemory`.

The server may be unavailable: after the first failure, no requests are sent to it until it has responded again, and
calls proceed as if nothing were stored.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from farebox import backoff
from farebox.clock import Clock
from farebox.storage.cached_responses import CacheBounds, CachedResponse
from farebox.vault import SecretUnreadable, Vault

SECONDS: Final = 0.25
"""Longest wait of a call for the server, once per call; also the timeout of a write, which no call waits for."""
CONNECTIONS_MAX: Final = 32
_PROBE_MS: Final = (500, 10_000)
_PREFIX: Final = "farebox:"
_NAME_CHARACTERS: Final = 40
_FAILURES: Final = (RedisError, OSError, TimeoutError)

_KEEP: Final = """
-- KEYS: the entry, the ends of the account's entries, their sizes. ARGV: name, value, size, end, now, most, prefix.
local total = tonumber(redis.call('HGET', KEYS[3], '') or '0')
local function forget(name)
    local size = redis.call('HGET', KEYS[3], name)
    if size then
        redis.call('HDEL', KEYS[3], name)
        total = total - tonumber(size)
    end
    redis.call('ZREM', KEYS[2], name)
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[5], 'LIMIT', 0, 100)) do
    forget(name)  -- it has ended by itself
end
forget(ARGV[1])
local ttl = tonumber(ARGV[4]) - tonumber(ARGV[5])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ttl)
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
total = total + tonumber(ARGV[3])
while total > tonumber(ARGV[6]) do
    local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
    if not first then  -- the server has evicted the set: what it had ends by itself
        redis.call('DEL', KEYS[3])
        total = 0
        break
    end
    redis.call('DEL', ARGV[7] .. first)
    forget(first)
end
redis.call('HSET', KEYS[3], '', total)
for _, key in ipairs({KEYS[2], KEYS[3]}) do
    redis.call('PEXPIRE', key, math.max(ttl, redis.call('PTTL', key)))
end
return total
"""

log = structlog.get_logger("farebox.cache")


class SharedResponses:
    """A runtime.response_cache.ResponseStore."""

    def __init__(self, url: str, vault: Vault, clock: Clock, count: Callable[[str], None]) -> None:
        """`count` is called with the result of each request: hit, miss, kept, failed or skipped. Raises ValueError if
        the URL cannot be used."""
        for ours, theirs in (("valkey://", "redis://"), ("valkeys://", "rediss://")):
            if url.startswith(ours):
                url = theirs + url.removeprefix(ours)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=SECONDS,
            socket_timeout=SECONDS,
            socket_connect_timeout=SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._client = Redis(connection_pool=pool)
        self._keep = self._client.register_script(_KEEP)
        self._vault = vault
        self._clock = clock
        self._count = count
        self._probe: asyncio.Task[None] | None = None
        self._refused = False
        """Whether the server refused the latest write, for example because it is full."""

    async def find(self, account_id: str, gateway_id: str, key: str, at: int) -> CachedResponse | None:
        name = self._prefix(account_id) + self._name(key)
        value = await self._ask(lambda: self._client.get(name))
        if not isinstance(value, bytes):
            return None
        response = self._opened(value, name, account_id, gateway_id, key)
        found = response is not None and response.expires_at > at
        self._count("hit" if found else "miss")
        return response if found else None

    async def keep(self, responses: Sequence[CachedResponse], bounds: CacheBounds) -> None:
        for response in responses:
            await self._ask(lambda one=response: self._store(one, bounds.account), kept=True)  # type: ignore[misc]

    def _store(self, response: CachedResponse, most: int) -> Awaitable[Any]:
        prefix, name = self._prefix(response.account_id), self._name(response.key)
        content_type = response.content_type.encode()
        content = b"%020d%05d" % (response.expires_at, len(content_type)) + content_type + response.body
        value = self._vault.seal(content, prefix + name)
        now = self._clock.now_ms()
        return self._keep(
            keys=[prefix + name, prefix + "ends", prefix + "sizes"],
            args=[name, value, response.size, max(response.expires_at, now + 1), now, most, prefix],
        )

    def _opened(self, value: bytes, name: str, account_id: str, gateway_id: str, key: str) -> CachedResponse | None:
        """The entry; None if this is not what a gateway has stored under the name."""
        try:
            content = self._vault.unseal(value, name)
        except SecretUnreadable:
            log.warning("an entry of the shared cache is not of this installation", account=account_id)
            return None
        length = int(content[20:25])
        content_type, body = content[25 : 25 + length].decode(), content[25 + length :]
        return CachedResponse(account_id, gateway_id, key, int(content[:20]), content_type, body)

    def _prefix(self, account_id: str) -> str:
        return f"{_PREFIX}{{{self._name('account ' + account_id)}}}:"

    def _name(self, text: str) -> str:
        return self._vault.sign("shared cache", text)[:_NAME_CHARACTERS]

    async def _ask(self, request: Callable[[], Awaitable[Any]], *, kept: bool = False) -> Any:
        """The server's response; None if there is none. Raises nothing."""
        if self._probe is not None:
            self._count("skipped")
            return None
        try:
            async with asyncio.timeout(SECONDS):
                answer = await request()
        except ResponseError as error:
            self._count("failed")
            if not self._refused:
                log.warning("the shared cache rejects requests", why=str(error))
            self._refused = True
            return None
        except _FAILURES as error:
            self._count("failed")
            self._note_failure(error)
            return None
        if kept:
            self._refused = False
            self._count("kept")
        elif answer is None:
            self._count("miss")
        return answer

    def _note_failure(self, error: BaseException) -> None:
        if self._probe is None:
            log.warning("the shared cache is unavailable", why=str(error) or type(error).__name__)
            self._probe = asyncio.get_running_loop().create_task(self._await_return())

    async def _await_return(self) -> None:
        attempt = 1
        while True:
            await self._clock.sleep(backoff.doubling(attempt, *_PROBE_MS) / 1000)
            attempt += 1
            try:
                async with asyncio.timeout(SECONDS):
                    await self._client.ping()
            except _FAILURES:
                continue
            log.info("the shared cache is back")
            self._probe = None
            return

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
        await self._client.aclose()
        await self._client.connection_pool.disconnect()
