"""OpenAI's image generation and edits."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from farebox.pricing.ceilings import family_name, longest_prefix
from farebox.pricing.model import Demand, FurtherModel, ImageInput
from farebox.providers.formats import bodies, media, multipart
from farebox.providers.formats.base import FurtherUsage, InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.references import of_request
from farebox.usage import AbsurdUsage, Quantity

READING: Final = Reading(
    ("input_tokens", "input_tokens"),
    ("input_text_tokens", "input_tokens_details.text_tokens"),
    ("input_image_tokens", "input_tokens_details.image_tokens"),
    ("output_tokens", "output_tokens"),
    ("output_text_tokens", "output_tokens_details.text_tokens"),
    ("output_image_tokens", "output_tokens_details.image_tokens"),
    required=("input_tokens", "output_tokens"),
)

AUTHOR: Final = Reading(
    ("input_tokens", "input_tokens"),
    ("output_tokens", "output_tokens"),
    ("output_reasoning_tokens", "reasoning_tokens"),
    required=("input_tokens", "output_tokens"),
    extra=(("output_tokens", "reasoning_tokens"),),
)
"""`svg_usage` is the usage of the text model that writes an SVG."""

_SQUARE: Final = 1024 * 1024
_LARGEST_NAMED: Final = (1536, 1024)  # the largest that `auto` picks
_PARTIAL_TOKENS: Final = 100
_STANDARD_IMAGES: Final[Mapping[str, Mapping[str, Quantity]]] = {
    "dall-e-2": {"256x256": Decimal("0.8"), "512x512": Decimal("0.9"), "1024x1024": 1},
    "dall-e-3": {"1024x1024": 1, "1024x1792": 2, "1792x1024": 2},
}
"""The price of a DALL·E image by its size, in standard square images; `hd` costs one more."""
_FRAMES: Final = 9
"""Assumed number of images of an animation if the request does not say."""


class _Tokens(msgspec.Struct, frozen=True):
    """Output tokens of an image of 1024×1024, by quality."""

    low: int
    medium: int
    high: int
    xhigh: int
    max: int
    growth: float
    """The fraction by which the figure grows with each further 1024×1024 pixels."""

    def of(self, quality: str | None, otherwise: str) -> int:
        """The figure for a quality, or for `otherwise` if the request leaves it open."""
        chosen = quality if quality in ("low", "medium", "high", "xhigh", "max") else otherwise
        return int(getattr(self, chosen))


_TOKENS: Final = {
    "": _Tokens(800, 1800, 7040, 7040, 7040, 1.0),
    "chatgpt-image": _Tokens(272, 1056, 4160, 4160, 4160, 1.0),
    "gpt-image-1": _Tokens(272, 1056, 4160, 4160, 4160, 1.0),
    "gpt-image-2": _Tokens(200, 1770, 7040, 7040, 7040, 1 / 7),
    "gpt-image-2.5": _Tokens(200, 440, 1760, 3130, 7040, 1 / 7),
    "gpt-image-2.6": _Tokens(800, 1760, 1760, 3130, 7040, 1 / 7),
}
"""By the beginning of the model's name. The figures of gpt-image-1 are in OpenAI's image guide; those of later models
are computed from published prices per picture at 30 USD per million tokens (gpt-image-2 high: 0.211 USD; 0.401 at
3840×2160)."""
_SIZE: Final = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})")
_PARTIAL: Final = frozenset({"image_generation.partial_image", "image_edit.partial_image"})
_PARTIAL_MAX: Final = 3
"""How many partial images a request may ask for; each shows that a further part of the image's tokens has been
generated.
"""
_GENERATED: Final = frozenset({"image_generation.completed", "image_edit.completed"})


class _Reference(msgspec.Struct):
    image_url: Any = None
    file_id: Any = None


class _Svg(msgspec.Struct):
    model: str | None = None


class _Head(msgspec.Struct):
    model: bodies.Name
    prompt: str = ""
    n: bodies.Choices | None = None
    size: str | None = None
    quality: str | None = None
    stream: bool | None = None
    partial_images: bodies.Tokens | None = None
    output_format: str | None = None
    frame_count: bodies.Tokens | None = None
    svg: _Svg | None = None
    images: list[_Reference] = msgspec.field(default_factory=list)
    mask: Any = None


class _Response(msgspec.Struct):
    type: str | None = None
    usage: Any = None
    model: Any = None
    error: Any = None
    svg_usage: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_RESPONSE: Final = ResponseDecoder[_Response](_Response)


@dataclass(frozen=True, slots=True)
class OpenAIImages(bodies.JsonBody):
    """`images/generations`, and `images/edits` as a form or as JSON.

    Models that are billed by tokens report usage. `demand.fixed` is the usage of images of this size and quality, and
    `demand.allowed` the upper bound. The model that writes an SVG from an image is billed in addition.
    """

    name: str = "openai_images"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        if content_type.lower().startswith("multipart/"):
            head, images, files_bytes = _form(content_type, body)
        else:
            head, images, files_bytes = bodies.decode(_HEAD, body), [], 0
        found = media.Attachments(images=images)
        for reference in head.images:
            found.collect_all({"type": "input_image", "image_url": reference.image_url, "file_id": reference.file_id})
        fixed, allowed = _billed(head)
        author = head.svg.model if head.svg is not None and head.svg.model else ""
        demand = Demand(
            model=head.model,
            text_bytes=len(body) - files_bytes - found.encoded,
            text=head.prompt if exact else "",
            messages=1,
            images=tuple(found.images),
            choices=head.n or 1,
            no_output=True,
            fixed=fixed,
            allowed=allowed,
            further_models=(FurtherModel(author),) if author else (),
        )
        unnamed = head.output_format == "svg" and not author
        unmetered = "the model that writes the SVG is not named: name it in `svg.model`" if unnamed else None
        references = of_request(body, [[{"file_id": one.file_id} for one in head.images], head.mask])
        return ParsedRequest(head.model, head.stream is True, demand, unmetered=unmetered, references=references)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set `model`, in JSON or in a form."""
        return multipart.replaced(body, "model", model) if body.startswith(b"--") else bodies.changed(body, model=model)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        seen = Seen(choices=parsed.demand.choices)
        if not streaming:
            return BodyReader(_parse_body, READING, seen)
        tokens = int(parsed.demand.fixed.get("output_tokens", 0))

        def parse_event(seen: Seen, data: bytes) -> bool:
            return _parse_event(seen, data, tokens)

        return EventReader(parse_event, READING, seen)


