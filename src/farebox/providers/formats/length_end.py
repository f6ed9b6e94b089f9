"""The end of a stream that is stopped because its output has reached a limit, as the provider itself would send it.

A LengthEnd follows the events that pass to the client, and remembers what the end must repeat.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from farebox.usage import Quantity

_LINE_MAX: Final = 2**20


class LengthEnd(Protocol):
    """Builds the end of one stream."""

    def follow(self, passed: bytes) -> None:
        """Note that these bytes go to the client next."""
        ...

    def end(self, usage: Mapping[str, Quantity]) -> bytes | None:
        """The events that end the stream, with this usage; None if they cannot be sent, because a line is
        incomplete."""
        ...


def length_end_of(wire: str, *, usage_requested: bool) -> LengthEnd | None:
    """The LengthEnd for a stream of the format with this name; None if Farebox cannot end such a stream.
    `usage_requested`: whether the client asked for the usage."""
    make = _FORMATS.get(wire)
    return None if make is None else make(usage_requested)


class _Events(ABC):
    """Splits the passing bytes into data lines."""

    def __init__(self) -> None:
        self._rest = b""
        self._blank = True

    def follow(self, passed: bytes) -> None:
        *lines, self._rest = (self._rest + passed).split(b"\n")
        for line in lines:
            self._blank = not line.strip()
            if line.startswith(b"data:") and len(line) < _LINE_MAX and self._wanted(line):
                try:
                    event = json.loads(line[5:])
                except ValueError:
                    continue
                if isinstance(event, dict):
                    self._read(event)

    def _wanted(self, line: bytes) -> bool:
        """Whether the line is to be read."""
        return True

    @abstractmethod
    def _read(self, event: dict[str, Any]) -> None:
        """Note what the end needs from an event."""

    def _joined(self, events: list[bytes]) -> bytes | None:
        if self._rest:
            return None
        return (b"" if self._blank else b"\n") + b"".join(events)


class _Chat(_Events):
    """OpenAI's chat completions, or with `legacy` its completions."""

    def __init__(self, usage_requested: bool, *, legacy: bool = False) -> None:
        super().__init__()
        self._usage_requested, self._legacy = usage_requested, legacy
        self._head: dict[str, Any] = {}

    def _wanted(self, line: bytes) -> bool:
        return not self._head

    def _read(self, event: dict[str, Any]) -> None:
        kept = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
        self._head = {name: event[name] for name in kept if name in event}

    def end(self, usage: Mapping[str, Quantity]) -> bytes | None:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "length"}
        if self._legacy:
            choice["text"] = ""
        else:
            choice["delta"] = {}
        events = [_data({**self._head, "choices": [choice]})]
        if self._usage_requested:
            read, written = _sums(usage)
            total = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
            events.append(_data({**self._head, "choices": [], "usage": total}))
        return self._joined([*events, b"data: [DONE]\n\n"])


class _Messages(_Events):
    """Anthropic's messages."""

    def __init__(self, usage_requested: bool) -> None:
        super().__init__()
        self._open: set[int] = set()

    def _wanted(self, line: bytes) -> bool:
        return b"content_block_st" in line

    def _read(self, event: dict[str, Any]) -> None:
        index = event.get("index")
        if isinstance(index, int):
            if event.get("type") == "content_block_start":
                self._open.add(index)
            elif event.get("type") == "content_block_stop":
                self._open.discard(index)

    def end(self, usage: Mapping[str, Quantity]) -> bytes | None:
        events: list[dict[str, Any]] = [{"type": "content_block_stop", "index": index} for index in sorted(self._open)]
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        written = {"output_tokens": _sums(usage)[1]}
        named = [*events, {"type": "message_delta", "delta": delta, "usage": written}, {"type": "message_stop"}]
        return self._joined([_named(event) for event in named])


