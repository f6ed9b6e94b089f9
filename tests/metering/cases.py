"""Loads the rows of the table from `cases/*.json`, expands macros, and splits responses into the bytes that a provider
sends."""

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import brotli
import zstandard

FOLDER = Path(__file__).parent / "cases"
_KNOWN = frozenset(
    {
        "name", "kind", "provider", "path", "method", "request", "multipart", "request_headers", "balance_usd",
        "moment", "status", "headers", "sse", "named", "eol", "body", "raw", "encode", "cut", "leaves_after",
        "charge", "why", "source", "policy", "notes", "hold", "refusal", "client", "lacks", "forwarded", "pending",
        "only", "lines", "tools",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One row: a call, the provider's response, and the right result. See test_cases for the fields."""

    file: str
    row: dict[str, Any] = field(hash=False)

    def __getattr__(self, name: str) -> Any:
        return self.row.get(name)

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def id(self) -> str:
        return f"{self.file}-{self.name}"

    @property
    def streamed(self) -> bool:
        return self.row.get("sse") is not None

    @property
    def refused(self) -> bool:
        return self.row.get("refusal") is not None

    def request_body(self) -> tuple[bytes, str]:
        """The body and its content type."""
        if (parts := self.row.get("multipart")) is not None:
            return _multipart(expand(parts))
        body = expand(self.row.get("request"))
        if body is None:
            return b"", "application/json"
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        return data, "application/json"

    @cached_property
    def events(self) -> list[bytes]:
        """The response's body, split after each event; a body that is not a stream is one piece."""
        if self.streamed:
            events = [_event(expand(item), self.row) for item in self.row["sse"]]
        else:
            content = expand(self.row.get("raw", self.row.get("body", "")))
            if not isinstance(content, bytes):
                content = (content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)).encode()
            events = [content] if content else []
        encoding = self.row.get("encode")
        return events if encoding is None else [ENCODERS[encoding](b"".join(events))]

    @cached_property
    def received(self) -> bytes:
        """What the client gets, decoded."""
        events = Case(self.file, {**self.row, "encode": None}).events if self.row.get("encode") else self.events
        return b"".join([event for number, event in enumerate(events) if number not in (self.row.get("lacks") or ())])


def load() -> list[Case]:
    """Every row, in the order of the files. Raises ValueError for an inconsistent row."""
    cases = [Case(path.stem, row) for path in sorted(FOLDER.glob("*.json")) for row in json.loads(path.read_text())]
    for case in cases:
        if unknown := set(case.row) - _KNOWN:
            raise ValueError(f"{case.id} has unknown fields: {', '.join(sorted(unknown))}")
        if not case.refused and ("charge" not in case.row or not case.why):
            raise ValueError(f"{case.id} lacks its charge, or why that is right")
    names = [case.id for case in cases]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"repeated: {', '.join(sorted(repeated))}")
    return cases


def expand(value: Any) -> Any:
    """Macros: {"$repeat": "text", "times": n} is a long text; {"$base64": bytes} text; {"$zeros": n} and
    {"$hex": "…"} bytes."""
    if isinstance(value, list):
        return [expand(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$repeat" in value:
        return value["$repeat"] * value["times"]
    if "$base64" in value:
        return base64.b64encode(expand(value["$base64"])).decode()
    if "$zeros" in value:
        return bytes(value["$zeros"])
    if "$hex" in value:
        return bytes.fromhex(value["$hex"]) * value.get("times", 1)
    return {key: expand(item) for key, item in value.items()}


def _event(item: Any, row: dict[str, Any]) -> bytes:
    if isinstance(item, dict) and set(item) == {"raw"}:
        raw = item["raw"]
        return raw if isinstance(raw, bytes) else str(raw).encode()
    end = row.get("eol", "\n")
    data = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
    name = f"event: {item['type']}{end}" if row.get("named") and isinstance(item, dict) and "type" in item else ""
    return f"{name}data: {data}{end}{end}".encode()


def _multipart(parts: dict[str, Any]) -> tuple[bytes, str]:
    boundary = "cut-here-7f3a"
    out = []
    for name, value in parts.items():
        if isinstance(value, dict):
            out.append(
                f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"; filename="{value["filename"]}"\r\n'
                f"content-type: application/octet-stream\r\n\r\n".encode()
                + value["content"]
                + b"\r\n"
            )
        else:
            out.append(f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    return b"".join(out) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "deflate": zlib.compress,
    "br": lambda data: bytes(brotli.compress(data, quality=5)),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "gzip, br": lambda data: bytes(brotli.compress(gzip.compress(data, mtime=0), quality=5)),
}
"""Encoders by the value of a row's `encode`."""
