#!/bin/bash
# genai-prices 0.2.3 prices a service tier that it does not know as the standard one, without a word.
#
# OpenAI answers with the tier that it applied; `ultrafast` costs six times the standard price of gpt-6-astra. The same
# holds for a Sunday at DeepSeek: its peak prices hold on working days, and the list's condition knows the hour only.
#
# Guess: a tier that the list has no price for raises, warns, or gives no price; a Sunday at 07:00 UTC is off-peak.
# Seen:  0.15 USD for 10,000 tokens in and 1,000 out, as without a tier (right: 0.90); and the peak price on Sunday.
#
# Exits with 0 as long as that is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check genai-prices==0.2.3
"$tmp/venv/bin/python" - <<'PYTHON'
import warnings
from datetime import UTC, datetime
from importlib.metadata import version

from genai_prices.data import providers
from genai_prices.types import Usage


def price(provider_id, model, at, context=None):
    provider = next(one for one in providers if one.id == provider_id)
    info = provider.find_model(model)
    usage = Usage(input_tokens=10_000, output_tokens=1_000)
    return info.calc_price(usage, provider, genai_request_timestamp=at, price_context=context).total_price


warnings.simplefilter("error")
now = datetime(2026, 11, 29, 7, tzinfo=UTC)  # a Sunday
standard = price("openai", "gpt-6-astra", now)
unknown = price("openai", "gpt-6-astra", now, {"service_tier": "ultrafast"})
sunday = price("deepseek", "deepseek-v4-pro", now)
night = price("deepseek", "deepseek-v4-pro", now.replace(hour=20))
print(f"genai-prices {version('genai-prices')}")
print(f"gpt-6-astra: standard {standard} USD, service_tier=ultrafast {unknown} USD")
print(f"deepseek-v4-pro on a Sunday: 07:00 UTC {sunday} USD, 20:00 UTC {night} USD")
raise SystemExit(0 if unknown == standard and sunday > night else 1)
PYTHON
