"""Every error a caller can receive: a table of kinds, and the one exception that carries them to the edge.

A kind is stable: its `code` and `name` never change their meaning. docs/errors.md documents each (a test checks it).
Codes below 2900 and from 6000 to 10000 are Cloudflare's own; 2900 to 2999 are ours.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One kind of error: its stable name, HTTP status, wire code, and what the reader can do about it."""

    name: str
    status: int
    code: int
    remedy: str


@dataclass(frozen=True, slots=True)
class Shortage:
    """The figures of a refusal for lack of money, in nano-dollars."""

    needed: int | None
    """The most that the call can cost; None if that was not computed."""
    available: int
    """What is left of the account's money, or of the limit."""
    rule_id: str = ""
    """The spend-limit rule or policy of the gateway that has too little left; empty if it is the account."""
    on_page: bool = False
    """Whether the page of limits shows that rule or policy."""


class ClientGone(Exception):
    """The client closed its connection; nothing more can be sent to it."""


class Problem(Exception):
    """Returned to the caller in the wire format of the path that was called. Nothing was charged."""

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        retry_after: int | None = None,
        resets_at: int | None = None,
        path: tuple[str | int, ...] | None = None,
        chain: tuple[tuple[int, str], ...] = (),
        reason: str = "",
        shortage: Shortage | None = None,
        words: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after
        """Seconds after which the same call may succeed."""
        self.resets_at = resets_at
        """When the exhausted window ends, in Unix milliseconds; None if waiting does not help."""
        self.path = path
        """For validation errors: the place of the error in the request body."""
        self.chain = chain
        """Cloudflare's `error_chain`: more (code, message) pairs under this one."""
        self.reason = reason
        """Details for the call's log row."""
        self.shortage = shortage
        self.words = words or message
        """The message for people on a page, if the API's does not suit them."""


