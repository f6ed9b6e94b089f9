"""Formats whose requests name their model in the path: at clouds, where the body need not name it, or may name another
one."""

import re
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader, WireFormat


@dataclass(frozen=True, slots=True)
class NamedByPath:
    """Another format, with the model taken from the path."""

    inner: WireFormat
    path: re.Pattern[str]
    """Finds `model` in the path; the group `stream`, if there is one, shows that a stream is requested."""

    @property
    def name(self) -> str:
        return self.inner.name

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        place = self.path.search(path)
        if place is None:
            raise InvalidRequest("The path names no model.")
        model = place["model"]
        form = content_type.lower().startswith("multipart/")
        parsed = self.inner.parse(path, content_type, body if form else with_model(body, model), exact=exact)
        stream = parsed.stream or ("stream" in place.groupdict() and place["stream"] is not None)
        return replace(parsed, model=model, stream=stream, demand=replace(parsed.demand, model=model))

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        return self.inner.limit_output(body, tokens)

    def request_usage(self, body: bytes) -> bytes:
        return self.inner.request_usage(body)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return self.inner.reader(parsed, streaming=streaming, hide_usage=hide_usage)


def with_model(body: bytes, model: str) -> bytes:
    """A JSON object with this model, for reading only: of several fields of one name, our decoder uses the last. A body
    that is not an object is returned unchanged, and is rejected when it is read."""
    inside = body.strip()
    if inside[:1] != b"{" or inside[-1:] != b"}":
        return body
    comma = b"," if inside[1:-1].strip() else b""
    return b'%b%b"model":%b}' % (inside[:-1], comma, msgspec.json.encode(model))
