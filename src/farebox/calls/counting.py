"""Counting with tokenizers: in a helper process, since loading one takes half a second, and texts may be long."""

import asyncio

from msgspec.structs import replace

from farebox.calls.counting_work import InputCount, count_input_tokens, count_output_tokens, price_counted
from farebox.calls.model import Call
from farebox.calls.price import PricedUsage, ResponseEnding, price_response
from farebox.helper_processes import HelperDied, PoolBusy, TooMuchWork
from farebox.pricing.count import COUNTED_BYTES_MAX
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.token_counts import has_tokenizer
from farebox.providers.formats.base import Observed
from farebox.providers.reading import RAISES
from farebox.runtime.services import Services


async def count_input(services: Services, call: Call, demand: Demand, price: ModelPrice) -> InputCount | None:
    """Input tokens of the request by the model's own tokenizer; None if there is no tokenizer for the model, the text
    is too long, or no helper process is free. Raises InvalidRequest."""
    if demand.text_bytes > COUNTED_BYTES_MAX or not has_tokenizer(price.provider, price.model):
        return None
    try:
        async with services.helpers.turn(call.account_id):
            return await services.helpers.run(
                call.account_id,
                count_input_tokens,
                call.body,
                call.place,
                price.provider,
                price.model,
                demand.model,
                raises=RAISES,
            )
    except (PoolBusy, HelperDied, TooMuchWork):
        return None


async def count_output(services: Services, call: Call, price: ModelPrice, text: str) -> int | None:
    """Tokens of generated text, as charged if a response ends early; None if no helper process is free."""
    try:
        return await services.helpers.run(
            call.account_id, count_output_tokens, text.encode("utf-8", "replace"), price.provider, price.model
        )
    except (PoolBusy, HelperDied, TooMuchWork):
        return None


async def price_by_count(
    services: Services,
    call: Call,
    observed: Observed,
    demand: Demand,
    price: ModelPrice,
    markup: Markup,
    bound: Estimate,
    ending: ResponseEnding,
    within: float | None = None,
) -> PricedUsage:
    """`price_response`, which may have to count what was sent and delivered. If counting is impossible, or takes longer
    than `within` seconds, every four bytes count as one token: the end of a call never fails because of this."""
    body = call.body if demand.text_bytes <= COUNTED_BYTES_MAX else b""
    try:
        async with asyncio.timeout(within):
            return await services.helpers.run(
                call.account_id,
                price_counted,
                body,
                call.place,
                observed,
                demand,
                price,
                markup,
                bound,
                ending,
                must=True,
            )
    except (PoolBusy, HelperDied, TooMuchWork, TimeoutError, asyncio.CancelledError):
        # A stop cancels once, and waits for the charge.
        return price_response(observed, demand, price, markup, bound, replace(ending, rough=True))


def may_count(observed: Observed, demand: Demand) -> bool:
    """Whether computing the price may require counting text."""
    if observed.implausible:
        return False
    reported = observed.usage is not None and "input_tokens" not in observed.missing
    return bool(observed.text) or (not reported and demand.text_bytes > 0)
