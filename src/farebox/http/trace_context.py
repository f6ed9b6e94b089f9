"""The trace that a request belongs to, by its headers: Cloudflare's, or else W3C Trace Context."""

import re
from collections.abc import Callable
from typing import Final

from farebox.calls.model import TraceContext
from farebox.http.exchange import RequestHeaders

_STATE_MAX: Final = 512
_is_trace_id = re.compile(r"(?!0{32})[0-9a-f]{32}").fullmatch
_is_span_id = re.compile(r"(?!0{16})[0-9a-f]{16}").fullmatch
_parent = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?"
).fullmatch


def trace_of(headers: RequestHeaders) -> TraceContext:
    """The trace; missing or invalid fields are empty, and `ignored` says what was invalid."""
    trace_id, ignored_trace = _id(headers, "cf-aig-otel-trace-id", _is_trace_id, 32)
    parent_id, ignored_parent = _id(headers, "cf-aig-otel-parent-span-id", _is_span_id, 16)
    ignored, state = [text for text in (ignored_trace, ignored_parent) if text], ""
    given = (headers.get("traceparent") or "").strip()
    if given and not trace_id:
        found = _parent(given)
        if found is None:
            ignored.append("traceparent: it is not a valid W3C Trace Context header")
        else:
            trace_id, state = found["trace"], _state(headers)
            parent_id = parent_id or found["span"]
    return TraceContext(trace_id, parent_id, state, "; ".join(ignored))


def _id(headers: RequestHeaders, name: str, is_valid: Callable[[str], object], digits: int) -> tuple[str, str]:
    text = headers.get(name)
    if not text:
        return "", ""
    value = text.strip().lower()
    if is_valid(value):
        return value, ""
    return "", f"{name}: it is not {digits} hexadecimal digits, or all of them are 0"


def _state(headers: RequestHeaders) -> str:
    state = (headers.get("tracestate") or "").strip()
    return state if len(state) <= _STATE_MAX and state.isascii() else ""
