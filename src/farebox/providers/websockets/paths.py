"""The paths at which providers accept WebSockets. Any other path is answered with 426."""

import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["unread", "openai_realtime", "openai_responses", "gemini_live", "speech", "deepgram_listen"]
"""How a session's messages are read; `unread`: not at all, so that only the account's own key can open one."""


@dataclass(frozen=True, slots=True)
class SocketPath:
    """A kind of session, and its path."""

    slug: str
    pattern: re.Pattern[str]
    kind: Kind
    shown: str
    """The path as documentation writes it."""
    why: str = ""
    """Why its messages are not read: a sentence without its full stop."""


def _path(slug: str, shown: str, kind: Kind = "unread", why: str = "") -> SocketPath:
    pattern = re.sub(r"\\\{\w+\\\}", r"[\\w.-]+", re.escape(shown))
    return SocketPath(slug, re.compile(pattern, re.ASCII), kind, shown, why)


_LIVE: Final = "ws/google.ai.generativelanguage.{version}.GenerativeService.BidiGenerateContent"
_VERTEX_LIVE: Final = (
    "{version}/projects/{project}/locations/{location}/"
    "ws/google.cloud.aiplatform.{version}.LlmBidiService/BidiGenerateContent"
)

SOCKET_PATHS: Final = (
    _path("openai", "realtime", "openai_realtime"),
    _path("openai", "realtime/translations", why="its messages are not read here"),
    _path("openai", "responses", "openai_responses"),
    _path("azure-openai", "{resource}/openai/realtime", "openai_realtime"),
    _path("azure-openai", "{resource}/openai/v1/realtime", "openai_realtime"),
    _path("grok", "responses", "openai_responses"),
    _path("google-ai-studio", _LIVE, "gemini_live"),
    _path("google-vertex-ai", _VERTEX_LIVE, "gemini_live"),
    _path("deepgram", "v1/listen", "deepgram_listen"),
    _path("deepgram", "v2/listen", why="its messages are not read here: use `v1/listen`"),
    _path("deepgram", "v1/speak", "speech"),
    _path(
        "deepgram",
        "v1/agent/converse",
        why="its messages are not read here",
    ),
    _path("elevenlabs", "v1/text-to-speech/{voice_id}/stream-input", "speech"),
    _path(
        "elevenlabs",
        "v1/text-to-speech/{voice_id}/multi-stream-input",
        why="its messages are not read here: use `stream-input`",
    ),
    _path("elevenlabs", "v1/speech-to-text/realtime", why="its messages are not read here: use `v1/speech-to-text`"),
    _path("elevenlabs", "v1/convai/conversation", why="its messages are not read here"),
    _path("cartesia", "tts/websocket", "speech"),
    _path("cartesia", "stt/websocket", why="its messages are not read here: use `stt`"),
)

ANY: Final = _path("custom", "")
"""A custom provider: any path, with the account's settings."""


def socket_path(slug: str, path: str, *, custom: bool) -> SocketPath | None:
    """The WebSocket at this canonical path; None if there is none."""
    if custom:
        return ANY
    return next((one for one in SOCKET_PATHS if one.slug == slug and one.pattern.fullmatch(path)), None)
