"""A provider: where it is, how it expects its key, which of its paths can be metered, and how."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from farebox.providers.credential import Reader, word_of
from farebox.providers.formats.base import WireFormat
from farebox.providers.objects import ObjectRoute

CALLER_KEY_HEADERS: Final = ("authorization", "x-api-key", "x-goog-api-key", "api-key", "xi-api-key")
"""Request headers in which a caller can send its own provider key."""
CALLER_KEY_QUERY: Final = "key"
"""The query parameter in which Google also takes a key."""


class Plain(Enum):
    """Paths without a wire format."""

    FREE = "free"
    """Costs nothing: lists of models, counting of tokens, moderation."""
    UNMETERED = "unmetered"
    """The cost is unknown: only for callers with their own provider key."""


FREE: Final = Plain.FREE
UNMETERED: Final = Plain.UNMETERED

Metering: TypeAlias = WireFormat | Plain
"""How a path is metered: by a wire format, or a member of Plain."""

Move: TypeAlias = tuple[re.Pattern[str], str]
Route: TypeAlias = tuple[str, re.Pattern[str], Metering]


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider."""

    slug: str
    name: str
    base_url: str
    """Without a trailing slash. `{account}` stands for the operator's account at the provider, other names for groups
    that `place` finds in the path."""
    routes: tuple[Route, ...]
    """Method, canonical path, metering; the first match applies."""
    moves: tuple[Move, ...] = ()
    """Conversions from other spellings to the canonical path; the first that matches is applied, once."""
    key_header: str = "authorization"
    """The header for the key: after `scheme` in `authorization`, without a prefix in any other header."""
    scheme: str = "Bearer"
    bearer_paths: re.Pattern[str] | None = None
    """Paths that require the key in `authorization` all the same: OpenAI-compatible ones."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers that are added if the caller did not send them."""
    chat_path: str | None = "chat/completions"
    """Canonical path of the provider's OpenAI-compatible chat."""
    embeddings_path: str | None = None
    """Canonical path of the provider's OpenAI-compatible embeddings."""
    aliases: tuple[str, ...] = ()
    """Other names in `provider/model`."""
    stops_when_left: bool = False
    """Whether generation and billing stop when the client closes the stream. Other providers continue, or it is
    unknown (openrouter.ai/docs/api-reference/streaming, "Stream Cancellation").
    """
    place: re.Pattern[str] | None = None
    """Finds, at the beginning of a canonical path, the names that the host is built from. A group `prefix` does not
    belong to the provider's own path; with a group `own`, nothing before it does."""
    place_example: str = ""
    """An example of such a path, for the error message if a path does not match."""
    hosts: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None
    """Further names for the base URL, derived from those in the path."""
    local: bool = False
    """Whether it is the operator's own server, for which callers have no keys: the operator sets the base URL."""
    encoded: re.Pattern[str] | None = None
    """Finds `model` in a path in which it must be percent-encoded, because it may contain slashes."""
    keys: Reader = word_of
    """Reads a stored key."""
    bound: tuple[str, ...] = ()
    """Names of `place` for which the operator's key must list values: it is not sent to other places."""
    deploys: bool = False
    """Whether its customers choose the names of their models, so that only the response shows which model it was."""
    objects: tuple[ObjectRoute, ...] = ()
    """Paths about the objects that it keeps."""


def move(pattern: str, replacement: str) -> Move:
    """An entry of `Provider.moves`."""
    return re.compile(pattern), replacement


def post(path: str, metering: Metering) -> Route:
    """An entry of `Provider.routes`: a POST to paths that fully match this pattern."""
    return "POST", re.compile(path, re.ASCII), metering


def patch(path: str, metering: Metering) -> Route:
    """The same for a PATCH."""
    return "PATCH", re.compile(path, re.ASCII), metering


def get(path: str) -> Route:
    """The same for a GET, which costs nothing."""
    return "GET", re.compile(path, re.ASCII), FREE
