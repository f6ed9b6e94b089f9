"""The settings of a gateway as forms. Rules and graphs have their own pages: limits, guardrails, routes."""

from collections.abc import Mapping, Sequence
from typing import Any

from farebox.gateway import EVENTS_MAX, EXPORTERS_MAX
from farebox.http.pages.fields import Field, FieldGroup, Values, group, values_of

ELSEWHERE = {"dlp": "guardrails", "guardrails": "guardrails", "spend_limits": "limits"}
"""Fields that are on other pages → the page."""

_PAYLOAD = (
    """{"event_name": "tokens", "payload": {"stripe_customer_id": "$metadata_customerId", "value": "$output_tokens"}}"""
)


def _exporters(values: Values) -> Sequence[Field]:
    """The fields of each exporter, and of one more."""
    count = min(len(values.get("otel") or ()) + 1, EXPORTERS_MAX)
    return [each for number in range(count) for each in _exporter(number)]


def _exporter(number: int) -> tuple[Field, ...]:
    place, which = f"otel.{number}", f" {number + 1}" if number else ""
    return (
        Field(name=f"{place}.url", label=f"URL{which}", hint="For example https://otel.example.com/v1/traces."),
        Field(
            name=f"{place}.content_type",
            label=f"Encoding{which}",
            kind="choice",
            options={"json": "JSON", "protobuf": "protobuf"},
        ),
        Field(
            name=f"{place}.headers",
            label=f"Headers{which}",
            kind="pairs",
            hint="One per line, as Name: value. Stored values show only their ends; unchanged, they are kept.",
        ),
        Field(
            name=f"{place}.authorization",
            label=f"Stored key{which}",
            hint="ID of a key stored for a custom provider of the same origin, instead of a header.",
        ),
    )


def _exporters_sent(form: Mapping[str, str]) -> dict[str, Any]:
    sent = []
    for number in range(EXPORTERS_MAX):
        exporter = values_of(_exporter(number), form)
        if exporter["url"] or exporter["headers"]:
            if not exporter["authorization"]:
                del exporter["authorization"]
            sent.append(exporter | {"url": exporter["url"] or ""})
    return {"otel": sent or None}


_STRIPE_KEY = Field(
    name="stripe.authorization",
    label="Key at Stripe",
    hint="A restricted key of your own, which begins with rk_. Only its end is shown; unchanged, it is kept.",
    wide=True,
)


def _meters(values: Values) -> Sequence[Field]:
    events = (values.get("stripe") or {}).get("usage_events") or ()
    return [_STRIPE_KEY, *(_event(number) for number in range(min(len(events) + 1, EVENTS_MAX)))]


def _event(number: int) -> Field:
    return Field(
        name=f"stripe.usage_events.{number}.payload",
        label=f"Event{f' {number + 1}' if number else ''}",
        kind="area",
        hint="" if number else f"JSON with variables, such as {_PAYLOAD}",
        wide=True,
    )


def _meters_sent(form: Mapping[str, str]) -> dict[str, Any]:
    key = values_of([_STRIPE_KEY], form)["authorization"]
    sent = [values_of([_event(number)], form) for number in range(EVENTS_MAX)]
    events = [event for event in sent if event["payload"]]
    return {"stripe": {"authorization": key or "", "usage_events": events} if events else None}


# fmt: off
GROUPS: tuple[FieldGroup, ...] = (
    group("access", "Who may call",
        Field(name="authentication", label="Calls need an access token", kind="switch",
              hint="If off, calls with a caller’s own provider key need none."),
        Field(name="byok_only", label="Own provider keys only", kind="switch",
              hint="If on, nothing is paid from credit."),
        Field(name="zdr", label="Zero data retention only", kind="switch",
              hint="If on, calls are paid from credit only if the provider retains none of their data."),
        Field(name="cors_origins", label="Web pages that may make calls", kind="lines",
              hint="Origins, one per line, such as https://app.example.com. * allows any."),
        Field(name="store_id", label="Key store",
              hint="Gateways with the same store ID can use each other’s keys by ID."),
        Field(name="workers_ai_billing_mode", label="Workers AI billing", kind="choice",
              options={"postpaid": "postpaid", "unified": "unified"},
              hint="Either way, calls on the operator’s key are paid from credit."),
    ),
    group("cache", "Cache",
        Field(name="cache_ttl", label="Cache lifetime in seconds", kind="number", hint="0 switches caching off."),
        Field(name="cache_invalidate_on_update", label="Empty the cache when settings are saved", kind="switch"),
        Field(name="cache_coalesce", label="Combine identical calls", kind="switch",
              hint="Only one goes to the provider; the others wait and receive the same response."),
    ),
    group("rate", "Rate limit",
        Field(name="rate_limiting_limit", label="Maximum number of calls", kind="number", hint="0 means no limit."),
        Field(name="rate_limiting_interval", label="Per how many seconds", kind="number"),
        Field(name="rate_limiting_technique", label="How calls are counted", kind="choice",
              options={"fixed": "by the clock", "sliding": "over a sliding window"}),
    ),
    group("retries", "Retries",
        Field(name="retry_max_attempts", label="Attempts", kind="number", hint="1 to 5. Leave empty for one."),
        Field(name="retry_delay", label="Delay between attempts in milliseconds", kind="number", hint="Up to 60,000."),
        Field(name="retry_backoff", label="Delay after each attempt", kind="choice",
              options={"": "as set by the caller", "constant": "stays the same", "linear": "increases by the same "
                  "amount",
                       "exponential": "doubles"}),
    ),
    group("logs", "Log",
        Field(name="collect_logs", label="Keep requests and responses", kind="switch"),
        Field(name="log_classification", label="Classify what calls are for", kind="switch",
              hint="The operator’s classifier reads the stored requests and responses."),
        Field(name="log_management", label="Number of calls to keep", kind="number",
              hint="10,000 to 10,000,000. Leave empty for the operator’s setting."),
        Field(name="log_management_strategy", label="When that number is reached", kind="choice",
              options={"": "remove the oldest (the default)", "DELETE_OLDEST": "remove the oldest",
                       "STOP_INSERTING": "stop logging calls"}),
        Field(name="logpush", label="Push logs to the account’s log destination", kind="switch",
              hint="The destination is set on the page “Log destination”, linked from “Gateways”."),
        Field(name="logpush_public_key", label="Encrypt content with this key", kind="area",
              hint="An RSA public key in PEM format. Leave empty for no encryption.", wide=True),
    ),
    FieldGroup(name="spans", title="Spans", fields=_exporters, body=_exporters_sent, keys=True,
          hint="Each exporter receives a span for each call, by OTLP over HTTP. To remove an exporter, clear its URL."),
    FieldGroup(name="meters", title="Stripe meters", fields=_meters, body=_meters_sent, keys=True,
          hint="Reports each call that was paid for to your own meters "
              "at Stripe. To report nothing, clear all events."),
)
# fmt: on
