"""Serve one model call: price it, hold, forward, meter the passing bytes, settle, record.

No database transaction is open while the provider is waited for, and the response's last byte is sent only after its
charge is durable: what a client has seen complete is charged, whatever happens to this process afterwards.
"""

import asyncio
from typing import Final

from farebox.calls.admit import hold_credit
from farebox.calls.forward import reach_provider
from farebox.calls.model import Call, Sink
from farebox.calls.operator_key import checked
from farebox.calls.relay import relay_response
from farebox.calls.settle import end_without_response
from farebox.calls.state import REASONS, SERVER_STOPPED, CallState
from farebox.calls.tiers import asked_price, hold_price
from farebox.calls.unpaid import check_unpaid
from farebox.calls.watch import Interrupted, Watch
from farebox.errors import INVALID_REQUEST, MODEL_UNPRICED, NOT_METERED, UPSTREAM_TIMEOUT, Problem
from farebox.pricing.charge import unpriced_meters
from farebox.pricing.model import Demand, ModelPrice
from farebox.providers.formats.base import InvalidRequest
from farebox.runtime.services import Services
from farebox.storage.sql import DatabaseUnavailable

INTERNAL_ERROR: Final = "internal error"
_RELEASED: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (DatabaseUnavailable, "the database refused the hold"),  # whether the hold is there, nobody knows
    (asyncio.CancelledError, SERVER_STOPPED),
    (Exception, INTERNAL_ERROR),  # a mistake of ours, which the edge reports
)
"""Ends of calls that are raised on as they are, in the words of their rows: the first that matches."""


async def serve_call(services: Services, call: Call, sink: Sink, watch: Watch, *, last: bool = True) -> bool:
    """Serve the call and answer it through `sink`. With `last` False, an error that the provider answers leaves the
    sink untouched and returns False, so that the next step can be tried; otherwise True.

    Raises Problem where nothing has been sent yet: the call is then recorded as refused and nothing is charged, or,
    where a whole response broke off, settled by policy.
    """
    state = CallState(services, call, sink, watch, services.clock.monotonic())
    try:
        await _price_and_hold(state)
        response = await reach_provider(state)
        if response.status >= 400:
            response = await checked(state, response)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the hold must not outlive the call
        return await _end_early(state, error)
    if response.status >= 400 and not last:
        await response.close()
        await end_without_response(state, "free")
        return False
    try:
        await relay_response(state, response)
    except (Problem, DatabaseUnavailable):  # the call has been settled, or that has been tried
        raise
    except Exception:  # as above; where the charge is posted already, this changes nothing
        await end_without_response(state, "released", error=INTERNAL_ERROR)
        raise
    return True


async def _end_early(state: CallState, error: BaseException) -> bool:
    """End a call that has no response to pass on: refused if the caller can be told why, otherwise released. Raises
    what the caller is told; returns True if nobody is left to be told."""
    if isinstance(error, InvalidRequest):  # a body is read more closely when the money is short
        error = Problem(INVALID_REQUEST, str(error))
    if isinstance(error, Problem):
        state.hold_asked = state.held is not None
        await end_without_response(state, "refused", error)
    elif isinstance(error, Interrupted):
        await end_without_response(state, "released", error=REASONS[error.reason])
        if error.reason == "client_gone":
            return True
        error = Problem(UPSTREAM_TIMEOUT, f"{state.call.provider} did not respond in the time allowed.")
    else:
        words = next(words for kind, words in _RELEASED if isinstance(error, kind))
        await end_without_response(state, "released", error=words)
    raise error


async def _price_and_hold(state: CallState) -> None:
    call, services = state.call, state.services
    if call.parsed is None:
        return
    model, prices = call.parsed.model, services.configuration.prices
    state.price = state.price_for({})
    state.markup = prices.markup(call.account_id, call.provider, model, call.started_at)
    if call.own_key:
        return
    if state.price is None:
        raise Problem(
            MODEL_UNPRICED,
            f"The model {model!r} of {call.provider} has no price, so it cannot be charged. The operator can set one: "
            f"farebox price set {call.provider} {model} --input USD --output USD (per million tokens).",
        )
    _check_searches_priced(call, call.parsed.demand, state.price)
    _check_priced_by_the_token(call, call.parsed.demand, state.price)
    price = hold_price(state, asked_price(state))
    check_unpaid(services, call)
    state.hold_asked = True
    with state.watch.waiting(services.settings.call_timeout_ms / 1000):
        state.held = await hold_credit(services, call, price, state.markup)


def _check_searches_priced(call: Call, demand: Demand, price: ModelPrice) -> None:
    """Raises Problem where a search that the request allows would be free. Of other meters, a request fixes several of
    which the provider charges by one."""
    if not (demand.fixed or demand.allowed):
        return
    wanted = {**demand.fixed, **demand.allowed}
    unpriced = [meter for meter in unpriced_meters(price, wanted) if meter.endswith("_searches")]
    if unpriced:
        raise Problem(
            NOT_METERED,
            f"The request allows searches, and {demand.model!r} of {call.provider} has no price for "
            f"{', '.join(unpriced)}, so it is not called on the operator's key.",
        )


def _check_priced_by_the_token(call: Call, demand: Demand, price: ModelPrice) -> None:
    """A model that is priced by the second, character or page may write text too, at its maker: that would be free.
    Raises Problem."""
    by_other = "input_tokens" in price.meters or demand.no_output or demand.audio_seconds_max or price.is_own
    if not by_other and unpriced_meters(price, {"input_tokens": 1}):
        raise Problem(
            NOT_METERED,
            f"{demand.model!r} of {call.provider} has no price for tokens, so it is not asked for text on the "
            "operator's key.",
        )
