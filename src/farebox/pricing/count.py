"""Counts usage that a provider does not report: for charges, never for holds."""

from collections.abc import Callable

from farebox.money import ceil_div
from farebox.pricing.media import audio_usage, image_tokens
from farebox.pricing.model import Demand, ModelPrice
from farebox.pricing.token_counts import approximate_tokens
from farebox.usage import Quantity

MESSAGE_TOKENS = 4
"""Role and separators of a message, as OpenAI's chat template has them."""
TEXT_BYTES_PER_TOKEN = 4
"""Used for attached plain text, which is not decoded to be counted, and for requests too large to be counted."""
COUNTED_BYTES_MAX = 2**20
"""A request with more text is not tokenized."""


def count_request(demand: Demand, price: ModelPrice, text: Callable[[], str] | None) -> dict[str, Quantity]:
    """The input of a request in meters: its text by a tokenizer, images and audio by their rules. Input that the
    request does not show is not counted. `text`: None if no tokenizer is available.
    """
    if text is None or demand.text_bytes > COUNTED_BYTES_MAX:
        tokens = ceil_div(demand.text_bytes, TEXT_BYTES_PER_TOKEN)
    else:
        tokens = count_text(price, text()) if demand.text_bytes else 0
    tokens += MESSAGE_TOKENS * demand.messages + ceil_div(demand.files_bytes, TEXT_BYTES_PER_TOKEN)
    images = sum(image_tokens(price.model, image) for image in demand.images)
    counted = audio_usage(price, demand.audio_seconds) if demand.audio_seconds else {}
    counted["input_tokens"] = tokens + images + counted.get("input_audio_tokens", 0)
    if images:
        counted["input_image_tokens"] = images
    return counted


def count_text(price: ModelPrice, text: str) -> int:
    """Tokens of the text by the model's tokenizer; if that is not published, by o200k_base as an approximation."""
    return approximate_tokens(price.provider, price.model, text)