# The gateway (data plane)
GATEWAY_UNKNOWN = ErrorKind("gateway_unknown", 400, 2001, "Create the gateway, or use the gateway id `default`.")
INVALID_REQUEST = ErrorKind("invalid_request", 400, 2901, "Correct the request as the message says.")
PROVIDER_UNKNOWN = ErrorKind(
    "provider_unknown",
    400,
    2902,
    "Use one of the providers that the gateway's Connect page and `farebox provider list` show.",
)
NOT_METERED = ErrorKind(
    "not_metered", 400, 2903, "Send your own provider key with this call, or use a path that Farebox can meter."
)
THREAD_REFUSED = ErrorKind(
    "thread_refused",
    400,
    2939,
    "Send the whole conversation in `messages`, without `thread` (Anthropic's SDK: `thread=False`).",
)
MODEL_UNPRICED = ErrorKind(
    "model_unpriced",
    400,
    2904,
    "Ask the operator to set a price (Prices page, or `farebox price set`), or use a model that has one.",
)
MODEL_NOT_FOUND = ErrorKind(
    "model_not_found", 404, 7003, "Use a model that `GET …/ai/models/search` lists, in the spelling of that list."
)
INPUT_INVALID = ErrorKind("input_invalid", 400, 7003, "Correct the model's input as the message says.")
ROUTE_UNKNOWN = ErrorKind(
    "route_unknown", 404, 2950, "Create the route on this gateway and deploy a version of it that has a model."
)
ROUTE_ENDED = ErrorKind(
    "route_ended", 403, 2951, "The route calls no model for this request: change the request or the route."
)
AUTO_UNAVAILABLE = ErrorKind(
    "auto_unavailable",
    400,
    2952,
    "Add a model that can do this to the auto router's candidates, or name a model in the request.",
)
RESUME_UNAVAILABLE = ErrorKind(
    "resume_unavailable",
    404,
    2953,
    "Send the request again. The delivered part of the broken stream is charged.",
)
OWN_KEY_REQUIRED = ErrorKind(
    "own_key_required",
    400,
    2905,
    "Send or store your own provider key, or ask the operator to configure one for the provider.",
)
KEY_UNKNOWN = ErrorKind("stored_key_unknown", 400, 2960, "Use the alias of a key stored for this gateway and provider.")
KEY_UNREADABLE = ErrorKind(
    "stored_key_unreadable", 400, 2961, "Store the key or the headers again: they were encrypted with another secret."
)
PROVIDER_OFF = ErrorKind("provider_off", 400, 2962, "Switch the custom provider on, or use another.")
ZDR_UNAVAILABLE = ErrorKind(
    "zdr_unavailable",
    400,
    2963,
    "Use another provider or your own provider key, or do not request zero data retention.",
)
ADDRESS_REFUSED = ErrorKind(
    "address_refused", 400, 2964, "Use a public address, or ask the operator to allow the network."
)
TOKEN_REJECTED = ErrorKind(
    "token_rejected", 401, 2009, "Send a valid access token of this account with the permission `AI Gateway Run`."
)
MODEL_NOT_ALLOWED = ErrorKind(
    "model_not_allowed", 403, 2970, "Use a model that the access token may call, or a token that may call this one."
)
GATEWAY_NOT_ALLOWED = ErrorKind(
    "gateway_not_allowed",
    403,
    2972,
    "Use a gateway that the access token is for, or a token that is not limited to other gateways.",
)
POLICY_DENIED = ErrorKind(
    "policy_denied",
    403,
    2971,
    "Call a model that the gateway's policies allow, or ask the account's owner to allow this one.",
)
DLP_REQUEST_BLOCKED = ErrorKind(
    "dlp_request_blocked",
    400,
    2029,
    "Remove what `cf-aig-dlp` reports from the request, or change the gateway's DLP policy. Nothing was charged.",
)
DLP_RESPONSE_BLOCKED = ErrorKind(
    "dlp_response_blocked",
    400,
    2030,
    "Ask for something else, or change the gateway's DLP policy. The response was generated, and the receipt says what "
    "was charged for it.",
)
PROMPT_BLOCKED = ErrorKind(
    "prompt_blocked", 424, 2016, "Ask for something else, or change the gateway's guardrails. Nothing was charged."
)
RESPONSE_BLOCKED = ErrorKind(
    "response_blocked",
    424,
    2017,
    "Ask for something else, or change the gateway's guardrails. The response was generated, and the receipt says what "
    "was charged for it.",
)
RUN_BLOCKED = ErrorKind(
    "run_blocked",
    422,
    2017,
    "Ask for something else, or change the gateway's guardrails. A response that was generated is charged.",
)
SCORER_UNAVAILABLE = ErrorKind(
    "scorer_unavailable",
    503,
    7013,
    "Try again; if it persists, ask the operator to check FAREBOX_GUARDRAILS_URL. Nothing was charged.",
)
RESPONSE_UNSCORED = ErrorKind(
    "response_unscored",
    503,
    7013,
    "Ask the operator to check FAREBOX_GUARDRAILS_URL. The response was generated, and the receipt says what was "
    "charged for it.",
)
REQUEST_UNSCREENED = ErrorKind(
    "request_unscreened",
    400,
    2980,
    "Send smaller, uncompressed text or JSON, or call through a gateway without a rule that blocks.",
)
RESPONSE_UNSCREENED = ErrorKind(
    "response_unscreened",
    502,
    2981,
    "Ask for a smaller response, or call through a gateway without a rule that blocks. The receipt says what was "
    "charged.",
)
NO_CREDIT = ErrorKind("no_credit", 402, 2021, "Add credit to the account, or send your own provider key.")
BODY_LATE = ErrorKind("body_late", 408, 2914, "Send the whole request body within FAREBOX_READ_TIMEOUT_MS.")
CODING_UNKNOWN = ErrorKind(
    "coding_unknown", 415, 2917, "Send the body uncompressed, or in a content coding listed in `Accept-Encoding`."
)
NO_WEBSOCKET = ErrorKind("no_websocket", 426, 2916, "Use plain HTTP: streams are server-sent events.")
BODY_TOO_LARGE = ErrorKind(
    "body_too_large", 413, 2906, "Send a smaller body, or ask the operator to raise FAREBOX_BODY_LIMIT_BYTES."
)
BODY_TOO_COMPLEX = ErrorKind(
    "body_too_complex", 400, 2940, "Send fewer messages, parts, tools or nesting levels: docs/limits.md has the limits."
)
READERS_BUSY = ErrorKind("readers_busy", 503, 2941, "Try again: large bodies are parsed one after another.")
REQUEST_REFUSED = ErrorKind(
    "request_refused", 400, 2942, "Remove what the message names, or send your own provider key with this call."
)
ESTIMATE_CAPPED = ErrorKind(
    "estimate_capped", 400, 2943, "Ask for less: lower the output limit, send less input, or allow fewer tool uses."
)
RATE_LIMITED = ErrorKind("rate_limited", 429, 2003, "Call less often, or raise the limit that was reached.")
KEY_RATE_LIMITED = ErrorKind(
    "key_rate_limited",
    429,
    2003,
    "Call the provider less often, raise the stored key's rate limit, or store another key.",
)
TOKEN_RATE_LIMITED = ErrorKind(
    "token_rate_limited", 429, 2003, "Call less often with this access token, or raise its rate limit."
)
SPEND_LIMITED = ErrorKind("spend_limited", 429, 2045, "Wait for the window to end, ask for less, or raise the limit.")
LIMIT_TOO_LOW = ErrorKind(
    "limit_too_low",
    402,
    2045,
    "Ask for less at once, or raise the limit. Waiting does not help: the call exceeds the whole limit.",
)
CREDIT_HELD = ErrorKind(
    "credit_held", 429, 2907, "Try again: other calls in flight hold the credit at the moment. Nothing was charged."
)
GIVEN_UP = ErrorKind(
    "given_up", 429, 2945, "Wait longer for responses, or use streaming; try again after the time in `Retry-After`."
)
TOO_MANY_CALLS = ErrorKind(
    "too_many_calls", 503, 2908, "Try again: the server is at its limit of concurrent calls (FAREBOX_CALLS_MAX)."
)
ACCOUNT_CALLS_FULL = ErrorKind(
    "account_calls_full",
    429,
    2918,
    "Try again when other calls of the account have ended, or ask the operator to raise FAREBOX_ACCOUNT_CALLS_MAX.",
)
ACCOUNT_FROZEN = ErrorKind(
    "account_frozen",
    403,
    2954,
    "Contact the operator, who has frozen the account. It can still be read, and nothing is charged.",
)
ACCOUNT_BYTES_FULL = ErrorKind(
    "account_bytes_full",
    503,
    2919,
    "Try again when other calls of the account have ended: send fewer large bodies at once, or ask the operator to "
    "raise FAREBOX_ACCOUNT_HELD_BYTES_MAX.",
)
SERVER_BYTES_FULL = ErrorKind(
    "server_bytes_full",
    503,
    2920,
    "Try again in a moment; the operator can raise FAREBOX_HELD_BYTES_MAX if there is memory for it.",
)
UPSTREAM_UNREACHABLE = ErrorKind(
    "upstream_unreachable", 502, 2909, "Try again, or check the provider's base URL. Nothing was charged."
)
UPSTREAM_TIMEOUT = ErrorKind(
    "upstream_timeout", 504, 2910, "Allow more time, or use streaming. The receipt says what was charged."
)
UPSTREAM_INVALID = ErrorKind(
    "upstream_invalid",
    502,
    2911,
    "Try again: the provider's response broke off. The receipt says what was charged.",
)
PROVIDER_UNAVAILABLE = ErrorKind(
    "provider_unavailable", 503, 2915, "Try again later, use another provider, or send your own provider key."
)
SHUTTING_DOWN = ErrorKind("shutting_down", 503, 2912, "Try again: the server is restarting.")
DATABASE_UNAVAILABLE = ErrorKind(
    "database_unavailable",
    503,
    2913,
    "Try again; if it persists, check the disk and the database that Farebox runs on.",
)
NODE_UNAVAILABLE = ErrorKind(
    "node_away",
    503,
    2946,
    "Try again; the operator has to start the database node, or replace it with its standby (docs/citus.md).",
)
OBJECT_NOT_FOUND = ErrorKind(
    "object_not_found",
    404,
    2947,
    "Use an ID that this account received through this gateway on the operator's key, or use your own provider key.",
)
OBJECT_BUSY = ErrorKind("object_busy", 409, 2948, "Cancel it first, or wait until it has ended.")
OBJECTS_FULL = ErrorKind("objects_full", 400, 2949, "Delete some first, or ask the operator to raise the limit.")
INTERNAL = ErrorKind("internal", 500, 2999, "Report it with the request ID. The receipt says what was charged.")

