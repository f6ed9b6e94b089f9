"""Logs: the outcome of each call. `cost` is in US dollars, `duration` in milliseconds, as in Cloudflare's API."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import msgspec

from farebox.calls import logs
from farebox.errors import not_found
from farebox.gateway import Action
from farebox.http.control.log_query import LOGS_PER_PAGE_MAX, LogsQuery, LogsToDelete, delete_query, log_query
from farebox.http.control.wire import iso
from farebox.http.envelope import Response, ok, page, plain
from farebox.http.request import Request
from farebox.http.validation import Fault, InvalidInput
from farebox.model import METADATA_ENTRIES_MAX, METADATA_RESERVED
from farebox.money import nanos_to_usd
from farebox.screened import DlpFinding, HazardFinding
from farebox.storage.call_reports import LogExtremes
from farebox.storage.calls import CallDetail, CallRow

HEAD_BYTES = 4_096
"""Bytes of a stored body that a log's detail shows."""


class Charged(msgspec.Struct, frozen=True):
    """Farebox's own: what the account paid, in nano-dollars, and why. The receipt has the rest."""

    charge_nanos: int
    outcome: str
    error: str
    first_byte_ms: int | None
    route: str | msgspec.UnsetType = msgspec.UNSET
    """The dynamic route that chose the model, if one did."""


class Classified(msgspec.Struct, frozen=True):
    """The call's task, and how well its model fits it."""

    task: str
    model_fit: str


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """One call. `cost` is what the provider bills for it; what the account paid is in `farebox`."""

    id: str
    created_at: str
    provider: str
    model: str
    model_type: str = ""
    path: str
    duration: int
    success: bool
    cached: bool = False
    tokens_in: int | None
    tokens_out: int | None
    cost: float
    custom_cost: bool
    status_code: int
    step: int
    request_type: str
    request_content_type: str
    response_content_type: str
    event_id: str
    metadata: Mapping[str, str | int | float | bool] | msgspec.UnsetType = msgspec.UNSET
    authentication: bool
    feedback: float | None
    score: float | None
    wholesale: bool
    """Whether the call was paid from the account's credit; false: with the caller's own provider key, or a stored
    one."""
    byok: str | msgspec.UnsetType = msgspec.UNSET
    """The alias of the stored key that was used; absent if none was."""
    dlp_action: Action | msgspec.UnsetType = msgspec.UNSET
    """The strongest action of data loss prevention; like the next three fields, absent if it found nothing."""
    dlp_findings: tuple[DlpFinding, ...] | msgspec.UnsetType = msgspec.UNSET
    guardrails: tuple[HazardFinding, ...] | msgspec.UnsetType = msgspec.UNSET
    unscreened: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    """Parts to which the gateway's rules could not be applied, and why."""
    classification: Classified | msgspec.UnsetType = msgspec.UNSET
    """The operator's classifier's result; absent if it was not asked."""
    farebox: Charged


class LogDetail(Log, frozen=True, kw_only=True):
    """A call with the beginnings of its stored bodies, which are absent if they were not stored."""

    request_size: int
    response_size: int
    request_head: str | msgspec.UnsetType = msgspec.UNSET
    request_head_complete: bool | msgspec.UnsetType = msgspec.UNSET
    response_head: str | msgspec.UnsetType = msgspec.UNSET
    response_head_complete: bool | msgspec.UnsetType = msgspec.UNSET


class LogChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Annotations of a call. A field that is not sent stays as it is; null removes it."""

    feedback: Annotated[float, msgspec.Meta(ge=-1, le=1)] | msgspec.UnsetType | None = msgspec.UNSET
    score: Annotated[float, msgspec.Meta(ge=0, le=100)] | msgspec.UnsetType | None = msgspec.UNSET
    metadata: dict[str, str | int | float | bool] | msgspec.UnsetType | None = msgspec.UNSET
    """Replaces the metadata of the call."""


class Deleted(msgspec.Struct, frozen=True):
    success: bool


class LogsInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`result_info` of a list of logs; the extremes are included with `meta_info=true`, and cover all pages."""

    page: int
    per_page: int
    count: int
    total_count: int
    min_cost: float | msgspec.UnsetType = msgspec.UNSET
    max_cost: float | msgspec.UnsetType = msgspec.UNSET
    min_tokens_in: int | msgspec.UnsetType = msgspec.UNSET
    max_tokens_in: int | msgspec.UnsetType = msgspec.UNSET
    min_tokens_out: int | msgspec.UnsetType = msgspec.UNSET
    max_tokens_out: int | msgspec.UnsetType = msgspec.UNSET
    min_total_tokens: int | msgspec.UnsetType = msgspec.UNSET
    max_total_tokens: int | msgspec.UnsetType = msgspec.UNSET
    min_duration: int | msgspec.UnsetType = msgspec.UNSET
    max_duration: int | msgspec.UnsetType = msgspec.UNSET


async def list_logs(request: Request, query: LogsQuery) -> Response:
    wanted = log_query(query, request.query_pairs())
    found = await logs.page(request.services, request.account_id, request.path["gateway_id"], wanted)
    window = query.window(LOGS_PER_PAGE_MAX)
    info = LogsInfo(
        page=window.page,
        per_page=window.per_page,
        count=len(found.calls),
        total_count=found.total,
        **(_extremes(found.extremes) if found.extremes else {}),
    )
    return page([_log(call) for call in found.calls], window.page, window.per_page, found.total, info)


