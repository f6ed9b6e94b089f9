"""The purposes of calls: `log_classification` of gateways, and the classifier's results for their calls."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec

from farebox.calendar import DAY_MS
from farebox.calls.logs import check_gateway
from farebox.gateway import GatewayConfig
from farebox.http.control.wire import moment
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.http.validation import Fault, invalid
from farebox.money import nanos_to_usd
from farebox.runtime.classifier import Classifier, ModelFit
from farebox.storage.call_reports import classified_calls

_DAYS: Final = 31


def faults(given: Mapping[str, Any], classifier: Classifier | None) -> list[Fault]:
    """The faults in the fields that were sent."""
    if not given.get("log_classification"):
        return []
    if classifier is None:
        message = (
            "Log classification needs a classifier, and this server has none: the operator can set "
            "FAREBOX_CLASSIFIER_URL (docs/observability.md)"
        )
        return [Fault(("body", "log_classification"), message)]
    if given.get("collect_logs") is False:
        return [
            Fault(("body", "log_classification"), "It requires 'collect_logs': only stored bodies can be classified")
        ]
    return []


def with_classification_off(config: GatewayConfig, given: Mapping[str, Any]) -> GatewayConfig:
    """The configuration with classification switched off if logs are off, which it needs. Raises InvalidInput if
    classification was requested for a gateway without logs."""
    if config.collect_logs or not config.log_classification:
        return config
    if given.get("log_classification"):
        raise invalid("It needs 'collect_logs', which is off: switch both on", "body", "log_classification")
    return msgspec.structs.replace(config, log_classification=False)


class TasksQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Calls that began at or after `start` and before `end`; by default the last 31 days."""

    start: str | None = None
    end: str | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """The calls of one model with the same task and the same fit. `cost` is what the provider bills for them, in US
    dollars."""

    provider: str
    model: str
    task: str
    model_fit: ModelFit
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float


async def tasks(request: Request, query: TasksQuery) -> Response:
    """Tasks sorted by cost, highest first."""
    account_id, gateway_id = request.account_id, request.path["gateway_id"]
    await check_gateway(request.services, account_id, gateway_id)
    now = request.services.clock.now_ms()
    end = moment(query.end, "end")
    start = moment(query.start, "start")
    read = partial(
        classified_calls,
        account_id=account_id,
        gateway_id=gateway_id,
        start=now - _DAYS * DAY_MS if start is None else start,
        end=now + 1 if end is None else end,
    )
    return ok([_task(found) for found in await request.services.database.scan(read)])


def _task(found: tuple[str, str, str, str, int, int, int, int]) -> Task:
    provider, model, task, fit, calls, tokens_in, tokens_out, cost = found
    return Task(
        provider=provider,
        model=model,
        task=task,
        model_fit=msgspec.convert(fit, ModelFit),
        calls=calls,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cost=nanos_to_usd(cost),
    )
