"""Send waiting spans in batches: one request at a time to each destination, repeated if that may help.

Destinations that fail get only a part of the places for concurrent requests, so that the spans of the others go on.
"""

import asyncio
import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import structlog

from farebox import backoff
from farebox.export_formats.spans import Span
from farebox.metrics.families import SPANS
from farebox.runtime import outgoing
from farebox.runtime.gateway_secrets import Exporter
from farebox.runtime.observers import best_effort
from farebox.runtime.outgoing import DeliveryResult
from farebox.runtime.services import Services
from farebox.runtime.span_queue import Destination, Key

AT_ONCE_MAX: Final = 32
FAILING_AT_ONCE_MAX: Final = 16
ACCOUNT_AT_ONCE_MAX: Final = 4
ATTEMPTS_MAX: Final = 10
"""Attempts for one batch before it is given up. With the pauses between them, that takes about six minutes."""
_PAUSES_MS: Final = (1_000, 60_000)
FLUSH_SECONDS: Final = 3.0

log = structlog.get_logger("farebox.spans")

_ENCODER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="farebox-otlp")
_TASK: Final = "spans"


async def work(services: Services) -> None:
    """Start the deliveries that are due, without waiting for them."""
    _begin(services, services.clock.monotonic())


async def flush(services: Services) -> None:
    """Called when the process ends: wait for the deliveries under way, then make one last attempt for everything, all
    within a short time. What is not sent by then is lost."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_SECONDS):
            await _ended(services)
            _begin(services, float("inf"))
            await _ended(services)
    for key in _under_way(services):
        services.tasks.begin((_TASK, key), partial(_deliver, services, key)).cancel()
    for destination in list(services.spans.destinations.values()):
        _give_up(services, destination, list(destination.spans), "dropped", "the server stops")


async def _ended(services: Services) -> None:
    """Wait for the deliveries under way."""
    tasks = [services.tasks.begin((_TASK, key), partial(_deliver, services, key)) for key in _under_way(services)]
    if tasks:
        await asyncio.wait(tasks)


def _begin(services: Services, now: float) -> None:
    running = _under_way(services)
    of_account = Counter(key[0] for key in running)
    failing = sum(1 for key in running if services.spans.destinations[key].failures)
    free = AT_ONCE_MAX - len(running)
    due = [item for item in services.spans.destinations.values() if item.not_before <= now and item.key not in running]
    for destination in sorted(due, key=lambda item: item.failures):
        if free == 0:
            return
        if not destination.spans:
            services.spans.forget(destination)
            continue
        account_id = destination.key[0]
        if of_account[account_id] >= ACCOUNT_AT_ONCE_MAX or (destination.failures and failing >= FAILING_AT_ONCE_MAX):
            continue
        free -= 1
        of_account[account_id] += 1
        failing += bool(destination.failures)
        services.tasks.begin((_TASK, destination.key), partial(_deliver, services, destination.key))


def _under_way(services: Services) -> set[Key]:
    return {key for key in services.spans.destinations if services.tasks.running((_TASK, key))}


async def _deliver(services: Services, key: Key) -> None:
    """Send one batch after another until none is left, or one fails."""
    destination = services.spans.destinations[key]
    destination.not_before = services.clock.monotonic() + _PAUSES_MS[0] / 1000  # in case this ends with an exception
    with best_effort("spans"):
        while destination.spans:
            exporter = (await services.configuration.exporters(key[0], key[1])).get(key[2])
            if exporter is None or exporter.unusable:
                why = "the gateway no longer sends there" if exporter is None else exporter.unusable
                _give_up(services, destination, list(destination.spans), "dropped", why)
                return
            batch = destination.batch()
            sent, rejected = await _send(services, exporter, batch)
            if not sent.ok:
                _failed(services, destination, batch, sent)
                return
            destination.failures = destination.attempts = 0
            services.spans.remove(destination, batch)
            services.metrics.count(SPANS, "delivered", amount=len(batch) - rejected)
            services.metrics.count(SPANS, "rejected", amount=rejected)
        destination.not_before = 0.0


def _failed(services: Services, destination: Destination, batch: list[Span], sent: DeliveryResult) -> None:
    """Schedule the batch for another attempt, unless the receiver rejects it permanently or it was sent too often."""
    destination.failures += 1
    destination.attempts += 1
    if sent.status and sent.status not in outgoing.TO_REPEAT:
        _give_up(services, destination, batch, "rejected", sent.error)
    elif destination.attempts >= ATTEMPTS_MAX:
        _give_up(services, destination, batch, "dropped", sent.error)
    elif destination.failures == 1:
        _warn("spans not delivered yet", destination, len(batch), sent.error)
    pause = backoff.doubling(destination.failures, *_PAUSES_MS) / 1000
    destination.not_before = services.clock.monotonic() + max(pause, sent.retry_after)


async def _send(services: Services, exporter: Exporter, batch: list[Span]) -> tuple[DeliveryResult, int]:
    """The result, and how many of the spans the receiver rejected although it accepted the request."""
    encoding = exporter.exporter.content_type
    loop = asyncio.get_running_loop()
    body, content_type = await loop.run_in_executor(_ENCODER, _encoded, batch, services.instance, encoding)
    headers = [("content-type", content_type), ("user-agent", "Farebox-OTLP/1"), *exporter.headers]
    sent = await outgoing.send(services.exports, services.clock, "POST", exporter.url, headers, body)
    if not sent.ok or not sent.body:
        return sent, 0
    rejected, why = await loop.run_in_executor(_ENCODER, _rejected, sent.body, encoding)
    if rejected or why:
        log.warning("spans rejected", host=_host(exporter.url), spans=rejected, why=why[:200])
    return sent, min(max(rejected, 0), len(batch))


def _encoded(batch: list[Span], instance: str, encoding: str) -> tuple[bytes, str]:
    """Runs on the encoder's thread, which loads protobuf."""
    from farebox.export_formats import otlp

    chosen: otlp.Encoding = "protobuf" if encoding == "protobuf" else "json"
    return otlp.encoded(batch, instance, chosen), otlp.CONTENT_TYPES[chosen]


def _rejected(body: bytes, encoding: str) -> tuple[int, str]:
    from farebox.export_formats import otlp

    return otlp.rejected(body, "protobuf" if encoding == "protobuf" else "json")


def _give_up(services: Services, destination: Destination, spans: list[Span], result: str, why: str) -> None:
    destination.attempts = 0
    services.spans.remove(destination, spans)
    services.metrics.count(SPANS, result, amount=len(spans))
    if spans:
        _warn("spans given up", destination, len(spans), why)


def _warn(event: str, destination: Destination, spans: int, why: str) -> None:
    account_id, gateway_id, url = destination.key
    log.warning(event, account=account_id, gateway=gateway_id, host=_host(url), spans=spans, why=why)


def _host(url: str) -> str:
    """The only part of a URL that is logged: its query may be a credential."""
    return urlsplit(url).netloc
