"""The part of counting that runs in a helper process (calls.counting).

It imports little, because a helper loads it before its first result: no services and no configuration.
"""

from typing import Final

import msgspec
from msgspec.structs import replace

from farebox.calls.price import PricedUsage, ResponseEnding, price_response
from farebox.pricing.chat_template import count_chat
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.token_counts import approximate_tokens, count_tokens
from farebox.providers.formats.base import Observed
from farebox.providers.reading import Place, read_text

_CHAT: Final = "chat/completions"


class InputCount(msgspec.Struct, frozen=True, gc=False):
    """Number of input tokens by the model's own tokenizer."""

    tokens: int
    whole: bool
    """Whether the whole request was counted with its template, rather than only its text."""


def count_input_tokens(body: bytes, place: Place, provider: str, model: str, requested: str) -> InputCount | None:
    whole = count_chat(provider, requested, body) if place.path == _CHAT else None
    if whole is not None:
        return InputCount(whole, whole=True)
    tokens = count_tokens(provider, model, read_text(body, place))
    return None if tokens is None else InputCount(tokens, whole=False)


def count_output_tokens(text: bytes, provider: str, model: str) -> int:
    return approximate_tokens(provider, model, text.decode())


def price_counted(
    body: bytes,
    place: Place,
    observed: Observed,
    demand: Demand,
    price: ModelPrice,
    markup: Markup,
    bound: Estimate,
    ending: ResponseEnding,
) -> PricedUsage:
    def text() -> str:
        return read_text(body, place)

    return price_response(observed, demand, price, markup, bound, replace(ending, request_text=text))
