"""Videos that are billed by the second: OpenAI's, Google's Veo and xAI's.

The hold covers what the request determines: seconds, at a resolution that is part of the priced model name if it costs
more than the plain one (`veo-3.1-generate-001+4k`). The charge follows the description of the finished video.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies, multipart, stated
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, Reference, ResponseReader
from farebox.providers.formats.by_unit import READING, decode_once, model_with
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.references import references_in
from farebox.usage import Quantity

_SECONDS: Final = "output_video_seconds"
_SECONDS_MAX: Final = 60
"""Longest video in seconds: OpenAI's have at most 12, Veo's 8, xAI's 15."""
_SIZE: Final = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})")
_PLAIN_SIDE: Final = 720
_REMIX: Final = re.compile(r"videos/(?P<id>[\w-]{1,128})/remix$")
_VEO: Final = re.compile(r"(?:^|/)models/(?P<model>veo-[\w.-]+):predictLongRunning")
_DIGITS_MAX: Final = 4
_VEO_SECONDS: Final = 8
_XAI_SECONDS: Final = 15
"""Seconds if the request does not say: the maximum."""
_ELSEWHERE: Final = frozenset({"uri", "gcsuri", "fileuri"})
"""Fields that name an image or a video outside the request, in lower case and without underscores."""
_OPENAI_FIELDS: Final = frozenset({"model", "prompt", "seconds", "size", "input_reference"})
_VEO_FIELDS: Final = frozenset({"instances", "parameters", "labels"})
_VEO_INSTANCE: Final = frozenset({"prompt", "image", "lastFrame", "referenceImages", "video"})
_VEO_PARAMETERS: Final = frozenset(
    {"sampleCount", "durationSeconds", "resolution", "generateAudio", "storageUri"}
    | {"aspectRatio", "compressionQuality", "enhancePrompt", "negativePrompt", "personGeneration", "resizeMode", "seed"}
)
_XAI_FIELDS: Final = frozenset(
    {"model", "prompt", "duration", "aspect_ratio", "resolution", "size", "image", "reference_images", "user"}
)
"""The fields that are known: any other may change what a video costs."""
_XAI_READING: Final = Reading((_SECONDS, _SECONDS), ("input_images", "input_images"), stated=stated.xai)


class _OpenAIHead(msgspec.Struct):
    model: bodies.Name = "sora-2"
    seconds: str | int = "4"
    size: str = "720x1280"
    input_reference: Any = None


class _RemixHead(msgspec.Struct):
    prompt: str


class _VeoParameters(msgspec.Struct):
    sampleCount: int | None = None
    durationSeconds: str | int | None = None
    resolution: str | None = None
    generateAudio: bool | None = None
    storageUri: str | None = None


class _VeoHead(msgspec.Struct):
    instances: list[dict[str, Any]]
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class _XaiHead(msgspec.Struct):
    model: bodies.Name
    duration: int | None = None
    resolution: str | None = None
    size: str | None = None
    image: dict[str, Any] | str | None = None
    reference_images: list[Any] | None = None


class _OpenAIVideo(msgspec.Struct):
    status: Any = None
    model: Any = None
    seconds: Any = None
    size: Any = None


class _Operation(msgspec.Struct):
    done: Any = None
    error: Any = None
    response: Any = None


class _XaiVideo(msgspec.Struct):
    status: Any = None
    video: Any = None
    usage: Any = None


_OPENAI_HEAD: Final = msgspec.json.Decoder(_OpenAIHead)
_REMIX_HEAD: Final = msgspec.json.Decoder(_RemixHead)
_VEO_HEAD: Final = msgspec.json.Decoder(_VeoHead)
_XAI_HEAD: Final = msgspec.json.Decoder(_XaiHead)
_OPENAI_VIDEO: Final = ResponseDecoder[_OpenAIVideo](_OpenAIVideo, float_hook=stated.exact_number)
_OPERATION: Final = ResponseDecoder[_Operation](_Operation, float_hook=stated.exact_number)
_XAI_VIDEO: Final = ResponseDecoder[_XaiVideo](_XaiVideo, float_hook=stated.exact_number)


@dataclass(frozen=True, slots=True)
class OpenAIVideos(bodies.JsonBody):
    """`videos`, as a form or as JSON. `sora-2-pro+1024p` is the price of a shorter side of 1,024 pixels."""

    name: str = "openai_videos"
    long_kind: str = "video"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        if content_type.lower().startswith("multipart/"):
            head, names = _form(content_type, body)
        else:
            head, names = decode_once(_OPENAI_HEAD, body), list(bodies.fields(body))
        parsed = _sized(head.model, head.seconds, head.size, tuple(references_in(head.input_reference)))
        return replace(parsed, unmetered=_unread(names, _OPENAI_FIELDS))

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set `model`."""
        return multipart.replaced(body, "model", model) if body.startswith(b"--") else bodies.changed(body, model=model)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the description of a video."""

        def parse_body(seen: Seen, body: bytes) -> None:
            video = _OPENAI_VIDEO.decode(body)
            seen.complete = True
            seen.failed = video.status == "failed"
            if video.status == "completed":
                seen.update({_SECONDS: _bounded(seen, video.seconds, parsed)})

        return BodyReader(parse_body, READING)


