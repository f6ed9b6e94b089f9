"""LiteLLM's price map, read for a given time."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from farebox.pricing.litellm_map import LiteLLMMap

WINDOWS = [
    {"hours_utc": ["00:00-01:00", "04:00-06:00", "10:00-00:00"], "weekdays": [1, 2, 3, 4, 5]},
    {"hours_utc": "00:00-00:00", "weekdays": [6, 7]},
]
ENTRY = {
    "litellm_provider": "deepseek",
    "input_cost_per_token": Decimal("3e-7"),
    "output_cost_per_token": Decimal("1e-6"),
    "off_peak_pricing": {"input_cost_per_token": Decimal("1e-7"), "windows": WINDOWS},
}
FRIDAY, SUNDAY = 27, 29
MOMENTS = [
    ((FRIDAY, 0, 59), "0.1"),
    ((FRIDAY, 1, 0), "0.3"),
    ((FRIDAY, 5, 59), "0.1"),
    ((FRIDAY, 9, 59), "0.3"),
    ((FRIDAY, 10, 0), "0.1"),
    ((FRIDAY, 23, 59), "0.1"),
    ((SUNDAY, 2, 0), "0.1"),
]


@pytest.mark.parametrize(("moment", "usd"), MOMENTS)
def test_off_peak_prices_are_compared_while_they_apply(moment: tuple[int, int, int], usd: str) -> None:
    at = int(datetime(2026, 11, *moment, tzinfo=UTC).timestamp() * 1000)
    rates = LiteLLMMap({"deepseek/acme-1": ENTRY}, "litellm/1", at).rates("deepseek", "acme-1")
    assert rates == {"input_mtok": Decimal(usd), "output_mtok": Decimal(1)}


def test_a_window_over_midnight_and_one_that_cannot_be_read() -> None:
    night = {**ENTRY, "off_peak_pricing": {"output_cost_per_token": 0, "windows": [{"hours_utc": "22:00-02:00"}]}}
    odd = {**ENTRY, "off_peak_pricing": {"output_cost_per_token": 0, "windows": "at night"}}
    at = int(datetime(2026, 11, FRIDAY, 1, 30, tzinfo=UTC).timestamp() * 1000)
    found = LiteLLMMap({"night": night, "odd": odd}, "litellm/1", at)
    assert [(found.rates("deepseek", model) or {})["output_mtok"] for model in ("night", "odd")] == [0, 1]
