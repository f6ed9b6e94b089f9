"""What is stored of a long call, and how the call is restored from it when it ends, perhaps in another process and on
another day."""

from collections.abc import Mapping
from typing import Final, cast

import msgspec

from farebox.calls.exports.notes import with_notes
from farebox.calls.logged_body import LoggedBody
from farebox.calls.model import Call, Sink
from farebox.calls.operator_key import ReadError
from farebox.calls.stages import Admitted, Attempts, CallContext, Held, Responded, Terms
from farebox.calls.tiers import find_price
from farebox.calls.watch import Watch
from farebox.errors import OWN_KEY_REQUIRED, Problem
from farebox.gateway import ServedGateway
from farebox.ledger.commands import Outcome, Verdict
from farebox.pricing.model import Estimate
from farebox.providers.catalogue import format_of, provider_of
from farebox.providers.cloud_tokens import TokenRefused
from farebox.providers.credential import InvalidKey
from farebox.providers.formats.base import ParsedRequest, WireFormat
from farebox.providers.naming import stored_key_header
from farebox.providers.provider import FREE, Plain
from farebox.providers.provider_path import filled_base_url, provider_path
from farebox.providers.reading import Place
from farebox.providers.signing import signed, signing_of
from farebox.providers.upstream import SentHead, UpstreamRequest
from farebox.quoting import quoted
from farebox.runtime.provider_access import ProviderAccess
from farebox.runtime.services import Services
from farebox.storage.long_calls import LongCall

_NOBODY: Final = cast(Sink, None)
"""No client is waiting for the response any more."""
_NO_WATCH: Final = cast(Watch, None)


