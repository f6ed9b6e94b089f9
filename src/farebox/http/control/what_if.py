"""Farebox extension: what past calls would have cost under another limit, or with another model."""

import re
from typing import Annotated

import msgspec

from farebox.calls.what_if import what_if_run
from farebox.calls.what_if.replay import GROUPS, PERIOD_MAX_MS, LimitOf, Scenario
from farebox.calls.what_if.report import Report
from farebox.gateway import DEFAULT_GATEWAY, GATEWAY_ID, GATEWAY_ID_WORDS, SpendLimits
from farebox.http.control.spend_rules import faults, with_positions
from farebox.http.control.wire import Moment, iso, moment
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.http.validation import Fault, InvalidInput
from farebox.storage.what_ifs import WhatIfRow

MODELS_MAX = 50


class WhatIfCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`from` is included, `to` is not. At least one of the limits or `models` must say what is different."""

    from_: Moment = msgspec.field(name="from")
    to: Moment
    gateway_id: Annotated[str, msgspec.Meta(max_length=64, pattern=GATEWAY_ID, description=GATEWAY_ID_WORDS)] = (
        DEFAULT_GATEWAY
    )
    """The gateway whose calls `spend_limits` counts."""
    spend_limits: SpendLimits | None = None
    """In the form of a gateway's; their own `enabled` makes no difference."""
    spending_limit: LimitOf | None = None
    """The account's spending limit, with `amount` in cents."""
    models: dict[str, str] = {}
    """Called model → the model that answers instead: `provider/model`, or `dynamic/NAME` for the calls of a route."""
    by: Annotated[str, msgspec.Meta(max_length=80)] = "user"
    """The property that `groups` are formed by: `user`, `token` or `metadata.KEY`."""


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    state: str
    """`running`, `done`, `cancelled` or `failed`."""
    replayed: int
    """Calls replayed so far, of `total`."""
    total: int
    started_at: str
    report: Report | None
    """Null until the state is `done`."""


async def begin(request: Request, body: WhatIfCreate) -> Response:
    """Replay the account's calls; if that takes long, the state is `running`."""
    return ok(_shown(await what_if_run.begin(request.services, request.account_id, _scenario(request, body))))


async def get(request: Request, _: None) -> Response:
    return ok(_shown(await what_if_run.latest(request.services, request.account_id)))


async def cancel(request: Request, _: None) -> Response:
    return ok(_shown(await what_if_run.cancel(request.services, request.account_id)))


def _scenario(request: Request, body: WhatIfCreate) -> Scenario:
    start, end = moment(body.from_, "from", "body"), moment(body.to, "to", "body")
    assert start is not None
    assert end is not None
    limits = body.spend_limits or SpendLimits()
    found = faults(limits)
    if not 0 < end - start <= PERIOD_MAX_MS:
        found.append(Fault(("body", "to"), "Must be after `from`, and at most 366 days"))
    if not re.fullmatch(GROUPS, body.by):
        found.append(Fault(("body", "by"), "Expected 'user', 'token' or 'metadata.KEY'"))
    if not (limits.rules or body.spending_limit or body.models):
        found.append(Fault(("body",), "Expected spend_limits, spending_limit or models: what is different"))
    now = request.services.clock.now_ms()
    found += _models(request, body, now)
    if found:
        raise InvalidInput(found)
    return Scenario(
        start=start,
        end=end,
        gateway_id=body.gateway_id,
        rules=with_positions(limits).rules,
        limit=body.spending_limit,
        models=body.models,
        at=now,
        by=body.by,
    )


def _models(request: Request, body: WhatIfCreate, at: int) -> list[Fault]:
    """The faults in `models`."""
    if len(body.models) > MODELS_MAX:
        return [Fault(("body", "models"), f"At most {MODELS_MAX} models")]
    found = []
    prices = request.services.configuration.prices
    for called, answers in body.models.items():
        provider, _, model = answers.partition("/")
        if not all(called.partition("/")):
            found.append(Fault(("body", "models", called), "Expected provider/model or dynamic/NAME"))
        if not model or prices.find(request.account_id, provider, model, at) is None:
            found.append(Fault(("body", "models", called), f"'{answers[:64]}' is not a model with a price"))
    return found


def _shown(row: WhatIfRow) -> WhatIf:
    return WhatIf(
        id=row.what_if_id,
        state=row.state,
        replayed=row.replayed,
        total=row.total,
        started_at=iso(row.started_at),
        report=None if row.report is None else msgspec.json.decode(row.report, type=Report),
    )
