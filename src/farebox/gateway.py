"""The gateway: an account's named configuration, with Cloudflare's fields and defaults.

The struct is the wire type of the control plane, the stored form, and what the data plane reads. A field that asks for
something this release cannot do is rejected (http.control.gateways), never ignored.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from farebox.calendar import DAY_SECONDS, HOUR_MS, SECOND_MS, WEEK_MS
from farebox.periods import Period, Zones

GATEWAY_ID = r"^[a-z0-9_]+(?:-[a-z0-9_]+)*$"
GATEWAY_ID_WORDS = "lowercase letters, digits and _, with single hyphens between them"
WORD = r"^[A-Za-z0-9._-]+$"
WORD_WORDS = "letters, digits, dots, hyphens and underscores, without spaces"
DEFAULT_GATEWAY = "default"
DATA_PLANE_PREFIX = "/v1/"
"""The beginning of the paths of the data plane."""
WINDOW_MAX_SECONDS = 366 * DAY_SECONDS
PERIOD_SECONDS: Mapping[Period, int] = {
    "hourly": HOUR_MS // SECOND_MS,
    "daily": DAY_SECONDS,
    "weekly": WEEK_MS // SECOND_MS,
    "monthly": 30 * DAY_SECONDS,
}
"""The `window` of a rule with calendar windows: the nominal length in seconds."""
EXPORTERS_MAX = 5
EVENTS_MAX = 10
CACHE_TTL_MAX_SECONDS = 30 * DAY_SECONDS
Origin = Annotated[
    str,
    msgspec.Meta(
        max_length=255,
        pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[a-z0-9.-]+(:[0-9]{1,5})?)$",
        description="an origin without a path, such as https://app.example.com, or * for any",
    ),
]
"""An origin as browsers send it, in lower case: scheme, host and, unless it is the scheme's default, port."""


def gateway_path(account_id: str, gateway_id: str) -> str:
    """The path at which a gateway is called; the provider follows."""
    return f"{DATA_PLANE_PREFIX}{account_id}/{gateway_id}"


class Selector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a rule selects calls by one property. partition: each value is counted separately. filter: only calls with
    one of the values are counted."""

    mode: Literal["partition", "filter"]
    values: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=256)], ...], msgspec.Meta(max_length=200)] = ()


_Selected = Selector | msgspec.UnsetType


class SpendRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that the calls counted by this rule may cost in a window. A call without a property that the rule
    selects by is not counted."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = ""
    """Assigned if the request has none. What was spent remains counted under it as long as window and technique stay
    the same."""
    enabled: bool = True
    limit: Annotated[float, msgspec.Meta(gt=0, le=1e9)]
    """US dollars."""
    limit_type: Literal["cost"] = msgspec.field(name="limitType")
    window: Annotated[int, msgspec.Meta(gt=0, le=WINDOW_MAX_SECONDS)] = 0
    """Seconds; required without `period`."""
    period: Period | msgspec.UnsetType = msgspec.UNSET
    """Farebox's own field: windows are the hours, days, weeks (from Monday) or months of the calendar, in the account's
    time zone. `technique` is then `fixed`."""
    technique: Literal["fixed", "sliding"] = "sliding"
    """fixed: windows begin at multiples of their length since 1970-01-01T00:00:00Z. sliding: the last `window`
    seconds at any time."""
    model: _Selected = msgspec.UNSET
    """As the request names it, with or without the prefix `provider/`."""
    provider: _Selected = msgspec.UNSET
    metadata: dict[Annotated[str, msgspec.Meta(max_length=64)], Selector] | msgspec.UnsetType = msgspec.UNSET
    """Selects by the keys of `cf-aig-metadata`."""
    token: _Selected = msgspec.UNSET
    """The ID of the access token. Farebox's own field, like `user`."""
    user: _Selected = msgspec.UNSET
    """The end user that the request names: `farebox-end-user`, or in its body `safety_identifier`, `user` or
    `metadata.user_id`."""


class SpendLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The spend limits of a gateway."""

    enabled: bool = False
    rules: Annotated[tuple[SpendRule, ...], msgspec.Meta(max_length=20)] = ()


class OtelExporter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """Where a gateway's spans are sent, as OTLP over HTTP."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    """The whole URL, such as `https://otel.example.com/v1/traces`."""
    headers: dict[str, Annotated[str, msgspec.Meta(max_length=4096)]]
    """Sent with each request. The stored and displayed form has only the ends of the values; the values are encrypted
    and stored separately."""
    authorization: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | msgspec.UnsetType = msgspec.UNSET
    """The ID of a key stored for a custom provider of the same origin, which is sent as a bearer token."""
    content_type: Literal["json", "protobuf"] = "json"


Action = Literal["FLAG", "BLOCK"]
Check = Literal["REQUEST", "RESPONSE"]
Hazard = Literal["P1", "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11", "S12", "S13"]
"""Llama Guard 3's categories of hazardous content, and P1: prompt injection."""
_ProfileIds = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=64)], ...], msgspec.Meta(max_length=50)
]


