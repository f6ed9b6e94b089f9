"""The stored form of an account's custom providers and of the prices of their models, without IDs and headers.

The structs are the stored form; the control plane adds IDs and times (http.control.custom_providers), the data plane
reads them (runtime.own_providers).
"""

from typing import Annotated, Literal

import msgspec

CUSTOM = "custom-"
"""Prefix of a custom provider's slug in URLs, model names and steps."""
SLUG = r"^[a-z0-9]+(?:[-_][a-z0-9]+)*$"

Slug = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=64,
        pattern=SLUG,
        description="lowercase letters and digits, with single hyphens or underscores between them",
    ),
]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Text = Annotated[str, msgspec.Meta(max_length=8192)]
Url = Annotated[str, msgspec.Meta(max_length=2048)]
Usd = Annotated[float, msgspec.Meta(ge=0, le=1000)]
"""US dollars per token, or per image."""


class CustomProviderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One custom provider. All fields except name, URL and `enable` are only shown to people."""

    name: Name
    base_url: Url
    enable: bool = False
    beta: bool = False
    description: Text | None = None
    link: Url | None = None
    curl_example: Text | None = None
    js_example: Text | None = None
    logo: Annotated[str, msgspec.Meta(max_length=32768)] | None = None
    """An SVG in base64; if there is none, one is generated."""
    position: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None


class TokenPricing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """US dollars per token of each class, or per image."""

    input_tokens: Usd | None = None
    input_cached_tokens: Usd | None = None
    input_cache_creation_tokens: Usd | None = None
    input_text_tokens: Usd | None = None
    input_audio_tokens: Usd | None = None
    input_image_tokens: Usd | None = None
    input_video_tokens: Usd | None = None
    input_image_count: Usd | None = None
    output_tokens: Usd | None = None
    output_reasoning_tokens: Usd | None = None
    output_image_count: Usd | None = None
    total_tokens: Usd | None = None
    """For input and output tokens that have no price of their own."""


class CustomCostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Prices for the models of a custom provider whose names match."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    model_rule: Literal["equals", "starts-with", "contains"] = "equals"
    cost_in: Usd | None = None
    cost_out: Usd | None = None
    cost_type: Literal["tokens"] = "tokens"
    enable: bool = True
    token_pricing: TokenPricing | None = None
    weight: Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000)] = 0
    """If several match, the one with the largest weight applies."""
