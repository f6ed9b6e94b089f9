"""The files of OpenAI's batches, line by line: what a batch asks for, and what it has come to.

Functions of values alone, for helper processes: a piece of a file has whole lines.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from farebox.pricing.compiler import STANDARD
from farebox.pricing.unseen import TOOLS
from farebox.providers.catalogue import format_of, provider_of, upstream_path
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, WireFormat
from farebox.providers.formats.readers import BodyReader
from farebox.providers.provider import Plain
from farebox.providers.reading import Place, Refused, read_as
from farebox.usage import Quantity

MESSAGES: Final = "/v1/messages"
"""What Anthropic's are for."""
ENDPOINTS: Final = frozenset({"/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions"})
"""What the requests of a batch may be for: the others are billed by what no line says."""


class BatchResult(msgspec.Struct, frozen=True):
    """What one request has come to, if it was answered."""

    model: str
    """As the response names it."""
    usage: Mapping[str, Quantity] | None
    """None: the response does not report it, or impossible figures."""


class _Line(msgspec.Struct):
    method: str
    url: str
    body: msgspec.Raw


class _Response(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Result(msgspec.Struct):
    message: msgspec.Raw = msgspec.Raw()


class _Outcome(msgspec.Struct):
    response: _Response | None = None
    result: _Result | None = None


class _Request(msgspec.Struct):
    params: msgspec.Raw


class _Requests(msgspec.Struct):
    requests: list[_Request]


_LINE: Final = msgspec.json.Decoder(_Line)
_OUTCOME: Final = msgspec.json.Decoder(_Outcome)
_REQUESTS: Final = msgspec.json.Decoder(_Requests)


def lines_of(body: bytes) -> Iterator[bytes]:
    """The requests of one of Anthropic's batches, as lines of OpenAI's. Raises InvalidRequest."""
    head = b'{"method": "POST", "url": "%b", "body": ' % MESSAGES.encode()
    for request in bodies.decode(_REQUESTS, body).requests:
        yield head + bytes(request.params).replace(b"\n", b" ") + b"}\n"  # a line's end is white space in JSON


def read_requests(body: bytes, slug: str, endpoint: str, refused: Refused | None, first: int) -> list[ParsedRequest]:
    """The requests of a piece of the input, whose first line has this number. Raises InvalidRequest where one of them
    cannot be metered."""
    place, wire = _place(slug, endpoint)
    found = []
    for number, text in enumerate(_lines(body), first):
        try:
            line = bodies.decode(_LINE, text)
            if line.method != "POST" or line.url != endpoint:
                raise InvalidRequest(f"it is not a POST of {endpoint}.")
            read = read_as(wire, bytes(line.body), place, refused, own_key=False)
        except InvalidRequest as error:
            raise InvalidRequest(f"Line {number} of the batch: {error}") from error
        assert read.parsed is not None, "what cannot be read has raised"
        why = read.refused or _unmetered(read.parsed)
        if why:
            raise InvalidRequest(f"Line {number} of the batch, on the operator's key: {why}.")
        found.append(read.parsed)
    return found


def read_results(body: bytes, slug: str, endpoint: str) -> list[BatchResult]:
    """The responses in a piece of the output: those of requests that have failed are left out, as they cost nothing."""
    _, wire = _place(slug, endpoint)
    return [result for text in _lines(body) if (result := _result(text, wire)) is not None]


def _result(text: bytes, wire: WireFormat) -> BatchResult | None:
    try:
        outcome = _OUTCOME.decode(text)
    except ValueError:
        return BatchResult("", None)
    response = outcome.response
    if outcome.result is not None and bytes(outcome.result.message):
        response = _Response(200, outcome.result.message)
    if response is None or response.status_code >= 300:
        return None
    parsed: Any = None
    reader = wire.reader(parsed, streaming=False, hide_usage=False)
    assert isinstance(reader, BodyReader)
    observed = reader.whole(bytes(response.body))
    usage = None if observed.missing or observed.implausible else observed.usage
    return BatchResult(observed.model or "", None if usage is None else dict(usage))


def _unmetered(parsed: ParsedRequest) -> str:
    demand = parsed.demand
    if parsed.unmetered:
        return parsed.unmetered
    if parsed.stream or parsed.background:
        return "a request of a batch is neither streamed nor in the background"
    if any(value not in STANDARD for value in parsed.context.values()):
        return "a request of a batch does not choose another price"
    if demand.allowed or demand.further_models or any(unseen.kind in TOOLS for unseen in demand.unseen):
        return "tools that run at the provider are not metered in a batch"
    return ""


def _place(slug: str, endpoint: str) -> tuple[Place, WireFormat]:
    provider = provider_of(slug)
    assert provider is not None, "it was asked for the batch"
    path = upstream_path(provider, endpoint)
    wire = format_of(provider, "POST", path)
    assert not isinstance(wire, Plain), "it is one of ENDPOINTS"
    return Place(slug, "POST", path, "application/json"), wire


def _lines(body: bytes) -> Iterator[bytes]:
    for text in body.split(b"\n"):
        if text and not text.isspace():
            yield text
