"""How many tokens images, audio and files may become: upper bounds, except where a rule states an assumption.

Sources: the vision, audio and document pages of OpenAI, Anthropic and Google, and for figures that these leave out,
published measurements of billed calls. A model is recognized by the prefix of its name, whichever provider serves it.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from farebox.money import ceil_div
from farebox.pricing.ceilings import family_name, longest_prefix
from farebox.pricing.model import ImageInput, ModelPrice
from farebox.usage import Quantity

AUDIO_TOKENS_PER_SECOND: Mapping[str, int] = MappingProxyType({"": 50, "gpt-": 10, "gemini": 32})
"""By prefix of the model's name; for an unknown model, the maximum of the known open ones."""

UNSEEN_AUDIO_SECONDS = 4 * 3600
"""Seconds of a recording given by URL or ID, if the model is billed by the second: no provider accepts a longer one."""

SPEECH_TOKENS_PER_MINUTE: Mapping[str, int] = MappingProxyType({"": 1_500, "gpt-": 1_250})
"""Tokens per minute of generated audio. OpenAI states 0.015 USD per minute for audio that costs 12 USD per million
tokens (a published bill for 268 seconds amounts to 1,207 per minute); Google states 25 per second, and for the others
nothing is known."""

_IMAGE_SIDE_MAX = 100_000
"""Pixels; a larger figure in the request is ignored. No provider accepts a tenth of it."""

_Rule: TypeAlias = Callable[[ImageInput], int]


def image_tokens(model: str, image: ImageInput) -> int:
    """The most tokens that the model needs for the image; if the size is unknown, for the largest one."""
    rule = longest_prefix(IMAGE_RULES, family_name(model))
    return (rule or _unknown_model)(image)


def audio_usage(price: ModelPrice, seconds: int) -> dict[str, Quantity]:
    """What this much audio input is billed as: seconds if the model has a price for them, else tokens."""
    if any(rate.meter in ("audio_seconds", "input_audio_seconds") for rate in price.rates):
        return {"audio_seconds": seconds, "input_audio_seconds": seconds}
    return {"input_audio_tokens": audio_tokens(price.model, seconds)}


def speech_tokens(model: str, seconds: Quantity) -> int:
    """The tokens of this many seconds of generated audio."""
    return math.ceil(seconds * (longest_prefix(SPEECH_TOKENS_PER_MINUTE, family_name(model)) or 0) / 60)


def audio_tokens(model: str, seconds: int) -> int:
    """The most tokens that the model needs for this many seconds of audio."""
    return seconds * (longest_prefix(AUDIO_TOKENS_PER_SECOND, family_name(model)) or 0)


def _size(image: ImageInput) -> tuple[int, int] | None:
    width, height = image.width, image.height
    if width is None or height is None or not 0 < width <= _IMAGE_SIDE_MAX or not 0 < height <= _IMAGE_SIDE_MAX:
        return None
    return width, height


def _squares(width: int, height: int, side: int) -> int:
    return ceil_div(width, side) * ceil_div(height, side)


def _tiles(base: int, per_tile: int) -> _Rule:
    """OpenAI: shrunk into 2048 × 2048, then to a shorter side of 768, then tiles of 512; eight at most."""

    def rule(image: ImageInput) -> int:
        if image.detail == "low":
            return base
        size = _size(image)
        if size is None:
            return base + 8 * per_tile
        long, short = max(size), min(size)
        if long > 2048:
            long, short = 2048, ceil_div(short * 2048, long)
        if short > 768:
            long, short = ceil_div(long * 768, short), 768
        return base + _squares(long, short, 512) * per_tile

    return rule


def _patches(thousandths: int, most: int, *, grows: bool = False) -> _Rule:
    """OpenAI: patches of 32 pixels times a factor of the model. Shrunk to fit `most` patches; with `grows`, never
    shrunk, and `most` is assumed only if the size is unknown."""

    def rule(image: ImageInput) -> int:
        size = _size(image)
        patches = most if size is None else _squares(*size, 32)
        return ceil_div((patches if grows else min(patches, most)) * thousandths, 1000)

    return rule


def _claude(most: int) -> _Rule:
    """Anthropic: a token for each 750 pixels or each patch of 28, whichever is more; shrunk to fit `most`."""

    def rule(image: ImageInput) -> int:
        size = _size(image)
        if size is None:
            return most
        width, height = size
        return min(most, max(ceil_div(width * height, 750), _squares(width, height, 28)))

    return rule


def _gemini_2(image: ImageInput) -> int:
    """Google, Gemini 2: 258 up to 384 × 384, else for each tile, whose side is the shorter side over 1.5, within
    256 … 768 pixels. For an unknown size, 16 tiles: a picture of nine megapixels."""
    size = _size(image)
    if size is None:
        return 16 * 258
    if max(size) <= 384:
        return 258
    side = min(768, max(256, min(size) * 2 // 3))
    return _squares(*size, side) * 258


def _flat(tokens: int) -> _Rule:
    return lambda _: tokens


def _unknown_model(image: ImageInput) -> int:
    """The most expensive of the open vision models: 6,500 for any image, or patches of 28 pixels, 16,384 at most."""
    size = _size(image)
    return 16_384 if size is None else min(16_384, max(6_500, _squares(*size, 28)))


IMAGE_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        # OpenAI. A name that is not listed gets the highest factor.
        "gpt-": _patches(2460, 20_000, grows=True),
        "gpt-4": _tiles(85, 170),
        "gpt-4.1": _tiles(85, 170),
        "gpt-4.1-mini": _patches(1620, 1536),
        "gpt-4.1-nano": _patches(2460, 1536),
        "gpt-4.5": _tiles(85, 170),
        "gpt-4o": _tiles(85, 170),
        "gpt-4o-mini": _tiles(2833, 5667),
        "chatgpt-4o": _tiles(85, 170),
        "gpt-5": _patches(2460, 10_000),
        "gpt-5-chat": _tiles(70, 140),
        "gpt-5-mini": _patches(1620, 1536),
        "gpt-5-nano": _patches(2460, 1536),
        "gpt-5.4": _patches(1200, 10_000),
        "gpt-5.4-mini": _patches(1620, 10_000),
        "gpt-5.4-nano": _patches(2460, 10_000),
        "gpt-5.5": _patches(1200, 10_000),
        "gpt-6": _patches(1200, 20_000, grows=True),
        "gpt-image": _tiles(65 + 6240, 129),  # 6,240 more with high input fidelity
        "chatgpt-image": _tiles(65 + 6240, 129),
        "computer-use": _tiles(65, 129),
        "o1": _tiles(75, 150),
        "o3": _tiles(75, 150),
        "o4-mini": _patches(1720, 1536),
        # Anthropic: 4,784 from Opus 4.7 on
        "claude": _claude(4_784),
        "claude-3": _claude(1_600),
        "claude-opus-4-0": _claude(1_600),
        "claude-opus-4-1": _claude(1_600),
        "claude-opus-4-5": _claude(1_600),
        "claude-opus-4-6": _claude(1_600),
        "claude-sonnet-4": _claude(1_600),
        "claude-haiku-4": _claude(1_600),
        # Google: from Gemini 3 on by media resolution, not by size
        "gemini": _flat(2_240),
        "gemini-1": _flat(258),
        "gemini-2": _gemini_2,
    }
)
