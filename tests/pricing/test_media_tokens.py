"""Image tokens compared with figures that providers publish or that were measured on billed calls; ceilings by name."""

import pytest
from genai_prices.data import providers

from farebox.pricing.ceilings import OUTPUT_UNKNOWN, output_ceiling
from farebox.pricing.media import audio_tokens, image_tokens
from farebox.pricing.model import ImageInput, ModelPrice


@pytest.mark.parametrize(
    ("model", "width", "height", "detail", "tokens"),
    [
        ("gpt-4o", 1024, 1024, "high", 765),
        ("gpt-4o", 2048, 4096, "high", 1105),
        ("openai/gpt-4o-2024-08-06", 4096, 8192, "low", 85),
        ("gpt-4o", 512, 512, "auto", 255),
        ("gpt-4.1-2025-04-14", 2049, 513, "auto", 1445),
        ("gpt-4o", None, None, "auto", 1445),
        ("gpt-4o-mini", 1024, 1024, "high", 25_501),
        ("gpt-4.1-mini", 4000, 1474, "auto", 2489),
        ("o4-mini", 1024, 1024, "auto", 1762),
        ("gpt-6-astra", 4032, 3024, "auto", 14_364),
        ("gpt-6-astra", 1280, 720, "auto", 1104),
        ("gpt-6-astra", 6400, 6400, "auto", 48_000),
        ("gpt-6-astra", 10**9, 10, "auto", 24_000),
        ("gpt-6-astra", 10, 10**9, "auto", 24_000),
        ("gpt-6-astra", 0, 10, "auto", 24_000),
        ("gpt-5.5", 3840, 2160, "auto", 9792),
        ("claude-3-5-sonnet-latest", 1000, 1000, "auto", 1334),
        ("claude-haiku-4-5", 4032, 3024, "auto", 1600),
        ("claude-opus-5-5", 1920, 1080, "auto", 2765),
        ("anthropic/claude-opus-5-5", None, 5, "auto", 4784),
        ("gemini-2.0-flash", 384, 384, "auto", 258),
        ("gemini-2.5-pro", 960, 540, "auto", 1548),
        ("gemini-2.5-pro", None, None, "auto", 4128),
        ("gemini-3-pro-preview", 4032, 3024, "auto", 2240),
        ("qwen3-vl", 10, 10, "auto", 6500),
        ("qwen3-vl", 10**9, 10**9, "auto", 16_384),
    ],
)
def test_image_tokens(model: str, width: int | None, height: int | None, detail: str, tokens: int) -> None:
    assert image_tokens(model, ImageInput(width, height, detail)) == tokens


MEASURED = {
    # width, height: Claude 5.5 and 4.5 (without their 77 and 65 tokens of text), GPT-6, GPT-5.5
    (256, 256): (100, 100, 77, 77),
    (1024, 1024): (1369, 1369, 1229, 1229),
    (1920, 1080): (2691, 1560, 2448, 2448),
    (2560, 1440): (2992, 1592, 4320, 4320),
    (4032, 3024): (3928, 1596, 14_364, 11_868),
}


@pytest.mark.parametrize("size", MEASURED)
def test_images_are_never_below_what_was_measured(size: tuple[int, int]) -> None:
    models = ("claude-sonnet-5-5", "claude-haiku-4-5", "gpt-6-astra", "gpt-5.5")
    for model, measured in zip(models, MEASURED[size], strict=True):
        assert image_tokens(model, ImageInput(*size)) >= measured


def test_audio_is_counted_by_its_seconds() -> None:
    assert audio_tokens("gpt-audio", 10) == 100
    assert audio_tokens("gemini-2.5-flash", 10) == 320
    assert audio_tokens("voxtral-small", 10) == 500


def priced(model: str, context_window: int | None = None, output_max: int | None = None) -> ModelPrice:
    return ModelPrice("p", model, "v", 1, (), context_window, output_max)


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-4o-mini", 16_384),
        ("openai/gpt-4o", 16_384),
        ("ft:gpt-4o", 16_384),
        ("gpt-4.1-nano", 32_768),
        ("gpt-4-0613", 8192),
        ("gpt-3.5-turbo-0125", 4096),
        ("gpt-5-mini", 128_000),
        ("gpt-5-pro", 272_000),
        ("o3-mini", 100_000),
        ("claude-3-haiku", 4096),
        ("claude-3-5-haiku-latest", 8192),
        ("claude-opus-4-1", 32_000),
        ("claude-sonnet-4-5", 64_000),
        ("claude-opus-4-6", 128_000),
        ("anthropic/claude-opus-4.1", 128_000),
        ("gemini-1.5-pro", 8192),
        ("gemini-2.5-flash", 65_536),
        ("nobody-knows", OUTPUT_UNKNOWN),
    ],
)
def test_ceilings(model: str, tokens: int) -> None:
    assert output_ceiling(priced(model)) == tokens


def test_the_prices_own_ceiling_takes_precedence_and_the_window_is_last() -> None:
    assert output_ceiling(priced("gpt-4o", 128_000, 7)) == 7
    assert output_ceiling(priced("nobody-knows", 5000)) == 5000


def test_every_claude_has_a_ceiling_by_name() -> None:
    anthropic = next(provider for provider in providers if provider.id == "anthropic")
    assert [info.id for info in anthropic.models if output_ceiling(priced(info.id)) == OUTPUT_UNKNOWN] == []
