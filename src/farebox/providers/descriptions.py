"""How providers describe stored provider objects: the ID, the size, the expiry, and what a list shows."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from farebox.calendar import SECOND_MS
from farebox.providers.predictions import id_of

GOOGLE: Final = "google-ai-studio"
FOLDERS: Final = {"file": "files", "batch": "batches", "cached_content": "cachedContents"}
"""The first part of Google's names, by kind."""
PROMPT_MAX: Final = 2_000
"""Most characters of a video's prompt in a list."""


class Facts(msgspec.Struct, frozen=True):
    """The facts in a description."""

    object_id: str
    size: int | None = None
    """Bytes of a file; None: it does not say."""
    expires_at: int | None = None
    """Expiry of a file, in milliseconds; None: it is not stated."""
    shown: bytes = b""
    """What a list shows."""


def facts_of(provider: str, kind: str, found: Mapping[str, Any], body: bytes) -> Facts | None:
    """The facts about an object of this kind; `body` is the encoded form of `found`. None if it has no ID."""
    if provider == GOOGLE and kind != "video":
        return _facts_of_google(kind, found, body)
    object_id, expires, size = id_of(provider, kind, found), found.get("expires_at"), found.get("bytes")
    if not isinstance(object_id, str) or not object_id:
        return None
    size = size if kind == "file" and isinstance(size, int) and size >= 0 else None
    expires = expires * SECOND_MS if kind == "file" and isinstance(expires, int) else None
    return Facts(object_id, size, expires, body if kind != "video" else _brief(found, body))


def _brief(video: Mapping[str, Any], body: bytes) -> bytes:
    """What a list shows of a video, whose prompt may be long; empty if the provider has no lists."""
    if video.get("object") != "video":
        return b""
    prompt = video.get("prompt")
    long = isinstance(prompt, str) and len(prompt) > PROMPT_MAX
    return msgspec.json.encode({**video, "prompt": prompt[:PROMPT_MAX]}) if long and isinstance(prompt, str) else body


def _facts_of_google(kind: str, found: Mapping[str, Any], body: bytes) -> Facts | None:
    """Google gives its objects names such as `files/abc` and `batches/abc`. A file that has just been uploaded is in a
    separate field, and the responses in a batch do not belong in lists."""
    if kind == "file" and isinstance(found.get("file"), dict):
        found = found["file"]
        body = msgspec.json.encode(found)
    folder, _, object_id = str(found.get("name") or "").partition("/")
    if not object_id or "/" in object_id or folder != FOLDERS.get(kind):
        return None
    if kind == "batch":
        metadata = found.get("metadata")
        brief = {name: value for name, value in found.items() if name != "response"}
        if isinstance(metadata, dict):
            brief["metadata"] = {
                name: value for name, value in metadata.items() if name not in ("output", "inputConfig")
            }
        return Facts(object_id, shown=msgspec.json.encode(brief))
    size = str(found.get("sizeBytes") or "")
    until = found.get("expireTime" if kind == "cached_content" else "expirationTime")
    return Facts(object_id, int(size) if size.isascii() and size.isdigit() else None, _when(until), body)


def _when(text: object) -> int | None:
    try:
        return int(datetime.fromisoformat(str(text)).timestamp() * 1000)
    except ValueError:
        return None


def output_of_google(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the description of a batch says about its output; empty if there is none."""
    metadata = batch.get("metadata")
    output = metadata.get("output") if isinstance(metadata, dict) else None
    output = output or batch.get("response")
    return output if isinstance(output, dict) else {}
