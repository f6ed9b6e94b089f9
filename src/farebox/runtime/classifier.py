"""The classifier: a server of the operator that says what a call was for, and whether its model fits that task.

Farebox does not classify by itself. docs/observability.md describes the request and the response.
"""

import asyncio
from typing import Annotated, Final, Literal, Protocol, TypeAlias, get_args

import msgspec

from farebox.clock import Clock
from farebox.providers.upstream import Upstream
from farebox.runtime import outgoing
from farebox.settings import Settings

BODY_BYTES_MAX: Final = 32_768
"""Maximum bytes of each body that are sent to the classifier: its beginning."""
ModelFit: TypeAlias = Literal["overkill", "appropriate", "underpowered", "could_not_assess"]
MODEL_FITS: Final[frozenset[str]] = frozenset(get_args(ModelFit))
_TO_REPEAT: Final = frozenset({0, 401, 403, 404, 408, 425, 429})
"""Statuses, besides 5xx, that concern the classifier and not the question. 0: there was no response."""
_AT_ONCE: Final = 16


class ClassifierFailed(Exception):
    """The classifier cannot be reached, or does not work as it should; the message says why, without the text."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question to the classifier about one call."""

    account: str
    gateway: str
    provider: str
    model: str
    tokens_in: int | None
    tokens_out: int | None
    metadata: dict[str, str | int | float | bool]
    request: str
    response: str


class Classification(msgspec.Struct, frozen=True):
    """The classifier's answer."""

    task: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    model_fit: ModelFit = "could_not_assess"


UNKNOWN: Final = Classification("unknown")
"""Stored for a call that the classifier has no answer for."""


class Classifier(Protocol):
    async def classify(self, question: Question) -> Classification | None:
        """Classify a call. None: the classifier has no answer to this question. Raises ClassifierFailed."""
        ...


class HttpClassifier:
    """Asks over HTTP."""

    def __init__(self, upstream: Upstream, clock: Clock, url: str, key: str, timeout_seconds: float) -> None:
        self._upstream = upstream
        self._clock = clock
        self._url = url
        self._headers = [("content-type", "application/json"), ("accept", "application/json")]
        if key:
            self._headers.append(("authorization", f"Bearer {key}"))
        self._seconds = timeout_seconds
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def classify(self, question: Question) -> Classification | None:
        body = msgspec.json.encode(question)
        async with self._room:
            sent = await outgoing.send(
                self._upstream, self._clock, "POST", self._url, self._headers, body, seconds=self._seconds
            )
        if sent.status in _TO_REPEAT or sent.status >= 500:
            raise ClassifierFailed(sent.error)
        if not sent.ok:
            return None
        try:
            return msgspec.json.decode(sent.body, type=Classification)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


def classifier_of(settings: Settings, upstream: Upstream, clock: Clock) -> Classifier:
    seconds = settings.classifier_timeout_ms / 1000
    return HttpClassifier(upstream, clock, settings.classifier_url, settings.classifier_key, seconds)
