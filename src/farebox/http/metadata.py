"""A call's metadata, its end user and the caller's own prices, from the request's headers."""

from collections.abc import Mapping
from typing import Final

import msgspec

from farebox.errors import INVALID_REQUEST, Problem
from farebox.http.exchange import RequestHeaders
from farebox.model import METADATA_ENTRIES_MAX, METADATA_RESERVED
from farebox.pricing.custom_cost import CustomCost, InvalidCustomCost, custom_cost

END_USER: Final = "farebox-end-user"
END_USER_MAX: Final = 256
_NAME_SHOWN: Final = 32
_entries: Final = msgspec.json.Decoder(dict[str, str | int | float | bool])
_values: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Metadata(msgspec.Struct, frozen=True):
    """The metadata of a request."""

    entries: Mapping[str, str | int | float | bool] | None = None
    ignored: str = ""
    """Parts that are ignored and why, for a response header; empty: none."""


def metadata_of(headers: RequestHeaders) -> Metadata:
    """The first five entries of a flat JSON object; one null or nested value makes all of it invalid, as at
    Cloudflare."""
    text = headers.get("cf-aig-metadata")
    if not text:
        return Metadata()
    try:
        entries = _entries.decode(text)
    except msgspec.ValidationError:
        return Metadata(ignored=_wrong_entry(text))
    except (msgspec.DecodeError, RecursionError):
        return Metadata(ignored="all of it: it is not JSON")
    kept = {key: value for key, value in entries.items() if not key.startswith(METADATA_RESERVED)}
    ignored = []
    if len(kept) < len(entries):
        ignored.append(f"entries whose names begin with '{METADATA_RESERVED}'")
    if len(kept) > METADATA_ENTRIES_MAX:
        ignored.append(f"all but the first {METADATA_ENTRIES_MAX} entries")
    return Metadata(dict(list(kept.items())[:METADATA_ENTRIES_MAX]) or None, "; ".join(ignored))


def _wrong_entry(text: str) -> str:
    try:
        value = _values.decode(text)
    except msgspec.DecodeError:
        return "all of it: it is not a JSON object"
    except RecursionError:
        return "all of it: it is nested too deeply"
    wrong = next((key for key, each in value.items() if bytes(each)[:1] in (b"n", b"[", b"{")), None)
    if wrong is None:
        return "all of it: a number in it is out of range"
    shown = ascii(wrong[:_NAME_SHOWN])
    return f"all of it: the value of {shown} is not a string, a number or a boolean"


def end_user_of(headers: RequestHeaders) -> str:
    """The end user that a header names; empty if none does. Raises Problem (INVALID_REQUEST) for an invalid one: a call
    must not escape the budgets of end users."""
    value = headers.get(END_USER)
    if value is None:
        return ""
    try:
        named = value.encode("latin-1").decode()  # UTF-8, like the bodies that may name the same user
    except UnicodeError:
        named = value
    named = named.strip()
    if not 1 <= len(named) <= END_USER_MAX:
        raise Problem(INVALID_REQUEST, f"{END_USER}: write 1 to {END_USER_MAX} characters.")
    return named


def custom_cost_of(headers: RequestHeaders) -> CustomCost | None:
    """The cost per token that the caller states. Raises Problem (INVALID_REQUEST)."""
    text = headers.get("cf-aig-custom-cost")
    if not text:
        return None
    try:
        return custom_cost(text)
    except InvalidCustomCost as error:
        raise Problem(INVALID_REQUEST, f"cf-aig-custom-cost: {error}") from error
