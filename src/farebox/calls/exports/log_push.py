"""Push the logs of gateways to their accounts' destinations, as files.

A file's content is fixed before it is sent: its calls and its name are stored with the gateway's state, and its calls
are marked as delivered only once the receiver has it. So if a process dies, the same file is sent again under the same
name.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec

from farebox.calendar import SECOND_MS
from farebox.calls.exports.delivering import deliver_all, forget, log_failure, record_failure, record_success
from farebox.errors import KEY_RATE_LIMITED, RATE_LIMITED
from farebox.export_formats.log_lines import LogLine, file_of, public_key
from farebox.gateway import GatewayConfig
from farebox.log_destination import DestinationSecrets, LogDestination, destination_place
from farebox.messages.send import UNREACHABLE
from farebox.metrics.families import LOG_FILES, LOGS_PUSHED
from farebox.money import nanos_to_usd
from farebox.pricing.stored_receipt import whole
from farebox.runtime import outgoing
from farebox.runtime.outgoing import DeliveryResult
from farebox.runtime.services import Services
from farebox.storage.calls import CallRow, ReceiptRow
from farebox.storage.exports import (
    GatewayKey,
    find_state,
    logged_call,
    mark_delivered,
    put_state,
    sizes_waiting,
)
from farebox.storage.gateways import find_gateway
from farebox.storage.log_destinations import DestinationRow, find_destination
from farebox.storage.sql import Connection
from farebox.vault import SecretUnreadable

EVERY_SECONDS: Final = 30
"""How long logs are collected before they are pushed."""
FILE_LOGS: Final = 1_000
FILE_BYTES: Final = 8 * 2**20
"""Maximum bytes of bodies in a file, exceeded by at most one log."""
SEND_SECONDS: Final = 60.0
_MARKED_AT_ONCE: Final = 250
_PAUSE_SECONDS: Final = 0.05
_ENCODER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="farebox-logs")
_error_code = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>").search


class _Batch(msgspec.Struct, frozen=True):
    """The file being delivered, as it is stored."""

    name: str
    log_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to send, and where."""

    config: GatewayConfig
    destination: DestinationRow
    batch: _Batch


