#!/usr/bin/env bash
# litellm 1.110.2 and genai-prices 0.2.3 (PyPI): what the two price lists say that the same tokens cost.
# Guess: the same, at least for models that both have and whose prices both take from the provider's own page.
# Seen: gpt-5.1 and mistral-large-2512 cost the same in both. Of two others one list is wrong each time, and neither warns:
# gemini-4-argon had introductory rates until 2026-11-30. genai-prices knows the date, and states twice as much from the day after.
#   LiteLLM's list has no dates: it states the old rate until a program installs a release with the new one, and after that
#   the new one for calls of the past as well.
# mistral-large-latest has meant Mistral Large 3 (mistral-large-2512) since that came out. LiteLLM's list follows; genai-prices,
#   which dates such moves for mistral-medium-latest and mistral-small-latest, has this name for Mistral Large 2: four times the price.
# A bill that is computed with either should be compared with the other, and with what the provider bills.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install litellm==1.110.2 genai-prices==0.2.3
LITELLM_LOCAL_MODEL_COST_MAP=True "$tmp/bin/python" - <<'PYTHON'
import importlib.metadata
import sys
from datetime import UTC, datetime

import litellm
from genai_prices import Usage, calc_price

READ, WRITTEN = 100_000, 10_000
DAYS = (datetime(2026, 11, 30, 12, tzinfo=UTC), datetime(2026, 12, 2, 12, tzinfo=UTC))
MODELS = [  # names in both lists, and the cost by each on either day
    ("gpt-5.1", "openai", "gpt-5.1", (0.225, 0.225), (0.225, 0.225)),
    ("mistral/mistral-large-2512", "mistral", "mistral-large-2512", (0.065, 0.065), (0.065, 0.065)),
    ("gemini/gemini-4-argon", "google", "gemini-4-argon", (0.3, 0.3), (0.3, 0.6)),
    ("mistral/mistral-large-latest", "mistral", "mistral-large-latest", (0.065, 0.065), (0.26, 0.26)),
]


def by_litellm(model):
    return round(sum(litellm.cost_per_token(model=model, prompt_tokens=READ, completion_tokens=WRITTEN)), 6)


def by_genai_prices(provider, model, day):
    usage = Usage(input_tokens=READ, output_tokens=WRITTEN)
    found = calc_price(usage, model, provider_id=provider, genai_request_timestamp=day)
    return round(float(found.total_price), 6)


for name in ("litellm", "genai-prices"):
    print(name, importlib.metadata.version(name))
print(f"{READ:,} tokens in, {WRITTEN:,} out, in USD; expected: the same by both lists")
as_seen = True
for theirs, provider, name, by_one, by_other in MODELS:
    one = tuple(by_litellm(theirs) for _ in DAYS)
    other = tuple(by_genai_prices(provider, name, day) for day in DAYS)
    for day, cost, listed in zip(DAYS, one, other, strict=True):
        print(f"seen: {name} on {day:%Y-%m-%d}: {cost} by litellm, {listed} by genai-prices")
    as_seen = as_seen and (one, other) == (by_one, by_other)
sys.exit(0 if as_seen else 1)
PYTHON
