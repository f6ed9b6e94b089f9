"""Ask the operator's classifier about the calls of gateways with `log_classification`, and store its answers with their
log rows."""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from farebox.calendar import HOUR_MS
from farebox.calls.exports.delivering import deliver_all, forget, log_failure, record_failure, record_success
from farebox.gateway import GatewayConfig
from farebox.metrics.families import CLASSIFIED
from farebox.runtime.classifier import BODY_BYTES_MAX, UNKNOWN, Classification, ClassifierFailed, Question
from farebox.runtime.services import Services
from farebox.storage.calls import CallDetail, CallRow, edit_log
from farebox.storage.exports import GatewayKey, calls_waiting, find_state, logged_call, mark_delivered
from farebox.storage.gateways import find_gateway
from farebox.storage.sql import Connection

EVERY_MS: Final = 1_000
CALLS_AT_ONCE: Final = 4
GIVE_UP_MS: Final = 6 * HOUR_MS
"""A call that the classifier could not assess for this long is skipped, so that later calls are assessed."""
_PAUSE_SECONDS: Final = 0.05
_FAILED: Final = "the server's classifier does not answer"


@dataclass(frozen=True, slots=True)
class _Plan:
    waiting: list[str]
    calls: list[CallRow]
    """The waiting calls that are still in the log."""


async def work(services: Services) -> None:
    """Classify the calls that wait. Any number of processes may run this at once."""
    await deliver_all(services, "classify", every_ms=EVERY_MS // 2, deliver=_classify)


async def _classify(services: Services, gateway: GatewayKey, until: float) -> bool:
    """Classify everything that waits, until a failure. Returns whether there was none."""
    while services.clock.monotonic() < until:
        plan = await services.database.scan(partial(_plan, gateway=gateway, at=services.clock.now_ms()))
        if plan is None or (not isinstance(plan, str) and not plan.waiting):
            return True
        if isinstance(plan, str):
            await forget(services, gateway, "classify", _PAUSE_SECONDS)
            return True
        answers = await asyncio.gather(*(_answer(services, call) for call in plan.calls))
        found: dict[str, Classification | None] = dict.fromkeys(plan.waiting)
        failures = []
        for call, answer in zip(plan.calls, answers, strict=True):
            if isinstance(answer, Classification):
                found[call.log_id] = answer
            else:
                failures.append(answer)
                del found[call.log_id]
        at = services.clock.now_ms()
        await services.database.write(partial(_keep, gateway=gateway, found=found, at=at))
        if failures:
            log_failure(gateway, "classify", failures[0])
            await services.database.write(
                partial(record_failure, gateway=gateway, kind="classify", error=_FAILED, at=at)
            )
            return False
    return True


def _plan(connection: Connection, gateway: GatewayKey, at: int) -> _Plan | str | None:
    """What to ask next. None: nothing yet. A string says why the gateway's calls are not to be classified any more."""
    row = find_gateway(connection, gateway.account_id, gateway.gateway_id)
    if row is None:
        return "there is no such gateway"
    if not msgspec.json.decode(row.config, type=GatewayConfig).log_classification:
        return "it is switched off"
    if find_state(connection, gateway, "classify").next_at > at:
        return None
    waiting = [call.log_id for call in calls_waiting(connection, gateway, "classify", CALLS_AT_ONCE)]
    found = (logged_call(connection, gateway, log_id) for log_id in waiting)
    return _Plan(waiting, [call for call in found if call is not None])


async def _answer(services: Services, call: CallRow) -> Classification | str:
    """The classifier's assessment of the call, or a string that says why it could not be asked."""
    try:
        if services.classifier is None:
            raise ClassifierFailed("FAREBOX_CLASSIFIER_URL is empty")
        found = await services.classifier.classify(_question(call))
    except ClassifierFailed as failure:
        if call.created_at >= services.clock.now_ms() - GIVE_UP_MS:
            services.metrics.count(CLASSIFIED, "failed")
            return str(failure)
        found = None
    services.metrics.count(CLASSIFIED, "unknown" if found is None else "classified")
    return found or UNKNOWN


def _keep(connection: Connection, gateway: GatewayKey, found: dict[str, Classification | None], at: int) -> None:
    """Store the assessments. None stands for a call that is no longer in the log."""
    for log_id, answer in found.items():
        if answer is not None:
            changed = partial(_changed, answer=answer)
            edit_log(connection, gateway.account_id, gateway.gateway_id, log_id, changed)
    mark_delivered(connection, gateway, "classify", list(found))
    if found:
        record_success(connection, gateway, "classify", at)


def _changed(detail: CallDetail, answer: Classification) -> CallDetail:
    return msgspec.structs.replace(detail, task=answer.task, model_fit=answer.model_fit)


def _question(call: CallRow) -> Question:
    return Question(
        account=call.account_id,
        gateway=call.gateway_id,
        provider=call.provider,
        model=call.model,
        tokens_in=call.tokens_in,
        tokens_out=call.tokens_out,
        metadata=dict(call.detail.metadata or {}),
        request=_text(call.request_body),
        response=_text(call.response_body),
    )


def _text(body: bytes | None) -> str:
    return (body or b"")[:BODY_BYTES_MAX].decode("utf-8", "replace")
