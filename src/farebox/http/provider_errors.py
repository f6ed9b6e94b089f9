"""Errors of the data plane, in the format that the provider's SDK understands and with Cloudflare's gateway codes.

Every body has Cloudflare's fields (`success`, `errors`, `message`, `internalCode`, …). `error` is the object that the
provider's SDK shows. On the universal endpoint it has a form that all of them can read, since Cloudflare's
`ai-gateway-provider` passes it to the step's SDK; for the two errors that this package looks for itself, it is an
array, as at Cloudflare.

Clients that need special treatment:

- Codex (0.171) retries a 402 five times; a 429 ends its run at once, with its own message, except for a
  `usage_limit_reached`, with which it shows the text of one header.
- The SDKs of Cohere (7.3.1), Deepgram (7.17.0) and ElevenLabs (2.78.0) wait for `Retry-After`, up to a minute and
  twice, whatever `x-should-retry` says; fal's (Python 1.0.3) retries ten times in a minute, Replicate's (npm 1.4.0) six
  times at once. A limit for which waiting is useless is a 403 on their paths.
- Cohere's SDK treats no event of a stream as an error, only a connection that ends.
- Hugging Face's SDK (npm 4.13.30) repeats a 503 at once and endlessly: it gets a 502. If `error` is not text, it shows
  "[object Object]".
- OpenAI's SDK (Python 3.57.0) passes on an event of `type: "error"` like any other; an event with a field `error`
  raises. A Responses stream gets an event that has both.
- gemini-cli (0.61.0) repeats a 429 unless it names a daily quota. It treats no event of a stream as an error, only a
  chunk that is plain JSON, like older versions of Google's SDK for TypeScript.
- opencode (1.18.33) and Qwen Code (0.24.4) silently wait for `Retry-After`, even for a day: for them, such a limit is a
  403 without that header. Cline, Continue, pi, LlamaIndex and langchain-google-genai repeat a 429 whatever its headers
  and body say, and do not identify themselves: their users set the header `farebox-limit-status`. opencode and pi
  repeat any error with "rate limit" in its text or code, so these use other words then.
- Vercel's AI SDK (7.0.173) treats an event of a Responses stream as an error only if it has a `sequence_number`.
"""

import re
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import msgspec

from farebox.decoding import KNOWN
from farebox.errors import (
    CODING_UNKNOWN,
    CREDIT_HELD,
    DLP_RESPONSE_BLOCKED,
    GATEWAY_UNKNOWN,
    GIVEN_UP,
    INPUT_INVALID,
    INVALID_REQUEST,
    KEY_RATE_LIMITED,
    LIMIT_TOO_LOW,
    MODEL_NOT_FOUND,
    MODEL_UNPRICED,
    NO_CREDIT,
    PROMPT_BLOCKED,
    PROVIDER_UNAVAILABLE,
    RATE_LIMITED,
    RESPONSE_BLOCKED,
    RESPONSE_UNSCORED,
    RESPONSE_UNSCREENED,
    RUN_BLOCKED,
    SPEND_LIMITED,
    THREAD_REFUSED,
    TOKEN_RATE_LIMITED,
    TOKEN_REJECTED,
    UPSTREAM_INVALID,
    ErrorKind,
    Problem,
)
from farebox.http.exchange import HeaderList
from farebox.http.refusals import Pages, facts_of
from farebox.providers.formats.event_frames import frame

Form: TypeAlias = Literal[
    "openai",
    "responses",
    "codex",
    "anthropic",
    "google",
    "gemini-cli",
    "cohere",
    "workers",
    "run",
    "universal",
    "bedrock",
    "hugging-face",
]

DISCONNECTING: Final = ("cohere", "workers", "run")
"""Formats whose streams have no event that clients treat as an error."""
WAIT_MAX_SECONDS = 60
"""The longest `Retry-After` that clients are expected to wait for."""

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    424: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    503: "overloaded_error",
}
_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    424: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

_AMAZON_ERRORS = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    402: "ServiceQuotaExceededException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    413: "ValidationException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
    504: "ModelTimeoutException",
}
_LIMITS = (NO_CREDIT, LIMIT_TOO_LOW, SPEND_LIMITED, RATE_LIMITED, TOKEN_RATE_LIMITED, KEY_RATE_LIMITED, GIVEN_UP)
"""Limits that end a run of Codex, and a run of other clients if waiting is useless."""
_FINAL = {402, 400, 401, 403, 404, 413, 415, 422, 424, 426}
"""Statuses after which the same request cannot succeed: a header asks SDKs not to retry. The same applies to a limit
whose window lasts long, which the status alone does not show."""

