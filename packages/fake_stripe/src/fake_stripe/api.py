"""Handles an API call: key, parameters, handler, response."""

import base64
import binascii
from dataclasses import dataclass, field

import msgspec

from fake_stripe import forms, routes
from fake_stripe.errors import Json, StripeError
from fake_stripe.exchange import HeaderList
from fake_stripe.idempotency import Keys, fingerprint
from fake_stripe.params import Params
from fake_stripe.rendering import expanded
from fake_stripe.world import API_VERSION, Cause, World

_MANY_LISTS = ("list", "search_result")


@dataclass(slots=True)
class Request:
    """A received request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    """Names are in lower case."""
    body: bytes
    request_id: str

    @property
    def key(self) -> str | None:
        """The idempotency key; it has an effect only with POST."""
        return self.headers.get("idempotency-key") if self.method == "POST" else None


@dataclass(slots=True)
class ApiResponse:
    """A response to send."""

    status: int
    body: bytes
    headers: HeaderList = field(default_factory=list)
    replayed: bool = False


class Api:
    """The calls, on one world."""

    def __init__(self, world: World) -> None:
        self.keys = Keys(world)
        self._world = world

    def respond(self, request: Request, *, fail: bool = False, save_failure: bool = True) -> ApiResponse:
        """Carry out a request, or return the stored response of its idempotency key.

        `fail`: respond with 500 although the request was carried out; the key stores that or, unless `save_failure`,
        the real response.
        """
        try:
            self._authenticate(request)
            mark = fingerprint(request.method, request.path, request.body, request.query)
            known = self.keys.first_response(request.key, mark) if request.key is not None else None
            if known is not None:
                return self._replay(request, known)
        except StripeError as error:
            return self.error_response(request, error)
        response, saved = self._execute(request)
        failure = self.error_response(request, server_error())
        kept = failure if fail and save_failure else response
        if saved and request.key is not None:
            self.keys.save(request.key, mark, kept.status, kept.body, request.request_id)
        return failure if fail else response

    def failure(self, request: Request, *, save: bool) -> ApiResponse:
        """A 500 response, without carrying out the request."""
        response = self.error_response(request, server_error())
        if save and request.key is not None:
            mark = fingerprint(request.method, request.path, request.body, request.query)
            known = self._world.store.find("_idempotency", request.key)
            if known is None:
                self.keys.save(request.key, mark, response.status, response.body, request.request_id)
        return response

    def error_response(self, request: Request, error: StripeError) -> ApiResponse:
        """An error in the API's format."""
        shown = error.error | {"request_log_url": f"{self._world.public_url}/_fake/requests#{request.request_id}"}
        return ApiResponse(error.status, _encode({"error": shown}), self._headers(request))

    def _execute(self, request: Request) -> tuple[ApiResponse, bool]:
        try:
            result = self._call(request)
        except StripeError as error:
            return self.error_response(request, error), error.saved
        return ApiResponse(200, _encode(result), self._headers(request)), True

    def _call(self, request: Request) -> Json:
        found = routes.find(request.method, request.path)
        if found is None:
            message = (
                f"Unrecognized request URL ({request.method}: {request.path}). Please see https://stripe.com/docs or "
                "we can help at https://support.stripe.com/."
            )
            raise StripeError(404, "invalid_request_error", message)
        call, handler, ids = found
        values = forms.decode(request.query)
        if request.method == "POST":
            values |= forms.decode(request.body.decode(errors="replace"))
        params = Params(values)
        params.check(call)
        self._world.cause = Cause(request.request_id, request.key)
        try:
            result = handler(self._world, params, *ids)
        finally:
            self._world.cause = Cause()
        return self._shown(result, params.texts("expand"))

    def _shown(self, result: Json, paths: list[str]) -> Json:
        if result.get("object") not in _MANY_LISTS:
            return expanded(self._world.store, result, paths)
        inner = [path.removeprefix("data.") for path in paths if path.startswith("data.")]
        items = [expanded(self._world.store, item, inner) for item in result["data"]]
        return result | {"data": items}

    def _authenticate(self, request: Request) -> None:
        key = _secret_key(request.headers.get("authorization"))
        if not key:
            raise StripeError(
                401,
                "invalid_request_error",
                "You did not provide an API key. You need to provide your API key in the Authorization header, using "
                "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
            )
        if key.startswith(("sk_live_", "rk_live_")):
            raise StripeError(
                401,
                "invalid_request_error",
                "This is a fake Stripe for tests: it takes no live key. Use sk_test_ and anything after it, and "
                "consider whether the live key that was just sent here should be replaced.",
                code="livemode_mismatch",
            )
        if not key.startswith(("sk_test_", "rk_test_")):
            hidden = key[:4] + "*" * max(0, len(key) - 8) + key[-4:] if len(key) > 8 else "*" * len(key)
            raise StripeError(401, "invalid_request_error", f"Invalid API Key provided: {hidden}")

    def _replay(self, request: Request, known: Json) -> ApiResponse:
        headers = self._headers(request)
        headers += [("idempotent-replayed", "true"), ("original-request", known["request_id"])]
        return ApiResponse(known["status"], known["body"].encode(), headers, replayed=True)

    def _headers(self, request: Request) -> HeaderList:
        headers = [
            ("content-type", "application/json"),
            ("request-id", request.request_id),
            ("stripe-version", request.headers.get("stripe-version") or API_VERSION),
        ]
        if request.key is not None:
            headers.append(("idempotency-key", request.key))
        return headers


def server_error() -> StripeError:
    return StripeError(500, "api_error", "An unknown error occurred", saved=True)


def rate_limited() -> StripeError:
    message = "Request rate limit exceeded. Learn more about rate limits here https://docs.stripe.com/rate-limits."
    return StripeError(429, "invalid_request_error", message, code="rate_limit")


def _secret_key(header: str | None) -> str:
    """The key in `Bearer KEY`, or in basic authentication with the key as the user name."""
    scheme, _, rest = (header or "").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _encode(value: Json) -> bytes:
    return msgspec.json.encode(value)
