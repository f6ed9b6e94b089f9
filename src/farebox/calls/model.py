"""The types of one model call on its way through: what came in, and where the response goes."""

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import parse_qsl

import msgspec

from farebox.errors import Problem
from farebox.gateway import ServedGateway, SpendRule
from farebox.memory_files import Body
from farebox.policies.decide import PolicyLimit
from farebox.pricing.custom_cost import CustomCost
from farebox.pricing.receipt import ReceiptAttempt
from farebox.providers.formats.base import ParsedRequest, WireFormat
from farebox.providers.formats.finish import Finish
from farebox.providers.objects import ObjectCall
from farebox.providers.outline import Outline
from farebox.providers.provider import CALLER_KEY_HEADERS, CALLER_KEY_QUERY
from farebox.providers.reading import ParsedBody, Place
from farebox.providers.signing import Signing
from farebox.providers.upstream import SentHead
from farebox.runtime.provider_access import ProviderAccess


class KeyLimit(msgspec.Struct, frozen=True):
    """The rate limit of a stored key."""

    config_id: str
    limit: int
    seconds: int


class KeyChoice(msgspec.Struct, frozen=True):
    """A key that a call may use."""

    key_id: str
    """ID of a stored key or of the operator's key; empty for the caller's own key."""
    alias: str
    """Alias of a stored key; empty for other keys."""
    weight: int
    limit: KeyLimit | None
    headers: list[tuple[str, str]]
    """The headers that are forwarded with this key."""
    sent_head: SentHead
    signing: Signing | None = None
    """How each request is signed; None if the key is in a header."""


class CacheUse(msgspec.Struct):
    """How a call uses its gateway's cache."""

    ttl_seconds: int
    """How long its response may be reused."""
    generation: int
    """The cache's generation, which changes when it is emptied."""
    skip: bool = False
    """Do not use a stored response, but store the new one."""
    key: str = ""
    """The caller's own cache key, used instead of the request's content."""
    coalesce: bool = False
    """If an identical call is under way, wait for its response."""
    scope: bytes = b""
    """A hash of the request's head: requests with the same scope are identical if their bodies are."""
    body: bytes = b""
    """The body as it was sent; empty if the scope does not determine how it is read."""
    read: ParsedBody | None = None
    """What was read from the body."""
    name: str = ""
    """The key under which the response is stored, once it is known (calls.cache.key_of)."""


class TraceContext(msgspec.Struct, frozen=True):
    """The trace that a call belongs to, as named by its caller. IDs are in lower-case hexadecimal; empty: the caller
    names none."""

    trace_id: str
    parent_id: str
    state: str = ""
    ignored: str = ""
    """Parts of the trace headers that are ignored and why, for the caller; empty: none."""


class Try(msgspec.Struct, frozen=True, gc=False):
    """One request to the provider. Times are in milliseconds since the start of the call."""

    began_ms: int
    ended_ms: int
    """When the head of the response had arrived, or it was clear that none would."""
    status: int
    """0: there was no response."""
    cause: str
    """Why there was no response."""


class SpanNotes(msgspec.Struct):
    """What is recorded of a call only for its span."""

    tries: list[Try] = []
    """The requests to the provider."""
    finish: Finish = msgspec.field(default_factory=Finish)
    """What the response says about its end."""


