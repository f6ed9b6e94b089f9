"""The nouns of one model call on its way through: what came in, and where the response goes."""

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import parse_qsl

import msgspec

from farebox.errors import Problem
from farebox.gateway import ServedGateway, SpendRule
from farebox.memfile import Body
from farebox.policies.decide import PolicyLimit
from farebox.pricing.custom_cost import CustomCost
from farebox.pricing.receipt import ReceiptAttempt
from farebox.providers.formats.base import ParsedRequest, WireFormat
from farebox.providers.formats.finish import Finish
from farebox.providers.objects import ObjectCall
from farebox.providers.outline import Outline
from farebox.providers.provider import CALLER_KEY_HEADERS, CALLER_KEY_QUERY
from farebox.providers.reading import Place, Read
from farebox.providers.signing import Signing
from farebox.providers.upstream import SentHead
from farebox.runtime.provider_access import ProviderAccess


class KeyLimit(msgspec.Struct, frozen=True):
    """The rate limit of a stored key."""

    config_id: str
    limit: int
    seconds: int


class KeyChoice(msgspec.Struct, frozen=True):
    """A key that a call may be made with."""

    key_id: str
    """Of a stored key, or of the operator's; empty: it is the caller's own."""
    alias: str
    """Of a stored key; empty: it is none."""
    weight: int
    limit: KeyLimit | None
    headers: list[tuple[str, str]]
    """What is forwarded with this key."""
    sent_head: SentHead
    signing: Signing | None = None
    """What each request is signed with; None where a header has the key."""


class CacheUse(msgspec.Struct):
    """How a call uses its gateway's cache."""

    ttl_seconds: int
    """How long its response may be given again."""
    generation: int
    """Of what the cache may give, since it was emptied last."""
    skip: bool = False
    """A stored response is not wanted; the new one is stored."""
    key: str = ""
    """The caller's own, in the place of what the request says."""
    coalesce: bool = False
    """A call like one that is under way waits for its response."""
    scope: bytes = b""
    """What the request's head comes to: the same for requests whose bodies alone decide whether they are the same."""
    body: bytes = b""
    """As it was sent; empty where the scope does not decide what is read of it."""
    read: Read | None = None
    """What was read of it."""
    name: str = ""
    """By what the response is found again, once that is known (calls.cache.key_of)."""


class TraceContext(msgspec.Struct, frozen=True):
    """The trace that a call belongs to, as its caller says. IDs in lower-case hexadecimal; empty: the caller names
    none."""

    trace_id: str
    parent_id: str
    state: str = ""
    ignored: str = ""
    """What of it is ignored and why, for the caller; empty: nothing."""


class Try(msgspec.Struct, frozen=True, gc=False):
    """One request to the provider. Times in milliseconds since the start of the call."""

    began_ms: int
    ended_ms: int
    """When the head of the response had come, or it was clear that none would."""
    status: int
    """0: there was no response."""
    cause: str
    """Why there was none."""


class SpanNotes(msgspec.Struct):
    """What is noted of a call for its span alone."""

    tries: list[Try] = []
    """The requests to the provider."""
    finish: Finish = msgspec.field(default_factory=Finish)
    """What the response says of its end."""


