"""Trouble with the key: whether a provider's error is about the key it was called with, or about the request.

Formats as documented by the providers or seen in public user reports (docs/operating.md names them). A code, type or
reason decides, wherever the error has it; a message only if the provider has nothing better, and then only its
beginning, because the rest may quote the request.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

import msgspec

Reason = Literal["key_refused", "no_credit"]


class KeyProblem(NamedTuple):
    """What is wrong with the key, or with its account at the provider."""

    reason: Reason
    code: str
    """The provider's own code for it, if there is one."""
    message: str


_KEY: Final = frozenset(
    [
        "access_terminated",
        "access_token_expired",
        "account_deactivated",
        "account_state_invalid",
        "api_key_expired",
        "api_key_http_referrer_blocked",
        "api_key_invalid",
        "api_key_ip_address_blocked",
        "api_key_service_blocked",
        "authentication_error",
        "consumer_invalid",
        "consumer_suspended",
        "incorrect_api_key",
        "invalid_api_key",
        "invalid_authentication",
        "invalid_organization",
        "mismatched_organization",
        "organization_restricted",
        "service_disabled",
        "unauthenticated",
        "wrong_api_key",
    ]
)
_CREDIT: Final = frozenset(
    [
        "billing_disabled",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "blocked_api_access",
        "credit_balance_exhausted",
        "enforced_spend_limit_reached",
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_quota",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "payment_required",
        "payment_required_error",
        "personal-team-blocked:spending-limit",
        "project_spend_limit_exceeded",
    ]
)
_NEURONS: Final = "4006"
"""Workers AI: the day's free allocation is used up."""
_KEY_MESSAGE: Final = re.compile(
    r"(incorrect|invalid|no) api[ _-]?key|api[ _-]?key (not valid|expired|not found|is (invalid|disabled))"
    r"|your api key was reported as leaked|permission denied: consumer"
    r"|(this )?organization has been (disabled|restricted)|your account is not active|invalid x-api-key"
    r"|authentication fails|invalid api token"
    r"|method doesn't allow unregistered callers"
    r"|the security token included in the request is (invalid|expired)|signature (expired|not yet current)"
    r"|the request signature we calculated does not match|(bearer token|api key) has expired",
    re.IGNORECASE,
)
_CREDIT_MESSAGE: Final = re.compile(
    r"your credit balance is too low|you have reached your specified (workspace )?api usage limits"
    r"|your (prepay|prepaid|prepayment) credits? (is|are) depleted|your project has exceeded its \w+ spending cap"
    r"|your team \S+ has either used all available credits|your newly created team doesn't have any credits"
    r"|you have run out of credits|billing hard limit|insufficient (balance|credits)"
    r"|this request requires more credits|more credits are required|key limit exceeded \(|key limit exceeded\. manage"
    r"|inactive subscription or usage limit|(aierror: )?you have used up your daily free allocation"
    r"|you are using a trial key",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[\w.:-]{1,80}").fullmatch
_DEEPEST: Final = 4


def key_problem_of(status: int, body: bytes) -> KeyProblem | None:
    """What the error says about the key; None if it is about the request, or unknown. `status` is that of the response,
    or 200 if the error is in the body of a successful one."""
    words, numbers, messages = _read(body)
    code = next((word for word in words if word.lower() in _CREDIT or word.lower() in _KEY), "")
    message = messages[0] if messages else ""
    if code:
        return KeyProblem("no_credit" if code.lower() in _CREDIT else "key_refused", code, message)
    code = next(filter(_WORD, words), "")
    if any(map(_CREDIT_MESSAGE.match, messages)) or _NEURONS in numbers:
        return KeyProblem("no_credit", code, message)
    if any(map(_KEY_MESSAGE.match, messages)):
        return KeyProblem("key_refused", code, message)
    stated = {str(status), *numbers} if status < 400 else {str(status)}
    if "402" in stated:
        return KeyProblem("no_credit", code, message)
    return KeyProblem("key_refused", code, message) if "401" in stated else None


def reports_error(event: bytes) -> bool:
    """Whether an event of a stream is about an error, rather than one that only quotes the word."""
    document = _decoded(event)
    inner = document.get("response") if isinstance(document, dict) else None
    failed = inner.get("status_details") if isinstance(inner, dict) else None  # of a Realtime session
    return any(isinstance(part, dict) and bool(part.get("error")) for part in (document, inner, failed))


def is_json(data: bytes) -> bool:
    """Whether this is one JSON document."""
    return _decoded(data) is not None


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _read(body: bytes) -> tuple[list[str], list[str], list[str]]:
    """Read an error's body: codes, types and reasons; numeric codes; messages."""
    words: list[str] = []
    numbers: list[str] = []
    messages: list[str] = []
    for name, value in _fields(_decoded(body), _DEEPEST):
        if isinstance(value, int):
            numbers.append(str(value))
        elif name in ("code", "type", "status", "reason", "error_code"):
            (numbers if value.isdigit() else words).append(value)
        else:
            messages.append(value.strip())
    return words, numbers, messages


def _fields(found: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The fields of an error that identify it, in whichever nesting a provider has them."""
    if isinstance(found, list) and depth:
        for item in found[:8]:
            yield from _fields(item, depth - 1)
    if not isinstance(found, dict) or not depth:
        return
    for name in ("code", "type", "status", "reason", "error_code", "message", "error", "detail"):
        value = found.get(name)
        if isinstance(value, str) or (name == "code" and type(value) is int):
            yield name, value
    for name in ("error", "errors", "details", "response", "status_details"):
        yield from _fields(found.get(name), depth - 1)
