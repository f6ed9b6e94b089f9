"""Small conversions shared by the whole control plane: times, paging, lookups by ID."""

from datetime import MAXYEAR, UTC, datetime
from typing import Annotated, TypeVar

import msgspec

from farebox.errors import not_found
from farebox.http.validation import invalid

T = TypeVar("T")

PAGE_MAX = 1_000_000
"""Larger page numbers are treated as this one: it is empty, too."""


class Paging(msgspec.Struct, frozen=True, kw_only=True):
    """The page of a list. Values out of range are brought into range rather than rejected."""

    page: int = 1
    per_page: int = 20

    def window(self, per_page_max: int = 100) -> "Window":
        per_page = min(max(self.per_page, 1), per_page_max)
        return Window(min(max(self.page, 1), PAGE_MAX), per_page)


class Window(msgspec.Struct, frozen=True):
    """A valid page: `page` counts from 1."""

    page: int
    per_page: int

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.per_page


def require(row: T | None) -> T:
    """The row that was looked up by an ID. Raises Problem (NOT_FOUND) if there is none."""
    if row is None:
        raise not_found()
    return row


Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=4e15, description="Unix time in milliseconds")]


Moment = Annotated[str, msgspec.Meta(max_length=40, description="ISO 8601; UTC if it has no offset")]


def moment(text: str | None, name: str, where: str = "query") -> int | None:
    """The time in a query parameter, or in a field of the body, in milliseconds. Raises InvalidInput if it is
    invalid."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.replace(" ", "+"))  # a plus sign that was not percent-encoded
        if found.year == MAXYEAR:
            raise OverflowError  # a day or month that begins there would have no end
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise invalid("Expected a time such as 2026-11-22T06:34:00Z, or a date", where, name) from error


def iso(ms: int) -> str:
    """A time in Cloudflare's format, with milliseconds: `2026-11-22T06:34:00.123Z`."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def iso_or_none(ms: int | None) -> str | None:
    """The same for a time that may be missing."""
    return None if ms is None else iso(ms)