class Routing(msgspec.Struct, frozen=True):
    """The auto router's decision about a call."""

    model: str
    """The model under the name that Cloudflare's router gives it."""
    reason: str
    decision_id: str


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated and parsed call. Times are in milliseconds since the Unix epoch.

    What depends only on the request's head is computed once for all requests with the same head: each call is a copy of
    that with its own ID, time and body.
    """

    log_id: str
    """Identifies the call everywhere: its hold, its charge, its log row, its receipt."""
    account_id: str
    gateway_id: str
    gateway: ServedGateway
    access: ProviderAccess
    provider: str
    """The slug of the provider that `access` belongs to."""
    own_key: bool
    """The call uses the caller's own provider key, or a stored key of the account: nothing is held or charged."""
    key_alias: str = ""
    """Alias of the stored key; empty if none is used."""
    key_id: str = ""
    """ID of a stored key or of the operator's key."""
    key_limit: KeyLimit | None = None
    keys: tuple[KeyChoice, ...] = ()
    """All keys that share the calls, if there are several (calls.key_selection)."""
    secrets: tuple[str, ...] = ()
    """What no response may contain: the operator's key, or the account's stored secrets; not the caller's own key."""
    models: Mapping[str, str] = {}
    """The actual models behind the names that the key's owner has given them (providers.credential.Credential)."""
    signing: Signing | None = None
    """How each request is signed; None if the key is in a header."""
    is_named_by_owner: bool = False
    """Whether the request's model is one of those names."""
    format: WireFormat | None
    """None if the path costs nothing, or if own_key is set and the path cannot be metered."""
    parsed: ParsedRequest | None
    method: str
    url: str
    """The provider's URL, query included."""
    path: str
    """The provider's path, for the log."""
    place: Place
    """Where the request goes, in the form that readers of its body use."""
    headers: list[tuple[str, str]]
    """The headers that are forwarded, provider credentials included, but never ours."""
    sent_head: SentHead
    """The head of the request to the provider, encoded once."""
    body: Body = b""
    outline: Outline | None = None
    """The outline of a large body, by which it is edited."""
    content_type: str
    started_at: int = 0
    request_timeout_ms: int | None = None
    attempts_max: int = 1
    retry_delay_ms: int = 0
    retry_backoff: str = "constant"
    step: int = 0
    logged: bool = True
    log_bodies: bool = True
    metadata: Mapping[str, str | int | float | bool] | None = None
    metadata_ignored: str = ""
    """Parts of the metadata that are ignored and why, for the caller; empty: none."""
    custom_cost: CustomCost | None = None
    """The prices that the caller states, for the log; only with its own key."""
    event_id: str = ""
    end_user: str = ""
    """The end user as named by a header; empty: the body may name one."""
    user_agent: str = ""
    token_id: str = ""
    """ID of the access token; empty if there was none."""
    route_limits: tuple[tuple[SpendRule, str], ...] = ()
    """The cost limits of the route's elements that the call passed, each with its scope in the ledger."""
    policy_limits: tuple[PolicyLimit, ...] = ()
    """The limits of the gateway's policies that the call must fit in."""
    route: str = ""
    """The name of the dynamic route that chose the model; empty: the request named it."""
    routing: Routing | None = None
    """Set if the auto router chose the model."""
    common_form: bool = False
    """The request uses a common format, whose body names the provider."""
    enveloped: bool = False
    """A response in one piece is wrapped in Cloudflare's envelope."""
    client: str = ""
    """The client's address, for the log line."""
    cache: CacheUse | None = None
    """None if caching does not apply."""
    trace: TraceContext | None = None
    """None if the gateway sends no spans."""
    object: ObjectCall | None = None
    """Set if the call is about an object that the provider keeps under the operator's key."""
    trail: list[ReceiptAttempt] | None = None
    """The attempts of the request's steps so far; None if it has no steps."""

    @property
    def small_body(self) -> bytes:
        """The body, or the outline of a large one, for reading its small fields; empty if it is large and not a JSON
        object."""
        if self.outline is not None:
            return self.outline.small
        return self.body if isinstance(self.body, bytes) else b""

    @property
    def long_cache(self) -> bool:
        """Whether the body may request a cache of 12 hours."""
        return b"12h" in self.small_body if self.outline is None else self.outline.long_cache

    @property
    def callers_keys(self) -> list[str]:
        """The caller's own provider keys."""
        if not self.own_key:
            return []
        found = [value.removeprefix("Bearer ").strip() for name, value in self.headers if name in CALLER_KEY_HEADERS]
        query = dict(parse_qsl(self.url.partition("?")[2]))
        return [*found, query.get(CALLER_KEY_QUERY, "")]

    @property
    def model(self) -> str:
        return self.parsed.model if self.parsed else ""


class SinkStream(Protocol):
    async def send(self, chunk: bytes) -> None:
        """Raises errors.ClientGone."""
        ...


class Sink(Protocol):
    """Where the response goes. Call either `respond` once, or `start` once."""

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...

    def start(self, status: int, headers: list[tuple[str, str]]) -> SinkStream: ...

    def note(self, name: str, value: str) -> None:
        """Add a header to the response, whatever that will be; without effect once it has begun."""
        ...

    def keep(self, more: int) -> bool:
        """Whether this many more bytes of the response may be kept in memory; if so, they are counted."""
        ...

    def release(self, less: int) -> None:
        """Stop counting this many bytes, which are no longer kept."""
        ...

    def broken(self, problem: Problem, after: bytes = b"") -> bytes:
        """What to send if an event stream breaks off: an error event in the provider's format. `after`: what was sent
        last, as the event's sequence number must follow it."""
        ...

    @property
    def disconnects(self) -> bool:
        """Whether the connection must be closed after that event, because clients of this format do not treat any event
        as an error."""
        ...

    def fail(self, problem: Problem) -> None:
        """Respond with an error. If a response has already begun, it breaks off."""
        ...
