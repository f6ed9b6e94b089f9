"""What a price's version says is what it was compiled from."""

from datetime import UTC, date, datetime

import pytest
from genai_prices.types import StartDateConstraint

from farebox.pricing.compiler import PriceList
from farebox.pricing.price_version import facts_of

NOW = int(datetime(2026, 12, 1, 17, tzinfo=UTC).timestamp() * 1000)


def test_every_price_of_the_list_says_its_own_date_and_tier() -> None:
    prices, dated = PriceList(), 0
    for provider in ("openai", "anthropic", "google-ai-studio", "deepseek", "openrouter", "mistral"):
        listed = prices._by_id[prices._list_ids[provider]]
        for info in listed.models:
            for context in ({}, {"service_tier": "flex"}, {"service_tier": "batch"}):
                price = prices.find(provider, info.id, NOW, context)
                if price is None:
                    continue
                facts = facts_of(price.version)
                assert facts.source == "list"
                assert facts.tier == ({} if price.unknown else context)
                if context or not isinstance(info.prices, list):
                    continue
                days = [
                    one.constraint.start_date for one in info.prices if isinstance(one.constraint, StartDateConstraint)
                ]
                past = [
                    day for day in days if datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000 <= NOW
                ]
                if past and not facts.hours:
                    assert facts.since == past[-1], price.version
                    dated += 1
    assert dated > 5


@pytest.mark.parametrize(
    ("version", "source", "since", "hours", "tier"),
    [
        ("genai-prices/0.2.3/deepseek/deepseek-chat/16:30-00:30Z", "list", None, "16:30–00:30 UTC", {}),
        (
            "genai-prices/0.2.3/deepseek/v4/2026-08-23/01:00-04:00Z,Mon-Fri",
            "list", date(2026, 8, 23), "01:00–04:00 UTC, Monday to Friday", {},
        ),
        (
            "genai-prices/0.2.3/openai/gpt-5.5+supplement/2026-12-01/service_tier=priority/2026-10-12",
            "list", date(2026, 10, 12), "", {"service_tier": "priority"},
        ),
        ("supplement/2026-12-01/openai/sora-2", "supplement", None, "", {}),
        ("own/019a/service_tier=flex,speed=fast", "own", None, "", {"service_tier": "flex", "speed": "fast"}),
        ("custom/019a", "custom", None, "", {}),
        ("custom", "custom", None, "", {}),
        ("max_price/10/20", "other", None, "", {}),
        ("genai-prices/0.2.3/openai/x/2026-99-99", "list", None, "", {}),
        ("", "other", None, "", {}),
    ],
)  # fmt: skip
def test_a_version_is_read(version: str, source: str, since: date | None, hours: str, tier: dict[str, str]) -> None:
    found = facts_of(version)
    assert (found.source, found.since, found.hours, found.tier) == (source, since, hours, tier)
    assert not found.doubts


@pytest.mark.parametrize(
    ("doubts", "tier"),
    [
        ("service_tier=turbo", {"service_tier": "turbo"}),
        ("12-hour caching", {}),
        ("service_tier=turbo, 12-hour caching", {"service_tier": "turbo"}),
    ],
)
def test_what_has_no_price_is_in_the_version(doubts: str, tier: dict[str, str]) -> None:
    found = facts_of(f"genai-prices/0.2.3/openai/gpt-5/2026-10-12/unknown:{doubts}")
    assert (found.doubts, found.tier, found.since) == (doubts, tier, date(2026, 10, 12))
