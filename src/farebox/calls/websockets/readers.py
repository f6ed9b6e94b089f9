"""Choosing the reader of a session, and whether it may be opened on the operator's key."""

from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl

from farebox.calls.stages import CallContext
from farebox.calls.tiers import find_price
from farebox.errors import INVALID_REQUEST, MODEL_UNPRICED, NOT_METERED, Problem
from farebox.providers.catalogue import format_of
from farebox.providers.formats.base import InvalidRequest, WireFormat
from farebox.providers.formats.by_unit import is_on, model_with, only, query_of
from farebox.providers.formats.deepgram import DeepgramListen
from farebox.providers.provider import Plain
from farebox.providers.reading import Place
from farebox.providers.websockets.gemini_live import GeminiLiveReader
from farebox.providers.websockets.listen import WIDTHS, ListenReader
from farebox.providers.websockets.openai_realtime import RealtimeReader
from farebox.providers.websockets.openai_responses import ResponsesReader
from farebox.providers.websockets.paths import Kind
from farebox.providers.websockets.reader import SessionReader
from farebox.providers.websockets.speech import FORMS, SpeechReader
from farebox.providers.websockets.turn_format import TurnFormat
from farebox.quoting import quoted

_STREAMED: Final = "streaming"
"""Suffix of Deepgram's models for streamed audio, which has its own prices: `nova-3+streaming`."""
_UNSEEN: Final = 10**12
"""Bytes per second of audio whose length only the provider sees, so large that it counts as zero until the provider
states the length."""
_SOUND: Final = ("input_audio_tokens", "output_audio_tokens")
_QUERY: Final = frozenset({"model", "intent"})
_DEPLOYED_QUERY: Final = _QUERY | {"deployment", "api-version"}
"""At Azure, where a session names its deployment in either parameter."""


def session_reader(
    context: CallContext, kind: Kind, query: str, error: Callable[[Problem], bytes], *, strict: bool
) -> tuple[SessionReader, WireFormat]:
    """A reader for the session, and the format of its turns. `error` creates an error event in the provider's format;
    `strict`: reject everything that is not understood. Raises Problem."""
    call, provider = context.call, context.call.access.provider
    wire = format_of(provider, "POST", call.path)
    if kind == "openai_responses" and not isinstance(wire, Plain):
        place = Place(provider.slug, "POST", call.path, "application/json")
        refused = None if call.own_key else context.services.refusals.get(provider.slug)
        return ResponsesReader(wire, place, refused, error, own=call.own_key), wire
    if kind == "gemini_live":
        return GeminiLiveReader(call.path, lambda model: _check_sound(context, model)), TurnFormat(kind)
    if kind == "speech":
        return _speech(provider.slug, query, strict=strict), TurnFormat(kind)
    if kind == "deepgram_listen":
        return _listening(call.path, query, strict=strict), TurnFormat(kind)
    return _realtime(context, query, strict=strict), TurnFormat(kind)


def _speech(slug: str, query: str, *, strict: bool) -> SpeechReader:
    """Raises Problem."""
    form, pairs = FORMS[slug], parse_qsl(query, keep_blank_values=True)
    fields = dict(pairs)
    model = fields.get(form.model, form.default) if form.model else ""
    unknown = sorted(fields.keys() - form.query)
    if strict and (unknown or len(fields) < len(pairs) or (form.model and not 0 < len(model) <= 256)):
        words = (
            f"On the operator's key, and where a token or a policy is limited to certain models, the query may have "
            f"each of {', '.join(sorted(form.query))} at most once" + (f", and `{form.model}`." if form.model else ".")
        )
        raise Problem(INVALID_REQUEST, words)
    return SpeechReader(form, model)


def _listening(path: str, query: str, *, strict: bool) -> SessionReader:
    """Raises Problem."""
    fields = query_of(f"{path}?{query}")
    try:
        asked = DeepgramListen().parse(f"{path}?{query}", "", b"")
        encoding, rate = only(fields, "encoding"), only(fields, "sample_rate")
        channels, several = only(fields, "channels"), is_on(only(fields, "multichannel"))
    except InvalidRequest as wrong:
        if strict:
            raise Problem(INVALID_REQUEST, str(wrong)) from wrong
        return ListenReader("", _UNSEEN)
    bare = encoding in WIDTHS and rate.isascii() and rate.isdigit() and 1_000 <= int(rate[:6]) <= 192_000
    if strict and asked.unmetered:
        raise Problem(NOT_METERED, f"Not on the operator's key: {asked.unmetered}.")
    if strict and (not bare or several or channels not in ("", "1")):
        words = (
            f"On the operator's key, audio that comes by WebSocket has one channel, with an `encoding` "
            f"({', '.join(WIDTHS)}) and a `sample_rate`, so that its length is known."
        )
        raise Problem(INVALID_REQUEST, words)
    return ListenReader(model_with(asked.model, [_STREAMED]), WIDTHS[encoding] * int(rate[:6]) if bare else _UNSEEN)


def _realtime(context: CallContext, query: str, *, strict: bool) -> RealtimeReader:
    call, pairs = context.call, parse_qsl(query, keep_blank_values=True)
    fields = dict(pairs)
    deploys, transcribes = call.access.provider.deploys, fields.get("intent") == "transcription"
    model = fields.get("model") or (fields.get("deployment", "") if deploys else "")
    if not strict:
        return RealtimeReader(model, transcribes=transcribes)
    named_twice = "model" in fields and "deployment" in fields
    if len(fields) < len(pairs) or named_twice or not fields.keys() <= (_DEPLOYED_QUERY if deploys else _QUERY):
        words = (
            "On the operator's key, and where a token or a policy is limited to certain models, the query of a "
            "Realtime session has `model` or `intent=transcription`, once; at Azure OpenAI, `deployment` in the place "
            "of `model`, and `api-version`."
        )
        raise Problem(INVALID_REQUEST, words)
    if not transcribes:
        _check_sound(context, call.models.get(model, model))
    return RealtimeReader(model, transcribes=transcribes)


def _check_sound(context: CallContext, model: str) -> None:
    """Raises Problem if the operator pays and the model has no price for audio."""
    if context.call.own_key:
        return
    provider, price = context.call.provider, find_price(context, model, {})
    if price is None:
        raise Problem(
            MODEL_UNPRICED,
            f"The model {quoted(model)} of {provider} has no price, so it cannot be charged. The operator can set one "
            f"on the Prices page, or with: farebox price set {provider} MODEL --input USD --output USD (per million "
            "tokens).",
        )
    if not price.is_own and not price.meters.issuperset(_SOUND):
        raise Problem(NOT_METERED, f"{quoted(model)} of {provider} has no prices for the tokens of sound.")
