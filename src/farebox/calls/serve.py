"""Serve one model call: price it, hold, forward, meter the passing bytes, settle, record.

No database transaction is open while waiting for the provider, and the response's last byte is sent only after its
charge is durable: a response that a client has seen complete is charged, whatever happens to this process afterwards.
"""

import asyncio
from collections.abc import Callable

from farebox.calls.admit import hold_credit, reserve
from farebox.calls.endings import FREE, ending_of
from farebox.calls.forward import reach_provider
from farebox.calls.logs import with_room
from farebox.calls.long_calls.batches import hold_batch
from farebox.calls.long_calls.long_calls import begin, record_refused
from farebox.calls.long_calls.relay import relay_begun
from farebox.calls.long_calls.stored_objects import checked_objects, pass_object, prepare_object
from farebox.calls.model import Call, Sink
from farebox.calls.near_models import near_models
from farebox.calls.relaying.relay import relay_response
from farebox.calls.screening.screen import screening_of
from farebox.calls.settle import end_without_response
from farebox.calls.spending.rules import may_count, rules_for
from farebox.calls.stages import (
    Admitted,
    Admitting,
    Attempts,
    CallContext,
    Metered,
    Priced,
    Received,
    Responded,
    Stage,
    Terms,
    is_plain,
)
from farebox.calls.tiers import find_price, hold_price, requested_price
from farebox.calls.unpaid import check_unpaid
from farebox.calls.watch import Watch
from farebox.errors import INVALID_REQUEST, MODEL_UNPRICED, NOT_METERED, UPSTREAM_TIMEOUT, Problem
from farebox.pricing.charge import unpriced_meters
from farebox.pricing.model import Demand, ModelPrice
from farebox.pricing.rates import rate_option, unit_text
from farebox.quoting import quoted
from farebox.runtime.services import Services


async def serve_call(
    services: Services, call: Call, sink: Sink, watch: Watch, more: Callable[[], bool] | None = None
) -> bool:
    """Serve the call and answer it through `sink`. If the provider responds with an error and `more` says that there is
    another step to try, the sink is left untouched and False is returned; otherwise True.

    Raises Problem if nothing has been sent yet: the call is then recorded as refused and nothing is charged or, if a
    complete response was expected and broke off, it is settled by policy.
    """
    if call.gateway.log_management_strategy == "STOP_INSERTING":
        call = await with_room(services, call)
    began, plain = services.clock.monotonic(), is_plain(call)
    screening = await screening_of(services, call, sink, watch) if not plain and call.gateway.screens else None
    context = CallContext(services, call, sink, watch, began, screening, [], plain)
    stage: Stage = Received(context)
    try:
        if not plain:
            context = await checked_objects(context)
        stage = priced = price_call(context)
        if screening is not None:
            await screening.request()
        if call.object is not None and (call.object.kind, call.object.does) == ("batch", "create"):
            stage = Admitting(context, None, None)
            held, batch = await hold_batch(context, call.object)
            stage = admitted = Admitted(context, None, None, held, Attempts(), False)
            await begin(admitted, held, "batch", batch)
            stage = responded = await reach_provider(admitted)
            await relay_begun(responded, "batch")
            return True
        if call.object is not None and call.object.does != "count":
            prepared = await prepare_object(Admitted(context, None, None, None, Attempts(), False), call.object)
            if prepared is not None:
                stage = responded = await reach_provider(prepared)
                await pass_object(responded, call.object)
            return True
        if priced.metered is None or call.own_key:
            counts = may_count(call) and priced.terms is not None and bool(rules_for(call))
            if counts and priced.terms is not None:
                stage = Admitting(context, priced.metered, priced.terms)
                with watch.waiting(services.settings.call_timeout_ms / 1000):
                    await reserve(context, priced.terms)
            admitted = Admitted(context, priced.metered, priced.terms, None, Attempts(), counts)
        else:
            terms, price = payable(priced)
            check_unpaid(services, call)
            stage = Admitting(context, priced.metered, terms)
            with watch.waiting(services.settings.call_timeout_ms / 1000):
                held = await hold_credit(context, terms, price)
            admitted = Admitted(context, priced.metered, terms, held, Attempts(context.elapsed_ms()), False)
        stage = admitted
        long_hold = None if plain else admitted.long_hold
        if long_hold is not None:
            await begin(admitted, long_hold, admitted.long_kind)
        stage = responded = await reach_provider(admitted)
        if responded.response.status >= 400 and more is not None and more():
            return await _leave_to_next_step(responded)
        await (relay_response(responded) if long_hold is None else relay_begun(responded, admitted.long_kind))
        return True
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the hold must not outlive the call
        return await _end_early(stage, error)


async def _leave_to_next_step(stage: Responded) -> bool:
    """End a call to which the provider responded with an error that is not passed on. Returns False."""
    await stage.response.close()
    await end_without_response(stage, FREE)
    if stage.long_hold is not None:
        await record_refused(stage)
    return False


