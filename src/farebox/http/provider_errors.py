"""Errors of the data plane, in the format that the provider's SDK understands and with Cloudflare's gateway codes.

Cloudflare returns `{"success": false, "error": [{code, message}], …}` with `error` an array; OpenAI's SDKs accept that.
Anthropic's and Google's SDKs read an object under `error`, so their paths get that object, with the same code in it.

Codex is a special case (seen with 0.171): it retries a 402 five times; a 429 ends its run at once, with its own
message, except for a `usage_limit_reached`, with which it shows the text of one header. So that is what it gets.
"""

from typing import Any, Literal, TypeAlias

import msgspec

from farebox.decoding import KNOWN
from farebox.errors import (
    CODING_UNKNOWN,
    CREDIT_HELD,
    GIVEN_UP,
    NO_CREDIT,
    PROVIDER_UNAVAILABLE,
    RATE_LIMITED,
    SPEND_LIMITED,
    ErrorKind,
    Problem,
)
from farebox.http.exchange import HeaderList

Form: TypeAlias = Literal["openai", "anthropic", "google", "codex"]

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

_LIMITS = (NO_CREDIT, SPEND_LIMITED, RATE_LIMITED, GIVEN_UP)
"""What ends a run of Codex."""
_FINAL = {402, 400, 401, 403, 404, 413, 415, 426}
"""Statuses after which the same request cannot succeed: SDKs are instructed not to retry. Nor can it while a spending
limit's window lasts, whose status alone does not say so."""

_FINAL_WITHOUT_TIME = (SPEND_LIMITED, PROVIDER_UNAVAILABLE)


def error_status(problem: Problem, form: Form, no_credit: str) -> int:
    """The status. `no_credit`: the setting of that name."""
    if problem.kind is NO_CREDIT and (no_credit == "429" or (no_credit == "auto" and form == "codex")):
        return 429
    if problem.kind is CREDIT_HELD and form == "codex":
        return 503  # it asks again
    return problem.kind.status


def error_body(problem: Problem, form: Form, status: int, request_id: str) -> bytes:
    """The whole body."""
    kind = problem.kind
    body: dict[str, Any] = {
        "success": False,
        "result": [],
        "messages": [],
        "error": _error(kind, problem.message, form, status),
        "name": "AiGatewayError",
        "httpCode": status,
        "internalCode": kind.code,
        "message": problem.message,
        "description": kind.remedy,
        "request_id": request_id,
    }
    if form == "anthropic":
        body["type"] = "error"
    return msgspec.json.encode(body)


def error_headers(problem: Problem, form: Form) -> HeaderList:
    headers = [("content-type", "application/json")]
    if problem.retry_after is not None:
        headers.append(("retry-after", str(problem.retry_after)))
    if problem.kind.status in _FINAL or (problem.kind in _FINAL_WITHOUT_TIME and problem.retry_after is None):
        headers.append(("x-should-retry", "false"))
    if problem.kind is CODING_UNKNOWN:
        headers.append(("accept-encoding", KNOWN))
    if form == "codex" and problem.kind in _LIMITS:
        # It goes on with ", or try again later."
        words = problem.message.rstrip(".").encode("ascii", "replace").decode()
        headers.append(("x-codex-promo-message", " ".join(words.split())))
    return headers


def broken_event(message: str, form: Form) -> bytes:
    """An event that reports to a stream's reader that the stream broke off, as the provider would."""
    if form == "anthropic":
        error = {"type": "error", "error": {"type": "api_error", "message": message}}
        return b"event: error\ndata: " + msgspec.json.encode(error) + b"\n\n"
    if form == "google":
        error = {"error": {"code": 502, "message": message, "status": "UNAVAILABLE"}}
    else:
        error = {"error": {"message": message, "type": "upstream_invalid", "param": None, "code": "upstream_invalid"}}
    return b"data: " + msgspec.json.encode(error) + b"\n\n"


def _error(kind: ErrorKind, message: str, form: Form, status: int) -> Any:
    if form == "codex":
        named = "usage_limit_reached" if kind in _LIMITS else kind.name
        return {"message": message, "type": named, "code": _openai_code(kind), "param": None}
    if form == "anthropic":
        return {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": message, "code": kind.code}
    if form == "google":
        return {
            "code": status,
            "message": message,
            "status": _GOOGLE_STATUSES.get(status, "INTERNAL"),
            "details": [{"reason": kind.name, "code": kind.code}],
        }
    if (
        kind is NO_CREDIT and status == 429
    ):  # clients distinguish it from a rate limit by OpenAI's own word, in its own form
        return {"message": message, "type": _openai_code(kind), "code": _openai_code(kind), "param": None}
    return [{"code": kind.code, "message": message, "type": kind.name}]


def _openai_code(kind: ErrorKind) -> str:
    return "insufficient_quota" if kind is NO_CREDIT else kind.name