async def get_log(request: Request, _: None) -> Response:
    call = await _call(request)
    detail = LogDetail(
        **msgspec.structs.asdict(_log(call)),
        request_size=call.detail.request_size,
        response_size=call.detail.response_size,
        **_head("request", call.request_body),
        **_head("response", call.response_body),
    )
    return ok(detail)


async def edit_log(request: Request, body: LogChange) -> Response:
    changes = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not msgspec.UNSET}
    _check_metadata(changes.get("metadata"))
    changed = partial(_changed, changes=changes)
    account_id, gateway_id, log_id = request.account_id, request.path["gateway_id"], request.path["log_id"]
    return ok(_log(await logs.edit(request.services, account_id, gateway_id, log_id, changed)))


async def delete_logs(request: Request, query: LogsToDelete) -> Response:
    wanted = delete_query(query, request.query_pairs())
    await logs.delete(request.services, request.account_id, request.path["gateway_id"], wanted)
    return plain(Deleted(success=True))


def _check_metadata(metadata: dict[str, Any] | None) -> None:
    """Raises InvalidInput."""
    faults = [
        Fault(("body", "metadata", key), f"Keys that begin with '{METADATA_RESERVED}' are reserved")
        for key in metadata or ()
        if key.startswith(METADATA_RESERVED)
    ]
    if metadata is not None and len(metadata) > METADATA_ENTRIES_MAX:
        faults.append(Fault(("body", "metadata"), f"Metadata has at most {METADATA_ENTRIES_MAX} entries"))
    if faults:
        raise InvalidInput(faults)


def _changed(detail: CallDetail, changes: dict[str, Any]) -> CallDetail:
    return msgspec.structs.replace(detail, **changes)


async def get_request(request: Request, _: None) -> Response:
    call = await _call(request)
    return _body(call.request_body, call.detail.request_content_type)


async def get_response(request: Request, _: None) -> Response:
    call = await _call(request)
    return _body(call.response_body, call.detail.response_content_type)


async def _call(request: Request) -> CallRow:
    return await logs.one(request.services, request.account_id, request.path["gateway_id"], request.path["log_id"])


def _log(call: CallRow) -> Log:
    detail = call.detail
    return Log(
        id=call.log_id,
        created_at=iso(call.created_at),
        provider=call.provider,
        model=call.model,
        path=detail.path,
        duration=call.duration,
        success=call.success,
        cached=detail.cached,
        tokens_in=call.tokens_in,
        tokens_out=call.tokens_out,
        cost=nanos_to_usd(call.cost),
        custom_cost=detail.custom_cost,
        status_code=call.status_code,
        step=detail.step,
        request_type=detail.request_type,
        request_content_type=detail.request_content_type,
        response_content_type=detail.response_content_type,
        event_id=detail.event_id,
        metadata=detail.metadata or msgspec.UNSET,
        feedback=detail.feedback,
        score=detail.score,
        authentication=detail.authenticated,
        wholesale=not detail.own_key,
        byok=detail.key_alias or msgspec.UNSET,
        **_screened(detail),
        classification=Classified(detail.task, detail.model_fit) if detail.task else msgspec.UNSET,
        farebox=Charged(call.charge, detail.outcome, detail.error, detail.first_byte_ms, detail.route or msgspec.UNSET),
    )


def _screened(detail: CallDetail) -> dict[str, Any]:
    """The screening results, if there are any."""
    found = detail.screened
    if found is None:
        return {}
    fields = {
        "dlp_action": detail.dlp_action,
        "dlp_findings": found.dlp,
        "guardrails": found.guardrails,
        "unscreened": found.unscreened,
    }
    return {name: value for name, value in fields.items() if value}


def _extremes(extremes: LogExtremes) -> dict[str, Any]:
    figures = {
        "cost": (nanos_to_usd(extremes.cost[0]), nanos_to_usd(extremes.cost[1])),
        "tokens_in": extremes.tokens_in,
        "tokens_out": extremes.tokens_out,
        "total_tokens": extremes.total_tokens,
        "duration": extremes.duration,
    }
    return {f"{end}_{name}": pair[at] for name, pair in figures.items() for at, end in enumerate(("min", "max"))}


def _head(name: str, body: bytes | None) -> dict[str, Any]:
    if body is None:
        return {}
    return {
        f"{name}_head": body[:HEAD_BYTES].decode(errors="replace"),
        f"{name}_head_complete": len(body) <= HEAD_BYTES,
    }


_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; *[\w-]+=[\w.\"-]+)*")
_INERT = (("content-security-policy", "default-src 'none'; sandbox"), ("x-content-type-options", "nosniff"))
"""A stored body is untrusted text: a browser that opens it must not execute it."""


def _body(body: bytes | None, content_type: str) -> Response:
    if body is None:
        raise not_found()
    media_type = content_type if _MEDIA_TYPE.fullmatch(content_type) else "application/octet-stream"
    return Response(body, content_type=media_type, headers=_INERT)
