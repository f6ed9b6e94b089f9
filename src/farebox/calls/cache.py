"""A gateway's cache: an identical request of the same account and gateway gets the stored response.

The key is a hash of who pays, where the request goes and what it contains. A hit is free: nothing is held, charged or
counted in a spend limit. Only complete responses are stored, after their calls were settled.
"""

import hashlib
from typing import Final

import msgspec

from farebox.calls.buffered_response import FREE
from farebox.calls.coalescing import response_of_another
from farebox.calls.envelope import in_envelope
from farebox.calls.hit_records import write_soon
from farebox.calls.logged_body import LoggedBody
from farebox.calls.logs import with_room
from farebox.calls.model import CacheUse, Call, Sink
from farebox.calls.record import CallRecord
from farebox.calls.screening.screen import screening_of
from farebox.calls.settle import end_hit
from farebox.calls.stages import Responded
from farebox.calls.watch import Watch
from farebox.memory_files import Body
from farebox.metrics.families import CACHE_LOOKUPS
from farebox.providers.formats.base import Observed
from farebox.providers.provider import CALLER_KEY_HEADERS
from farebox.runtime.observers import best_effort
from farebox.runtime.response_cache import RecalledRequest
from farebox.runtime.services import Services
from farebox.storage.cached_responses import CachedResponse, generation_prefix
from farebox.storage.sql import DatabaseUnavailable

REQUEST_MAX: Final = 256 * 2**10
"""Requests with larger bodies are neither looked up nor stored: reading them takes too long on the event loop."""
RESPONSE_MAX: Final = 2**20
_MEANT = ("anthropic-", "openai-", "x-goog-", "x-amzn-bedrock-", "x-vertex-ai-")
"""Request headers with these prefixes affect the provider's response, so they are part of the key."""


def is_cacheable(body: Body) -> bool:
    return isinstance(body, bytes) and len(body) <= REQUEST_MAX


async def cached_response(services: Services, call: Call, watch: Watch) -> CachedResponse | None:
    """The response stored for the call, or that of an identical call under way. None if there is none, none is wanted,
    or it cannot be read now. Raises Interrupted if the caller disconnects while waiting for another call's response."""
    use, cache, found = call.cache, services.response_cache, None
    if use is None:
        return None
    if not use.skip:
        known = bool(use.name)
        key = key_of(call, use)
        found = cache.in_memory(call.account_id, key, call.started_at)
        try:
            found = found or await cache.find(call.account_id, call.gateway_id, key, call.started_at)
        except DatabaseUnavailable as error:
            services.database.report_failure(error)
        if found is None and use.coalesce:
            # The call may have completed after the store was asked.
            found = await response_of_another(cache, key, watch) or cache.in_memory(
                call.account_id, key, services.clock.now_ms()
            )
        elif found is not None and not known and use.body and use.read is not None:
            cache.learn(call.account_id, use.scope, use.body, RecalledRequest(use.read, key))
    services.metrics.count(CACHE_LOOKUPS, "miss" if found is None else "hit")
    return found


async def serve_hit(services: Services, call: Call, sink: Sink, watch: Watch, found: CachedResponse) -> None:
    """Answer the call with the response `found`, unless a rule of the gateway blocks it, and write its record soon.
    Raises Problem, Interrupted, DatabaseUnavailable."""
    if call.gateway.log_management_strategy == "STOP_INSERTING":
        call = await with_room(services, call)
    screening = await screening_of(services, call, sink, watch) if call.gateway.screens else None
    if screening is None:
        await write_soon(services, answer_hit(services, call, sink, found))
        return
    logged, began = _logged(services, call, found), services.clock.monotonic()
    blocked = await screening.hit(found.body, logged.response_type)
    if blocked is None:
        _respond(call, sink, found)
    duration_ms = round((services.clock.monotonic() - began) * 1000)
    await write_soon(services, end_hit(services, call, logged, duration_ms, screening.findings, blocked))
    if blocked is not None:
        raise blocked


def answer_hit(services: Services, call: Call, sink: Sink, found: CachedResponse) -> CallRecord:
    """Answer the call with the response `found`, if no rule of the gateway screens its content. The caller must still
    write the returned record."""
    _respond(call, sink, found)
    return end_hit(services, call, _logged(services, call, found))


