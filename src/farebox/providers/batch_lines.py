"""The requests and responses of batches, line by line: what a batch asks for, and what it has come to.

Pure functions, for helper processes. A piece of a file consists of whole lines.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from farebox.pricing.compiler import STANDARD
from farebox.pricing.model import Demand
from farebox.pricing.unseen import TOOLS
from farebox.providers.catalogue import format_of, provider_of, upstream_path
from farebox.providers.descriptions import GOOGLE, output_of_google
from farebox.providers.formats import bodies, duplicate_fields
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, WireFormat
from farebox.providers.formats.readers import BodyReader
from farebox.providers.provider import Plain
from farebox.providers.reading import Place, Refusals, read_as
from farebox.quoting import quoted
from farebox.usage import Quantity


class BatchResult(msgspec.Struct, frozen=True):
    """The result of one request, if it was answered."""

    model: str
    """The model as the response names it."""
    usage: Mapping[str, Quantity] | None
    """None: the response reports no usage, or impossible figures."""


class _Line(msgspec.Struct):
    """A request: OpenAI and Mistral use the first fields, Anthropic `params`, Google `request`."""

    method: str = "POST"
    url: str | None = None
    body: msgspec.Raw = msgspec.Raw()
    params: msgspec.Raw = msgspec.Raw()
    request: msgspec.Raw = msgspec.Raw()


class _Response(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Result(msgspec.Struct):
    message: msgspec.Raw = msgspec.Raw()


class _Outcome(msgspec.Struct):
    response: _Response | None = None
    result: _Result | None = None


class _Described(msgspec.Struct):
    outputs: list[msgspec.Raw] | None = None
    metadata: Any = None
    response: Any = None


class _GoogleOutcome(msgspec.Struct):
    response: msgspec.Raw = msgspec.Raw()


class _Model(msgspec.Struct):
    model: str = ""


_FIELDS: Final = tuple(f'"{name}"'.encode() for name in _Line.__struct_fields__)
_LINE: Final = msgspec.json.Decoder(_Line)
_OUTCOME: Final = msgspec.json.Decoder(_Outcome)
_DESCRIBED: Final = msgspec.json.Decoder(_Described)
_GOOGLE_OUTCOME: Final = msgspec.json.Decoder(_GoogleOutcome)
_MODEL: Final = msgspec.json.Decoder(_Model)


class BatchTarget(msgspec.Struct, frozen=True):
    """What the requests of a batch have in common, as helper processes receive it."""

    slug: str
    endpoint: str
    model: str = ""


def read_requests(body: bytes, target: BatchTarget, refused: Refusals | None, first: int) -> list[ParsedRequest]:
    """The requests in a piece of the input whose first line has the number `first`. Raises InvalidRequest if one of
    them cannot be metered."""
    place, wire = _place(target)
    found = []
    for number, text in enumerate(_lines(body), first):
        try:
            read = read_as(wire, _request(text, target), place, refused, own_key=False)
        except InvalidRequest as error:
            raise InvalidRequest(f"Line {number} of the batch: {error}") from error
        assert read.parsed is not None, "what cannot be read has raised"
        why = read.refused or _unmetered(read.parsed)
        if why:
            raise InvalidRequest(f"Line {number} of the batch, on the operator's key: {why}.")
        found.append(read.parsed)
    return found


def _request(text: bytes, target: BatchTarget) -> bytes:
    """The body of a line's request, with its model. Raises InvalidRequest."""
    duplicate_fields.check(text, refers=b"\\u00" in text or any(text.count(name) > 1 for name in _FIELDS))
    line = bodies.decode(_LINE, text)
    if target.slug == "openai" and line.url is None:
        raise InvalidRequest("it has no `url`.")
    if line.method != "POST" or line.url not in (None, target.endpoint):
        raise InvalidRequest(f"it is not a POST of {target.endpoint}.")
    body = bytes({"anthropic": line.params, GOOGLE: line.request}.get(target.slug, line.body))
    if not body.startswith(b"{"):
        raise InvalidRequest("it has no request.")
    return _of_model(body, target) if target.model else body


