"""fal: billed by the units that its responses state, which are the units of the model's price: images, megapixels,
seconds."""

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.by_unit import READING, decode_once, figure
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.stated import exact_number

QUEUE: Final = "queue/"
"""The path prefix of fal's queue, which has a separate host."""
MODEL: Final = r"(?!(?:queue|workflows|comfy)/)(?!.*/(?:requests(?:/|$)|stream$))[\w.-]+/[\w.-]+(/[\w.-]+){0,4}"
"""A model's ID; excludes paths of queued requests, streams of partial results, and endpoints that run other models."""
_UNITS: Final = "x-fal-billable-units"
_PLACE: Final = re.compile(rf"(?:{QUEUE})?(?P<model>.+)")
_IMAGES_MAX: Final = 128


class _Head(msgspec.Struct):
    num_images: Any = None
    max_images: Any = None
    """Images for each of the `num_images`, with models that generate series."""


class _ResponseImages(msgspec.Struct):
    images: Any = None
    image: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_RESPONSE: Final = ResponseDecoder[_ResponseImages](_ResponseImages, float_hook=exact_number)


@dataclass(frozen=True, slots=True)
class Fal(bodies.JsonBody):
    """A model that runs at once, or is `queued`: then its result is read when it is fetched."""

    name: str = "fal_run"
    queued: bool = False
    long_kind: str = "prediction"
    usage_headers: tuple[str, ...] = (_UNITS,)

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        place = _PLACE.fullmatch(path)
        assert place is not None
        head = decode_once(_HEAD, body)
        images = _count(head.num_images, "num_images") * _count(head.max_images, "max_images")
        demand = Demand(
            place["model"],
            no_output=True,
            allowed={"output_images": images, "runs": 1},
            units=("billed_units", "output_images", "runs"),
            unbounded=("billed_units",),
        )
        return ParsedRequest(place["model"], False, demand, background=self.queued)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for a result."""
        stated = figure(parsed.stated.get(_UNITS))

        def parse_body(seen: Seen, body: bytes) -> None:
            response = _RESPONSE.decode(body)
            seen.complete = True
            images = len(response.images) if isinstance(response.images, list) else int(response.image is not None)
            seen.update({"billed_units": stated, "output_images": images, "runs": 1})
            if stated is None:
                seen.doubts.append(f"the response has no {_UNITS}")

        return BodyReader(parse_body, READING)


def _count(value: object, name: str) -> int:
    """Read a number of images. Raises InvalidRequest."""
    count = 1 if value is None else value
    if type(count) is not int or not 1 <= count <= _IMAGES_MAX:
        raise InvalidRequest(f"Expected `int` from 1 to {_IMAGES_MAX} - at `$.{name}`.")
    return count
