"""The settings of a Realtime session that affect what a turn may cost."""

from typing import Any

import msgspec


class RealtimeSettings:
    """The settings to assume: until the provider has confirmed what the client asked for, the more expensive of old and
    new."""

    def __init__(self, model: str, *, transcribes: bool) -> None:
        self.answers = not transcribes
        """Whether the provider responds to audio by itself."""
        self.transcriber = ""
        """The model that transcribes audio; empty: none."""
        self.g711 = False
        """Whether G.711 was requested, which has fewer bytes per second than PCM."""
        self.output_max: int | None = None
        self._model = model
        self._transcribes = transcribes
        self._bytes: dict[str, int] = {}

    @property
    def text_bytes(self) -> int:
        """Bytes of instructions and tools."""
        return sum(self._bytes.values())

    def note(self, session: Any, *, asked: bool) -> str:
        """Note settings that the client asks for (`asked`), or that the provider confirms. Returns what is refused
        about them."""
        if not isinstance(session, dict):
            return ""
        audio = session.get("audio")
        heard = audio.get("input") if isinstance(audio, dict) else None
        places: list[dict[str, Any]] = [place for place in (session, heard) if isinstance(place, dict)]
        for place in places:
            if "turn_detection" in place and not self._transcribes:
                detection = place["turn_detection"]
                answers = isinstance(detection, dict) and detection.get("create_response") is not False
                self.answers = answers or (asked and self.answers)
            for name in ("transcription", "input_audio_transcription"):
                if name in place:
                    self.transcriber = _model_of(place[name]) or (self.transcriber if asked else "")
        text = msgspec.json.encode(session)
        self.g711 = self.g711 or any(word in text for word in (b"g711", b"audio/pcmu", b"audio/pcma"))
        for name in ("instructions", "tools"):
            if name in session:
                self._bytes[name] = max(
                    len(msgspec.json.encode(session[name])), self._bytes.get(name, 0) if asked else 0
                )
        for name in ("max_output_tokens", "max_response_output_tokens"):
            if name in session:
                limit = limit_of(session[name], None)
                if not asked:
                    self.output_max = limit
                elif self.output_max is not None:  # None: unlimited, until the provider confirms otherwise
                    self.output_max = None if limit is None else max(limit, self.output_max)
        return refused_of(session, self._model) if asked else ""


def limit_of(value: Any, otherwise: int | None) -> int | None:
    """A limit in tokens; `otherwise` if the value is not a number."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise


def _model_of(value: Any) -> str:
    found = value.get("model") if isinstance(value, dict) else None
    return found[:256] if isinstance(found, str) else ""


def refused_of(asked: dict[str, Any], model: str = "") -> str:
    """The setting of a session or response for which the operator's key is not used."""
    if asked.get("prompt") is not None:
        return "stored prompts (`prompt`), which are the operator's"
    if _has_own_voice(asked):
        return "voices by ID, which are the operator's"
    tools = asked.get("tools")
    if isinstance(tools, list) and any(isinstance(tool, dict) and tool.get("type") != "function" for tool in tools):
        return "tools other than functions"
    named = asked.get("model")
    if model and named not in (None, model):
        return "another model than the session's"
    if b'"idle_timeout_ms":' in msgspec.json.encode(asked) and _idle(asked):
        return "responses to silence (`idle_timeout_ms`), which begin without a message"
    return ""


def _idle(asked: dict[str, Any]) -> bool:
    audio = asked.get("audio")
    heard = audio.get("input") if isinstance(audio, dict) else None
    places = [place.get("turn_detection") for place in (asked, heard) if isinstance(place, dict)]
    return any(isinstance(place, dict) and place.get("idle_timeout_ms") is not None for place in places)


def _has_own_voice(asked: dict[str, Any]) -> bool:
    audio = asked.get("audio")
    output = audio.get("output") if isinstance(audio, dict) else None
    return any(isinstance(place, dict) and isinstance(place.get("voice"), dict) for place in (asked, output))
