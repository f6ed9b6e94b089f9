"""Attachments of a request: images, audio and files, whose encoded bytes are not text and must not be held as text.

Only the places where an API reads an attachment are looked at (parts of a message's content): something that merely
looks like one elsewhere, in a tool's schema for example, stays text.
"""

import base64
import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from msgspec.structs import replace

from farebox.pricing.model import Demand, ImageInput, UnseenInput
from farebox.providers.audio.length import AudioLength, audio_length, bare_length, unknown_length
from farebox.providers.formats import bodies

_SNIFF_CHARS: Final = 96 * 1024  # enough to pass the EXIF block of nearly every JPEG
_BARE_SAMPLES: Final = re.compile(r"audio/(?:l16|pcm)\b(?:.*\brate=(\d{4,5})\b)?")
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(slots=True)
class Attachments:
    """What was found in a request's content. Payloads are cut out of the tree in which they were found."""

    images: list[ImageInput] = field(default_factory=list)
    audio_seconds: Decimal = Decimal(0)
    audio_seconds_max: Decimal = Decimal(0)
    files_bytes: int = 0
    """Bytes of plain-text documents."""
    unseen: dict[str, None] = field(default_factory=dict)
    """The kinds of input whose size the request does not show: given by reference, or compressed. A remote image is
    counted as an image without a size instead."""
    encoded: int = 0
    """Bytes that the payloads took in the body."""

    def collect_all(self, content: object) -> None:
        """Find the attachments in a message's content: a list of parts, possibly with parts of their own."""
        parts = content if isinstance(content, list) else [content]
        for part in parts:
            if isinstance(part, dict):
                self._collect_part(part)

    def _collect_part(self, part: dict[str, Any]) -> None:
        detail = part.get("detail")
        for key, value in list(part.items()):
            if key in _HOLDERS:
                holder, slot = (value, _HOLDERS[key]) if isinstance(value, dict) else (part, key)
                if holder is value and value.get("file_id"):
                    self._refer(_kind(key))
                self._payload(key, holder, slot, holder.get("detail", detail))
            elif key == "source" and isinstance(value, dict):
                self._source(part, value)
            elif key in ("inlineData", "inline_data") and isinstance(value, dict):
                mime = value.get("mimeType", value.get("mime_type"))
                self._bytes(str(mime), value, "data")
            elif key in _REFERENCES or (key == "file_data" and isinstance(value, dict)):
                self._remote(part, value, _REFERENCES.get(key, "file"))
            elif key == "file_data":
                self._payload("file", part, "file_data", detail)
            elif key in _NESTED:
                self.collect_all(value.get("parts") if isinstance(value, dict) and "parts" in value else value)

    def _remote(self, part: dict[str, Any], value: object, kind: str) -> None:
        if value is None:
            return
        for address in value.values() if isinstance(value, dict) else (value,):
            if _in_bucket(address):
                self.unseen["bucket"] = None
        if part.get("type") in ("input_image", "image", "computer_screenshot"):
            self.images.append(ImageInput(detail=str(part.get("detail") or "auto")))
        else:
            self.unseen[kind] = None

    def _refer(self, kind: str) -> None:
        """Note something that is given by reference. An image has its own maximum."""
        if kind == "image/":
            self.images.append(ImageInput())
        else:
            self.unseen[kind.rstrip("/") or "file"] = None

    def _source(self, part: dict[str, Any], source: dict[str, Any]) -> None:
        """Anthropic's image and document blocks."""
        kind = source.get("type")
        if kind == "base64":
            mime = str(source.get("media_type"))
            self._bytes("image/" if part.get("type") == "image" else mime, source, "data")
        elif kind == "content":
            self.collect_all(source.get("content"))
        elif kind in ("url", "file"):
            self._remote(part, source.get("url", kind), str(kind))

    def _payload(self, key: str, holder: dict[str, Any], slot: str, detail: object) -> None:
        """OpenAI's parts: a data URL, bare base64, or an ordinary URL."""
        value = holder.get(slot)
        if not isinstance(value, str):
            return
        kind, scheme = _kind(key), value[:8].lstrip().lower()
        if _in_bucket(value):
            self.unseen["bucket"] = None
        if scheme.startswith("data:") and ";base64," in value[:256]:
            declared = value.partition(":")[2][:256].partition(";")[0].strip().lower()
            # The data's own type decides: some models accept documents in the same place as pictures.
            self._bytes(kind if declared in ("", _ANY_TYPE) else declared, holder, slot, detail)
        elif scheme.startswith(("http:", "https:", "gs:")):
            if kind == "image/":
                self.images.append(ImageInput(detail=str(detail or "auto")))
            else:
                self.unseen[kind.rstrip("/") or "url"] = None
        elif kind != "image/" and value:
            self._bytes(kind, holder, slot)
        elif value and len(value) <= _ID_CHARS_MAX:  # an ID, or an address in an unknown notation
            self.images.append(ImageInput(detail=str(detail or "auto")))

    def _bytes(self, mime: str, holder: dict[str, Any], slot: str, detail: object = None) -> None:
        value = holder.get(slot)
        if not isinstance(value, str):
            return
        holder[slot] = ""
        self.encoded += len(value)  # the model does not read a data URL's prefix either
        start = value.find(",") + 1 if value[:8].lstrip().lower().startswith("data:") else 0
        size = (len(value) - start) * 3 // 4
        head = _decoded(value[start : start + _HEAD_CHARS])
        if _PDF in head:  # whatever its declared type: providers go by the file's name or its bytes
            self.unseen["pdf"] = None
        elif mime.startswith("image/"):
            width, height = image_size(_decoded(value[start : start + _SNIFF_CHARS]))
            self.images.append(ImageInput(width, height, str(detail or "auto")))
        elif mime.startswith("audio/"):
            length = encoded_length(mime, value)
            self.audio_seconds += length.seconds
            self.audio_seconds_max += length.most
        elif mime.startswith(_PLAIN_TEXT) and not head.startswith(_COMPRESSED):
            self.files_bytes += size
        elif mime.startswith("video/"):
            self.unseen["video"] = None
        else:
            self.unseen["file"] = None


