"""Images that are billed by number: those of xAI and others in OpenAI's form, and Google's Imagen."""

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.by_unit import READING, model_with
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.stated import exact_number

_IMAGEN: Final = re.compile(r"(?:^|/)models/(?P<model>[\w.-]+):predict$")
_SAMPLES: Final = 4
"""Number of Imagen's images if the request does not say."""
_FILE: Final = frozenset({"bytesBase64Encoded", "gcsUri"})
_PLAIN: Final = ("", "1k")


class _Head(msgspec.Struct):
    model: bodies.Name
    n: bodies.Choices | None = None
    resolution: str | None = None


class _Parameters(msgspec.Struct):
    sampleCount: int | None = None


class _ImagenHead(msgspec.Struct):
    instances: list[Any]
    parameters: _Parameters | None = None


class _ResponseImages(msgspec.Struct):
    data: Any = None
    predictions: Any = None
    error: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_IMAGEN_HEAD: Final = msgspec.json.Decoder(_ImagenHead)
_RESPONSE: Final = ResponseDecoder[_ResponseImages](_ResponseImages, float_hook=exact_number)


@dataclass(frozen=True, slots=True)
class ImagesByCount(bodies.JsonBody):
    """`images/generations`. A resolution that costs more is part of the model's name: `grok-imagine-image-2.0+2k`."""

    name: str = "images_by_count"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_HEAD, body)
        resolution = (head.resolution or "").lower()
        return _parsed(model_with(head.model, () if resolution in _PLAIN else (resolution,)), head.n or 1)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return BodyReader(_parse_body, READING)


@dataclass(frozen=True, slots=True)
class ImagenPredict(bodies.JsonBody):
    """`models/imagen-…:predict`."""

    name: str = "imagen_predict"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request; the path names the model. Raises InvalidRequest."""
        place = _IMAGEN.search(path)
        if place is None:
            raise InvalidRequest("The path names no model: use `models/<model>:predict`.")
        head = bodies.decode(_IMAGEN_HEAD, body)
        number = _SAMPLES if head.parameters is None else head.parameters.sampleCount or _SAMPLES
        if not 1 <= number <= 8 or len(head.instances) != 1:
            raise InvalidRequest("Send one instance, and a `sampleCount` from 1 to 8.")
        return _parsed(place["model"], number)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return BodyReader(_parse_body, READING)


def _parsed(model: str, images: int) -> ParsedRequest:
    demand = Demand(model, no_output=True, fixed={"output_images": images}, units=("output_images",))
    return ParsedRequest(model, False, demand)


def _parse_body(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    seen.complete = True
    seen.failed = bool(response.error)
    if isinstance(response.data, list):
        seen.update({"output_images": len(response.data)})
    elif isinstance(response.predictions, list):  # filtered ones have a reason in place of an image
        made = [one for one in response.predictions if isinstance(one, dict) and not _FILE.isdisjoint(one)]
        seen.update({"output_images": len(made)})
