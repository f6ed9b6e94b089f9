"""OpenAI's image generation and edits."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand, ImageInput
from farebox.providers.formats import bodies, media, multipart
from farebox.providers.formats.base import AnswerReader, InvalidRequest, ParsedRequest
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.lenient import Answers
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.usage import Quantity

READING: Final = Reading(
    ("input_tokens", "input_tokens"),
    ("input_text_tokens", "input_tokens_details.text_tokens"),
    ("input_image_tokens", "input_tokens_details.image_tokens"),
    ("output_tokens", "output_tokens"),
    ("output_text_tokens", "output_tokens_details.text_tokens"),
    ("output_image_tokens", "output_tokens_details.image_tokens"),
    required=("input_tokens", "output_tokens"),
)

_SQUARE: Final = 1024 * 1024
_SQUARE_TOKENS: Final = {"low": 272, "medium": 1056, "high": 4160}
"""Output tokens of a 1024×1024 picture by quality; they grow with its area."""
_LARGEST_NAMED: Final = (1536, 1024)  # the largest that `auto` picks
_PARTIAL_TOKENS: Final = 100
_STANDARD_IMAGES: Final[Mapping[str, Mapping[str, Quantity]]] = {
    "dall-e-2": {"256x256": Decimal("0.8"), "512x512": Decimal("0.9"), "1024x1024": 1},
    "dall-e-3": {"1024x1024": 1, "1024x1792": 2, "1792x1024": 2},
}
"""What a picture of DALL·E costs by its size, in pictures of a standard square; `hd` costs one more."""
_SIZE: Final = re.compile(r"([1-9]\d{1,4})x([1-9]\d{1,4})")
_GENERATED: Final = frozenset({"image_generation.completed", "image_edit.completed"})


class _Reference(msgspec.Struct):
    image_url: Any = None
    file_id: Any = None


class _Head(msgspec.Struct):
    model: bodies.Name
    prompt: str = ""
    n: bodies.Choices | None = None
    size: str | None = None
    quality: str | None = None
    stream: bool | None = None
    partial_images: bodies.Tokens | None = None
    images: list[_Reference] = msgspec.field(default_factory=list)


class _Answer(msgspec.Struct):
    type: str | None = None
    usage: Any = None
    model: Any = None
    error: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_ANSWER: Final = Answers[_Answer](_Answer)


@dataclass(frozen=True, slots=True)
class OpenAIImages(bodies.JsonBody):
    """`images/generations`, and `images/edits` as a form or as JSON.

    Models that are billed by tokens tell their usage. `demand.fixed` bounds their output by size and quality.
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
            found.take_all({"type": "input_image", "image_url": reference.image_url, "file_id": reference.file_id})
        demand = Demand(
            model=head.model,
            text_bytes=len(body) - files_bytes - found.encoded,
            text=head.prompt if exact else "",
            messages=1,
            images=tuple(found.images),
            choices=head.n or 1,
            no_output=True,
            fixed=_fixed(head),
        )
        return ParsedRequest(head.model, head.stream is True, demand)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set `model`, in JSON or in a form."""
        return multipart.replaced(body, "model", model) if body.startswith(b"--") else bodies.changed(body, model=model)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> AnswerReader:
        """A reader for the answer."""
        seen = Seen(choices=parsed.demand.choices)
        return EventReader(_take_event, READING, seen) if streaming else BodyReader(_take_body, READING, seen)


def _form(content_type: str, body: bytes) -> tuple[_Head, list[ImageInput], int]:
    """The fields of a form, its pictures, and the bytes those take."""
    fields = multipart.parts(content_type, body)
    given = {name: multipart.value(fields, body, name) for name in ("model", "prompt", "size", "quality")}
    if not given["model"]:
        raise InvalidRequest("The form lacks the field `model`.")
    counts = {name: _count(multipart.value(fields, body, name), name) for name in ("n", "partial_images")}
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
    )
    return head, images, size


def _count(text: str | None, name: str) -> int | None:
    if text is None or text == "":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise InvalidRequest(f"Expected `int` >= 0 - at `{name}`.")
    return int(text)


def _fixed(head: _Head) -> dict[str, Quantity]:
    """What the pictures are billed by: tokens, or with DALL·E, whose answers tell no usage, size and quality."""
    sizes = next((sizes for model, sizes in _STANDARD_IMAGES.items() if head.model.startswith(model)), None)
    if sizes is None:
        tokens = _output_tokens(head)
        return {"output_tokens": tokens, "output_image_tokens": tokens}
    each = sizes.get(head.size or "1024x1024", max(sizes.values()))
    if head.quality == "hd":
        each += 1
    return {"standard_images": (head.n or 1) * each}


def _output_tokens(head: _Head) -> int:
    """The most output tokens that a request's pictures can take."""
    size = _SIZE.fullmatch(head.size or "")
    width, height = (int(size[1]), int(size[2])) if size else _LARGEST_NAMED
    each = _SQUARE_TOKENS.get(head.quality or "", max(_SQUARE_TOKENS.values()))
    # Smaller pictures are not cheaper in proportion.
    area = max(width * height, _SQUARE)
    return (head.n or 1) * (math.ceil(each * area / _SQUARE) + _PARTIAL_TOKENS * (head.partial_images or 0))


def _take_event(seen: Seen, data: bytes) -> bool:
    event = _ANSWER.decode(data)
    if event.type in _GENERATED:
        seen.update(event.usage, event.model)
        seen.choice_ended(len(seen.ended))
    elif event.type == "error" or event.error:
        seen.end(failed=True)
    return True


def _take_body(seen: Seen, body: bytes) -> None:
    answer = _ANSWER.decode(body)
    seen.update(answer.usage, answer.model)
    seen.complete = True
    seen.failed = bool(answer.error)
