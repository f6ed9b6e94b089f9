"""The API's errors: the envelope and its usual contents."""

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

_DOCS = "https://docs.stripe.com/error-codes#"


class StripeError(Exception):
    """A response that is not 2xx. `saved`: its idempotency key stores it, because the call had begun to be carried
    out."""

    def __init__(self, status: int, kind: str, message: str, *, saved: bool = False, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.saved = saved
        self.error: Json = {"type": kind, "message": message}
        self.error.update({name: value for name, value in fields.items() if value is not None})
        if code := fields.get("code"):
            self.error["doc_url"] = _DOCS + str(code).replace("_", "-")


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> StripeError:
    """The parameters are invalid: nothing was begun."""
    return StripeError(400, "invalid_request_error", message, param=param, code=code)


def refused(message: str, *, param: str | None = None, code: str | None = None, **fields: Any) -> StripeError:
    """The parameters are valid, but the state does not allow the call."""
    return StripeError(400, "invalid_request_error", message, saved=True, param=param, code=code, **fields)


def missing_param(name: str) -> StripeError:
    return invalid(f"Missing required param: {name}.", param=name, code="parameter_missing")


def no_such(kind: str, object_id: str, *, param: str = "id") -> StripeError:
    """The error for a missing object: 404 if the URL names it, 400 if a parameter does."""
    status = 404 if param == "id" else 400
    return StripeError(
        status, "invalid_request_error", f"No such {kind}: '{object_id}'", code="resource_missing", param=param
    )
