"""A request to one provider, before its call is determined."""

import msgspec

from farebox.calls.long_calls.uploads import Upload
from farebox.calls.model import Call, TraceContext
from farebox.calls.watch import Watch
from farebox.gateway import ServedGateway
from farebox.http.exchange import RequestHeaders
from farebox.memory_files import Body
from farebox.model import AccessToken
from farebox.policies.decide import Policies
from farebox.runtime.own_providers import OwnProviders


class RouteName(msgspec.Struct, frozen=True):
    """The name of a dynamic route that is called instead of a model, or of what may be a model alias."""

    name: str
    path: str
    """The path of the common format."""
    is_alias: bool


class ProxyRequest(msgspec.Struct, frozen=True):
    """One request to one provider, from a URL or from a universal step."""

    log_id: str
    account_id: str
    gateway_id: str
    gateway: ServedGateway
    slug: str
    path: str
    query: str
    method: str
    headers: RequestHeaders
    body: Body
    watch: Watch
    own_key: bool
    """Whether the request contains a provider key of the caller's own."""
    own: OwnProviders
    """The keys stored for the gateway, and the account's custom providers."""
    known: dict[str, Call]
    """By provider: what earlier requests with the same head had in common; see calls.model.Call."""
    step: int = 0
    coded: bool = False
    """Whether the body is in a content coding that only the provider may know."""
    client: str = ""
    """The caller's address."""
    token: AccessToken | None = None
    policies: Policies | None = None
    """The gateway's policies; None if it has none."""
    upload: Upload | None = None
    """The upload that this request is a piece of."""
    trace: TraceContext | None = None
    """The common trace of a request's steps; None: as the headers say."""