def _respond(call: Call, sink: Sink, found: CachedResponse) -> None:
    headers = [("content-type", found.content_type)] if found.content_type else []
    sink.respond(200, headers, in_envelope(call, 200, found.body))


def _logged(services: Services, call: Call, found: CachedResponse) -> LoggedBody:
    logged = LoggedBody(
        services.settings.log_body_limit_bytes if call.logged and call.log_bodies else -1,
        found.content_type.partition(";")[0].strip().lower(),
    )
    logged.keep(found.body)
    return logged


def scope_of(call: Call, use: CacheUse) -> bytes:
    """A hash of the request's head, for the current generation of the cache: after the cache is emptied, what was
    remembered of earlier requests is no longer found."""
    if use.key:  # the response must still be in a format that the caller reads
        parts = [b"own", use.key.encode(), call.format.name.encode() if call.format else b""]
    else:
        meant = sorted(
            (name, value) for name, value in call.headers if name.startswith(_MEANT) and name not in CALLER_KEY_HEADERS
        )
        parts = [
            b"computed",
            call.provider.encode(),
            call.url.encode(),
            msgspec.json.encode(meant),
            call.content_type.encode(),
        ]
    digest = hashlib.sha256()
    generation = generation_prefix(use.generation).encode()
    for part in (call.account_id.encode(), call.gateway_id.encode(), generation, _payer(call), *parts):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


def key_of(call: Call, use: CacheUse) -> str:
    """The key under which the response of a call that uses the cache is stored."""
    if not use.name:
        stream = call.parsed is not None and call.parsed.stream
        body = b"01"[stream : stream + 1] if use.key else _canonical(call.small_body)
        use.name = generation_prefix(use.generation) + hashlib.sha256(use.scope + body).hexdigest()
    return use.name


def _payer(call: Call) -> bytes:
    """Who pays: `credit`, or a hash of the account's own keys, which must not be kept themselves."""
    if not call.own_key:
        return b"credit"
    keys = sorted(value for name, value in call.headers if name in CALLER_KEY_HEADERS)
    return hashlib.sha256("\0".join((*keys, *call.callers_keys, *call.secrets)).encode()).digest()


def _canonical(body: bytes) -> bytes:
    """JSON without spaces and with sorted keys, regardless of its declared type (curl's `-d` declares a form); anything
    else unchanged."""
    try:
        return msgspec.json.encode(msgspec.json.decode(body), order="deterministic")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return body


def remember(stage: Responded, observed: Observed, headers: list[tuple[str, str]], body: bytes) -> None:
    """Store the response of a settled call, if it may be reused. Raises nothing."""
    call, services = stage.context.call, stage.context.services
    with best_effort("the cache"):
        use = call.cache
        if use is None or not _whole(stage, observed) or len(body) > RESPONSE_MAX:
            return
        named = dict(headers)
        if "content-encoding" in named:
            return
        services.response_cache.add(
            CachedResponse(
                call.account_id,
                call.gateway_id,
                key_of(call, use),
                services.clock.now_ms() + use.ttl_seconds * 1000,
                named.get("content-type", ""),
                body,
            ),
            services.clock.now_ms(),
        )


def _whole(stage: Responded, observed: Observed) -> bool:
    """Whether the response is complete: not empty, and not shortened for lack of credit."""
    limited = stage.held is not None and stage.held.output_limit is not None
    whole = observed.complete and not observed.failed and not observed.empty
    return stage.response.status == 200 and whole and not limited


class Recording:
    """Collects what is sent of a stream, so that it can be stored; discards it if it becomes too large."""

    __slots__ = ("_chunks", "_size", "_stage")

    def __init__(self, stage: Responded) -> None:
        self._stage = stage
        self._chunks: list[bytes] | None = []
        self._size = 0

    def keep(self, chunk: bytes) -> None:
        if self._chunks is None:
            return
        self._size += len(chunk)
        if self._size > RESPONSE_MAX or (self._size > FREE and not self._stage.context.sink.keep(len(chunk))):
            self.drop()
        else:
            self._chunks.append(chunk)

    def drop(self) -> None:
        self._chunks = None

    def end(self, observed: Observed, headers: list[tuple[str, str]], last: list[bytes]) -> None:
        """Store the response, which is complete and ends with `last`. Raises nothing."""
        with best_effort("the cache"):
            if self._chunks is not None:
                remember(self._stage, observed, headers, b"".join((*self._chunks, *last)))
