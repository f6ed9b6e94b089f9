"""Replicate's predictions: billed by seconds of hardware, or by what an official model's metrics count."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.by_unit import READING, decode_once, only, query_of
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.stated import exact_number
from farebox.usage import Quantity

_OF_MODEL: Final = re.compile(r"(?P<deployment>deployments/)?(models/)?(?P<model>[\w.-]+/[\w.-]+)/predictions")
_VERSION: Final = re.compile(r"(?:(?P<model>[\w.-]+/[\w.-]+)(?::[0-9a-f]+)?|(?P<id>[0-9a-f]{8,64}))")
_RUN_SECONDS_MAX: Final = 30 * 60
"""Time after which Replicate ends a prediction, unless the request sets an earlier end (`Cancel-After`)."""
_RUN_SECONDS_MIN: Final = 5
"""The earliest end that a request may ask for."""
_DEADLINE: Final = re.compile(r"(?=\d)(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s?)?")
_IMAGES: Final = ("num_outputs", "num_images", "number_of_images", "max_images", "n")
_IMAGES_MAX: Final = 10_000
"""More images are not held for: no model generates as many."""
_LIMITS: Final = ("max_tokens", "max_new_tokens", "max_completion_tokens", "max_output_tokens")
"""Names that models have in `input` for the number of images, and for the output limit."""
_METRICS: Final = (
    ("compute_seconds", "predict_time"),
    ("input_tokens", "token_input_count", "input_token_count"),
    ("output_tokens", "token_output_count", "output_token_count"),
    ("input_characters", "character_input_count"),
    ("output_images", "image_output_count", "image_count"),
    ("output_video_seconds", "video_output_duration_seconds"),
    ("output_audio_seconds", "audio_output_duration_seconds"),
    ("billed_units", "unspecified_billing_metric", "generic_output_count"),
)
"""Meter → the metrics that state it."""
UNITS: Final = (
    *("compute_seconds", "output_images", "output_video_seconds", "output_audio_seconds", "input_characters"),
    *("output_steps", "runs", "billed_units", "input_tokens", "output_tokens"),
)


class _Head(msgspec.Struct):
    input: dict[str, Any]
    version: str | None = None


class _Prediction(msgspec.Struct):
    status: Any = None
    output: Any = None
    metrics: Any = None
    started_at: Any = None
    completed_at: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_PREDICTION: Final = ResponseDecoder[_Prediction](_Prediction, float_hook=exact_number)


@dataclass(frozen=True, slots=True)
class Replicate(bodies.JsonBody):
    """`predictions`, `models/{owner}/{name}/predictions` and `deployments/{owner}/{name}/predictions`."""

    name: str = "replicate_prediction"
    long_kind: str = "prediction"
    reads_query: bool = True
    reads_headers: tuple[str, ...] = ("cancel-after",)

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = decode_once(_HEAD, body)
        model, given = _model(path.partition("?")[0], head), head.input
        images, steps = _images(given), given.get("num_inference_steps")
        text = sum(map(len, _texts(given)))
        allowed: dict[str, Quantity] = {"compute_seconds": _deadline(only(query_of(path), "cancel-after"))}
        allowed |= {"output_images": images, "runs": 1, "input_characters": text}
        seconds = given.get("duration")
        if type(seconds) is int and 0 < seconds < 10_000:
            allowed |= {"output_video_seconds": seconds, "output_audio_seconds": seconds}
        if type(steps) is int and 0 < steps < 10_000:
            allowed["output_steps"] = steps * images
        limits = [limit for name in _LIMITS if type(limit := given.get(name)) is int and limit > 0]
        demand = Demand(
            model,
            text_bytes=min(len(body), 4 * text + 1024),
            messages=1,
            output_max=max(limits, default=None),
            allowed=allowed,
            units=UNITS,
            unbounded=tuple(meter for meter in UNITS if meter not in allowed and not meter.endswith("_tokens")),
        )
        return ParsedRequest(model, False, demand, background=True)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model, or the body its version."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the description of a prediction that has ended."""
        steps = parsed.demand.allowed.get("output_steps")

        def parse_body(seen: Seen, body: bytes) -> None:
            prediction = _PREDICTION.decode(body)
            seen.complete = True
            usage = _usage(prediction, steps)
            seen.failed = prediction.status != "succeeded" and not usage
            seen.update(usage)

        return BodyReader(parse_body, READING)


def _model(path: str, head: _Head) -> str:
    """The name that the prediction is priced by. Raises InvalidRequest."""
    place = _OF_MODEL.fullmatch(path)
    if place is not None:
        return f"{place['deployment'] or ''}{place['model']}"
    version = _VERSION.fullmatch(head.version or "")
    if version is None:
        raise InvalidRequest("Expected `owner/name`, `owner/name:version` or a version's ID - at `$.version`.")
    return version["model"] or version["id"]


def _images(given: Mapping[str, Any]) -> int:
    return max([1, *(_count(given.get(name)) for name in _IMAGES)])


def _count(value: object) -> int:
    """A number, as leniently as models read it: `4`, `4.0` or `"4"`; 0 if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        return int(min(max(float(value), 0), _IMAGES_MAX))
    except (ValueError, OverflowError):
        return 0


def _texts(given: object) -> Iterator[str]:
    """The strings of an input that a model reads as text: not files in the form of URLs."""
    for text in bodies.strings(given):
        if not text.startswith("data:"):
            yield text


def _deadline(text: str) -> int:
    """The most seconds that a prediction runs. Raises InvalidRequest."""
    if not text:
        return _RUN_SECONDS_MAX
    found = _DEADLINE.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest("`Cancel-After` is a duration such as `90s` or `1m30s`.")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return max(_RUN_SECONDS_MIN, min(hours * 3600 + minutes * 60 + seconds, _RUN_SECONDS_MAX))


def _usage(prediction: _Prediction, steps: Quantity | None) -> dict[str, Any]:
    """The billed usage of a prediction: everything it states if it succeeded, otherwise the time that it ran."""
    metrics = prediction.metrics if isinstance(prediction.metrics, dict) else {}
    usage: dict[str, Any] = {}
    for meter, *names in _METRICS:
        usage[meter] = next((value for name in names if (value := metrics.get(name)) is not None), None)
    if usage["compute_seconds"] is None:
        usage["compute_seconds"] = _ran(prediction)
    if prediction.status != "succeeded":
        return {"compute_seconds": ran} if (ran := usage["compute_seconds"]) else {}
    if usage["output_images"] is None:
        usage["output_images"] = _files(prediction.output)
    return {**usage, "output_steps": steps, "runs": 1}


def _ran(prediction: _Prediction) -> Decimal | None:
    """How long it ran according to its timestamps, if its metrics do not say."""
    try:
        began, ended = (datetime.fromisoformat(str(at)) for at in (prediction.started_at, prediction.completed_at))
        return max(Decimal(str((ended - began).total_seconds())), Decimal(0))
    except (ValueError, TypeError):
        return None


def _files(output: object) -> int | None:
    """How many files an output consists of."""
    every = output if isinstance(output, list) else [output]
    files = [one for one in every if isinstance(one, str) and one.startswith(("https://", "http://", "data:"))]
    return len(files) or None
