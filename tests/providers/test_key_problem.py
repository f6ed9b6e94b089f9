"""Which errors are about the key. The formats are those that providers document or users report; texts that do not
matter are invented."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.providers.key_problem import key_problem_of
from farebox.providers.scrubbing import scrubber_of

SPENT = "Your team 0-1-2 has either used all available credits or reached its monthly spending limit."
KEY = "sk-proj-Ab0123456789cdefGHIJKLmnopWXYZ"
clean = scrubber_of(KEY).clean_error


def openai(message: str, kind: str | None = None, code: object = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def google(code: int, status: str, message: str = "It does not work.", reason: str = "") -> dict[str, Any]:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}
    return {"error": {"code": code, "message": message, "status": status, "details": [info] if reason else []}}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


REFUSED: list[tuple[str, int, Any]] = [
    (
        "openai key",
        401,
        openai("Incorrect API key provided: sk-proj-****WXYZ.", "invalid_request_error", "invalid_api_key"),
    ),
    ("openai deactivated", 403, openai("Ask us.", "invalid_request_error", "account_deactivated")),
    ("anthropic key", 401, anthropic("authentication_error", "invalid x-api-key")),
    ("anthropic disabled", 400, anthropic("invalid_request_error", "This organization has been disabled.")),
    ("google key", 400, google(400, "INVALID_ARGUMENT", "API key not valid. Please pass one.", "API_KEY_INVALID")),
    ("google in a list", 400, [google(400, "INVALID_ARGUMENT", "API key not valid.", "API_KEY_INVALID")]),
    ("google expired", 400, google(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.")),
    ("google suspended", 403, google(403, "PERMISSION_DENIED", f"Consumer 'api_key:{KEY}'", "CONSUMER_SUSPENDED")),
    ("google off", 403, google(403, "PERMISSION_DENIED", "It has not been used.", "SERVICE_DISABLED")),
    ("google leaked", 403, google(403, "PERMISSION_DENIED", "Your API key was reported as leaked. Use another.")),
    ("google by address", 403, google(403, "PERMISSION_DENIED", "No.", "API_KEY_IP_ADDRESS_BLOCKED")),
    ("xai key", 400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: sk***YZ."}),
    ("groq key", 401, openai("Invalid API Key", "invalid_request_error", "invalid_api_key")),
    (
        "groq restricted",
        400,
        openai("Organization has been restricted.", "invalid_request_error", "organization_restricted"),
    ),
    ("mistral", 401, {"detail": "Unauthorized"}),
    ("mistral gateway", 401, {"message": "Unauthorized", "request_id": "1"}),
    (
        "deepseek",
        401,
        openai(
            "Authentication Fails, Your api key: ****WXYZ is invalid", "authentication_error", "invalid_request_error"
        ),
    ),
    ("cohere", 401, {"message": "invalid api token"}),
    ("openrouter", 401, {"error": {"message": "No auth credentials found", "code": 401}}),
    ("openrouter in a 200", 200, {"error": {"message": "User not found.", "code": 401}}),
    (
        "cerebras",
        401,
        {"message": "Wrong API Key", "type": "invalid_request_error", "param": "api_key", "code": "wrong_api_key"},
    ),
    ("cloudflare", 401, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}),
    ("no JSON", 401, None),
]
NO_CREDIT: list[tuple[str, int, Any]] = [
    ("openai", 429, openai("You exceeded your current quota.", "insufficient_quota", "insufficient_quota")),
    ("openai, no code", 429, openai("You exceeded your current quota.", "insufficient_quota")),
    ("openai prepaid", 429, openai("None left.", "insufficient_quota", "credit_balance_exhausted")),
    ("openai project", 429, openai("Limit.", "insufficient_quota", "project_spend_limit_exceeded")),
    (
        "openai images",
        400,
        openai("Billing hard limit has been reached", "image_generation_user_error", "billing_hard_limit_reached"),
    ),
    ("openai inactive", 429, openai("Your account is not active.", "billing_not_active", "billing_not_active")),
    ("anthropic", 400, anthropic("invalid_request_error", "Your credit balance is too low to access the API.")),
    ("anthropic billing", 402, anthropic("billing_error", "Pay.")),
    ("anthropic limit", 400, anthropic("invalid_request_error", "You have reached your specified API usage limits.")),
    ("xai 429", 429, {"code": "Some resource has been exhausted", "error": SPENT}),
    ("xai 403", 403, {"code": "permission-denied", "error": SPENT}),
    ("xai new team", 403, {"code": "x", "error": "Your newly created team doesn't have any credits or licenses yet."}),
    ("xai person", 403, {"code": "personal-team-blocked:spending-limit", "error": "You have run out of credits."}),
    ("groq", 400, openai("Blocked.", "invalid_request_error", "blocked_api_access")),
    ("deepseek", 402, openai("Insufficient Balance", "unknown_error", "invalid_request_error")),
    ("mistral", 403, {"message": "Inactive subscription or usage limit reached", "request_id": "1"}),
    ("cohere", 402, {"message": "you reached your billing limit"}),
    ("cohere trial", 429, {"message": "You are using a Trial key, which is limited to 1000 calls a month."}),
    ("openrouter", 402, {"error": {"message": "Insufficient credits. Add more.", "code": 402}}),
    ("openrouter in a 200", 200, {"error": {"message": "It wants more money.", "code": 402}}),
    (
        "openrouter in an event",
        200,
        {"id": "1", "object": "chat.completion.chunk", "choices": [], "error": {"code": 402, "message": "No."}},
    ),
    ("openrouter key", 403, {"error": {"message": "Key limit exceeded (total limit). Manage it there.", "code": 403}}),
    (
        "responses event",
        200,
        {
            "type": "response.failed",
            "response": {"status": "failed", "error": {"code": "insufficient_quota", "message": "No."}},
        },
    ),
    ("anthropic event", 200, anthropic("billing_error", "Pay.")),
    (
        "cerebras",
        402,
        {"message": "Pay.", "type": "payment_required_error", "param": "quota", "code": "payment_required"},
    ),
    ("google prepaid", 429, google(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted. Go there.")),
    ("google cap", 429, google(429, "RESOURCE_EXHAUSTED", "Your project has exceeded its monthly spending cap.")),
    (
        "workers ai",
        429,
        {
            "success": False,
            "errors": [{"code": 4006, "message": "AiError: you have used up your daily free allocation"}],
        },
    ),
    ("no JSON", 402, None),
]
OF_THE_REQUEST: list[tuple[str, int, Any]] = [
    ("openai rate", 429, openai("Rate limit reached for acme-1.", "tokens", "rate_limit_exceeded")),
    ("openai slow down", 429, openai("Slow down.", "rate_limit_error", "slow_down")),
    (
        "openai model",
        403,
        openai("Project `proj_abc` does not have access to model `acme-1`", "invalid_request_error", "model_not_found"),
    ),
    (
        "openai region",
        403,
        openai("Country not supported", "request_forbidden", "unsupported_country_region_territory"),
    ),
    ("openai policy", 403, openai("Not allowed by our policy.", "invalid_request_error", "content_policy_violation")),
    ("openai bad request", 400, openai("Unknown parameter.", "invalid_request_error", "unknown_parameter")),
    (
        "quoted",
        404,
        openai("The model `insufficient credits` does not exist", "invalid_request_error", "model_not_found"),
    ),
    ("anthropic rate", 429, anthropic("rate_limit_error", "This request would exceed your account's rate limit.")),
    ("anthropic permission", 403, anthropic("permission_error", "Your key may not use the specified resource.")),
    ("anthropic overloaded", 529, anthropic("overloaded_error", "Overloaded")),
    ("google rate", 429, google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan.")),
    ("google region", 400, google(400, "FAILED_PRECONDITION", "User location is not supported for the API use.")),
    ("google tuned model", 403, google(403, "PERMISSION_DENIED", "You do not have permission to access the model.")),
    ("xai policy", 403, {"code": "The caller does not have permission", "error": "Content violates usage guidelines."}),
    (
        "openrouter moderation",
        403,
        {
            "error": {
                "code": 403,
                "message": "Your input was flagged",
                "metadata": {"reasons": ["x"], "flagged_input": "401"},
            }
        },
    ),
    ("openrouter in a 200", 200, {"error": {"code": 502, "message": "The provider is down"}}),
    ("cohere", 400, {"message": "invalid request: 402"}),
    ("an answer", 200, {"choices": [{"message": {"content": "invalid_api_key"}}], "usage": {}}),
    ("a page", 403, None),
    ("nothing", 500, None),
]


def body_of(document: Any) -> bytes:
    return b"<html>401 402 insufficient_quota</html>" if document is None else json.dumps(document).encode()


@pytest.mark.parametrize(("name", "status", "document"), REFUSED)
def test_the_key_is_refused(name: str, status: int, document: Any) -> None:
    trouble = key_problem_of(status, body_of(document))
    assert trouble is not None
    assert trouble.reason == "key_refused"


@pytest.mark.parametrize(("name", "status", "document"), NO_CREDIT)
def test_the_account_has_no_credit(name: str, status: int, document: Any) -> None:
    trouble = key_problem_of(status, body_of(document))
    assert trouble is not None
    assert trouble.reason == "no_credit"


@pytest.mark.parametrize(("name", "status", "document"), OF_THE_REQUEST)
def test_errors_about_the_request_are_not_key_problems(name: str, status: int, document: Any) -> None:
    assert key_problem_of(status, body_of(document)) is None


@given(
    st.integers(400, 599),
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["error", "code", "message", "type", "details", "errors", "x"]), inner)
        ),
        max_leaves=20,
    ),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_body_can_be_read(status: int, document: Any) -> None:
    key_problem_of(status, json.dumps(document).encode())
    key_problem_of(status, json.dumps(document).encode()[:-1])


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"error":' * 200_000, b"\xff", b'{"code": 1e400}', b'"x"', b"402"])
def test_garbage_is_not_a_key_problem(body: bytes) -> None:
    assert key_problem_of(400, body) is None


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (f"for api_key:{KEY}.", "for api_key:[removed]."),
        ("provided: sk-proj-****************WXYZ. Find", "provided: [removed]. Find"),
        ("provided: sk-pr***************************YZ.", "provided: [removed]."),
        ("Your api key: ****WXYZ is invalid", "Your api key: [removed] is invalid"),
        ("provided: sk***YZ.", "provided: [removed]."),
        ("key sk-proj-…WXYZ", "key [removed]"),
        ("key sk-proj-...WXYZ", "key [removed]"),
        ("**bold** and so on... and ***others", "**bold** and so on... and ***others"),
        ("key sk-***1234 of somebody else", "key sk-***1234 of somebody else"),
        ("in organization org-AbCdEf123456 on", "in organization org-[removed] on"),
        ("Project `proj_AbCdEf123` does", "Project `proj_[removed]` does"),
        ("an org-chart, project-based", "an org-chart, project-based"),
    ],
)
def test_the_key_is_removed(said: str, left: str) -> None:
    assert clean(said.encode()).decode() == left


def test_a_long_word_is_scanned_in_linear_time() -> None:
    """An error may quote a long name from the request: an algorithm with quadratic time would take forever."""
    said = b'{"input":"' + b"a" * 2**20 + b'..."}'
    assert clean(said) == said


def test_a_word_is_no_key() -> None:
    assert scrubber_of("demo").clean_error(b"the demo provider") == b"the demo provider"


@given(st.binary())
def test_text_without_the_key_is_unchanged(body: bytes) -> None:
    if not any(part in body for part in (b"*", b".", b"\xe2", b"org-", b"proj")):
        assert clean(body) == body