@dataclass(frozen=True, slots=True)
class OpenAIRemix(OpenAIVideos):
    """`videos/{id}/remix`, which makes a variation of another video, with its length and size. It is priced by the
    stored description of that video."""

    name: str = "openai_video_remix"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request: its model is not known yet. Raises InvalidRequest."""
        place = _REMIX.search(path)
        if place is None:
            raise InvalidRequest("The path names no video: use `videos/<id>/remix`.")
        decode_once(_REMIX_HEAD, body)
        unmetered = _unread(bodies.fields(body), ("prompt",))
        return _parsed("", {}, references=(Reference("video", place["id"]),), unmetered=unmetered)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The other video determines the model; the body stays unchanged."""
        return body

    def of_source(self, parsed: ParsedRequest, described: bytes) -> ParsedRequest:
        """The same request, completed by the description of the other video. Raises InvalidRequest."""
        video = _OPENAI_VIDEO.decode(described)
        return _sized(str(video.model), str(video.seconds), str(video.size), parsed.references)


@dataclass(frozen=True, slots=True)
class VeoVideos(bodies.JsonBody):
    """`models/veo-…:predictLongRunning`. A video without sound (`generateAudio`) has the price of `MODEL+silent`."""

    name: str = "google_videos"
    long_kind: str = "video"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request; the path names the model. Raises InvalidRequest."""
        place = _VEO.search(path)
        if place is None:
            raise InvalidRequest("The path names no model: use `models/<model>:predictLongRunning`.")
        head = decode_once(_VEO_HEAD, body)
        asked = bodies.convert(head.parameters, _VeoParameters)
        count = 1 if asked.sampleCount is None else asked.sampleCount
        if not 1 <= count <= 4 or len(head.instances) != 1:
            raise InvalidRequest("Send one instance, and a `sampleCount` from 1 to 4.")
        seconds = _VEO_SECONDS if asked.durationSeconds is None else asked.durationSeconds
        seconds, resolution = _seconds(seconds, "parameters.durationSeconds"), (asked.resolution or "720p").lower()
        extras = [] if resolution == "720p" else [resolution]
        extras += ["silent"] if asked.generateAudio is False else []
        return _parsed(
            model_with(place["model"], extras),
            {_SECONDS: count * seconds},
            unmetered=_unread(bodies.fields(body), _VEO_FIELDS)
            or _unread(head.parameters, _VEO_PARAMETERS, "parameters.")
            or _unmetered(head.instances[0], asked),
            videos=count,
        )

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for an operation that is done."""

        def parse_body(seen: Seen, body: bytes) -> None:
            operation = _OPERATION.decode(body)
            asked = parsed.demand.choices
            made = min(sum(1 for _ in videos_in(operation.response)), asked)
            left = made or asked - min(_filtered(operation.response), asked)
            seen.complete = True
            seen.failed = not made and (bool(operation.error) or not left)
            if not seen.failed:  # if no reason is given for missing ones, all requested videos are there
                seen.update({_SECONDS: parsed.demand.fixed[_SECONDS] * left // asked})

        return BodyReader(parse_body, READING)


@dataclass(frozen=True, slots=True)
class XaiVideos(bodies.JsonBody):
    """`videos/generations`. Its plain resolution is 480p."""

    name: str = "xai_videos"
    long_kind: str = "video"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = decode_once(_XAI_HEAD, body)
        if head.resolution and head.size:
            raise InvalidRequest("Send `resolution` or `size`, not both.")
        resolution = (head.resolution or (f"{_shorter_side(head.size)}p" if head.size else "480p")).lower()
        images = len(head.reference_images or ()) + (head.image is not None)
        most: dict[str, Quantity] = {_SECONDS: _XAI_SECONDS if head.duration is None else head.duration}
        if head.duration is not None:
            _seconds(head.duration, "duration")
        if images:
            most["input_images"] = images
        return _parsed(
            model_with(head.model, () if resolution == "480p" else (resolution,)),
            most,
            references=tuple(dict.fromkeys(references_in([head.image, head.reference_images]))),
            unmetered=_unread(bodies.fields(body), _XAI_FIELDS),
        )

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the description of a finished video, which states its cost."""
        images = parsed.demand.fixed.get("input_images")

        def parse_body(seen: Seen, body: bytes) -> None:
            found = _XAI_VIDEO.decode(body)
            video = found.video if isinstance(found.video, dict) else {}
            usage = found.usage if isinstance(found.usage, dict) else {}
            seen.complete = True
            seen.failed = found.status in ("failed", "expired") and not usage.get("cost_in_usd_ticks")
            if not seen.failed:
                seconds = _bounded(seen, video.get("duration"), parsed)
                seen.update({**usage, _SECONDS: seconds, "input_images": images})

        return BodyReader(parse_body, _XAI_READING)


def videos_in(response: object) -> Iterator[dict[str, Any]]:
    """The videos in the response of a Google operation, from AI Studio or Vertex AI."""
    if not isinstance(response, dict):
        return
    inner = response.get("generateVideoResponse")
    samples = inner.get("generatedSamples") if isinstance(inner, dict) else None
    for one in (response.get("videos"), samples):
        for found in one if isinstance(one, list) else ():
            video = found.get("video", found) if isinstance(found, dict) else None
            if isinstance(video, dict) and not {"uri", "gcsUri", "bytesBase64Encoded", "encodedVideo"}.isdisjoint(
                video
            ):
                yield video


def _bounded(seen: Seen, stated: object, parsed: ParsedRequest) -> object:
    """The stated seconds of a video, but at most the requested ones, which are charged if none are stated. Values that
    are not numbers are rejected when the figures are read."""
    asked = parsed.demand.fixed.get(_SECONDS)
    seconds = (_whole(stated) or stated) if isinstance(stated, str) else stated
    if isinstance(seconds, Decimal) and not seconds.is_finite():
        return seconds  # not compared
    if asked is not None and isinstance(seconds, int | Decimal) and seconds > asked:
        seen.doubts.append(f"{str(seconds)[:40]} seconds are stated, and {asked} were asked for")
        return asked
    return seconds or asked


def _filtered(response: object) -> int:
    """How many videos a Google operation says that it withheld."""
    response = response if isinstance(response, dict) else {}
    inner = response.get("generateVideoResponse")
    places = (response, inner) if isinstance(inner, dict) else (response,)
    return max(_whole(place.get("raiMediaFilteredCount")) for place in places)


def _form(content_type: str, body: bytes) -> tuple[_OpenAIHead, list[str]]:
    """The form, and the names of its fields. Raises InvalidRequest."""
    parts = multipart.parts(content_type, body)
    if any(part.name.startswith("input_reference") and not part.is_file for part in parts):
        raise InvalidRequest("In a form, `input_reference` is a file: send what only refers to one as JSON.")
    names = ("model", "seconds", "size")
    given = {name: text for name in names if (text := multipart.value(parts, body, name)) is not None}
    return bodies.convert(given, _OpenAIHead), [part.name for part in parts]


def _sized(model: str, seconds: str | int, size: str, references: tuple[Reference, ...]) -> ParsedRequest:
    """Raises InvalidRequest."""
    short = _shorter_side(size)
    name = model_with(model, () if short == _PLAIN_SIDE else (f"{short}p",))
    return _parsed(name, {_SECONDS: _seconds(seconds, "seconds")}, references=tuple(dict.fromkeys(references)))


def _parsed(
    model: str,
    fixed: dict[str, Quantity],
    *,
    references: tuple[Reference, ...] = (),
    unmetered: str | None = None,
    videos: int = 1,
) -> ParsedRequest:
    demand = Demand(model, no_output=True, choices=videos, fixed=fixed, units=(_SECONDS,))
    return ParsedRequest(model, False, demand, background=True, references=references, unmetered=unmetered)


def _seconds(value: str | int, name: str) -> int:
    """Raises InvalidRequest."""
    seconds = _whole(value)
    if not 1 <= seconds <= _SECONDS_MAX:
        raise InvalidRequest(f"Expected a whole number from 1 to {_SECONDS_MAX} - at `$.{name}`.")
    return seconds


def _whole(value: object) -> int:
    """A whole number, also as text; 0 if it is not one, or cannot be a number of seconds or videos."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _DIGITS_MAX:
        return int(value)
    return value if type(value) is int and 0 <= value < 10**_DIGITS_MAX else 0


def _shorter_side(size: str) -> int:
    """Raises InvalidRequest."""
    found = _SIZE.fullmatch(size)
    if found is None:
        raise InvalidRequest("Expected a width and a height such as `1280x720` - at `$.size`.")
    return min(int(found[1]), int(found[2]))


def _unread(names: Iterable[str], known: Collection[str], within: str = "") -> str | None:
    """Why a request with an unknown field is refused; None if all fields are known."""
    name = next((name for name in names if name not in known), None)
    return None if name is None else f"what `{within}{name[:64]}` costs is not known here: leave it out"


def _unmetered(instance: dict[str, Any], asked: _VeoParameters) -> str | None:
    """Why a request that names something only the operator's key can read, or of unknown length, is refused."""
    if instance.get("video") is not None:
        return "continuing a video is billed by something that the request does not state"
    if asked.storageUri is not None:
        return "`storageUri` names a bucket of the operator's: leave it out, and the response has the video"
    if not _ELSEWHERE.isdisjoint(name.lower().replace("_", "") for name in _names(instance)):
        return "images are sent in the request, as `bytesBase64Encoded`"
    return _unread(instance, _VEO_INSTANCE, "instances[0].")


def _names(instance: dict[str, Any]) -> Iterable[str]:
    """The field names of an instance, and of the objects inside it."""
    stack: list[object] = [instance]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            yield from value
            stack.extend(value.values())
