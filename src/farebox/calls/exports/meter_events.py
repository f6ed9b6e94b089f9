"""Report calls to accounts' own Stripe meters: an event for each paid call, by each template of its gateway.

Stripe recognizes a repeated event by its identifier, which is derived from the call: after a process dies, its events
are sent again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Final

import msgspec

from farebox.calls.exports.delivering import deliver_all, forget, log_failure, record_failure, record_success
from farebox.export_formats.stripe_event import METADATA, MeterEventForm, Template, ValueMissing, event_of, template_of
from farebox.gateway import GatewayConfig
from farebox.messages.send import UNREACHABLE
from farebox.metrics.families import METER_EVENTS
from farebox.runtime import outgoing
from farebox.runtime.gateway_secrets import unsealed
from farebox.runtime.outgoing import DeliveryResult
from farebox.runtime.services import Services
from farebox.storage.calls import CallRow
from farebox.storage.exports import GatewayKey, calls_waiting, find_state, mark_delivered
from farebox.storage.gateways import find_gateway
from farebox.storage.sql import Connection
from farebox.vault import SecretUnreadable

EVERY_MS: Final = 1_000
CALLS_AT_ONCE: Final = 100
EVENTS_AT_ONCE: Final = 8
"""Concurrent requests for one gateway; Stripe wants only one at a time for the same customer and meter."""
BUSY: Final = 409
"""Stripe is processing another event for the same customer and meter."""
_BUSY_PAUSES: Final = (0.2, 0.5, 1.0)
_PAUSE_SECONDS: Final = 0.05


class _StripeError(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""
    param: str = ""


class _ResponseError(msgspec.Struct, frozen=True):
    error: _StripeError = msgspec.field(default_factory=_StripeError)


@dataclass(frozen=True, slots=True)
class _Plan:
    key: str
    templates: Sequence[Template]
    calls: list[CallRow]


async def work(services: Services) -> None:
    """Send the events that wait. Any number of processes may run this at once."""
    await deliver_all(services, "meter", every_ms=EVERY_MS // 2, deliver=_deliver)


async def _deliver(services: Services, gateway: GatewayKey, until: float) -> bool:
    """Send everything that waits, until a failure. Returns whether there was none."""
    while services.clock.monotonic() < until:
        now = services.clock.now_ms()
        try:
            plan = await services.database.scan(partial(_plan, services=services, gateway=gateway, at=now))
        except SecretUnreadable as error:
            return await _fail(services, gateway, DeliveryResult(error=str(error)), str(error))
        if plan is None:
            return True
        if isinstance(plan, str):
            await forget(services, gateway, "meter", _PAUSE_SECONDS)
            return True
        if not plan.calls:
            return True
        done, failure = await _send_all(services, plan)
        if done:
            await services.database.write(partial(_done, gateway=gateway, log_ids=done, at=services.clock.now_ms()))
        if failure is not None:
            return await _fail(services, gateway, failure, _shown_error(failure))
    return True


def _plan(connection: Connection, services: Services, gateway: GatewayKey, at: int) -> _Plan | str | None:
    """What to send next. None: nothing yet. A string says why nothing more is to be sent. Raises SecretUnreadable."""
    row = find_gateway(connection, gateway.account_id, gateway.gateway_id)
    if row is None:
        return "there is no such gateway"
    config = msgspec.json.decode(row.config, type=GatewayConfig)
    if config.stripe is None:
        return "it is switched off"
    if find_state(connection, gateway, "meter").next_at > at:
        return None
    templates = [template_of(event.payload) for event in config.stripe.usage_events]
    calls = calls_waiting(connection, gateway, "meter", CALLS_AT_ONCE)
    return _Plan(unsealed(services.vault, row).stripe, templates, calls)


def _done(connection: Connection, gateway: GatewayKey, log_ids: Sequence[str], at: int) -> None:
    mark_delivered(connection, gateway, "meter", log_ids)
    record_success(connection, gateway, "meter", at)


async def _fail(services: Services, gateway: GatewayKey, sent: DeliveryResult, shown: str) -> bool:
    log_failure(gateway, "meter", sent.error)
    at = services.clock.now_ms()
    fail = partial(record_failure, gateway=gateway, kind="meter", error=shown, at=at, retry_after=sent.retry_after)
    await services.database.write(fail)
    return False


async def _send_all(services: Services, plan: _Plan) -> tuple[list[str], DeliveryResult | None]:
    """The IDs of the calls whose events have all been dealt with, and the first failure, if any; nothing is sent after
    a failure."""
    room, failures = asyncio.Semaphore(EVENTS_AT_ONCE), list[DeliveryResult]()
    turns: dict[tuple[str, str], asyncio.Lock] = {}

    async def of_call(call: CallRow) -> bool:
        values = _values(call)
        for number, template in enumerate(plan.templates):
            try:
                event = event_of(template, values)
            except ValueMissing:
                services.metrics.count(METER_EVENTS, "skipped")
                continue
            async with turns.setdefault((event.name, event.customer), asyncio.Lock()), room:
                if failures:
                    return False
                taken, sent = await _send(services, plan.key, event, f"{call.log_id}-{number}", call.created_at)
            if taken is None:
                failures.append(sent)
                return False
            services.metrics.count(METER_EVENTS, "sent" if taken else "rejected")
        return True

    ended = await asyncio.gather(*map(of_call, plan.calls))
    done = [call.log_id for call, whole in zip(plan.calls, ended, strict=True) if whole]
    return done, failures[0] if failures else None


async def _send(
    services: Services, key: str, event: MeterEventForm, identifier: str, at: int
) -> tuple[bool | None, DeliveryResult]:
    """Whether Stripe has accepted the event: False if it never will; None if it cannot at present."""
    headers = [
        ("authorization", f"Bearer {key}"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("user-agent", "Farebox-Meter/1"),
    ]
    url, body = f"{services.settings.stripe_api_base}/v1/billing/meter_events", event.form(identifier, at // 1000)
    sent = DeliveryResult()
    for pause in (*_BUSY_PAUSES, None):
        sent = await outgoing.send(services.upstream, services.clock, "POST", url, headers, body)
        if sent.status != BUSY or pause is None:
            break
        await services.clock.sleep(pause)
    if sent.ok:
        return True, sent
    if sent.status != 400:
        return None, sent
    error = _error(sent)
    if error.code == "duplicate_meter_event" or "already exists with identifier" in error.message:
        return True, sent  # by an attempt whose result was never received
    # An unknown meter name is an error in the configuration, which can be corrected: until then events wait.
    return (None if error.param == "event_name" or "meter found" in error.message else False), sent


def _error(sent: DeliveryResult) -> _StripeError:
    try:
        return msgspec.json.decode(sent.body, type=_ResponseError, strict=False).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _StripeError()


def _shown_error(sent: DeliveryResult) -> str:
    """The error shown to the owner: Stripe's own message, without anything about the key."""
    if not sent.status:
        return sent.error if sent.late else UNREACHABLE
    code = _error(sent).code
    return f"Stripe {sent.error}" + (f" ({code[:64]})" if code.isascii() and code else "")


def _values(call: CallRow) -> Mapping[str, str]:
    """The values of the template's variables."""
    read, write = call.detail.cached_tokens or (0, 0)
    metadata = {METADATA + key: _shown(value) for key, value in (call.detail.metadata or {}).items()}
    return {
        **metadata,
        "cost": _usd(call.cost),
        "charge": _usd(call.charge),
        "model": call.model,
        "provider": call.provider,
        "input_tokens": str(call.tokens_in or 0),
        "output_tokens": str(call.tokens_out or 0),
        "cached_read_tokens": str(read),
        "cached_write_tokens": str(write),
    }


def _shown(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _usd(nanos: int) -> str:
    """An amount in US dollars as a plain decimal."""
    return f"{Decimal(nanos).scaleb(-9).normalize():f}"
