"""What the messages of a Gemini Live session may contain on the operator's key: only what is listed here.

Google accepts each field in two spellings (`generationConfig`, `generation_config`). Which of them it uses if both are
present is unknown, so such a message is rejected.
"""

import math
import re
from typing import Any, Final

import msgspec

from farebox.providers.formats import duplicate_fields
from farebox.providers.formats.base import InvalidRequest
from farebox.providers.websockets.sizes import Size
from farebox.quoting import quoted

TOKENS_PER_SECOND: Final = 32
"""Tokens of audio, in both directions: Google documents 25 for Live, and 32 for its other calls."""
_RATE: Final = 16_000
"""Samples per second of audio whose type does not state them."""
_PCM: Final = re.compile(r"audio/pcm(?:;\s*rate=([1-9]\d{3,5}))?", re.ASCII)
_SETUP: Final = frozenset(
    {
        "model",
        "generationConfig",
        "systemInstruction",
        "tools",
        "sessionResumption",
        "contextWindowCompression",
        "inputAudioTranscription",
        "outputAudioTranscription",
        "realtimeInputConfig",
        "historyConfig",
        "explicitVadSignal",
        "safetySettings",
        "labels",
    }
)
"""A sliding context can only be smaller than what is held for it."""
_CONFIG: Final = frozenset(
    {
        "candidateCount",
        "enableAffectiveDialog",
        "frequencyPenalty",
        "maxOutputTokens",
        "mediaResolution",
        "presencePenalty",
        "responseModalities",
        "seed",
        "speechConfig",
        "stopSequences",
        "temperature",
        "thinkingConfig",
        "topK",
        "topP",
    }
)
_REFUSED: Final = {
    "avatarConfig": "an avatar, whose pictures have no price (`avatarConfig`)",
    "cachedContent": "cached contents, which are the operator's",
    "proactivity": "unrequested responses (`proactivity`), whose number is not bounded",
}
"""Known fields that are refused; all others are unknown."""
_PARTS: Final = frozenset({"text", "inlineData", "functionCall", "functionResponse", "thought", "thoughtSignature"})
_ANSWER: Final = frozenset({"id", "name", "response"})
_INPUT: Final = frozenset({"audio", "video", "mediaChunks", "text", "activityStart", "activityEnd", "audioStreamEnd"})


class MessageRefused(Exception):
    """The operator's key is not used for this; the message says for what."""


def spelled(value: Any) -> dict[str, Any]:
    """An object's fields in one spelling, without null values; empty for anything that is not an object. Raises
    InvalidRequest."""
    fields: dict[str, Any] = {}
    for name, one in value.items() if isinstance(value, dict) else ():
        camel = re.sub(r"_([a-z0-9])", lambda letter: letter[1].upper(), name)
        if camel in fields:
            raise InvalidRequest(f"The field {quoted(camel)} occurs in two spellings: send it once.")
        if one is not None:
            fields[camel] = one
    return fields


def read_message(data: bytes) -> tuple[str, dict[str, Any]]:
    """The kind of a client's message, and its fields. Raises InvalidRequest."""
    try:
        found = msgspec.json.decode(data)
    except RecursionError as deep:
        raise InvalidRequest("The message is nested too deeply.") from deep
    except ValueError as broken:
        raise InvalidRequest(f"The message is not JSON: {broken}.") from broken
    duplicate_fields.check(data, refers=True)
    fields = spelled(found)
    if len(fields) != 1:
        raise InvalidRequest("A message has one field, such as `setup` or `clientContent`.")
    ((kind, value),) = fields.items()
    return kind, spelled(value)


def check(kind: str, fields: dict[str, Any]) -> None:
    """Raises MessageRefused if the operator's key is not used for a client's message; InvalidRequest."""
    match kind:
        case "setup":
            _check_setup(fields)
        case "clientContent":
            for part in _parts(fields.get("turns")):
                _check_known(part, _PARTS)
                _check_answers(part.get("functionResponse"))
                if "inlineData" in part:
                    _check_blob(part["inlineData"])
        case "realtimeInput":
            _check_known(fields, _INPUT)
            for blob in _blobs(fields):
                _check_blob(blob)
        case "toolResponse":
            _check_answers(fields.get("functionResponses"))
        case _:
            raise MessageRefused(f"the message {quoted(kind)}, which is not known here")


