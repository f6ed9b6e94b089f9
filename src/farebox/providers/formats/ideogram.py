"""Ideogram: billed per image, at the price of its rendering speed."""

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies, multipart
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.by_unit import READING, decode_once, is_on, model_with
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.readers import BodyReader, Seen

_VERSION: Final = re.compile(r"v1/(?P<model>ideogram-v\d+)/")
_IMAGES_MAX: Final = 8
_DEFAULT_LEGACY: Final = "V_2"
_UPSCALE: Final = "upscale"
_EXTRAS: Final = {"character_reference_images": "character", "custom_model_uri": "custom"}
"""Fields that are billed in addition, and what they are called in a model's name."""


class _Given(msgspec.Struct):
    """The fields that billing reads, of a form or of JSON."""

    model: bodies.Name | None = None
    num_images: int | None = None
    rendering_speed: str | None = None
    character_reference_images: Any = None
    custom_model_uri: Any = None


class _Legacy(msgspec.Struct):
    image_request: _Given


class _ResponseImages(msgspec.Struct):
    data: Any = None


_GIVEN: Final = msgspec.json.Decoder(_Given)
_LEGACY: Final = msgspec.json.Decoder(_Legacy)
_RESPONSE: Final = ResponseDecoder[_ResponseImages](_ResponseImages)


@dataclass(frozen=True, slots=True)
class Ideogram(bodies.JsonBody):
    """`v1/ideogram-v3/generate` and its neighbors, and the older paths, which name their model in `image_request`."""

    name: str = "ideogram_images"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        version = _VERSION.match(path)
        form = content_type.lower().startswith("multipart/")
        if version is not None:
            given = _of_form(content_type, body) if form else decode_once(_GIVEN, body)
            model = version["model"]
        else:
            given = _of_legacy(content_type, body) if form else decode_once(_LEGACY, body).image_request
            model = _UPSCALE if path == _UPSCALE else given.model or _DEFAULT_LEGACY
        images = 1 if given.num_images is None else given.num_images
        if not 1 <= images <= _IMAGES_MAX:
            raise InvalidRequest(f"Expected `int` from 1 to {_IMAGES_MAX} - at `num_images`.")
        model = model_with(model, _extras(given))
        demand = Demand(model, no_output=True, fixed={"output_images": images}, units=("output_images",))
        return ParsedRequest(model, False, demand)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model of most requests; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return BodyReader(_parse_body, READING)


def _extras(given: _Given) -> list[str]:
    extras = [name for field, name in _EXTRAS.items() if getattr(given, field)]
    speed = (given.rendering_speed or "").lower()
    return [*extras, speed] if speed not in ("", "default") else extras


def _of_form(content_type: str, body: bytes) -> _Given:
    """Raises InvalidRequest."""
    fields = multipart.parts(content_type, body)
    number = multipart.value(fields, body, "num_images")
    if number is not None and not (number.isascii() and number.isdigit() and len(number) <= 3):
        raise InvalidRequest(f"Expected `int` from 1 to {_IMAGES_MAX} - at `num_images`.")
    names = {part.name for part in fields if part.is_file or is_on(body[part.start : part.end][:64].decode("latin-1"))}
    return _Given(
        num_images=None if number is None else int(number),
        rendering_speed=multipart.value(fields, body, "rendering_speed"),
        character_reference_images="character_reference_images" in names,
        custom_model_uri="custom_model_uri" in names,
    )


def _of_legacy(content_type: str, body: bytes) -> _Given:
    """Read a form that has the fields of the request as JSON in a single field. Raises InvalidRequest."""
    text = multipart.value(multipart.parts(content_type, body), body, "image_request")
    return _Given() if text is None else decode_once(_GIVEN, text.encode())


def _parse_body(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    seen.complete = True
    if isinstance(response.data, list):
        seen.update({"output_images": len(response.data)})
