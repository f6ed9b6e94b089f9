"""Serve one model call: price it, hold, forward, meter the passing bytes, settle, record.

No database transaction is open while the provider is waited for, and the answer's last byte is sent only after its
charge is durable: what a client has seen complete is charged, whatever happens to this process afterwards.
"""

import asyncio

from farebox.calls.admit import hold_credit
from farebox.calls.forward import reach_provider
from farebox.calls.model import Call, Sink
from farebox.calls.operator_key import checked
from farebox.calls.relay import relay_answer
from farebox.calls.settle import end_without_answer
from farebox.calls.state import REASONS, SERVER_STOPPED, Ride
from farebox.calls.tiers import asked_price, hold_price
from farebox.calls.unpaid import check_unpaid
from farebox.calls.watch import Interrupted, Watch
from farebox.errors import INVALID_REQUEST, MODEL_UNPRICED, NOT_METERED, UPSTREAM_TIMEOUT, Problem
from farebox.pricing.charge import unpriced_meters
from farebox.pricing.model import ModelPrice
from farebox.providers.formats.base import InvalidRequest
from farebox.runtime.services import Services
from farebox.storage.sql import DatabaseUnavailable


async def serve_call(services: Services, call: Call, sink: Sink, watch: Watch, *, last: bool = True) -> bool:
    """Serve the call and answer it through `sink`. With `last` False, an error that the provider answers leaves the
    sink untouched and returns False, so that the next step can be tried; otherwise True.

    Raises Problem where nothing has been sent yet: the call is then recorded as refused and nothing is charged, or,
    where a whole answer broke off, settled by policy.
    """
    ride = Ride(services, call, sink, watch, services.clock.monotonic())
    try:
        await _price_and_hold(ride)
        answer = await checked(ride, await reach_provider(ride))
    except Problem as problem:
        ride.hold_asked = ride.held is not None
        await end_without_answer(ride, "refused", problem)
        raise
    except InvalidRequest as error:  # a body is read more closely where the money is short
        refusal = Problem(INVALID_REQUEST, str(error))
        await end_without_answer(ride, "refused", refusal)
        raise refusal from error
    except Interrupted as interrupted:
        await end_without_answer(ride, "released", error=REASONS[interrupted.reason])
        if interrupted.reason == "client_gone":
            return True
        raise Problem(UPSTREAM_TIMEOUT, f"{call.provider} did not answer in the time allowed.") from interrupted
    except DatabaseUnavailable:  # whether the hold is there, nobody knows
        await end_without_answer(ride, "released", error="the database refused the hold")
        raise
    except asyncio.CancelledError:
        await end_without_answer(ride, "released", error=SERVER_STOPPED)
        raise
    except Exception:  # a mistake of ours: the edge reports it, and the hold must not outlive it
        await end_without_answer(ride, "released", error="internal error")
        raise
    if answer.status >= 400 and not last:
        await answer.close()
        await end_without_answer(ride, "free")
        return False
    try:
        await relay_answer(ride, answer)
    except (Problem, DatabaseUnavailable):  # the call has been settled, or that has been tried
        raise
    except Exception:  # as above; where the charge is posted already, this changes nothing
        await end_without_answer(ride, "released", error="internal error")
        raise
    return True


async def _price_and_hold(ride: Ride) -> None:
    call, services = ride.call, ride.services
    if call.parsed is None:
        return
    model, prices = call.parsed.model, services.configuration.prices
    ride.price = ride.price_for({})
    ride.markup = prices.markup(call.account_id, call.provider, model, call.started_at)
    if call.own_key:
        return
    if ride.price is None:
        raise Problem(
            MODEL_UNPRICED,
            f"The model {model!r} of {call.provider} has no price, so it cannot be charged. The operator can set one: "
            f"farebox price set {call.provider} {model} --input USD --output USD (per million tokens).",
        )
    wanted = {**call.parsed.demand.fixed, **call.parsed.demand.allowed}
    unpriced = [meter for meter in unpriced_meters(ride.price, wanted) if meter.endswith("_searches")]
    if unpriced:  # of other meters, a request fixes several of which the provider charges by one
        raise Problem(
            NOT_METERED,
            f"The request allows searches, and {model!r} of {call.provider} has no price for {', '.join(unpriced)}, so "
            "it is not called on the operator's key.",
        )
    _check_priced_by_the_token(ride, ride.price)
    price = hold_price(ride, asked_price(ride))
    check_unpaid(services, call)
    ride.hold_asked = True
    with ride.watch.waiting(services.settings.call_timeout_ms / 1000):
        ride.held = await hold_credit(services, call, price, ride.markup)


def _check_priced_by_the_token(ride: Ride, price: ModelPrice) -> None:
    """A model that is priced by the second, character or page may write text too, at its maker: that would be free.
    Raises Problem."""
    assert ride.call.parsed is not None
    demand = ride.call.parsed.demand
    by_other = demand.no_output or demand.audio_seconds_max or price.is_own
    if not by_other and unpriced_meters(price, {"input_tokens": 1}):
        raise Problem(
            NOT_METERED,
            f"{demand.model!r} of {ride.call.provider} has no price for tokens, so it is not asked for text on the "
            "operator's key.",
        )
