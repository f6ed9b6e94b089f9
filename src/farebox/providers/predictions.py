"""Predictions that a provider works on after it has answered: where they are looked at, and how they end."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from farebox.providers.formats.fal import QUEUE

_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY_FIELDS: Final = msgspec.json.Decoder(dict[str, Any])


class PredictionForm(NamedTuple):
    """One provider's. `place` makes the path of a prediction of the path that began it, and its ID."""

    id_field: str
    place: Callable[[str, str], str]
    status: str
    """What follows the place where its description is."""
    cancel: tuple[str, str]
    """Method, and what follows the place."""
    has_ended: Callable[[Mapping[str, Any]], bool]
    result_apart: bool
    """Whether what it has come to is at the place itself, and not in its description."""
    urls: Mapping[str, str]
    """Fields of the description with URLs of the provider's, whose readers have no key for it, and what follows the
    place in each."""
    urls_in: str = ""
    """The field that has those fields."""


def _app(begun: str, prediction_id: str) -> str:
    """fal keeps requests by their app, whichever endpoint of it they are for."""
    owner, app, *_ = begun.removeprefix(QUEUE).split("/")
    return f"{QUEUE}{owner}/{app}/requests/{prediction_id}"


FORMS: Final[Mapping[str, PredictionForm]] = {
    "replicate": PredictionForm(
        "id",
        lambda _, prediction_id: f"predictions/{prediction_id}",
        "",
        ("POST", "/cancel"),
        lambda described: described.get("status") in ("succeeded", "failed", "canceled", "aborted"),
        result_apart=False,
        urls={"get": "", "cancel": "/cancel"},
        urls_in="urls",
    ),
    "fal": PredictionForm(
        "request_id",
        _app,
        "/status",
        ("PUT", "/cancel"),
        lambda described: described.get("status") == "COMPLETED",
        result_apart=True,
        urls={"response_url": "", "status_url": "/status", "cancel_url": "/cancel"},
    ),
}
"""By the provider's slug."""


def id_of(provider: str, kind: str, described: Mapping[str, Any]) -> object:
    """Under which ID a description says that something is kept; it may be none."""
    return described.get(FORMS[provider].id_field if kind == "prediction" else "id")


def settles_where_read(provider: str, kind: str) -> bool:
    """Whether the description of a long call, as it is read, has all that its charge takes."""
    return kind == "response" or (kind == "prediction" and not FORMS[provider].result_apart)


def with_our_urls(provider: str, base: str, path: str, described: bytes) -> bytes:
    """A description whose URLs lead to `base` in the place of the provider's; `path` is the one that it comes from."""
    form = FORMS[provider]
    try:
        fields = _FIELDS.decode(described)
        holder: dict[str, Any] = _ANY_FIELDS.decode(fields[form.urls_in]) if form.urls_in else dict(fields)
        prediction_id = msgspec.json.decode(fields[form.id_field], type=str)
    except (ValueError, KeyError, RecursionError):
        return described
    place = form.place(path, prediction_id)
    holder |= {name: f"{base}/{place}{rest}" for name, rest in form.urls.items() if name in holder}
    return msgspec.json.encode({**fields, form.urls_in: holder} if form.urls_in else holder)
