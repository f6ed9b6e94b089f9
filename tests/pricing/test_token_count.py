"""Counting is exact if the tokenizer is known; otherwise there is no count."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.pricing.count import COUNTED_BYTES_MAX, count_request
from farebox.pricing.model import Demand
from farebox.pricing.pricebook import PriceBook
from farebox.pricing.token_counts import count_tokens


@pytest.mark.parametrize(
    ("provider", "model", "tokens"),
    [
        ("openai", "gpt-4o-mini", 9),
        ("openai", "gpt-4.1", 9),
        ("openai", "gpt-5", 9),
        ("openai", "gpt-5-mini-2025-08-07", 9),
        ("openai", "o3", 9),
        ("openrouter", "openai/gpt-4o", 9),
        ("openai", "gpt-4-0613", 8),
        ("openai", "gpt-3.5-turbo", 8),
        ("openai", "text-embedding-3-small", 8),
        ("groq", "openai/gpt-oss-120b", 9),
        ("groq", "llama-3.1-8b-instant", 8),
        ("workers-ai", "@cf/meta/llama-3.1-8b-instruct", 8),
        ("cerebras", "llama3.1-8b", 8),
        ("groq", "qwen/qwen3-32b", 8),
    ],
)
def test_known_tokenizers(provider: str, model: str, tokens: int) -> None:
    """A special token in the text counts as the ordinary text it is, not as one token."""
    assert count_tokens(provider, model, "hello <|endoftext|> world") == tokens


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anthropic", "claude-sonnet-4-5"),
        ("google-ai-studio", "gemini-2.5-pro"),
        ("openai", "gpt-6-astra"),
        ("openai", "gpt-5.5"),
        ("openai", "gpt-image-1"),
        ("workers-ai", "gpt-4o"),
        ("groq", "meta-llama/llama-4-scout-17b-16e-instruct"),
        ("groq", "qwen/qwen3.8-27b"),
        ("groq", "deepseek-r1-distill-llama-70b"),
        ("mistral", "mistral-large-latest"),
    ],
)
def test_unknown_tokenizers_are_not_guessed(provider: str, model: str) -> None:
    assert count_tokens(provider, model, "hello") is None


def test_non_string_text_is_not_counted() -> None:
    assert count_tokens("openai", "gpt-4o", "a\ud800b") is None
    assert count_tokens("openai", "gpt-4o", "") == 0


@settings(deadline=None)
@given(st.text())
def test_no_text_has_more_tokens_than_bytes(text: str) -> None:
    for model in ("gpt-4o", "gpt-4"):
        count = count_tokens("openai", model, text)
        assert count is not None
        assert count <= len(text.encode())


def test_a_large_request_is_not_tokenized_for_its_charge() -> None:
    """Counting it would block the event loop; it is counted as four bytes per token."""
    price = PriceBook().find("acct", "openai", "gpt-4o-mini", 1_800_000_000_000)
    assert price is not None

    def text() -> str:
        raise AssertionError("the text was read again")

    large = Demand("gpt-4o-mini", text_bytes=COUNTED_BYTES_MAX + 4)
    assert count_request(large, price, text) == {"input_tokens": COUNTED_BYTES_MAX // 4 + 1}
    small = Demand("gpt-4o-mini", text_bytes=COUNTED_BYTES_MAX)
    assert count_request(small, price, lambda: "Good evening to you") == {"input_tokens": 4}