# The control plane: Cloudflare's codes
VALIDATION_FAILED = ErrorKind("validation_failed", 400, 7001, "Correct the field that `path` names.")
NOT_FOUND = ErrorKind("not_found", 404, 7002, "Check the ID; list the collection to see what exists.")
ROUTE_NOT_FOUND = ErrorKind("route_not_found", 404, 7005, "Check the ID; list the gateway's routes to see what exists.")
ROUTE_EXISTS = ErrorKind("route_exists", 400, 7005, "Use another name, or change the route that has it.")
NO_ROUTE = ErrorKind("no_route", 404, 7003, "Check the path and the account ID against /openapi.json.")
METHOD_NOT_ALLOWED = ErrorKind("method_not_allowed", 405, 7001, "Use one of the methods in the `Allow` header.")
MALFORMED_JSON = ErrorKind("malformed_json", 400, 6007, "Send a JSON object as the request body.")
CREDENTIALS_MISSING = ErrorKind(
    "credentials_missing", 400, 9106, "Send `Authorization: Bearer <token>`, or X-Auth-Email with X-Auth-Key."
)
CREDENTIALS_MALFORMED = ErrorKind("credentials_malformed", 400, 6003, "Correct the header that the error chain names.")
CREDENTIALS_REJECTED = ErrorKind(
    "credentials_rejected", 401, 9109, "Use a token that exists and is neither revoked nor expired."
)
TOKEN_INVALID = ErrorKind("token_invalid", 401, 1000, "Use a token that exists and is neither revoked nor expired.")
ACCESS_DENIED = ErrorKind(
    "access_denied", 403, 10000, "Use a token of this account that has the permission the route needs."
)
KEY_REJECTED = ErrorKind("key_rejected", 403, 9103, "Use the e-mail address and the API key of an existing user.")
PAYMENTS_OFF = ErrorKind(
    "payments_off", 501, 2923, "The operator enables payments with FAREBOX_STRIPE_SECRET_KEY; grants work without them."
)
NO_CARD = ErrorKind(
    "no_card",
    400,
    2924,
    "Save a card first: on the billing page, or on the page that `POST …/farebox/checkout` links to.",
)
CARD_DECLINED = ErrorKind("card_declined", 402, 2925, "Use another card, or ask the bank. Nothing was charged.")
TOP_UP_FAILED = ErrorKind("top_up_failed", 402, 2926, "Nothing was charged. Buy again, with another card if necessary.")
TOP_UP_IN_PROGRESS = ErrorKind(
    "top_up_in_progress",
    409,
    2927,
    "Check `topup/status` for the one in progress; send an Idempotency-Key to buy twice.",
)
KEY_REUSED = ErrorKind("idempotency_key_reused", 409, 2928, "Use a new Idempotency-Key for a different request.")
TOP_UP_UNDER_WAY = ErrorKind(
    "top_up_under_way", 503, 2929, "Try again in a moment: credit is being bought. Nothing was charged for the call."
)
PROCESSOR_UNAVAILABLE = ErrorKind(
    "processor_unavailable", 503, 2930, "Try again: the payment processor did not respond. Nothing is charged twice."
)
PROCESSOR_REFUSED = ErrorKind(
    "processor_refused", 502, 2931, "Ask the operator: the log has the processor's reason. Nothing was charged."
)
REFUND_REFUSED = ErrorKind("refund_refused", 400, 2932, "Refund at most the amount that the message gives.")
HOLD_REFUSED = ErrorKind("hold_refused", 409, 2933, "The hold has already ended in another way; read it to see how.")
CONFIG_BY_TOKEN = ErrorKind(
    "config_by_token",
    403,
    2934,
    "Use the billing page, or, if the operator allows it, a token with `AI Gateway Billing Write`.",
)
WHAT_IF_RUNNING = ErrorKind(
    "what_if_running", 409, 2937, "Wait for it, or cancel it: `DELETE …/farebox/what-if`. An account has one at a time."
)
BAD_SIGNATURE = ErrorKind("bad_signature", 400, 2935, "Sign with the endpoint's secret, and check the clock.")
LINK_EXPIRED = ErrorKind("link_expired", 403, 2936, "Ask for a new link.")
LAST_OWNER = ErrorKind("last_owner", 409, 2944, "Make another member an owner first, who has to accept.")
SIGN_IN_FAILED = ErrorKind("sign_in_failed", 403, 2938, "Start again, or sign in another way.")
SPENDING_LIMIT_DEPRECATED = ErrorKind(
    "spending_limit_deprecated",
    403,
    2922,
    "Top up a fixed amount instead: an account cannot spend more credit than it has.",
)


def not_found() -> Problem:
    """The error about what was looked up by an ID and does not exist, worded like Cloudflare's."""
    return Problem(NOT_FOUND, "Not Found", words="This no longer exists: somebody may have deleted it")
