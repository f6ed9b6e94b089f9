"""Encodes spans for OTLP over HTTP, in protobuf or JSON (opentelemetry-proto).

Importing protobuf takes a while: this module is loaded on the thread that encodes, when the first spans are sent.
"""

import base64
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final, Literal, TypeAlias

from google.protobuf.json_format import MessageToDict, Parse, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from farebox.export_formats.completion import completion_json, json_text
from farebox.export_formats.spans import Attributes, Span

Encoding: TypeAlias = Literal["json", "protobuf"]
CONTENT_TYPES: Final = {"json": "application/json", "protobuf": "application/x-protobuf"}
_FROM_REMOTE: Final = 0x300
"""W3C trace flags use the low byte; these two bits say that it is known whether the parent is remote, and that it
is."""
_ROOT: Final = 0x100
_SAMPLED: Final = 1
_INT_MAX: Final = 2**63 - 1
_IDS: Final = ("traceId", "spanId", "parentSpanId")


def encoded(spans: Sequence[Span], instance: str, encoding: Encoding) -> bytes:
    """The body of a request that exports the spans. `instance`: the process's name."""
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    _add(
        of_resource.resource.attributes,
        [("service.name", "farebox"), ("service.version", version("farebox")), ("service.instance.id", instance)],
    )
    scope = of_resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "farebox", version("farebox")
    for span in spans:
        _fill(scope.spans.add(), span)
    return request.SerializeToString() if encoding == "protobuf" else _json(request)


def rejected(body: bytes, encoding: Encoding) -> tuple[int, str]:
    """How many spans the receiver has rejected, according to a successful response, and why. A response that is not
    understood counts as success."""
    response = ExportTraceServiceResponse()
    try:
        if encoding == "protobuf":
            response.ParseFromString(body)
        elif body.strip():
            Parse(body, response, ignore_unknown_fields=True)
    except (DecodeError, ParseError, UnicodeDecodeError, RecursionError):
        return 0, ""
    return response.partial_success.rejected_spans, response.partial_success.error_message


def _fill(message: SpanMessage, span: Span) -> None:
    message.trace_id, message.span_id = bytes.fromhex(span.trace_id), bytes.fromhex(span.span_id)
    if span.parent_id:
        message.parent_span_id = bytes.fromhex(span.parent_id)
    message.trace_state = span.trace_state
    message.flags = _SAMPLED | (_FROM_REMOTE if span.parent_id else _ROOT)
    message.name, message.kind = span.name, SpanMessage.SPAN_KIND_CLIENT
    message.start_time_unix_nano, message.end_time_unix_nano = span.start_ns, span.end_ns
    _add(message.attributes, span.attributes)
    prompt = None if span.prompt is None else json_text(span.prompt)
    completion = None if span.completion is None else completion_json(span.completion)
    bodies = (("gen_ai.prompt_json", prompt), ("gen_ai.completion_json", completion))
    _add(message.attributes, [(name, text) for name, text in bodies if text is not None])
    for event in span.events:
        added = message.events.add(time_unix_nano=event.at_ns, name=event.name)
        _add(added.attributes, event.attributes)
    if span.error is not None:
        message.status.code, message.status.message = Status.STATUS_CODE_ERROR, span.error


def _add(to: Any, attributes: Attributes) -> None:
    for key, value in attributes:
        item = KeyValue(key=key)
        if isinstance(value, bool):
            item.value.bool_value = value
        elif isinstance(value, int) and -_INT_MAX <= value <= _INT_MAX:
            item.value.int_value = value
        elif isinstance(value, float):
            item.value.double_value = value
        elif isinstance(value, tuple):
            for text in value:
                item.value.array_value.values.add(string_value=_whole(text))
        else:
            item.value.string_value = _whole(str(value))
        to.append(item)


def _whole(text: str) -> str:
    """The text without halves of surrogate pairs, which UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()


def _json(request: ExportTraceServiceRequest) -> bytes:
    """Like protobuf's JSON, but with IDs in hexadecimal and enums as numbers (OTLP 1.x, JSON Protobuf Encoding)."""
    content = MessageToDict(request, use_integers_for_enums=True)
    for span in content["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for name in _IDS:
            if name in span:
                span[name] = base64.b64decode(span[name]).hex()
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