def _of_model(body: bytes, target: BatchTarget) -> bytes:
    """The same body with the model that the batch is for. Raises InvalidRequest if it names another one, because it is
    not known which of them the provider would use."""
    model, named = target.model, bodies.decode(_MODEL, body).model
    if named == model or (target.slug == GOOGLE and named in ("", f"models/{model}")):
        return body
    if named:
        raise InvalidRequest(f"it is for {quoted(named)}, and the batch for {quoted(model)}.")
    rest = body[1:].lstrip()
    return b'{"model":' + msgspec.json.encode(model) + (b"" if rest.startswith(b"}") else b",") + rest


def read_results(body: bytes, target: BatchTarget) -> list[BatchResult]:
    """The responses in a piece of the output: requests that failed are left out, because they cost nothing."""
    _, wire = _place(target)
    return [result for text in _lines(body) if (result := _result(text, wire, target)) is not None]


def read_inside(body: bytes, target: BatchTarget) -> list[BatchResult]:
    """The same for results that are in the description of a batch. Raises InvalidRequest."""
    _, wire = _place(target)
    described = bodies.decode(_DESCRIBED, body)
    outputs = [bytes(output) for output in described.outputs or ()]
    if target.slug == GOOGLE:
        inlined = output_of_google({"metadata": described.metadata, "response": described.response})["inlinedResponses"]
        outputs = [msgspec.json.encode(one) for one in inlined.get("inlinedResponses") or ()]
    return [result for output in outputs if (result := _result(output, wire, target)) is not None]


def _result(text: bytes, wire: WireFormat, target: BatchTarget) -> BatchResult | None:
    try:
        response = _answer(text, target)
    except ValueError:
        return BatchResult("", None)
    if not response:
        return None
    parsed = ParsedRequest(target.model, stream=False, demand=Demand(target.model))
    reader = wire.reader(parsed, streaming=False, hide_usage=False)
    assert isinstance(reader, BodyReader)
    observed = reader.whole(response)
    usage = None if observed.missing or observed.implausible else observed.usage
    return BatchResult(observed.model or "", None if usage is None else dict(usage))


def _answer(text: bytes, target: BatchTarget) -> bytes:
    """The response in a line; empty if the request has failed. Raises ValueError."""
    if target.slug == GOOGLE:
        return bytes(_GOOGLE_OUTCOME.decode(text).response)
    outcome = _OUTCOME.decode(text)
    if outcome.result is not None:
        return bytes(outcome.result.message)
    response = outcome.response
    return b"" if response is None or response.status_code >= 300 else bytes(response.body)


def _unmetered(parsed: ParsedRequest) -> str:
    demand = parsed.demand
    if parsed.unmetered:
        return parsed.unmetered
    if parsed.in_thread:
        return "a request of a batch does not belong to a thread"
    if parsed.stream or parsed.background:
        return "a request of a batch is neither streamed nor in the background"
    if any(value not in STANDARD for value in parsed.context.values()):
        return "a request of a batch does not choose another price"
    if demand.allowed or demand.further_models or any(unseen.kind in TOOLS for unseen in demand.unseen):
        return "tools that run at the provider are not metered in a batch"
    return ""


def _place(target: BatchTarget) -> tuple[Place, WireFormat]:
    provider = provider_of(target.slug)
    assert provider is not None, "it was asked for the batch"
    path = upstream_path(provider, target.endpoint)
    wire = format_of(provider, "POST", path)
    assert not isinstance(wire, Plain), "it is one of its endpoints"
    return Place(target.slug, "POST", path, "application/json"), wire


def _lines(body: bytes) -> Iterator[bytes]:
    for text in body.split(b"\n"):
        if text and not text.isspace():
            yield text
