"""Predictions and videos that a provider works on after it has answered: where to look at them, and how they end. Also
cached contents, which are complete as soon as they are created."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from farebox.providers.formats.fal import QUEUE
from farebox.providers.formats.videos import videos_in

KINDS: Final = ("prediction", "video", "cached_content")
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY_FIELDS: Final = msgspec.json.Decoder(dict[str, Any])
_GOOGLE_FILE: Final = re.compile(r"/files/(?P<id>[A-Za-z0-9_-]{1,128})(?:[:?].*)?$")


class PredictionForm(NamedTuple):
    """One provider's predictions. `place` computes the path of a prediction from the path that began it and its ID."""

    place: Callable[[str, str], str]
    has_ended: Callable[[Mapping[str, Any]], bool]
    id_field: str = "id"
    status: str = ""
    """What is appended to the place for its description."""
    cancel: tuple[str, str] | None = None
    """Method, and what is appended to the place; None: it cannot be canceled."""
    asked: Callable[[str, str], tuple[str, bytes]] | None = None
    """Computes path and body of the POST that returns the description, from the same arguments; None: a GET returns
    it."""
    result_apart: bool = False
    """Whether the result is at the place itself, not in the description."""
    large: bool = False
    """Whether the description may contain the result: it is passed on as it arrives."""
    urls: Mapping[str, str] = {}
    """Fields of the description with URLs of the provider, for which callers have no key → what is appended to the
    place in each."""
    urls_in: str = ""
    """The field that contains those fields."""


def _app(begun: str, prediction_id: str) -> str:
    """fal stores requests by app, whichever of its endpoints they are for."""
    owner, app, *_ = begun.removeprefix(QUEUE).split("/")
    return f"{QUEUE}{owner}/{app}/requests/{prediction_id}"


def _video(begun: str, video_id: str) -> str:
    return f"{begun.partition('videos')[0]}videos/{video_id}"


def _operation(begun: str, operation_id: str) -> str:
    return f"{begun.partition(':')[0]}/operations/{operation_id}"


def _fetched(begun: str, operation_id: str) -> tuple[str, bytes]:
    """On Vertex AI, operations of models are fetched by name."""
    model = begun.partition(":")[0]
    name = f"{model.partition('/')[2]}/operations/{operation_id}"
    return f"{model}:fetchPredictOperation", msgspec.json.encode({"operationName": name})


def _is_done(described: Mapping[str, Any]) -> bool:
    return described.get("done") is True


_OPENAI: Final = PredictionForm(_video, lambda described: described.get("status") in ("completed", "failed"))
FORMS: Final[Mapping[tuple[str, str], PredictionForm]] = {
    ("replicate", "prediction"): PredictionForm(
        lambda _, prediction_id: f"predictions/{prediction_id}",
        lambda described: described.get("status") in ("succeeded", "failed", "canceled", "aborted"),
        cancel=("POST", "/cancel"),
        urls={"get": "", "cancel": "/cancel"},
        urls_in="urls",
    ),
    ("fal", "prediction"): PredictionForm(
        _app,
        lambda described: described.get("status") == "COMPLETED",
        id_field="request_id",
        status="/status",
        cancel=("PUT", "/cancel"),
        result_apart=True,
        urls={"response_url": "", "status_url": "/status", "cancel_url": "/cancel"},
    ),
    ("openai", "video"): _OPENAI,
    ("azure-openai", "video"): _OPENAI,
    ("grok", "video"): PredictionForm(
        _video,
        lambda described: described.get("status") in ("done", "failed", "expired"),
        id_field="request_id",
    ),
    ("google-ai-studio", "video"): PredictionForm(_operation, _is_done, id_field="name"),
    ("google-vertex-ai", "video"): PredictionForm(_operation, _is_done, id_field="name", asked=_fetched, large=True),
    ("google-ai-studio", "cached_content"): PredictionForm(
        lambda begun, cache_id: f"{begun.partition('cachedContents')[0]}cachedContents/{cache_id}",
        lambda described: "usageMetadata" in described,
        id_field="name",
    ),
}
"""By the provider's slug, and the kind."""


def id_of(provider: str, kind: str, described: Mapping[str, Any]) -> object:
    """The ID under which something is kept, according to its description; may be empty. Operation names include the
    model."""
    field = FORMS[provider, kind].id_field if kind in KINDS else "id"
    found = described.get(field)
    return found.rpartition("/")[2] if field == "name" and isinstance(found, str) else found


def settles_where_read(provider: str, kind: str) -> bool:
    """Whether the description of a long call has everything that its charge needs."""
    return kind == "response" or (
        kind in KINDS and not FORMS[provider, kind].result_apart and not is_large(provider, kind)
    )


def is_large(provider: str, kind: str) -> bool:
    """Whether a description may be too large to be kept."""
    return kind in KINDS and FORMS[provider, kind].large


def with_our_urls(provider: str, base: str, path: str, described: bytes) -> bytes:
    """A description whose URLs lead to `base` instead of to the provider; `path` is where the description comes
    from."""
    form = FORMS[provider, "prediction"]
    try:
        fields = _FIELDS.decode(described)
        holder: dict[str, Any] = _ANY_FIELDS.decode(fields[form.urls_in]) if form.urls_in else dict(fields)
        prediction_id = msgspec.json.decode(fields[form.id_field], type=str)
    except (ValueError, KeyError, RecursionError):
        return described
    place = form.place(path, prediction_id)
    holder |= {name: f"{base}/{place}{rest}" for name, rest in form.urls.items() if name in holder}
    return msgspec.json.encode({**fields, form.urls_in: holder} if form.urls_in else holder)


def files_of(described: Mapping[str, Any]) -> list[str]:
    """The IDs of the files that a Google operation has produced."""
    found = (_GOOGLE_FILE.search(str(video.get("uri"))) for video in videos_in(described.get("response")))
    return [file["id"] for file in found if file is not None]
