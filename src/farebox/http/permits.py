"""Who may call, and through which gateway."""

from typing import Protocol

import msgspec

from farebox.calls.long_calls.uploads import Upload, upload_of
from farebox.calls.model import Call
from farebox.errors import ACCOUNT_FROZEN, GATEWAY_UNKNOWN, INVALID_REQUEST, Problem
from farebox.gateway import ServedGateway
from farebox.http.call_target import Target
from farebox.http.credentials import authorize_run, read_credentials
from farebox.http.exchange import RequestHeaders
from farebox.http.provider_errors import Form
from farebox.model import AccessToken
from farebox.policies.decide import Policies
from farebox.providers.naming import is_custom
from farebox.runtime.known_accounts import KnownAccount
from farebox.runtime.own_providers import NOTHING, OwnProviders
from farebox.runtime.services import Services


class Asking(Protocol):
    """A request that asks for a permit."""

    @property
    def headers(self) -> RequestHeaders: ...
    @property
    def query(self) -> str: ...


class Permit(msgspec.Struct, frozen=True):
    """Permission for a request, and for others with the same head as long as it `is_current`."""

    known: KnownAccount
    """The account's configuration as it was when the permit was given."""
    token: AccessToken | None
    """None: the gateway serves callers without one, on their own key; or this is an `upload`."""
    own_key: bool
    """The caller's own provider key pays."""
    gateway: ServedGateway
    own: OwnProviders
    """The keys that are stored for the gateway, and the account's custom providers."""
    policies: Policies | None
    """None: the gateway has none."""
    upload: Upload | None = None
    """A piece of a file, for which the ticket in the URL is permission enough."""
    calls: dict[str, Call] = {}
    """What the head alone says about calls to a provider, by its slug; see calls.model.Call."""

    def is_current(self, services: Services) -> bool:
        """Whether it would be given again now."""
        token = self.token
        return self.known.current and (
            token is None or token.expires_at is None or token.active(services.clock.now_ms())
        )


class Repeats(msgspec.Struct, frozen=True):
    """What requests with a head have in common of which one was answered from the cache: see http.repeated_hits."""

    permit: Permit
    target: Target
    call: Call
    """One of the permit's `calls`."""
    scope: bytes
    """Of how it uses the cache (calls.model.CacheUse)."""


class Understood(msgspec.Struct):
    """What a request's head means, kept with it (http.exchange.RequestHead.memo)."""

    target: Target | None
    form: Form
    waits: bool
    """The client waits in silence after every 429."""
    permit: Permit | None = None
    repeats: Repeats | None = None
    """None: there was no hit, or one that is not answered at once."""


async def permit_of(services: Services, exchange: Asking, target: Target) -> Permit:
    """The permit for a request. Only a gateway with authentication off serves callers without a token, and only on
    their own key. Raises Problem."""
    _check_payment(exchange, target)
    configuration = services.configuration
    known = configuration.known(target.account_id)
    named = target.account_id, target.gateway_id, target.slug, target.path
    upload = upload_of(services, *named, exchange.query)
    if upload is not None:
        gateway = await configuration.gateway(target.account_id, target.gateway_id, create=False)
        if gateway is not None:
            _check_frozen(gateway)
            return Permit(known, None, own_key=False, gateway=gateway, own=NOTHING, policies=None, upload=upload)
    credentials = read_credentials(exchange.headers, exchange.query)
    own_key = credentials.own_key and not target.api_host and target.slug not in ("rest", "")
    if credentials.token is None and own_key and not is_custom(target.slug):
        gateway = await configuration.gateway(target.account_id, target.gateway_id, create=False)
        if gateway is not None and not gateway.authentication:
            policies = await configuration.policies(target.account_id, target.gateway_id)
            _check_frozen(gateway)
            # What the account has stored needs a token.
            return Permit(known, None, own_key, gateway, NOTHING, policies)
    token = await authorize_run(credentials.token, target.account_id, target.gateway_id, configuration)
    gateway = await configuration.gateway(target.account_id, target.gateway_id)
    if gateway is None:
        raise Problem(GATEWAY_UNKNOWN, f"There is no gateway {target.gateway_id[:64]!r} on this account.")
    _check_frozen(gateway)
    own = await configuration.own_providers(target.account_id, target.gateway_id)
    policies = await configuration.policies(target.account_id, target.gateway_id)
    return Permit(known, token, own_key, gateway, own, policies)


def _check_frozen(gateway: ServedGateway) -> None:
    """Raises Problem (ACCOUNT_FROZEN)."""
    if gateway.frozen:
        raise Problem(ACCOUNT_FROZEN, "The account is frozen. Nothing was charged.")


def _check_payment(exchange: Asking, target: Target) -> None:
    """A call that is to be paid by x402, as it can be at Cloudflare, is not paid from credit instead. Raises Problem
    (INVALID_REQUEST)."""
    method = (exchange.headers.get("payment-method") or "").strip().lower()
    if method == "x402" or (target.api_host and exchange.headers.get("payment-signature") is not None):
        words = (
            "Payments by x402 are not accepted: calls are paid from the account's credit, or by its own provider key."
        )
        raise Problem(INVALID_REQUEST, f"{words} Leave out `Payment-Method` and `PAYMENT-SIGNATURE`.")