def with_attachments(demand: Demand, contents: Iterable[object]) -> Demand:
    """The demand with the attachments in these contents counted apart from its text. A content that is only a string
    has none; payloads are cut out of the others."""
    containers = [content for content in contents if not isinstance(content, str)]
    if not containers:
        return demand
    found = Attachments()
    for content in containers:
        found.collect_all(content)
    if not (found.encoded or found.images or found.unseen):
        return demand
    return replace(
        demand,
        text_bytes=max(demand.text_bytes - found.encoded, 0),
        images=tuple(found.images),
        audio_seconds=math.ceil(found.audio_seconds),
        audio_seconds_max=math.ceil(found.audio_seconds_max),
        files_bytes=found.files_bytes,
        unseen=(*demand.unseen, *(UnseenInput(kind) for kind in found.unseen)),
    )


def with_text(demand: Demand, body: bytes, key: str, inside: str) -> Demand:
    """The demand with its text: that of the field `key`, whose entries have their parts under `inside`, and that of
    every other field of the body except those that no model reads."""
    others = {name: value for name, value in bodies.fields(body).items() if name not in _UNREAD}
    raw = others.pop(key, None)
    content = bodies.tree([raw] if raw is not None else [])
    found = Attachments()
    for entry in content[0] if content and isinstance(content[0], list) else ():
        found.collect_all(entry.get(inside) if isinstance(entry, dict) and inside else entry)
    return replace(demand, text=bodies.texts(content, others))


_ANY_TYPE: Final = "application/octet-stream"
_PDF: Final = b"%PDF-"
_COMPRESSED: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b")
"""First bytes of Office documents (new and old) and gzip."""
_HEAD_CHARS: Final = 1368
"""Base64 characters of the first 1,024 bytes, in which PDF readers look for the signature."""
_ID_CHARS_MAX: Final = 4096
_PLAIN_TEXT: Final = ("text/", "application/json", "application/xml", "application/x-ndjson", "application/javascript")
"""Types whose bytes bound their tokens. Every other document may be compressed, so its size says nothing."""
_REFERENCES: Final = {"fileData": "file", "file_id": "file", "file_url": "url"}
"""Keys of parts that refer to something elsewhere."""
_UNREAD: Final = frozenset(
    {"model", "stream_options", "metadata", "user", "service_tier", "safety_identifier", "prompt_cache_key"}
)
"""Fields of a request that are meant for the provider, not for the model."""
_HOLDERS: Final = {
    "image_url": "url",
    "input_audio": "data",
    "audio_url": "url",
    "video_url": "url",
    "document_url": "url",
    "file": "file_data",
}
"""Keys of OpenAI-shaped parts, and where their object form keeps the payload."""
_NESTED: Final = frozenset({"content", "output", "functionResponse", "function_response"})
"""Keys of parts that contain further parts, such as the content of a tool's result."""


def _in_bucket(address: object) -> bool:
    """Whether it is in a cloud bucket, which is read with the rights of the provider key."""
    return isinstance(address, str) and address[:64].lstrip().lower().startswith(("gs:", "s3:"))


def _kind(key: str) -> str:
    """The kind of attachment that a key of _HOLDERS holds."""
    return "image/" if "image" in key else "audio/" if "audio" in key else "video/" if "video" in key else ""


def encoded_length(mime: str, value: str) -> AudioLength:
    """The length of encoded audio. Audio that does not decode properly is bounded by its size: the provider may decode
    it differently."""
    start = value.find(",") + 1 if value.startswith("data:") else 0
    data = _decoded(value[start:])
    size = (len(value) - start) * 3 // 4
    if len(data) < size - 8:
        return unknown_length(size)
    bare = _BARE_SAMPLES.search(mime.lower())
    return bare_length(size, int(bare[1] or 16_000)) if bare else audio_length(data)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text[: len(text) // 4 * 4], altchars=b"-_" if "-" in text or "_" in text else None)
    except ValueError:
        return b""


def image_size(data: bytes) -> tuple[int | None, int | None]:
    """Width and height in pixels from the beginning of a PNG, GIF, WebP or JPEG; (None, None) if it does not show
    them."""
    size: tuple[int, int] | None = None
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        size = struct.unpack(">II", data[16:24])
    elif data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= 10:
        size = struct.unpack("<HH", data[6:10])
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP" and len(data) >= 30:
        size = _webp_size(data)
    elif data.startswith(b"\xff\xd8"):
        size = _jpeg_size(data)
    return size if size and size[0] > 0 and size[1] > 0 else (None, None)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