class BatchTerms(msgspec.Struct, frozen=True):
    """The endpoint and models of a batch's requests."""

    endpoint: str
    requests: int
    models: tuple[str, ...]
    """As the requests name them."""


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the charge of a long call is computed from, and what its log row contains. Times are in milliseconds."""

    path: str
    method: str = "POST"
    content_type: str
    parsed: ParsedRequest | None
    """None for a batch."""
    batch: BatchTerms | None = None
    estimate: Estimate
    output_limit: int | None = None
    started_at: int
    step: int = 0
    logged: bool = True
    log_bodies: bool = True
    metadata: Mapping[str, str | int | float | bool] | None = None
    event_id: str = ""
    user_agent: str = ""
    token_id: str = ""
    route: str = ""
    common_form: bool = False
    end_user: str = ""


_WORK: Final = msgspec.json.Decoder(Work)


def stored_work(stage: Admitted, held: Held, batch: BatchTerms | None = None) -> bytes:
    """The stored form of an admitted call with this hold."""
    call, terms = stage.context.call, stage.terms
    work = Work(
        path=call.path,
        method=call.method,
        content_type=call.content_type,
        parsed=None if terms is None else terms.parsed,
        batch=batch,
        estimate=held.estimate,
        output_limit=held.output_limit,
        started_at=call.started_at,
        step=call.step,
        logged=call.logged,
        log_bodies=call.log_bodies,
        metadata=call.metadata,
        event_id=call.event_id,
        user_agent=call.user_agent,
        token_id=call.token_id,
        route=call.route,
        common_form=call.common_form,
        end_user=call.end_user,
    )
    return msgspec.json.encode(work)


def work_of(long: LongCall) -> Work:
    """The decoded form of a stored long call."""
    return _WORK.decode(long.work)


class LongResponded(Responded, frozen=True):
    """A long call whose work has ended: it is paid for by a hold."""

    held: Held


async def as_responded(services: Services, long: LongCall, status: int, body: bytes) -> LongResponded:
    """The call as if the provider had answered it only now. Raises DatabaseUnavailable."""
    work = work_of(long)
    gateway = await services.configuration.gateway(long.account_id, long.gateway_id, create=False)
    access = access_to(services, long.provider)
    metering = format_of(access.provider, work.method, work.path)
    wire = None if isinstance(metering, Plain) else metering
    call = Call(
        log_id=long.log_id,
        account_id=long.account_id,
        gateway_id=long.gateway_id,
        gateway=gateway or ServedGateway(),
        access=access,
        provider=long.provider,
        own_key=False,
        key_id=long.key_id,
        format=wire,
        parsed=work.parsed,
        method=work.method,
        url="",
        path=work.path,
        place=Place(long.provider, work.method, work.path, work.content_type),
        headers=[],
        sent_head=SentHead(),
        content_type=work.content_type,
        started_at=work.started_at,
        step=work.step,
        logged=work.logged,
        log_bodies=work.log_bodies,
        metadata=work.metadata,
        event_id=work.event_id,
        user_agent=work.user_agent,
        token_id=work.token_id,
        route=work.route,
        common_form=work.common_form,
        end_user=work.end_user,
    )
    age = (services.clock.now_ms() - work.started_at) / 1000
    context = CallContext(services, call, _NOBODY, _NO_WATCH, services.clock.monotonic() - age)
    terms = None if wire is None or work.parsed is None else _terms(context, wire, work.parsed)
    held = Held(work.estimate, Verdict(Outcome.REPEATED), work.output_limit)
    most = services.settings.log_body_limit_bytes if work.logged and work.log_bodies else -1
    logged = LoggedBody(most, response_type="application/json")
    response = ReadError(status, [], body)
    stage = LongResponded(
        context=context,
        metered=terms,
        terms=terms,
        held=held,
        attempts=Attempts(),
        counts=False,
        response=response,
        logged=logged,
    )
    return stage if call.gateway.otel is None else with_notes(stage)


def _terms(context: CallContext, wire: WireFormat, parsed: ParsedRequest) -> Terms:
    call, prices = context.call, context.services.configuration.prices
    price = find_price(context, parsed.model, {})
    assert price is not None, "it had a price when it began, and later prices do not change that"
    return Terms(wire, parsed, prices.markup(call.account_id, call.provider, parsed.model, call.started_at), price)


def access_to(services: Services, slug: str) -> ProviderAccess:
    """How to reach the provider. Raises Problem if the operator no longer has a key for it."""
    provider = provider_of(slug)
    access = None if provider is None else services.configuration.provider(provider.slug)
    if access is None:
        raise Problem(OWN_KEY_REQUIRED, f"There is no provider {quoted(slug)} any more.")
    return access


async def own_request(
    services: Services, slug: str, key_id: str, method: str, path: str, body: bytes = b""
) -> UpstreamRequest:
    """A request of our own with this key of the operator. Raises Problem, UpstreamFailed."""
    access = access_to(services, slug)
    provider, keys = access.provider, {key.key_id: key.key for key in access.keys}
    stored = keys.get(key_id, access.api_key)
    where = provider_path(provider, path)
    try:
        found = () if stored is None else provider.keys(stored)
    except InvalidKey as error:
        raise Problem(OWN_KEY_REQUIRED, f"The operator's key for {slug} cannot be used: {error}.") from error
    key = next((key for key in found if key.is_for(where.fields)), None)
    if key is None:
        raise Problem(OWN_KEY_REQUIRED, f"The operator has no key for {slug} any more.")
    headers = [*provider.headers, ("accept-encoding", "identity")]
    if key.word:
        headers.append(stored_key_header(provider, path, FREE, key))
    if method in ("POST", "PUT"):
        headers.append(("content-type", "application/json"))
    request = UpstreamRequest(method, f"{filled_base_url(access.base_url, where)}/{where.path}", headers, body)
    signing = signing_of(key.signer, where.fields)
    if signing is None:
        return request
    try:
        return await signed(request, signing, services.tokens)
    except TokenRefused as refused:
        raise Problem(OWN_KEY_REQUIRED, f"There is no token for {slug}: {refused}.") from refused
