"""Who may make calls, and through which gateway."""

from typing import Protocol

import msgspec

from farebox.calls.long_calls.uploads import Upload, upload_of
from farebox.calls.model import Call
from farebox.errors import ACCOUNT_FROZEN, GATEWAY_UNKNOWN, INVALID_REQUEST, Problem
from farebox.gateway import ServedGateway
from farebox.http.call_target import CallTarget
from farebox.http.credentials import authorize_run, read_credentials
from farebox.http.exchange import RequestHeaders
from farebox.http.provider_errors import Form
from farebox.model import AccessToken
from farebox.policies.decide import Policies
from farebox.providers.naming import is_custom
from farebox.quoting import quoted
from farebox.runtime.known_accounts import KnownAccount
from farebox.runtime.own_providers import NOTHING, OwnProviders
from farebox.runtime.services import Services


class PermitRequest(Protocol):
    """A request that needs a permit."""

    @property
    def headers(self) -> RequestHeaders: ...
    @property
    def query(self) -> str: ...


class Permit(msgspec.Struct, frozen=True):
    """Permission for a request, and for others with the same head as long as it `is_current`."""

    known: KnownAccount
    """The account's configuration as it was when the permit was given."""
    token: AccessToken | None
    """None if the gateway serves callers without a token, on their own key, or if this is an `upload`."""
    own_key: bool
    """Whether the caller's own provider key pays."""
    gateway: ServedGateway
    own: OwnProviders
    """The keys stored for the gateway, and the account's custom providers."""
    policies: Policies | None
    """None if the gateway has none."""
    upload: Upload | None = None
    """A piece of a file, for which the ticket in the URL is sufficient permission."""
    calls: dict[str, Call] = {}
    """By provider slug: what the head alone determines about calls; see calls.model.Call."""

    def is_current(self, services: Services) -> bool:
        """Whether the same permit would be given now."""
        token = self.token
        return self.known.current and (
            token is None or token.expires_at is None or token.active(services.clock.now_ms())
        )


class Repeats(msgspec.Struct, frozen=True):
    """What all requests with the head of an earlier cache hit have in common: see http.repeated_hits."""

    permit: Permit
    target: CallTarget
    call: Call
    """One of the permit's `calls`."""
    scope: bytes
    """The scope of its cache use (calls.model.CacheUse)."""


class Understood(msgspec.Struct):
    """What a request's head means, kept with the head (http.exchange.RequestHead.memo)."""

    target: CallTarget | None
    form: Form
    waits: bool
    """Whether the client waits in silence after every 429."""
    permit: Permit | None = None
    repeats: Repeats | None = None
    """None if there was no hit, or only one that cannot be answered at once."""


async def permit_of(services: Services, exchange: PermitRequest, target: CallTarget) -> Permit:
    """The permit for a request. Callers without a token are served only if the gateway has authentication off, and only
    on their own key. Raises Problem."""
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
            # The account's stored keys need a token.
            return Permit(known, None, own_key, gateway, NOTHING, policies)
    token = await authorize_run(credentials.token, target.account_id, target.gateway_id, configuration)
    gateway = await configuration.gateway(target.account_id, target.gateway_id)
    if gateway is None:
        raise Problem(GATEWAY_UNKNOWN, f"There is no gateway {quoted(target.gateway_id)} on this account.")
    _check_frozen(gateway)
    own = await configuration.own_providers(target.account_id, target.gateway_id)
    policies = await configuration.policies(target.account_id, target.gateway_id)
    return Permit(known, token, own_key, gateway, own, policies)


def _check_frozen(gateway: ServedGateway) -> None:
    """Raises Problem (ACCOUNT_FROZEN)."""
    if gateway.frozen:
        raise Problem(ACCOUNT_FROZEN, "The account is frozen. Nothing was charged.")


def _check_payment(exchange: PermitRequest, target: CallTarget) -> None:
    """A call that asks to be paid by x402, as Cloudflare supports, is refused rather than paid from credit. Raises
    Problem (INVALID_REQUEST)."""
    method = (exchange.headers.get("payment-method") or "").strip().lower()
    if method == "x402" or (target.api_host and exchange.headers.get("payment-signature") is not None):
        words = (
            "Payments by x402 are not accepted: calls are paid from the account's credit, or by its own provider key."
        )
        raise Problem(INVALID_REQUEST, f"{words} Leave out `Payment-Method` and `PAYMENT-SIGNATURE`.")
