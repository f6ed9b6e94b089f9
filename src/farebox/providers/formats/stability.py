"""Stability AI: an image for each request that succeeds, at the price in credits of its service or model."""

import re
from dataclasses import dataclass
from typing import Final

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies, multipart
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.by_unit import StatedReader

_PATH: Final = re.compile(r"v2beta/stable-image/(?P<kind>generate|edit|upscale|control)/(?P<service>[a-z0-9-]+)")
_MODEL: Final = re.compile(r"[\w.-]{1,64}")
_OF_MODELS: Final = "sd3"
"""The service whose form names a model."""
_USUAL: Final = "sd3.5-large"


@dataclass(frozen=True, slots=True)
class Stability(bodies.JsonBody):
    """`v2beta/stable-image/…`, as a form. It is priced as `ultra`, `core`, `sd3.5-large`, `erase`, `fast`…"""

    name: str = "stability_image"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        place = _PATH.fullmatch(path)
        assert place is not None
        model = place["service"]
        if model == _OF_MODELS:
            model = multipart.value(multipart.parts(content_type, body), body, "model") or _USUAL
            if _MODEL.fullmatch(model) is None:
                raise InvalidRequest("Expected the name of a model - at `model`.")
        demand = Demand(model, no_output=True, fixed={"output_images": 1}, units=("output_images",))
        return ParsedRequest(model, False, demand)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the service; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the image, or for the JSON that contains it."""
        return StatedReader({"output_images": 1})