def _form(content_type: str, body: bytes) -> tuple[_Head, list[ImageInput], int]:
    """The fields of a form, its pictures, and their size in bytes."""
    fields = multipart.parts(content_type, body)
    given = {
        name: multipart.value(fields, body, name) for name in ("model", "prompt", "size", "quality", "output_format")
    }
    if not given["model"]:
        raise InvalidRequest("The form lacks the field `model`.")
    counts = {
        name: _count(multipart.value(fields, body, name), name) for name in ("n", "partial_images", "frame_count")
    }
    if counts["n"] is not None and not 1 <= counts["n"] <= 128:
        raise InvalidRequest("Expected `int` from 1 to 128 - at `n`.")
    images = []
    size = 0
    for part in fields:
        if part.is_file:
            size += part.end - part.start
            width, height = media.image_size(body[part.start : min(part.end, part.start + 65536)])
            images.append(ImageInput(width, height))
    head = _Head(
        model=given["model"],
        prompt=given["prompt"] or "",
        n=counts["n"],
        size=given["size"],
        quality=given["quality"],
        stream=multipart.value(fields, body, "stream") == "true",
        partial_images=counts["partial_images"],
        output_format=given["output_format"],
        frame_count=counts["frame_count"],
        svg=_Svg(multipart.value(fields, body, "svg[model]")),
    )
    return head, images, size


def _count(text: str | None, name: str) -> int | None:
    if text is None or text == "":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise InvalidRequest(f"Expected `int` >= 0 - at `{name}`.")
    return int(text)


def _billed(head: _Head) -> tuple[dict[str, Quantity], dict[str, Quantity]]:
    """The billed meters of the images and their upper bounds: tokens, or for DALL·E, whose responses report no usage,
    size and quality.
    """
    sizes = next((sizes for model, sizes in _STANDARD_IMAGES.items() if head.model.startswith(model)), None)
    if sizes is None:
        tokens = _output_tokens(head, "high")
        most = _output_tokens(head, "max") * ((head.frame_count or _FRAMES) if head.output_format == "gif" else 1)
        allowed: dict[str, Quantity] = {"output_tokens": most, "output_image_tokens": most} if most > tokens else {}
        return {"output_tokens": tokens, "output_image_tokens": tokens}, allowed
    each = sizes.get(head.size or "1024x1024", max(sizes.values()))
    if head.quality == "hd":
        each += 1
    return {"standard_images": (head.n or 1) * each}, {}


def _output_tokens(head: _Head, otherwise: str) -> int:
    """The output tokens of a request's pictures, in the quality `otherwise` if the request leaves it open."""
    size = _SIZE.fullmatch(head.size or "")
    width, height = (int(size[1]), int(size[2])) if size else _LARGEST_NAMED
    table = longest_prefix(_TOKENS, family_name(head.model)) or _TOKENS[""]
    # Smaller pictures are not proportionally cheaper.
    further = max(width * height, _SQUARE) / _SQUARE - 1
    each = math.ceil(table.of(head.quality, otherwise) * (1 + table.growth * further))
    return (head.n or 1) * (each + _PARTIAL_TOKENS * (head.partial_images or 0))


def _parse_event(seen: Seen, data: bytes, tokens: int) -> bool:
    """Read an event; `tokens` are the tokens of the request's pictures."""
    event = _RESPONSE.decode(data)
    if event.type in _GENERATED:
        _take_usage(seen, event)
        seen.choice_ended(len(seen.ended))
        seen.image_tokens_delivered = 0
    elif event.type in _PARTIAL:
        seen.image_tokens_delivered += tokens // (_PARTIAL_MAX + 1)
    elif event.type == "error" or event.error:
        seen.end(failed=True)
    return True


def _parse_body(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    _take_usage(seen, response)
    seen.complete = True
    seen.failed = bool(response.error)


def _take_usage(seen: Seen, response: _Response) -> None:
    seen.update(response.usage, response.model)
    if isinstance(response.svg_usage, dict):
        _parse_author(seen, response.svg_usage)


def _parse_author(seen: Seen, usage: dict[str, object]) -> None:
    model = usage.get("model")
    try:
        figures = AUTHOR.read(usage)
    except AbsurdUsage as absurd:
        seen.doubts.append(f"the usage of the SVG's author is impossible: {absurd}")
        return
    if figures is not None:
        seen.further.append(FurtherUsage(model if isinstance(model, str) else "", figures.usage))