async def _end_early(stage: Stage, error: BaseException) -> bool:
    """End a call whose response cannot be passed on, or not to its end. Raises the error for the caller; returns True
    if the caller has gone."""
    if isinstance(error, asyncio.CancelledError) and isinstance(stage, Admitted) and stage.long_hold is not None:
        raise error  # whether the provider has begun is unknown: the long call's row decides the end of the hold
    end = ending_of(stage, error)
    if end.reply == "unreadable":
        error = Problem(INVALID_REQUEST, str(error))
    if end.outcome:
        await end_without_response(stage, end, error if isinstance(error, Problem) else None)
    if end.reply == "nothing":
        return True
    if end.reply == "timeout":
        raise Problem(UPSTREAM_TIMEOUT, f"{stage.context.call.provider} did not respond in the time allowed.")
    raise error


def price_call(context: CallContext) -> Priced:
    """Look up the price of the call's model, and its markup."""
    call, prices = context.call, context.services.configuration.prices
    parsed, wire = call.parsed, call.format
    if parsed is None or wire is None:
        return Priced(context, None, None)
    price = find_price(context, parsed.model, {})
    markup = prices.markup(call.account_id, call.provider, parsed.model, call.started_at)
    if price is None:
        return Priced(context, Metered(wire, parsed, markup), None)
    terms = Terms(wire, parsed, markup, price)
    return Priced(context, terms, terms)


def payable(priced: Priced) -> tuple[Terms, ModelPrice]:
    """The terms of a call on the operator's key, and the price that its hold is estimated by. Raises Problem if the
    call could not be charged."""
    terms, call = priced.terms, priced.context.call
    if terms is None:
        units = () if call.parsed is None else call.parsed.demand.units
        raise Problem(
            MODEL_UNPRICED,
            f"The model {quoted(call.model)} of {call.provider} has no price, so it cannot be charged. The operator "
            f"can set one{'' if units else ' on the Prices page, or with'}: farebox price set {call.provider} "
            f"{call.model} {_options(units)}."
            + near_models(priced.context.services, call.account_id, call.provider, call.model),
        )
    demand = terms.parsed.demand
    if demand.units:
        _check_units_priced(call, demand, terms.price)
    if demand.stored_hours and "stored_token_hours" not in terms.price.meters:
        raise Problem(
            NOT_METERED,
            f"What it costs to store tokens for {quoted(demand.model)} of {call.provider} is not known: the operator "
            f"adds --rate stored_mtok_hours=USD ({unit_text('stored_mtok_hours')}) to a price of the model's.",
        )
    if demand.fixed or demand.allowed:
        _check_searches_priced(call, demand, terms.price)
    if "input_tokens" not in terms.price.meters:
        _check_priced_by_the_token(call, demand, terms.price)
    return terms, hold_price(priced.context, terms, requested_price(priced.context, terms))


def _options(units: tuple[str, ...]) -> str:
    """How to state such a price on the command line."""
    return ", or ".join(map(rate_option, units)) if units else "--input USD --output USD (per million tokens)"


def _check_units_priced(call: Call, demand: Demand, price: ModelPrice) -> None:
    """Raises Problem if the price does not cover the units that meter the request, or if their number is unbounded."""
    priced = [meter for meter in demand.units if meter in price.meters]
    if not priced:
        raise Problem(
            MODEL_UNPRICED,
            f"The price of {quoted(demand.model)} of {call.provider} does not cover the units of this request. The "
            f"operator can set one that does: farebox price set {call.provider} {demand.model} "
            f"{_options(demand.units)}.",
        )
    unbounded = [meter for meter in priced if meter in demand.unbounded]
    if unbounded and price.output_max is None:
        raise Problem(
            MODEL_UNPRICED,
            f"Neither the request nor the price of {quoted(demand.model)} of {call.provider} limits the number of "
            f"{unbounded[0].replace('_', ' ')}: the operator can add --output-max N to the price.",
        )


def _check_searches_priced(call: Call, demand: Demand, price: ModelPrice) -> None:
    """Raises Problem if a search that the request allows would be free. Not checked for other meters: a request lists
    several of them, of which the provider bills one."""
    wanted = {**demand.fixed, **demand.allowed}
    unpriced = [meter for meter in unpriced_meters(price, wanted) if meter.endswith("_searches")]
    if unpriced:
        raise Problem(
            NOT_METERED,
            f"The request allows searches, and {quoted(demand.model)} of {call.provider} has no price for "
            f"{', '.join(unpriced)}, so it is not called on the operator's key.",
        )


def _check_priced_by_the_token(call: Call, demand: Demand, price: ModelPrice) -> None:
    """Raises Problem if a model that is priced by the second, character or page could also write text, as some can at
    their provider: that would be free."""
    by_other = demand.no_output or demand.audio_seconds_max or price.is_own
    if not by_other and unpriced_meters(price, {"input_tokens": 1}):
        raise Problem(
            NOT_METERED,
            f"{quoted(demand.model)} of {call.provider} has no price for tokens, so it is not called for text on the "
            "operator's key.",
        )