class Routing(msgspec.Struct, frozen=True):
    """What the auto router has decided about a call."""

    model: str
    """As Cloudflare's router names it."""
    reason: str
    decision_id: str


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was authenticated and understood. Times in milliseconds since the epoch.

    What the request's head alone says about it is worked out once for all requests with the same head: each call is a
    copy of that, with its own id, time and body.
    """

    log_id: str
    """Names the call everywhere: its hold, its charge, its log row, its receipt."""
    account_id: str
    gateway_id: str
    gateway: ServedGateway
    access: ProviderAccess
    provider: str
    """The slug of the provider that `access` is of."""
    own_key: bool
    """The caller's own provider key pays, or a stored one of the account's: nothing is held or charged."""
    key_alias: str = ""
    """Of the stored key; empty where none is used."""
    key_id: str = ""
    """Of a stored key, or of the operator's."""
    key_limit: KeyLimit | None = None
    keys: tuple[KeyChoice, ...] = ()
    """Where several share the calls: all of them (calls.keys)."""
    secrets: tuple[str, ...] = ()
    """What no response may contain: the operator's key, or what the account has stored; not the caller's own key."""
    models: Mapping[str, str] = {}
    """The models behind the names that the key's owner has given them (providers.credential.Credential)."""
    signing: Signing | None = None
    """What each request is signed with; None where a header has the key."""
    is_named_by_owner: bool = False
    """Whether the request's model is one of those."""
    format: WireFormat | None
    """None if the path costs nothing, or where own_key and the path cannot be metered."""
    parsed: ParsedRequest | None
    method: str
    url: str
    """The provider's URL, query included."""
    path: str
    """The provider's path, for the log."""
    place: Place
    """Where it goes, as its body's readers know it."""
    headers: list[tuple[str, str]]
    """What is forwarded; credentials included, ours never."""
    sent_head: SentHead
    """The head of the request to the provider, encoded once."""
    body: Body = b""
    outline: Outline | None = None
    """Of a large body, by which it is changed."""
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
    """What of the metadata is ignored and why, for the caller; empty: nothing."""
    custom_cost: CustomCost | None = None
    """The prices that the caller states, for the log; only where its own key pays."""
    event_id: str = ""
    end_user: str = ""
    """As a header names it; empty: perhaps the body does."""
    user_agent: str = ""
    token_id: str = ""
    """Of the access token; empty where there was none."""
    route_limits: tuple[tuple[SpendRule, str], ...] = ()
    """The limits of cost that the route has led it through, each with its scope in the ledger."""
    policy_limits: tuple[PolicyLimit, ...] = ()
    """The limits of the gateway's policies that it must fit in."""
    route: str = ""
    """The name of the dynamic route that chose the model; empty: the request named it."""
    routing: Routing | None = None
    """Where the auto router chose the model."""
    common_form: bool = False
    """The request came in a common form, whose body names the provider."""
    enveloped: bool = False
    """A response in one piece is given in Cloudflare's envelope."""
    client: str = ""
    """The caller's address, for the log line."""
    cache: CacheUse | None = None
    """None where caching does not apply."""
    trace: TraceContext | None = None
    """None where the gateway sends no spans."""
    object: ObjectCall | None = None
    """Where it is about something that the provider keeps under the operator's key."""
    trail: list[ReceiptAttempt] | None = None
    """What was tried in the steps of the request so far; None where it has no steps."""

    @property
    def small_body(self) -> bytes:
        """The body, or the outline of a large one, for its small fields; empty of what is large and no JSON object."""
        if self.outline is not None:
            return self.outline.small
        return self.body if isinstance(self.body, bytes) else b""

    @property
    def long_cache(self) -> bool:
        """Whether the body may ask for a cache of 12 hours."""
        return b"12h" in self.small_body if self.outline is None else self.outline.long_cache

    @property
    def callers_keys(self) -> list[str]:
        """Provider keys of the caller's own."""
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
    """Where the response goes. Either `answer` once, or `start` once."""

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...

    def start(self, status: int, headers: list[tuple[str, str]]) -> SinkStream: ...

    def note(self, name: str, value: str) -> None:
        """A header of the response, whatever that will be; without effect once it has begun."""
        ...

    def keep(self, more: int) -> bool:
        """Whether this many more bytes of the response may be kept in memory; then they are counted."""
        ...

    def release(self, less: int) -> None:
        """This many of them are no longer kept."""
        ...

    def broken(self, problem: Problem, after: bytes = b"") -> bytes:
        """What to send where an event stream breaks off: an error event in the provider's form. `after`: what was sent
        last, which may end in a number that goes on."""
        ...

    @property
    def disconnects(self) -> bool:
        """Whether the connection must end with that event, because the form's clients take no event for an error."""
        ...

    def fail(self, problem: Problem) -> None:
        """Respond with an error. If a response has begun, the client sees that it breaks off."""
        ...