_PLAIN_QUOTES = str.maketrans("“”’", '""\'')
"""Headers are ASCII."""
_FINAL_WITHOUT_TIME = (PROVIDER_UNAVAILABLE, RESPONSE_UNSCORED, RESPONSE_UNSCREENED)


def error_status(problem: Problem, form: Form, no_credit: str, *, waits: bool = False) -> int:
    """The status. `no_credit`: the setting of that name; `waits`: the client waits after every 429, however long."""
    if problem.kind in (NO_CREDIT, LIMIT_TOO_LOW) and (no_credit == "429" or (no_credit == "auto" and form == "codex")):
        return 429
    if problem.kind is CREDIT_HELD and form == "codex":
        return 503  # such a client asks again
    if problem.kind.status == 429 and waits and _hopeless(problem):
        return 403  # such a client would wait silently
    if problem.kind.status == 503 and form == "hugging-face":
        return 502  # such a client would ask again without a pause
    return problem.kind.status


def _hopeless(problem: Problem) -> bool:
    """Whether the same request would fail again for longer than anyone would wait."""
    if problem.retry_after is None:
        return problem.kind.status in _FINAL or problem.kind in _FINAL_WITHOUT_TIME
    return problem.retry_after > WAIT_MAX_SECONDS


def as_run(problem: Problem) -> Problem:
    """The problem in the form of `/ai/run`, which has its own codes for some kinds."""
    if problem.kind is MODEL_UNPRICED:
        return Problem(MODEL_NOT_FOUND, f"Model not found: {problem.message}")
    if problem.kind is INVALID_REQUEST:
        return Problem(INPUT_INVALID, f"Model execution failed (User Input Error): {problem.message}")
    if problem.kind in (PROMPT_BLOCKED, RESPONSE_BLOCKED):
        return Problem(RUN_BLOCKED, problem.message)
    return problem


def error_body(problem: Problem, form: Form, status: int, request_id: str, pages: Pages) -> bytes:
    """The complete response body."""
    kind, message = problem.kind, _words(problem, status)
    facts = facts_of(problem, pages)
    body: dict[str, Any] = {
        "message": message,  # first, because many SDKs show the raw body
        "detail": message,  # the field that the SDKs of fal, Replicate and Voyage show
        "error": _error(problem, form, status, facts),
        "success": False,
        "result": [],
        "messages": [],
        "errors": [{"code": kind.code, "message": message}],
        "name": "AiGatewayError",
        "httpCode": status,
        "internalCode": kind.code,
        "description": kind.remedy,
        "request_id": request_id,
        **facts,
    }
    if form in ("anthropic", "universal"):
        body["type"] = "error"
    return msgspec.json.encode(body)


def error_headers(problem: Problem, form: Form, status: int, *, waits: bool = False) -> HeaderList:
    headers = [("content-type", "application/json")]
    if form == "bedrock":
        headers.append(("x-amzn-errortype", _AMAZON_ERRORS.get(status, "InternalServerException")))
    if problem.retry_after is not None and not (waits and _hopeless(problem)):
        headers.append(("retry-after", str(problem.retry_after)))
    if status in _FINAL or problem.kind.status in _FINAL or _hopeless(problem):
        headers.append(("x-should-retry", "false"))
    if problem.kind is CODING_UNKNOWN:
        headers.append(("accept-encoding", KNOWN))
    if form == "codex" and problem.kind in _LIMITS:
        # Codex appends ", or try again later."
        words = problem.message.rstrip(".").translate(_PLAIN_QUOTES).encode("ascii", "replace").decode()
        headers.append(("x-codex-promo-message", " ".join(words.split())))
    return headers


_BY_RULES: Final = (DLP_RESPONSE_BLOCKED, RESPONSE_BLOCKED, RESPONSE_UNSCORED, RESPONSE_UNSCREENED)
"""Ends of a stream caused by the gateway's rules; all others are caused by the provider."""


