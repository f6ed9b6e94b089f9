"""The scorer: a server of the operator that says which hazards a text contains. Farebox does not judge texts itself.

It is asked in one of two forms: a hook that answers with categories, or Llama Guard behind any OpenAI-compatible
server. docs/guardrails.md describes both.
"""

import asyncio
import re
from typing import Annotated, Final, Protocol, get_args

import msgspec

from farebox.gateway import Check, Hazard
from farebox.providers.upstream import Upstream, UpstreamFailed, UpstreamRequest
from farebox.settings import Settings

TEXT_BYTES_MAX: Final = 8_000
"""Maximum bytes of text in one question; longer texts are sent in parts."""
ANSWER_BYTES_MAX: Final = 64 * 2**10
HAZARDS: Final[frozenset[str]] = frozenset(get_args(Hazard))
LLAMA_GUARD_HAZARDS: Final = HAZARDS - {"P1"}
"""The hazards that Llama Guard judges."""
_DIRECTIONS: Final[dict[Check, str]] = {"REQUEST": "prompt", "RESPONSE": "response"}
_verdict: Final = re.compile(r"safe|unsafe((?:[\s,]+S\d{1,2})+)").fullmatch
_code: Final = re.compile(r"S\d{1,2}").findall


class ScorerFailed(Exception):
    """The scorer gave no answer; the message says why, without the text."""


class ScoringRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A question to the scorer."""

    account: str
    gateway: str
    check: Check
    provider: str
    model: str
    text: str = ""
    prompt: str = ""
    """If the text is a response: the end of the prompt that it responds to."""


class Scorer(Protocol):
    @property
    def hazards(self) -> frozenset[str]:
        """The categories that it judges."""
        ...

    async def judge(self, request: ScoringRequest) -> frozenset[str]:
        """The categories of hazards that the text has. Raises ScorerFailed."""
        ...


class _ResponseCategories(msgspec.Struct):
    categories: Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=64)]


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]


class HttpScorer:
    """Asks over HTTP. `model` is the Llama Guard model; if it is empty, the hook's form is used."""

    def __init__(self, upstream: Upstream, url: str, key: str, model: str, timeout_seconds: float) -> None:
        self._upstream = upstream
        self._url = f"{url.rstrip('/')}/chat/completions" if model else url
        self._headers = [("content-type", "application/json"), ("accept", "application/json")]
        if key:
            self._headers.append(("authorization", f"Bearer {key}"))
        self._model = model
        self._seconds = timeout_seconds

    @property
    def hazards(self) -> frozenset[str]:
        return LLAMA_GUARD_HAZARDS if self._model else HAZARDS

    async def judge(self, request: ScoringRequest) -> frozenset[str]:
        body = await self._answered(_as_chat(request, self._model) if self._model else _as_hook(request))
        try:
            return _of_chat(body) if self._model else _of_hook(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ScorerFailed(f"its answer cannot be parsed: {error}") from error

    async def _answered(self, question: object) -> bytes:
        """The body of the scorer's response. Raises ScorerFailed."""
        sent = UpstreamRequest("POST", self._url, self._headers, msgspec.json.encode(question))
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._upstream.send(sent)
                try:
                    body = b""
                    while (chunk := await response.chunk()) is not None:
                        body += chunk
                        if len(body) > ANSWER_BYTES_MAX:
                            raise ScorerFailed("its answer is too long")
                finally:
                    await response.close()
        except UpstreamFailed as failure:
            raise ScorerFailed(str(failure)) from failure
        except TimeoutError as late:
            raise ScorerFailed("it did not answer in time") from late
        if response.status != 200:
            raise ScorerFailed(f"it answered with status {response.status}")
        return body


def _as_hook(request: ScoringRequest) -> object:
    return {
        "account": request.account,
        "gateway": request.gateway,
        "direction": _DIRECTIONS[request.check],
        "provider": request.provider,
        "model": request.model,
        "text": request.text,
    }


def _as_chat(request: ScoringRequest, model: str) -> object:
    """Llama Guard judges the last message, whichever role wrote it."""
    messages = [{"role": "user", "content": request.text}]
    if request.check == "RESPONSE":
        messages = [{"role": "user", "content": request.prompt}, {"role": "assistant", "content": request.text}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 64}


def _of_hook(body: bytes) -> frozenset[str]:
    return frozenset(msgspec.json.decode(body, type=_ResponseCategories).categories)


def _of_chat(body: bytes) -> frozenset[str]:
    """The categories in Llama Guard's answer: `safe`, or `unsafe` and the categories. Raises ScorerFailed."""
    text = msgspec.json.decode(body, type=_Completion).choices[0].message.content.strip()
    found = _verdict(text)
    if found is None:
        raise ScorerFailed("it returned neither `safe` nor `unsafe` with categories")
    return frozenset(_code(found[1] or ""))


def scorer_of(settings: Settings, upstream: Upstream) -> Scorer | None:
    """The scorer that the operator has configured; None if there is none."""
    if not settings.guardrails_url:
        return None
    return HttpScorer(
        upstream,
        settings.guardrails_url,
        settings.guardrails_key,
        settings.guardrails_model,
        settings.guardrails_timeout_ms / 1000,
    )
