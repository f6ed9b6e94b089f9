"""The span of a finished call, for gateways that send spans. docs/observability.md lists its attributes."""

from collections.abc import Iterable
from typing import Final

from farebox.calls.model import Call, SpanNotes, TraceContext
from farebox.calls.record import CallRecord
from farebox.export_formats.spans import Span, SpanEvent, Value
from farebox.metrics.families import SPANS
from farebox.money import NANOS_PER_USD
from farebox.providers.formats.finish import Finish
from farebox.runtime.services import Services

BODY_MAX: Final = 128 * 2**10
"""Maximum bytes of a body that is attached; a larger one is left out."""
_NS_PER_MS: Final = 1_000_000
_OPERATIONS: Final = {
    "openai_chat": "chat",
    "openai_responses": "chat",
    "anthropic_messages": "chat",
    "cohere_chat": "chat",
    "google_generate": "generate_content",
    "openai_completions": "text_completion",
    "openai_embeddings": "embeddings",
    "google_embed": "embeddings",
    "cohere_embed": "embeddings",
}
"""`gen_ai.operation.name` by wire format; other formats use their own name."""
_PROVIDERS: Final = {
    "google-ai-studio": "gcp.gemini",
    "grok": "x_ai",
    "mistral": "mistral_ai",
    "perplexity-ai": "perplexity",
}
"""`gen_ai.provider.name` if it is not the provider's slug."""
_TOKENS: Final = (
    ("input_tokens", "gen_ai.usage.input_tokens"),
    ("output_tokens", "gen_ai.usage.output_tokens"),
    ("cache_read_tokens", "gen_ai.usage.cache_read.input_tokens"),
    ("cache_write_tokens", "gen_ai.usage.cache_creation.input_tokens"),
    ("output_reasoning_tokens", "gen_ai.usage.reasoning.output_tokens"),
)
_RESERVED: Final = ("gen_ai.", "farebox.")
"""Prefixes that a key of the caller's metadata must not have to become an attribute."""
_NO_TRACE: Final = TraceContext("", "")


def queue_span(services: Services, record: CallRecord, charge: int) -> None:
    """Queue the call's span for every destination of its gateway; `charge` is the charged amount in nano-dollars."""
    call = record.call
    urls = [exporter.url for exporter in call.gateway.otel or ()]
    dropped = services.spans.add(call.account_id, call.gateway_id, urls, span_of(record, charge))
    if dropped:
        services.metrics.count(SPANS, "dropped", amount=dropped)


def span_of(record: CallRecord, charge: int) -> Span:
    """The span of a call. Unless the caller names a trace, the trace ID is the log ID, and the span ID its second half,
    so that a log row leads to its span."""
    call, ended, trace = record.call, record.ended, record.call.trace or _NO_TRACE
    log_id = call.log_id.replace("-", "")
    start, operation = call.started_at * _NS_PER_MS, _operation(call)
    failed = not record.success
    return Span(
        trace_id=trace.trace_id or log_id,
        span_id=log_id[16:],
        parent_id=trace.parent_id,
        trace_state=trace.state,
        name=f"{operation} {call.model}" if call.model else operation,
        start_ns=start,
        end_ns=start + ended.duration_ms * _NS_PER_MS,
        attributes=[*_conventional(record, operation), *_own(record, charge), *_metadata(call)],
        events=tuple(_events(start, ended.notes)),
        error=(ended.error or f"the provider answered {ended.status}") if failed else None,
        prompt=_body(ended.request_body),
        completion=_body(ended.response_body),
    )


def _operation(call: Call) -> str:
    return "request" if call.format is None else _OPERATIONS.get(call.format.name, call.format.name)


def _conventional(record: CallRecord, operation: str) -> Iterable[tuple[str, Value]]:
    """Attributes of OpenTelemetry's conventions for generative AI, and Cloudflare's additions to them."""
    call, ended, usage = record.call, record.ended, record.priced.usage
    yield "gen_ai.operation.name", operation
    yield "gen_ai.provider.name", _PROVIDERS.get(call.provider, call.provider)
    yield "gen_ai.model.provider", call.provider
    if call.model:
        yield "gen_ai.request.model", call.model
    if ended.model:
        yield "gen_ai.response.model", ended.model
    if ended.notes is not None:
        yield from _finish(ended.notes.finish)
    for meter, name in _TOKENS:
        count = usage.get(meter)
        if isinstance(count, int):
            yield name, count
    yield "gen_ai.usage.cost", record.cost_nanos / NANOS_PER_USD
    if call.parsed is not None and call.parsed.stream:
        yield "gen_ai.request.stream", True
        if ended.first_byte_ms is not None:
            yield "gen_ai.response.time_to_first_chunk", ended.first_byte_ms / 1000
    yield "http.response.status_code", ended.status
    if not record.success:
        yield "error.type", ended.cause or str(ended.status)


def _finish(finish: Finish) -> Iterable[tuple[str, Value]]:
    """What the response says about itself and its end, in the provider's words."""
    if finish.response_id:
        yield "gen_ai.response.id", finish.response_id
    if finish.by_index:
        yield "gen_ai.response.finish_reasons", finish.reasons


def _own(record: CallRecord, charge: int) -> Iterable[tuple[str, Value]]:
    call, ended = record.call, record.ended
    yield "farebox.log_id", call.log_id
    yield "farebox.gateway", call.gateway_id
    yield "farebox.outcome", ended.outcome
    yield "farebox.cost_nanos", record.cost_nanos
    yield "farebox.charge_nanos", charge
    yield "farebox.hold_nanos", 0 if record.bound is None else record.bound.amount
    yield "farebox.usage_source", record.priced.source
    yield "farebox.cached", ended.cached
    yield "farebox.step", call.step
    if call.route:
        yield "farebox.route", call.route
    if call.event_id:
        yield "farebox.event_id", call.event_id


def _metadata(call: Call) -> Iterable[tuple[str, Value]]:
    for name, value in (call.metadata or {}).items():
        if name and not name.startswith(_RESERVED):
            yield name, value


def _events(start: int, notes: SpanNotes | None) -> Iterable[SpanEvent]:
    for number, attempt in enumerate(() if notes is None else notes.tries, 1):
        attributes: list[tuple[str, Value]] = [
            ("farebox.attempt", number),
            ("farebox.attempt.duration_ms", attempt.ended_ms - attempt.began_ms),
        ]
        attributes.append(
            ("error.type", attempt.cause) if attempt.cause else ("http.response.status_code", attempt.status)
        )
        yield SpanEvent(start + attempt.ended_ms * _NS_PER_MS, "farebox.attempt", attributes)


def _body(body: bytes | None) -> bytes | None:
    return body if body and len(body) <= BODY_MAX else None