def broken_event(problem: Problem, form: Form, after: bytes = b"") -> bytes:
    """The event that tells a stream's client that the stream broke off, in the provider's format. `after`: the last
    bytes sent."""
    message, blocked = problem.message, problem.kind in _BY_RULES
    kind = problem.kind if blocked else UPSTREAM_INVALID
    error: dict[str, Any] = {"message": message, "type": kind.name, "param": None, "code": kind.name}
    if blocked:
        error["internalCode"] = kind.code
    if form == "anthropic":
        named = _ANTHROPIC_TYPES.get(kind.status, "api_error")
        return _event("error", {"type": "error", "error": {"type": named, "message": message}})
    if form == "google":
        status = _GOOGLE_STATUSES.get(kind.status, "UNAVAILABLE")
        return _event("", {"error": {"code": kind.status, "message": message, "status": status}})
    if form == "gemini-cli":  # as Google's servers do: plain JSON without a line end
        return broken_event(problem, "google").removeprefix(b"data: ").rstrip()
    if form in ("responses", "codex"):
        numbers = _NUMBER.findall(after)
        number = int(numbers[-1]) + 1 if numbers else 0
        flat = {"type": "error", "sequence_number": number, "code": error["code"], "message": message, "param": None}
        response = {"object": "response", "status": "failed", "error": {"code": "server_error", "message": message}}
        failed = {"type": "response.failed", "sequence_number": number + 1, "response": response}
        return _event("error", {**flat, "error": error}) + _event("response.failed", failed)
    if form == "bedrock":
        kinds = {":message-type": "exception", ":exception-type": "modelStreamErrorException"}
        return frame({**kinds, ":content-type": "application/json"}, msgspec.json.encode({"message": message, **error}))
    if form == "cohere":
        return _event("message-end", {"type": "message-end", "delta": {"finish_reason": "ERROR", "error": message}})
    return _event("", {"error": error})


_NUMBER: Final = re.compile(rb'"sequence_number": ?([0-9]{1,9})\b')
"""The sequence number as OpenAI writes it in every event of a Responses stream."""


def _event(name: str, data: object) -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"


def _error(problem: Problem, form: Form, status: int, facts: dict[str, Any]) -> Any:
    kind, message = problem.kind, _words(problem, status)
    named = _named(kind, status)
    if form == "universal":
        if kind in (GATEWAY_UNKNOWN, TOKEN_REJECTED):
            return [{"code": kind.code, "message": message, "type": kind.name}]
        grpc = _GOOGLE_STATUSES.get(status, "INTERNAL")
        return {"message": message, "type": named, "code": kind.code, "param": None, "status": grpc, **facts}
    if form == "anthropic":
        error = {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": message, "code": kind.code}
        return error | _THREAD_DETAILS if kind is THREAD_REFUSED else error
    if form in ("google", "gemini-cli"):
        grpc = _GOOGLE_STATUSES.get(status, "INTERNAL")
        return {"code": status, "message": message, "status": grpc, "details": _google_details(problem, status, facts)}
    if form == "hugging-face":
        return message
    if form == "codex" and kind in _LIMITS:
        return {"message": message, "type": "usage_limit_reached", "code": named, "param": None}
    return {"message": message, "type": named, "code": named, "param": None, "internalCode": kind.code, **facts}


_THREAD_DETAILS: Final = {"details": {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}}
"""By this, the tool runner of Anthropic's SDKs sends the request again without a thread."""


def _text(fact: Any) -> str:
    return f"{Decimal(str(fact)):f}" if isinstance(fact, float) else str(fact)


def _google_details(problem: Problem, status: int, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """`google.rpc` details. A daily quota tells clients that waiting is useless: otherwise gemini-cli retries."""
    kind, found = problem.kind, list[dict[str, Any]]()
    metadata = {"code": str(kind.code), **{name: _text(value) for name, value in facts.items()}}
    found.append({"@type": f"{_RPC}ErrorInfo", "reason": kind.name.upper(), "domain": "farebox", "metadata": metadata})
    if kind in _LIMITS and _hopeless(problem):
        violation = {"quotaId": f"{kind.name}PerDay", "subject": problem.kind.name, "description": problem.message}
        found.append({"@type": f"{_RPC}QuotaFailure", "violations": [violation]})
    if problem.retry_after is not None:
        found.append({"@type": f"{_RPC}RetryInfo", "retryDelay": f"{problem.retry_after}s"})
    return found


_RPC: Final = "type.googleapis.com/google.rpc."


def _named(kind: ErrorKind, status: int) -> str:
    """The name of the error: OpenAI's own word tells clients that credit is used up and this is not a rate limit."""
    if kind is NO_CREDIT:
        return "insufficient_quota"
    return "limit_reached" if _is_final_limit(kind, status) else kind.name


def _words(problem: Problem, status: int) -> str:
    message = problem.message
    return message.replace("Rate limited", "Limit reached") if _is_final_limit(problem.kind, status) else message


def _is_final_limit(kind: ErrorKind, status: int) -> bool:
    """Whether this is a limit, for a client that would retry a 429 and any error that contains "rate limit"."""
    return status == 403 and kind.status == 429