class Guardrails(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do if the scorer finds a hazard in a prompt or response. Hazards that are not listed are ignored."""

    prompt: dict[Hazard, Action]
    response: dict[Hazard, Action]


class DlpPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do if one of the profiles matches the checked text."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    enabled: bool
    action: Action
    check: Annotated[tuple[Check, ...], msgspec.Meta(min_length=1, max_length=2)]
    profiles: _ProfileIds


class Dlp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Data loss prevention: policies, or one action and its profiles for both requests and responses."""

    enabled: bool
    action: Action | msgspec.UnsetType = msgspec.UNSET
    profiles: _ProfileIds | msgspec.UnsetType = msgspec.UNSET
    policies: Annotated[tuple[DlpPolicy, ...], msgspec.Meta(max_length=20)] | msgspec.UnsetType = msgspec.UNSET


class MeterEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event for a Stripe meter: JSON with variables (exports.stripe_event)."""

    payload: Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]


class StripeMeter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The account's own meters at Stripe, which receive an event for each paid call."""

    authorization: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    """A key for the account's own Stripe account. The stored and displayed form has only its end; the key is encrypted
    and stored separately."""
    usage_events: Annotated[tuple[MeterEvent, ...], msgspec.Meta(max_length=EVENTS_MAX)]


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration of one gateway. Durations are in seconds unless the name says otherwise."""

    authentication: bool = True
    byok_only: bool = False
    cache_coalesce: bool = False
    """Of concurrent identical requests that the cache cannot answer, one goes to the provider, and the others wait for
    its response. Farebox's own field; omitted if false."""
    cache_invalidate_on_update: bool = False
    cache_ttl: Annotated[int, msgspec.Meta(ge=0, le=CACHE_TTL_MAX_SECONDS)] | None = 0
    collect_logs: bool = True
    cors_origins: Annotated[tuple[Origin, ...], msgspec.Meta(max_length=32)] = ()
    """Origins whose pages may call; `*`: any. Farebox's own field; omitted if empty."""
    dlp: Dlp | None = None
    guardrails: Guardrails | None = None
    log_classification: bool = False
    """The operator's classifier assesses the purpose of each logged call."""
    log_management: Annotated[int, msgspec.Meta(ge=10_000, le=10_000_000)] | None = None
    log_management_strategy: Literal["STOP_INSERTING", "DELETE_OLDEST"] | None = None
    logpush: bool = False
    """Whether its logs are pushed to the account's destination (log_destination)."""
    logpush_public_key: Annotated[str, msgspec.Meta(min_length=16, max_length=2048)] | None = None
    """An RSA public key in PEM, with which metadata and bodies of pushed logs are encrypted."""
    otel: Annotated[tuple[OtelExporter, ...], msgspec.Meta(max_length=EXPORTERS_MAX)] | None = None
    """Where spans of its calls are sent; None: no spans are made."""
    rate_limiting_interval: Annotated[int, msgspec.Meta(ge=0)] | None = 0
    rate_limiting_limit: Annotated[int, msgspec.Meta(ge=0)] | None = 0
    rate_limiting_technique: Literal["fixed", "sliding"] | None = "fixed"
    retry_backoff: Literal["constant", "linear", "exponential"] | None = None
    retry_delay: Annotated[int, msgspec.Meta(ge=0, le=60_000)] | None = None
    retry_max_attempts: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None
    spend_limits: SpendLimits | None = None
    store_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=WORD, description=WORD_WORDS)] | None = (
        None
    )
    """Name of the store of the gateway's keys: gateways with the same store may use each other's secrets by ID."""
    stripe: StripeMeter | None = None
    workers_ai_billing_mode: Literal["postpaid", "unified"] = "postpaid"
    """With either value, Workers AI calls on the operator's key are paid from credit."""
    zdr: bool = False
    """Calls are paid from credit only if the provider retains none of their data."""

    @property
    def screens(self) -> bool:
        """Whether its calls are screened at all."""
        dlp, guardrails = self.dlp, self.guardrails
        if dlp is None and guardrails is None:
            return False
        return (dlp is not None and dlp.enabled) or (
            guardrails is not None and bool(guardrails.prompt or guardrails.response)
        )


class ServedGateway(GatewayConfig, frozen=True, kw_only=True):
    """A gateway as the data plane sees it."""

    cache_generation: int = 0
    """Increased when the cache is emptied: only responses of the current generation are returned."""
    zones: Zones = ()
    """The account's time zones, if its spend limits have calendar windows."""
    frozen: bool = False
    """The operator has frozen the account."""
    is_plain: bool = False
    """Whether it has no option that must be checked for each call (calls.stages.is_plain). Derived from the other
    fields."""

    def __post_init__(self) -> None:
        asks = self.screens or self.spend_limits is not None or self.otel is not None or self.stripe is not None
        kept = self.logpush or self.log_classification or self.log_management_strategy == "STOP_INSERTING"
        msgspec.structs.force_setattr(self, "is_plain", not (asks or kept))

    @property
    def reads_calendar(self) -> bool:
        limits = self.spend_limits
        return limits is not None and any(rule.period is not msgspec.UNSET for rule in limits.rules)