class _Generate(_Events):
    """Google's streamGenerateContent with `alt=sse`."""

    def __init__(self, usage_requested: bool) -> None:
        super().__init__()
        self._head: dict[str, Any] = {}

    def _wanted(self, line: bytes) -> bool:
        return not self._head

    def _read(self, event: dict[str, Any]) -> None:
        self._head = {name: event[name] for name in ("modelVersion", "responseId") if name in event}

    def end(self, usage: Mapping[str, Quantity]) -> bytes | None:
        read, written = _sums(usage)
        counts = {"promptTokenCount": read, "candidatesTokenCount": written, "totalTokenCount": read + written}
        content = {"parts": [{"text": ""}], "role": "model"}
        candidate = {"content": content, "finishReason": "MAX_TOKENS", "index": 0}
        return self._joined([_data({"candidates": [candidate], "usageMetadata": counts, **self._head})])


class _Responses(_Events):
    """OpenAI's responses: the last event contains the whole response."""

    def __init__(self, usage_requested: bool) -> None:
        super().__init__()
        self._response: dict[str, Any] = {}
        self._items: dict[int, dict[str, Any]] = {}
        self._texts: dict[tuple[int, int], list[str]] = {}
        """The text of output items and parts that have begun and not ended."""
        self._arguments: dict[int, list[str]] = {}
        self._number = -1

    def _read(self, event: dict[str, Any]) -> None:
        kind, place = event.get("type"), event.get("output_index")
        if isinstance(event.get("sequence_number"), int):
            self._number = event["sequence_number"]
        if isinstance(event.get("response"), dict):
            self._response = event["response"]
        if not isinstance(place, int):
            return
        part = (place, event.get("content_index") or 0)
        if kind in ("response.output_item.added", "response.output_item.done") and isinstance(event.get("item"), dict):
            self._items[place] = event["item"]
            self._arguments.pop(place, None)
        elif kind == "response.content_part.added":
            self._texts[part] = []
        elif kind == "response.content_part.done" and place in self._items:
            self._texts.pop(part, None)
            self._items[place].setdefault("content", []).append(event.get("part"))
        elif kind == "response.output_text.delta":
            self._texts.setdefault(part, []).append(str(event.get("delta", "")))
        elif kind == "response.function_call_arguments.delta":
            self._arguments.setdefault(place, []).append(str(event.get("delta", "")))

    def end(self, usage: Mapping[str, Quantity]) -> bytes | None:
        events: list[dict[str, Any]] = []
        for (place, index), pieces in sorted(self._texts.items()):
            item, text = self._items.get(place), "".join(pieces)
            if item is None:
                continue
            part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            item.setdefault("content", []).append(part)
            where = {"item_id": item.get("id"), "output_index": place, "content_index": index}
            events.append({"type": "response.output_text.done", **where, "text": text, "logprobs": []})
            events.append({"type": "response.content_part.done", **where, "part": part})
        for place, item in sorted(self._items.items()):
            if item.get("status") == "in_progress":
                item["status"] = "incomplete"
                if place in self._arguments:
                    item["arguments"] = "".join(self._arguments[place])
                events.append({"type": "response.output_item.done", "output_index": place, "item": item})
        response = {
            **self._response,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [item for _, item in sorted(self._items.items())],
            "usage": _responses_usage(usage),
        }
        events.append({"type": "response.incomplete", "response": response})
        numbered = [{**event, "sequence_number": self._number + place} for place, event in enumerate(events, 1)]
        return self._joined([_named(event) for event in numbered])


def _responses_usage(usage: Mapping[str, Quantity]) -> dict[str, Any]:
    read, written = _sums(usage)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": int(usage.get("cache_read_tokens", 0))},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


def _sums(usage: Mapping[str, Quantity]) -> tuple[int, int]:
    return int(usage.get("input_tokens", 0)), int(usage.get("output_tokens", 0))


def _data(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def _named(event: dict[str, Any]) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\n" + _data(event)


_FORMATS: Final[dict[str, Callable[[bool], LengthEnd]]] = {
    "openai_chat": _Chat,
    "openai_completions": lambda usage_requested: _Chat(usage_requested, legacy=True),
    "openai_responses": _Responses,
    "anthropic_messages": _Messages,
    "google_generate": _Generate,
}
