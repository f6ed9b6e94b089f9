#!/usr/bin/env bash
# claude-agent-sdk 0.2.189 (PyPI), with the Claude Code that its wheel contains: `total_cost_usd` of a run, which `max_budget_usd` bounds.
# Guess: a stream that breaks off after 100,000 tokens of input and is asked for again costs what was billed, twice the
# input: 1.025 USD at the list price of Claude Opus 4.5 (5 in, 25 out). A model without a known price costs None, or 0.
# Seen: the attempt that broke off is missing in the cost (0.525 USD), although the tokens in `usage` of the same message include it, and a
# budget of 0.90 is not exceeded. A model that it does not know, as gateways serve them, has a price all the same: 4 USD in and
# 20 out for a million tokens, whatever it costs, marked only by `costBasis: unknown` in `model_usage`; a budget of 0.30 counts as
# exceeded by a call of a model whose provider bills 0.027 for it.
# Needs about 300 MB for a moment. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install claude-agent-sdk==0.2.189
cd "$tmp"
HOME=$tmp "$tmp/bin/python" - <<'PYTHON'
import asyncio
import http.server
import importlib.metadata
import json
import os
import sys
import threading

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, query

USAGE = {"input_tokens": 100_000, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
TEXT = {"type": "text", "text": "Hello"}
breaks, requests = False, 0


def events(message):
    """A whole answer; the first one that is to break off ends with an error that Anthropic documents for streams."""
    yield {"type": "message_start", "message": message}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}
    if breaks and requests == 1:
        yield {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        return
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 1000}}
    yield {"type": "message_stop"}


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        requests += 1
        message = {"id": f"m{requests}", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None}
        if body.get("stream"):
            start = message | {"content": [], "stop_reason": None, "usage": USAGE}
            pieces = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events(start)]
        else:
            pieces = [json.dumps(message | {"content": [TEXT], "stop_reason": "end_turn", "usage": USAGE | {"output_tokens": 1000}})]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if body.get("stream") else "application/json")
        self.end_headers()
        self.wfile.write("".join(pieces).encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
environment = {
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}",
    "ANTHROPIC_API_KEY": "key",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


async def run(what, model, budget, broken=False):
    """Requests, cost and whether the budget is exceeded."""
    global breaks, requests
    breaks, requests = broken, 0
    options = ClaudeAgentOptions(
        model=model, env=environment, tools=[], setting_sources=[], max_budget_usd=budget, cwd=os.getcwd(), system_prompt="Be short."
    )
    result = None
    try:
        async for message in query(prompt="Hello", options=options):
            result = message if isinstance(message, ResultMessage) else result
    except Exception as error:  # the SDK raises after the result of a run that did not succeed
        assert result is not None, error
    tokens = result.usage["input_tokens"]
    basis = result.model_usage[model]["costBasis"]
    print(f"{what}: {requests} requests, {tokens} tokens in, {result.total_cost_usd:.3f} USD ({basis}); budget {budget}: {result.subtype}")
    return requests, tokens, round(result.total_cost_usd, 4), result.subtype


async def main():
    print("claude-agent-sdk", importlib.metadata.version("claude-agent-sdk"))
    return [
        await run("whole", "claude-opus-4-5", 0.9),
        await run("broken off and repeated", "claude-opus-4-5", 0.9, broken=True),
        await run("a model that it does not know", "gpt-5-mini", 0.3),
    ]


seen = asyncio.run(main())
expected = [
    (1, 100_000, 0.525, "success"),
    (2, 200_000, 0.525, "success"),
    (1, 0, 0.42, "error_max_budget_usd"),  # then `usage` is empty
]
sys.exit(0 if seen == expected else 1)
PYTHON
