"""Errors of the data plane, in the shape that the provider's SDK understands and with Cloudflare's gateway codes.

Cloudflare answers `{"success": false, "error": [{code, message}], …}` with `error` an array; OpenAI's SDKs take that.
Anthropic's and Google's SDKs read an object under `error`, so their paths get that object, with the same code in it.
"""

from typing import Any, Literal, TypeAlias

import msgspec

from farebox.errors import PROVIDER_UNAVAILABLE, SPEND_LIMITED, ErrorKind, Problem

Form: TypeAlias = Literal["openai", "anthropic", "google"]

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    503: "overloaded_error",
}
_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

_FINAL = {402, 400, 401, 403, 404, 413}
"""Statuses after which the same request cannot succeed: SDKs are told not to retry. Nor can it while a spending limit's
window lasts, whose status alone does not say so."""

_FINAL_WITHOUT_TIME = (SPEND_LIMITED, PROVIDER_UNAVAILABLE)


def error_body(problem: Problem, form: Form, request_id: str) -> bytes:
    """The whole body."""
    kind = problem.kind
    body: dict[str, Any] = {
        "success": False,
        "result": [],
        "messages": [],
        "error": _error(kind, problem.message, form),
        "name": "AiGatewayError",
        "httpCode": kind.status,
        "internalCode": kind.code,
        "message": problem.message,
        "description": kind.remedy,
        "request_id": request_id,
    }
    if form == "anthropic":
        body["type"] = "error"
    return msgspec.json.encode(body)


def error_headers(problem: Problem) -> list[tuple[str, str]]:
    headers = [("content-type", "application/json")]
    if problem.retry_after is not None:
        headers.append(("retry-after", str(problem.retry_after)))
    if problem.kind.status in _FINAL or (problem.kind in _FINAL_WITHOUT_TIME and problem.retry_after is None):
        headers.append(("x-should-retry", "false"))
    return headers


def broken_event(message: str, form: Form) -> bytes:
    """An event that tells a stream's reader that the stream broke off, as the provider would."""
    if form == "anthropic":
        error = {"type": "error", "error": {"type": "api_error", "message": message}}
        return b"event: error\ndata: " + msgspec.json.encode(error) + b"\n\n"
    if form == "google":
        error = {"error": {"code": 502, "message": message, "status": "UNAVAILABLE"}}
    else:
        error = {"error": {"message": message, "type": "upstream_invalid", "param": None, "code": "upstream_invalid"}}
    return b"data: " + msgspec.json.encode(error) + b"\n\n"


def _error(kind: ErrorKind, message: str, form: Form) -> Any:
    if form == "anthropic":
        return {"type": _ANTHROPIC_TYPES.get(kind.status, "api_error"), "message": message, "code": kind.code}
    if form == "google":
        return {
            "code": kind.status,
            "message": message,
            "status": _GOOGLE_STATUSES.get(kind.status, "INTERNAL"),
            "details": [{"reason": kind.name, "code": kind.code}],
        }
    return [{"code": kind.code, "message": message, "type": kind.name}]
