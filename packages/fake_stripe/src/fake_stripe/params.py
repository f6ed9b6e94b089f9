"""Reads a call's parameters, with the API's own error messages if they are invalid."""

import re
from collections.abc import Iterator
from typing import Any

from fake_stripe.call_parameters import parameters_of
from fake_stripe.errors import Json, invalid, missing_param

_ALWAYS = frozenset({"expand", "limit", "starting_after", "ending_before", "page", "query"})
_STRUCTURED = frozenset(
    ("custom_fields", "fraud_details", "package_dimensions", "rendering", "shipping", "shipping_details")
)
_LARGEST = 99_999_999_999


class Params:
    """Parameters of one call, or of an object within them."""

    def __init__(self, values: Json, prefix: str = "") -> None:
        self.values = values
        self._prefix = prefix

    def check(self, call: str) -> None:
        """Reject a parameter that the call does not accept. Raises StripeError."""
        known = parameters_of(call)
        if known is None:
            return
        for name in self.values:
            if name not in known and name not in _ALWAYS:
                raise invalid(f"Received unknown parameter: {name}", param=name, code="parameter_unknown")

    def named(self, name: str) -> str:
        """The parameter's full name, as errors give it."""
        return f"{self._prefix}[{name}]" if self._prefix else name

    def has(self, name: str) -> bool:
        """Whether it was sent, even if empty."""
        return name in self.values

    def text(self, name: str) -> str | None:
        """The text of a parameter; None if it was not sent, or was empty."""
        value = self.values.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise invalid(f"Invalid string: {name}", param=self.named(name))
        if len(value) > 5000:
            raise invalid(f"Invalid string: {name} must be at most 5000 characters", param=self.named(name))
        return value

    def need(self, name: str) -> str:
        """The text of a required parameter. Raises StripeError if it was not sent."""
        if name not in self.values:
            raise missing_param(self.named(name))
        value = self.text(name)
        if value is None:
            message = f"You passed an empty string for '{self.named(name)}'."
            raise invalid(message, param=self.named(name), code="parameter_invalid_empty")
        return value

    def url(self, name: str) -> str | None:
        """A web address, since it becomes a link or redirection. Raises StripeError."""
        value = self.text(name)
        if value is not None and re.fullmatch(r"https?://[^\s\x00-\x1f\x7f]+", value, re.IGNORECASE) is None:
            raise invalid("Not a valid URL", param=self.named(name), code="url_invalid")
        return value

    def choice(self, name: str, *options: str) -> str | None:
        value = self.text(name)
        if value is not None and value not in options:
            raise invalid(f"Invalid {self.named(name)}: must be one of {', '.join(options)}", param=self.named(name))
        return value

    def integer(self, name: str) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            number = int(value)
        except ValueError as error:
            code = "parameter_invalid_integer"
            raise invalid(f"Invalid integer: {value[:50]}", param=self.named(name), code=code) from error
        if abs(number) > _LARGEST:
            raise invalid(f"Invalid integer: {name} is too large", param=self.named(name), code="amount_too_large")
        return number

    def need_integer(self, name: str) -> int:
        self.need(name)
        return self.integer(name) or 0

    def flag(self, name: str) -> bool | None:
        value = self.text(name)
        if value is None:
            return None
        if value.lower() not in ("true", "false"):
            raise invalid(f"Invalid boolean: {value[:50]}", param=self.named(name))
        return value.lower() == "true"

    def sub(self, name: str) -> "Params":
        """An object; an empty one if it was not sent."""
        value = self.values.get(name)
        if value in (None, ""):
            value = {}
        if not isinstance(value, dict):
            raise invalid(f"Invalid object: {self.named(name)}", param=self.named(name))
        return Params(value, self.named(name))

    def subs(self, name: str) -> Iterator["Params"]:
        """A list of objects."""
        for place, value in enumerate(self._list(name)):
            if not isinstance(value, dict):
                raise invalid(f"Invalid object: {self.named(name)}", param=self.named(name))
            yield Params(value, f"{self.named(name)}[{place}]")

    def texts(self, name: str) -> list[str]:
        """A list of strings; a single string counts as a list."""
        return [str(value) for value in self._list(name)]

    def plain(self, name: str) -> Any:
        """The value as it was sent; None if it was empty. For parameters that are only stored and shown."""
        return self.values.get(name) or None

    def _list(self, name: str) -> list[object]:
        value = self.values.get(name)
        if value in (None, ""):
            return []
        return value if isinstance(value, list) else [value]


def new_metadata(params: Params) -> dict[str, str]:
    """The metadata of a new object."""
    made: Json = {"metadata": {}}
    merge_metadata(made, params)
    return dict(made["metadata"])


def merge_metadata(resource: Json, params: Params) -> None:
    """Update the metadata: an empty value removes its key, an empty parameter removes all."""
    if not params.has("metadata"):
        return
    if not params.values["metadata"]:
        resource["metadata"] = {}
        return
    # Keys that consist only of digits have become a list.
    given = params.values["metadata"]
    if isinstance(given, list):
        given = {str(place): value for place, value in enumerate(given)}
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise invalid("Invalid metadata: must be a hash of strings", param="metadata")
    merged = {**(resource["metadata"] or {}), **given}
    merged = {name: value for name, value in merged.items() if value != ""}
    if len(merged) > 50:
        raise invalid("Metadata can have up to 50 keys.", param="metadata")
    for name, value in merged.items():
        if len(name) > 40 or len(value) > 500:
            message = "Metadata keys have up to 40 characters and values up to 500."
            raise invalid(message, param=f"metadata[{name[:40]}]")
    resource["metadata"] = merged


def update_fields(resource: Json, params: Params, *names: str) -> None:
    """Update these fields with what was sent: texts, or whole objects if the field is an object. Raises StripeError."""
    for name in names:
        if params.has(name):
            resource[name] = params.plain(name) if name in _STRUCTURED else params.text(name)
