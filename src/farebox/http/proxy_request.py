"""A request to one provider, before it is known what it calls."""

import msgspec

from farebox.calls.long_calls.uploads import Upload
from farebox.calls.model import Call, TraceContext
from farebox.calls.watch import Watch
from farebox.gateway import ServedGateway
from farebox.http.exchange import RequestHeaders
from farebox.memfile import Body
from farebox.model import AccessToken
from farebox.policies.decide import Policies
from farebox.runtime.own_providers import OwnProviders


class RouteName(msgspec.Struct, frozen=True):
    """The name of a dynamic route that is called in the place of a model, or what may be the alias of a model."""

    name: str
    path: str
    """Of the common form."""
    is_alias: bool


class ProxyRequest(msgspec.Struct, frozen=True):
    """One request to one provider, as a URL or a universal step asks for it."""

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
    """The request has a provider key of the caller's own."""
    own: OwnProviders
    """The keys that are stored for the gateway, and the account's custom providers."""
    known: dict[str, Call]
    """What earlier requests with the same head had in common, by provider; see calls.model.Call."""
    step: int = 0
    coded: bool = False
    """The body is in a content coding that the provider may know."""
    client: str = ""
    """The address of the caller."""
    token: AccessToken | None = None
    policies: Policies | None = None
    """Of the gateway; None: it has none."""
    upload: Upload | None = None
    """What this is a piece of."""
    trace: TraceContext | None = None
    """Of one step among several: they belong to one trace. None: it is as the headers say."""
