"""Counting with tokenizers: in a helper process, since loading one takes half a second, and texts may be long."""

import asyncio

from msgspec.structs import replace

from farebox.calls.model import Call
from farebox.calls.price import Ending, PricedUsage, price_response
from farebox.offload import Busy, Died, TooMuch
from farebox.pricing.count import COUNTED_BYTES_MAX
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.tokens import count_tokens, has_tokenizer
from farebox.providers.formats.base import Observed
from farebox.providers.reading import RAISES, Place, read_text
from farebox.runtime.services import Services


async def count_input(services: Services, call: Call, demand: Demand, price: ModelPrice) -> int | None:
    """Tokens of the request's text by the model's own tokenizer; None if that is not known, or the text is too
    long, or no helper is free to count it. Raises InvalidRequest."""
    if demand.text_bytes > COUNTED_BYTES_MAX or not has_tokenizer(price.provider, price.model):
        return None
    try:
        return await services.helpers.run(
            call.account_id, _count, call.body, call.place, price.provider, price.model, raises=RAISES
        )
    except (Busy, Died, TooMuch):
        return None


async def price_by_count(
    services: Services,
    call: Call,
    observed: Observed,
    demand: Demand,
    price: ModelPrice,
    markup: Markup,
    bound: Estimate,
    ending: Ending,
    within: float | None = None,
) -> PricedUsage:
    """`price_response`, which may have to count what was sent and delivered. If counting is impossible, or takes longer
    than this many seconds, every four bytes count as a token: a call is never left without its end."""
    body = call.body if demand.text_bytes <= COUNTED_BYTES_MAX else b""
    try:
        async with asyncio.timeout(within):
            return await services.helpers.run(
                call.account_id, _price, body, call.place, observed, demand, price, markup, bound, ending, must=True
            )
    except (Busy, Died, TooMuch, TimeoutError, asyncio.CancelledError):  # a stop cancels once, and waits for the charge
        return price_response(observed, demand, price, markup, bound, replace(ending, rough=True))


def may_count(observed: Observed, demand: Demand) -> bool:
    """Whether the price may take a count of text."""
    if observed.implausible:
        return False
    reported = observed.usage is not None and "input_tokens" not in observed.missing
    return bool(observed.text) or (not reported and demand.text_bytes > 0)


def _count(body: bytes, place: Place, provider: str, model: str) -> int | None:
    return count_tokens(provider, model, read_text(body, place))


def _price(
    body: bytes,
    place: Place,
    observed: Observed,
    demand: Demand,
    price: ModelPrice,
    markup: Markup,
    bound: Estimate,
    ending: Ending,
) -> PricedUsage:
    def text() -> str:
        return read_text(body, place)

    return price_response(observed, demand, price, markup, bound, replace(ending, request_text=text))
