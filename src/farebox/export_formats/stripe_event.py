"""Events for a Stripe meter, made from a gateway's templates: JSON with variables such as `$input_tokens`, as in
Cloudflare's API."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

VARIABLES: Final = (
    "cost",
    "charge",
    "model",
    "provider",
    "input_tokens",
    "output_tokens",
    "cached_read_tokens",
    "cached_write_tokens",
)
METADATA: Final = "metadata_"
"""Prefix of variables for entries of the call's metadata; the key follows."""
NAME_MAX: Final = 100
"""Stripe's limit for the length of an event's name and identifier."""
PAYLOAD_MAX: Final = 50
_variables = re.compile(r"\$([A-Za-z_][A-Za-z0-9_.-]*)")


class InvalidTemplate(ValueError):
    """The text is not an event template; the message says why."""


class ValueMissing(LookupError):
    """The call has no value for a variable of the template; the message is its name."""


class Template(msgspec.Struct, frozen=True):
    """An event with variables."""

    event_name: str
    payload: Mapping[str, str]


def template_of(text: str) -> Template:
    """Parse a template. Raises InvalidTemplate."""
    try:
        content = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidTemplate("it is not JSON") from error
    if not isinstance(content, dict) or not set(content) <= {"event_name", "payload", "timestamp"}:
        raise InvalidTemplate("it is not an object with only `event_name` and `payload`; Farebox adds the rest")
    name, payload = content.get("event_name"), content.get("payload")
    if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX:
        raise InvalidTemplate(f"`event_name` is not a text of 1 to {NAME_MAX} characters")
    if not isinstance(payload, dict) or not 0 < len(payload) <= PAYLOAD_MAX:
        raise InvalidTemplate(f"`payload` is not an object of 1 to {PAYLOAD_MAX} entries")
    template = Template(name, {key: _text(key, value) for key, value in payload.items()})
    for value in (name, *template.payload.values()):
        for variable in _variables.findall(value):
            _check(variable)
    return template


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidTemplate(f"`{key[:64]}` of `payload` is neither a text nor a number")
    return value if isinstance(value, str) else str(value)


def _check(variable: str) -> None:
    if variable not in VARIABLES and not (variable.startswith(METADATA) and len(variable) > len(METADATA)):
        known = ", ".join(f"${name}" for name in (*VARIABLES, METADATA + "KEY"))
        raise InvalidTemplate(f"there is no variable `${variable[:64]}`: there are {known}")


class MeterEventForm(msgspec.Struct, frozen=True):
    """An event for Stripe."""

    name: str
    payload: Mapping[str, str]

    @property
    def customer(self) -> str:
        """The customer it is for, if the meter uses the usual key for that."""
        return self.payload.get("stripe_customer_id", "")

    def form(self, identifier: str, timestamp: int) -> bytes:
        """The body of the request that creates it."""
        pairs = [("event_name", self.name), *((f"payload[{key}]", value) for key, value in self.payload.items())]
        return urlencode([*pairs, ("timestamp", str(timestamp)), ("identifier", identifier)], errors="replace").encode()


def event_of(template: Template, values: Mapping[str, str]) -> MeterEventForm:
    """Fill in a template. Raises ValueMissing."""
    payload = {key: _filled(value, values) for key, value in template.payload.items()}
    return MeterEventForm(_filled(template.event_name, values)[:NAME_MAX], payload)


def _filled(text: str, values: Mapping[str, str]) -> str:
    def value(found: "re.Match[str]") -> str:
        if found[1] not in values:
            raise ValueMissing(found[1])
        return values[found[1]]

    return _variables.sub(value, text)
