"""The worst known request bodies, by name."""

import base64
import json
from collections.abc import Callable
from typing import Any, Final

_MODEL: Final = "gpt-4o-mini"


def _chat(content: str, **more: Any) -> bytes:
    """`content` as JSON."""
    text = json.dumps({"model": _MODEL, "messages": [{"role": "user", "content": "?"}], **more})
    return text.replace('"?"', content).encode()


def _list(item: str, number: int) -> str:
    return f"[{','.join([item] * number)}]"


def _tools(number: int) -> bytes:
    return _chat('"Hi"').replace(b'"model"', b'"tools":%s,"model"' % _list('{"type":"function"}', number).encode(), 1)


def _steps() -> bytes:
    query = json.loads(_chat(json.dumps("word " * 400_000)))
    return json.dumps([{"provider": "openai", "endpoint": "chat/completions", "query": query}] * 10).encode()


BODIES: Final[dict[str, Callable[[], bytes]]] = {
    "23 MB of empty arrays": lambda: _chat(_list("[]", 7_600_000)),
    "240,000 empty arrays, 720 KB": lambda: _chat(_list("[]", 240_000)),
    "900,000 empty strings, 2.7 MB": lambda: _chat(_list('""', 900_000)),
    "10,000 tools": lambda: _tools(10_000),
    "250 tools, 5 KB: read on the loop": lambda: _tools(250),
    "60 KB of empty arrays": lambda: _chat(_list("[]", 20_000)),
    "a picture of 20 MB": lambda: _chat(
        json.dumps([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + _encoded(15 * 2**20)}}])
    ),
    "text of 10 MB": lambda: _chat(json.dumps("word " * 2_000_000)),
    "text of 900 KB, which is counted": lambda: _chat(json.dumps("word " * 180_000)),
    "ten steps, 20 MB": _steps,
}


def _encoded(size: int) -> str:
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * (size // 256)).decode()
