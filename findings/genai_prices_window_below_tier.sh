#!/bin/bash
# genai-prices 0.2.3 lists context windows that are smaller than what the models read.
#
# A bound on a call that relies on `context_window` is too low: Claude Sonnet 4.5 has a window of 200,000 tokens there
# and prices for more than 200,000, because a header makes it a million; gpt-4.1 has 1,000,000, and reads 1,047,576.
#
# Guess: a model's context window is the most that it reads, so each of its price tiers begins below it.
# Seen:  the more expensive tier of claude-sonnet-4-5 begins at its very window, where no call could meet it.
#
# Exits with 0 as long as that is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check genai-prices==0.2.3
"$tmp/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from genai_prices.data import providers

print(f"genai-prices {version('genai-prices')}")
unreachable = []
for provider in providers:
    for model in provider.models:
        entries = model.prices if isinstance(model.prices, list) else [model.prices]
        for entry in entries:
            price = getattr(entry, "prices", entry)
            tiers = getattr(getattr(price, "input_mtok", None), "tiers", None) or ()
            for tier in tiers:
                if model.context_window and tier.start >= model.context_window:
                    unreachable.append(f"{provider.id}/{model.id}")
                    print(f"{unreachable[-1]}: window {model.context_window}, a tier from {tier.start} on")
window = next(one for one in providers if one.id == "openai").find_model("gpt-4.1").context_window
print(f"openai/gpt-4.1: window {window}")
assert "anthropic/claude-sonnet-4-5" in unreachable
assert window < 1_047_576
PYTHON