async def work(services: Services) -> None:
    """Push the logs that wait. Any number of processes may run this at once."""
    await deliver_all(services, "push", every_ms=EVERY_SECONDS * SECOND_MS // 2, deliver=_push)


async def _push(services: Services, gateway: GatewayKey, until: float) -> bool:
    """Push one file after another, until none is left or one fails. Returns whether none failed."""
    while services.clock.monotonic() < until:
        plan = await services.database.write(partial(_plan, gateway=gateway, at=services.clock.now_ms()))
        if plan is None:
            return True
        if isinstance(plan, str):
            await forget(services, gateway, "push", _PAUSE_SECONDS)
            return True
        calls = await services.database.scan(partial(_read, gateway=gateway, log_ids=plan.batch.log_ids))
        sent = await _send(services, gateway, plan, calls) if calls else DeliveryResult(200)
        if not sent.ok:
            services.metrics.count(LOG_FILES, "failed")
            log_failure(gateway, "push", sent.error)
            at, shown = services.clock.now_ms(), _shown_error(sent)
            fail = partial(
                record_failure, gateway=gateway, kind="push", error=shown, at=at, retry_after=sent.retry_after
            )
            await services.database.write(fail)
            return False
        await _delivered(services, gateway, plan.batch)
        services.metrics.count(LOG_FILES, "pushed")
        services.metrics.count(LOGS_PUSHED, amount=len(calls))
    return True


def _plan(connection: Connection, gateway: GatewayKey, at: int) -> _Plan | str | None:
    """The file to send now: the one under way, else the next one. None: nothing to send, or not yet. A string says why
    nothing more is to be sent for the gateway."""
    account_id = gateway.account_id
    row, destination = (
        find_gateway(connection, account_id, gateway.gateway_id),
        find_destination(connection, account_id),
    )
    if row is None or destination is None:
        return "there is no such gateway, or no destination"
    config = msgspec.json.decode(row.config, type=GatewayConfig)
    if not config.logpush:
        return "it is switched off"
    state = find_state(connection, gateway, "push")
    if state.next_at > at:
        return None
    if state.batch:
        return _Plan(config, destination, msgspec.json.decode(state.batch, type=_Batch))
    batch = _next_batch(gateway, sizes_waiting(connection, gateway, FILE_LOGS))
    if batch is None:
        return None
    put_state(connection, gateway.account_id, replace(state, batch=msgspec.json.encode(batch).decode()))
    return _Plan(config, destination, batch)


def _next_batch(gateway: GatewayKey, waiting: list[tuple[str, int, int]]) -> _Batch | None:
    """The oldest waiting calls that fit into a file. The file's name has the time when the first of them began, and a
    hash of their IDs."""
    log_ids: list[str] = []
    total = 0
    for log_id, _, size in waiting:
        total += size
        if log_ids and total > FILE_BYTES:
            break
        log_ids.append(log_id)
    if not log_ids:
        return None
    began = datetime.fromtimestamp(waiting[0][1] // 1000, UTC)
    digest = hashlib.sha256("\n".join(log_ids).encode()).hexdigest()[:16]
    return _Batch(f"{gateway.gateway_id}/{began:%Y%m%d}/{began:%Y%m%dT%H%M%SZ}_{digest}.log.gz", log_ids)


def _read(connection: Connection, gateway: GatewayKey, log_ids: Sequence[str]) -> list[CallRow]:
    """The calls of a file, without those that have since been removed from the log."""
    found = (logged_call(connection, gateway, log_id) for log_id in log_ids)
    return [call for call in found if call is not None]


async def _delivered(services: Services, gateway: GatewayKey, batch: _Batch) -> None:
    """Mark the file's calls as delivered. The file counts as under way until all of them are marked."""
    for start in range(0, len(batch.log_ids), _MARKED_AT_ONCE):
        some = batch.log_ids[start : start + _MARKED_AT_ONCE]
        await services.database.write(partial(mark_delivered, gateway=gateway, kind="push", log_ids=some))
    at = services.clock.now_ms()
    await services.database.write(partial(_finish, gateway=gateway, batch=batch, at=at))


def _finish(connection: Connection, gateway: GatewayKey, batch: _Batch, at: int) -> None:
    """End the delivery of this file, but not of another one that was begun by a process that took this one for dead."""
    state = find_state(connection, gateway, "push")
    mine = not state.batch or msgspec.json.decode(state.batch, type=_Batch).name == batch.name
    record_success(connection, gateway, "push", at, batch="" if mine else state.batch)


async def _send(services: Services, gateway: GatewayKey, plan: _Plan, calls: list[CallRow]) -> DeliveryResult:
    loop, row = asyncio.get_running_loop(), plan.destination
    destination = msgspec.json.decode(row.config, type=LogDestination)
    try:
        secrets = _secrets(services, gateway, row)
    except SecretUnreadable as error:
        return DeliveryResult(error=str(error))
    body = await loop.run_in_executor(_ENCODER, _encoded, calls, plan.config.logpush_public_key)
    if destination.type == "http":
        headers = [
            ("content-type", "application/x-ndjson"),
            ("content-encoding", "gzip"),
            ("user-agent", "Farebox-Logpush/1"),
            ("farebox-file", plan.batch.name),
            *secrets.headers.items(),
        ]
        return await outgoing.send(
            services.exports, services.clock, "POST", destination.url, headers, body, seconds=SEND_SECONDS
        )
    signed = partial(_signed, destination, secrets, f"{destination.prefix}{plan.batch.name}", body)
    url, headers = await loop.run_in_executor(_ENCODER, signed)
    return await outgoing.send(services.exports, services.clock, "PUT", url, headers, body, seconds=SEND_SECONDS)


def _secrets(services: Services, gateway: GatewayKey, row: DestinationRow) -> DestinationSecrets:
    text = services.vault.decrypt(row.sealed, destination_place(gateway.account_id))
    return msgspec.json.decode(text, type=DestinationSecrets)


def _encoded(calls: list[CallRow], key: str | None) -> bytes:
    """Runs on the encoder's thread."""
    return file_of(map(line_of, calls), None if key is None else public_key(key))


def _signed(
    destination: LogDestination, secrets: DestinationSecrets, name: str, body: bytes
) -> tuple[str, list[tuple[str, str]]]:
    """Runs on the encoder's thread, which loads botocore."""
    from farebox.export_formats.s3 import put_request

    return put_request(
        destination.url,
        destination.bucket,
        destination.region,
        destination.access_key_id,
        secrets.secret_access_key,
        name,
        [("content-type", "application/gzip"), ("user-agent", "Farebox-Logpush/1")],
        body,
    )


def _shown_error(sent: DeliveryResult) -> str:
    """The error shown to the owner, without details of the server's network."""
    if not sent.status:
        return sent.error if sent.late else UNREACHABLE
    code = _error_code(sent.body)
    return sent.error if code is None else f"{sent.error} ({code[1].decode()})"


def line_of(call: CallRow) -> LogLine:
    """The line of one call: Cloudflare's fields, and under `Farebox` everything else that the log has."""
    at, detail = datetime.fromtimestamp(call.created_at // 1000, UTC), call.detail
    fields: Mapping[str, Any] = {
        "Timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.{call.created_at % 1000:03d}Z",
        "Gateway": call.gateway_id,
        "Provider": call.provider,
        "Model": call.model,
        "RequestedModel": _requested_model(call),
        "Endpoint": detail.path,
        "StatusCode": call.status_code,
        "Cached": detail.cached,
        "RateLimited": detail.error.startswith((RATE_LIMITED.name, KEY_RATE_LIMITED.name)),
        "Metrics": {
            "cost": nanos_to_usd(call.cost),
            "durationMs": call.duration,
            "tokensIn": call.tokens_in,
            "tokensOut": call.tokens_out,
        },
        "Farebox": {
            "id": call.log_id,
            "outcome": detail.outcome,
            "error": detail.error,
            "cost_nanos": call.cost,
            "charge_nanos": call.charge,
            "step": detail.step,
            "route": detail.route,
            "event_id": detail.event_id,
        },
    }
    return LogLine(fields, detail.metadata or {}, call.request_body, call.response_body)


def _requested_model(call: CallRow) -> str:
    if call.receipt is None:
        return call.model
    stored = ReceiptRow(
        call.receipt,
        call.account_id,
        call.log_id,
        call.gateway_id,
        call.provider,
        call.model,
        call.detail.outcome,
        call.cost,
        call.charge,
    )
    return whole(stored).model
