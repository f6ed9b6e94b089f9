"""Cache hits that are answered at once, without a task: requests with the head of an earlier hit and a body that was
answered from the cache before, whose response is in memory.

Nothing is awaited, so such a call is not counted among the calls in flight, nor its body among the bytes in memory. The
part of the response that its client does not read is counted on the account, and the call counts in rate limits. Calls
of gateways with policies or screening, and all requests after a change of the configuration, are handled the normal way
(http.data_plane).
"""

from msgspec.structs import replace

from farebox.calls.hit_records import fits
from farebox.calls.model import Call
from farebox.http.exchange import Exchange
from farebox.http.permits import Repeats, Understood
from farebox.runtime.services import Services
from farebox.storage.cached_responses import CachedResponse
from farebox.storage.sql import DatabaseUnavailable


def repeats_of(exchange: Exchange, understood: Understood) -> Repeats | None:
    """What further requests with this head have in common after a hit; None if they cannot be answered at once."""
    target, permit = understood.target, understood.permit
    if target is None or permit is None or permit.policies is not None:
        return None
    call, gateway, token = permit.calls.get(target.slug), permit.gateway, permit.token
    if call is None or call.cache is None or call.cache.skip or call.models or call.enveloped:
        return None
    if gateway.screens or gateway.log_management_strategy == "STOP_INSERTING":
        return None
    if (token is not None and token.models is not None) or exchange.headers.get("content-encoding"):
        return None
    return Repeats(permit, target, call, call.cache.scope)


def hit_in_memory(services: Services, repeats: Repeats, body: bytes, client: str) -> tuple[Call, CachedResponse] | None:
    """The call and its response; None if the request must be served the normal way."""
    known, cache = repeats.call, services.response_cache
    recalled = cache.recall(known.account_id, repeats.scope, body)
    if recalled is None or recalled.read.outline is not None or not repeats.permit.is_current(services):
        return None
    now = services.clock.now_ms()
    found = cache.in_memory(known.account_id, recalled.key, now)
    if found is None:
        return None
    try:
        services.database.check()
        services.ledger.check(known.account_id)
    except DatabaseUnavailable:
        return None
    read = recalled.read
    call = replace(
        known,
        log_id=services.ids.log_id(),
        parsed=read.parsed,
        body=body if read.body is None else read.body,
        started_at=now,
        client=client,
    )
    return (call, found) if fits(services, call, found.body) else None