def content_size(turns: Any, length: int) -> Size:
    """The most that contents add to the conversation, in a message of this length. Raises InvalidRequest."""
    blobs = [part["inlineData"] for part in _parts(turns) if "inlineData" in part]
    taken = sum(len(str(spelled(blob).get("data"))) for blob in blobs)
    return sum(map(_blob_size, blobs), Size(text=max(0, length - taken)))


def input_size(fields: dict[str, Any]) -> Size:
    """The most that a client's live audio, pictures or text add to the conversation. Raises InvalidRequest."""
    return sum(map(_blob_size, _blobs(fields)), Size(text=len(str(fields.get("text", "")).encode())))


def pcm_seconds(blob: Any, rate: int = _RATE) -> float | None:
    """Seconds of a blob's 16-bit audio; None if it is not such audio. `rate` applies if the blob does not state one.
    Raises InvalidRequest."""
    found = spelled(blob)
    data, kind = found.get("data"), _PCM.fullmatch(str(found.get("mimeType")))
    if kind is None or not isinstance(data, str):
        return None
    return len(data) * 3 / 4 / 2 / int(kind[1] or rate)


def _check_setup(setup: dict[str, Any]) -> None:
    _check_known(setup, _SETUP)
    config = spelled(setup.get("generationConfig"))
    _check_known(config, _CONFIG)
    if config.get("candidateCount") not in (None, 1):
        raise MessageRefused("several responses at once (`candidateCount`)")
    if b"replicated" in msgspec.json.encode(config.get("speechConfig")).lower():
        raise MessageRefused("cloned voices")
    if spelled(setup.get("sessionResumption")).get("handle"):
        raise MessageRefused("a session that continues another one (`sessionResumption.handle`), whose size is unknown")
    for tool in _listed(setup.get("tools")):
        declared = spelled(tool)
        if declared.keys() - {"functionDeclarations"}:
            raise MessageRefused("tools other than functions")
        for function in _listed(declared.get("functionDeclarations")):
            if spelled(function).get("behavior") not in (None, "BLOCKING", "UNSPECIFIED"):
                raise MessageRefused("functions that do not block, each of whose answers may begin a response")
    if any(part.keys() != {"text"} for part in _parts(setup.get("systemInstruction"))):
        raise MessageRefused("system instructions other than text")


def _check_answers(answers: Any) -> None:
    for answer in _listed(answers):
        _check_known(spelled(answer), _ANSWER)


def _check_blob(blob: Any) -> None:
    if pcm_seconds(blob) is None and not _is_image(blob):
        raise MessageRefused("media other than pictures and `audio/pcm`, whose length is unknown")


def _check_known(fields: dict[str, Any], known: frozenset[str]) -> None:
    for name in fields:
        if name not in known:
            raise MessageRefused(_REFUSED.get(name, f"the field {quoted(name)}, whose cost is not known here"))


def _blob_size(blob: Any) -> Size:
    seconds = pcm_seconds(blob)
    return Size(images=1) if seconds is None else Size(audio=math.ceil(seconds * TOKENS_PER_SECOND))


def _is_image(blob: Any) -> bool:
    return str(spelled(blob).get("mimeType")).startswith("image/")


def _blobs(fields: dict[str, Any]) -> list[Any]:
    named = [fields[name] for name in ("audio", "video") if name in fields]
    return [*named, *_listed(fields.get("mediaChunks"))]


def _parts(contents: Any) -> list[dict[str, Any]]:
    """The parts of one or several contents. A content may also be a plain text."""
    found = list[dict[str, Any]]()
    for content in _listed(contents):
        parts = [{"text": content}] if isinstance(content, str) else _listed(spelled(content).get("parts"))
        found += map(spelled, parts)
    return found


def _listed(value: Any) -> list[Any]:
    """The value as a list: Google accepts a single item where it expects a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
