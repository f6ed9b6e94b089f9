#!/usr/bin/env bash
# autogen-agentchat 0.7.5 with autogen-ext 0.7.5 and openai 3.57.0 (PyPI): what `TokenUsageTermination(max_total_token=5_000)` lets a team
# spend whose requests take 1,100 tokens each.
# Guess: five requests, or six: it ends a team once that many tokens were used, whichever of its agents asked, streamed or not.
# Seen: so it is for agents that take turns and do not stream. Streams (`model_client_stream=True`) count as 0 tokens, so that the limit
# never ends anything; `stream_options={"include_usage": True}` of the model client makes them count. The requests by which a
# `SelectorGroupChat` chooses the next speaker are not counted: ten go out. Nor are those of the team in a `SocietyOfMindAgent`, though
# their messages with their usage are in the result of the outer team: 20 go out, 22,000 tokens. No warning says so.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install autogen-agentchat==0.7.5 autogen-core==0.7.5 "autogen-ext[openai]==0.7.5" openai==3.57.0
"$tmp/bin/python" -W ignore - <<'PYTHON'
import asyncio
import importlib.metadata
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from autogen_agentchat.agents import AssistantAgent, SocietyOfMindAgent
from autogen_agentchat.conditions import MaxMessageTermination, TokenUsageTermination
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

logging.disable(logging.CRITICAL)
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
LIMIT = 5_000
requests = 0


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        requests += 1
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o"}
        text = {"role": "assistant", "content": "writer"}
        self.send_response(200)
        if not asked.get("stream"):
            choice = {"index": 0, "message": text, "finish_reason": "stop"}
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer | {"choices": [choice], "usage": USAGE}).encode())
            return
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        answer["object"] = "chat.completion.chunk"
        chunks = [answer | {"choices": [{"index": 0, "delta": text, "finish_reason": None}]}]
        chunks.append(answer | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (asked.get("stream_options") or {}).get("include_usage"):
            chunks.append(answer | {"choices": [], "usage": USAGE})
        for event in [*map(json.dumps, chunks), "[DONE]"]:
            self.wfile.write(f"data: {event}\n\n".encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()


def model(**options):
    return OpenAIChatCompletionClient(
        model="gpt-4o", api_key="none", base_url=f"http://127.0.0.1:{server.server_port}/v1", **options
    )


def agent(name="writer", stream=False, **options):
    return AssistantAgent(name, model(**options), model_client_stream=stream)


def end():
    return TokenUsageTermination(max_total_token=LIMIT) | MaxMessageTermination(12)


def society():
    inner = RoundRobinGroupChat([agent()], termination_condition=MaxMessageTermination(4))
    return SocietyOfMindAgent("society", inner, model_client=model())


async def run(team):
    """The requests of a run, the tokens in its messages, and whether the limit of tokens ended it."""
    global requests
    requests = 0
    result = await team.run(task="Write a poem")
    usages = [message.models_usage for message in result.messages if message.models_usage]
    tokens = sum(usage.prompt_tokens + usage.completion_tokens for usage in usages)
    return requests, tokens, result.stop_reason.startswith("Token usage limit")


async def main():
    asked = {"stream_options": {"include_usage": True}}
    pair = [agent(), agent("editor")]
    selector = SelectorGroupChat(pair, model(), termination_condition=end(), allow_repeated_speaker=True)
    teams = {
        "in turns": RoundRobinGroupChat([agent()], termination_condition=end()),
        "streams that are asked for their usage": RoundRobinGroupChat([agent(stream=True, **asked)], termination_condition=end()),
        "streams": RoundRobinGroupChat([agent(stream=True)], termination_condition=end()),
        "selector": selector,
        "society": RoundRobinGroupChat([society()], termination_condition=end()),
    }
    return {name: await run(team) for name, team in teams.items()}


packages = ("autogen-agentchat", "autogen-ext", "openai")
print(*(f"{name} {importlib.metadata.version(name)}" for name in packages))
print(f"expected: each team ends by its limit of {LIMIT:,} tokens, after five or six requests of 1,100")
seen = asyncio.run(main())
for name, (sent, tokens, ended) in seen.items():
    print(f"seen: {name}: {sent} requests, {tokens:,} tokens in the messages; {'ended' if ended else 'not ended'} by the limit")
expected = {
    "in turns": (5, 5_500, True),
    "streams that are asked for their usage": (5, 5_500, True),
    "streams": (11, 0, False),
    "selector": (10, 5_500, True),
    "society": (20, 22_000, True),
}
sys.exit(0 if seen == expected else 1)
PYTHON
