#!/bin/bash
# litellm 1.110.2 prices every pass of an Anthropic answer by the answer's own model, and counts a declined one.
#
# `usage.iterations` lists the passes of one call. Anthropic bills an advisor at its own model's prices, and an attempt
# that was declined before it said anything not at all; where a fallback answered, the top-level figures repeat its pass.
#
# Guess: 0.2225 USD for an answer of Haiku (2,000 in, 100 out: 0.0025) with an advice of Opus (9,000 in, 7,000 out: 0.22),
#        and 0.0125 USD for an answer of Opus after Fable had declined at once.
# Seen:  0.0465 USD (the advice at Haiku's prices), and 0.0225 USD (the declined attempt's input counted too).
#
# Exits with 0 as long as that is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check litellm==1.110.2
LITELLM_LOCAL_MODEL_COST_MAP=True "$tmp/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from litellm import ModelResponse, completion_cost
from litellm.llms.anthropic.chat.transformation import AnthropicConfig


def cost(model, usage):
    response = ModelResponse(model=model)
    response.usage = AnthropicConfig().calculate_usage(usage_object=usage, reasoning_content=None)
    return round(completion_cost(completion_response=response, model=model, custom_llm_provider="anthropic"), 9)


def tokens(input_tokens, output_tokens, **more):
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": input_tokens, "output_tokens": output_tokens, **cached, **more}


own = {"type": "message", **tokens(2_000, 100)}
advice = {"type": "advisor_message", "model": "claude-opus-4-6", **tokens(9_000, 7_000)}
advised = cost("claude-haiku-4-5", tokens(2_000, 100, iterations=[own, advice]))
declined = {"type": "message", "model": "claude-fable-5", **tokens(2_000, 0)}
served = {"type": "fallback_message", "model": "claude-opus-4-6", **tokens(2_000, 100)}
fallen_back = cost("claude-opus-4-6", tokens(2_000, 100, iterations=[declined, served]))
right = (2_000 * 1 + 100 * 5 + 9_000 * 5 + 7_000 * 25) / 10**6
print(f"litellm {version('litellm')}")
print(f"an answer of Haiku with an advice of Opus: {advised} USD; by the entries' own models: {right} USD")
print(f"an answer of Opus after Fable declined at once: {fallen_back} USD; by the top-level figures: 0.0125 USD")
raise SystemExit(0 if (advised, fallen_back) == (0.0465, 0.0225) else 1)
PYTHON
