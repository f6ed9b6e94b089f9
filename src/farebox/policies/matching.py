"""The parts of a policy that every call is matched against: its resource and its actor, compiled once."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from farebox.policies.conditions import FIELDS, METADATA, UnresolvedField
from farebox.policies.document import Resource
from farebox.quoting import quoted

_IN_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_METADATA_KEY: Final = re.compile(r"metadata\.([A-Za-z0-9_-]{1,64})")


class InvalidActor(Exception):
    """The actor expression is invalid; the exception's text says why."""


class Actor(msgspec.Struct, frozen=True):
    """An actor expression: literal text and fields, alternating."""

    parts: tuple[str, ...]
    """Text, field, text, field … text."""

    def resolve(self, fields: Mapping[str, str], metadata: Mapping[str, str | int | float | bool]) -> str:
        """The actor of a call. Raises Unresolved if the call lacks one of the fields."""
        if len(self.parts) == 1:
            return self.parts[0]
        found = list(self.parts)
        for place in range(1, len(found), 2):
            found[place] = _value(found[place], fields, metadata)
        return "".join(found)

    def may_be(self, text: str) -> bool:
        """Whether it may resolve to this text."""
        return _segment_fits(self.parts[::2], text)


def _value(name: str, fields: Mapping[str, str], metadata: Mapping[str, str | int | float | bool]) -> str:
    source, _, key = name.partition(".")
    value = metadata.get(key) if source == METADATA else fields.get(name)
    if value is None:
        raise UnresolvedField(name)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def compile_actor(text: str) -> Actor:
    """Compile an actor expression. Raises InvalidActor."""
    parts = _IN_BRACES.split(text)
    if any("{" in part or "}" in part for part in parts[::2]):
        raise InvalidActor("a brace is not closed, or stands inside others")
    for name in parts[1::2]:
        if name not in FIELDS and not _METADATA_KEY.fullmatch(name):
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise InvalidActor(f"there is no field {quoted(name)}: use {known} or {{metadata.KEY}}")
    return Actor(tuple(parts))


class ResourceMatcher(msgspec.Struct, frozen=True):
    """A compiled resource. Names are compared in lower case."""

    models: tuple[tuple[tuple[str, ...], ...], ...] | None
    """Patterns: a tuple of segments, each split at its wildcards. None: any model."""
    providers: frozenset[str] | None
    """None: any provider."""

    def covers(self, provider: str, model: str | None, *, unknown: bool) -> bool:
        """Whether it covers a call of this model. `unknown` is the answer if the resource names models and the call's
        model is None."""
        if self.providers is not None and provider not in self.providers:
            return False
        if self.models is None:
            return True
        if model is None:
            return unknown
        alone = model.lower().split("/")
        named = [provider, *alone]
        return any(_fits(pattern, named) or _fits(pattern, alone, whole=True) for pattern in self.models)


def _fits(pattern: tuple[tuple[str, ...], ...], segments: list[str], *, whole: bool = False) -> bool:
    """`whole`: the name has no provider. A pattern may omit the provider too, if it has no slash or begins with an
    @."""
    if whole and len(pattern) > 1 and not pattern[0][0].startswith("@"):
        return False
    return len(pattern) == len(segments) and all(map(_segment_fits, pattern, segments))


def _segment_fits(pieces: tuple[str, ...], text: str) -> bool:
    """Match in one pass: taking the first place at which a piece fits leaves the most text for the pieces after it."""
    first, *middle = pieces
    if not middle:
        return text == first
    last = middle.pop()
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def compile_resource(resource: str | Resource, slugs: Mapping[str, str]) -> ResourceMatcher:
    """Compile a resource. `slugs`: alternative names of providers, with their slugs."""
    if isinstance(resource, str):
        return ResourceMatcher(None, None)
    models, providers = _names(resource.model), _names(resource.provider)
    return ResourceMatcher(
        None if models is None else tuple(_pattern(model, slugs) for model in models),
        None if providers is None else frozenset(slugs.get(name.lower(), name.lower()) for name in providers),
    )


def _names(names: str | tuple[str, ...] | msgspec.UnsetType) -> tuple[str, ...] | None:
    if isinstance(names, msgspec.UnsetType):
        return None
    return (names,) if isinstance(names, str) else names


def _pattern(model: str, slugs: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    first, *others = model.lower().split("/")
    segments = [slugs.get(first, first) if others else first, *others]
    return tuple(tuple(segment.split("*")) for segment in segments)
