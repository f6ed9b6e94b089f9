"""What the API answers where it cannot do what was asked: the error envelope and its usual contents."""

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

_DOCS = "https://docs.stripe.com/error-codes#"


class StripeError(Exception):
    """A response that is not 2xx. `saved` where its idempotency key keeps it: the call had begun to be carried out."""

    def __init__(self, status: int, kind: str, message: str, *, saved: bool = False, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.saved = saved
        self.error: Json = {"type": kind, "message": message}
        self.error.update({name: value for name, value in fields.items() if value is not None})
        if code := fields.get("code"):
            self.error["doc_url"] = _DOCS + str(code).replace("_", "-")


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> StripeError:
    """The parameters are not right: nothing was begun."""
    return StripeError(400, "invalid_request_error", message, param=param, code=code)


def refused(message: str, *, param: str | None = None, code: str | None = None, **fields: Any) -> StripeError:
    """The parameters are right, the state of things is not."""
    return StripeError(400, "invalid_request_error", message, saved=True, param=param, code=code, **fields)


def missing_param(name: str) -> StripeError:
    return invalid(f"Missing required param: {name}.", param=name, code="parameter_missing")


def no_such(kind: str, object_id: str, *, param: str = "id") -> StripeError:
    """404 where the URL names the object, 400 where a parameter does."""
    status = 404 if param == "id" else 400
    return StripeError(
        status, "invalid_request_error", f"No such {kind}: '{object_id}'", code="resource_missing", param=param
    )
