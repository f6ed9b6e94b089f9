#!/usr/bin/env bash
# agno 3.1.10 with openai 3.57.0 (PyPI): which requests `metrics` of a run include, and those of a session.
# Guess: all that the run made, 1,100 tokens each: those for tools, for another model that parses the answer (`parser_model`), for
# what the agent remembers of its user (`update_memory_on_run=True`), and those of the members of a team.
# Seen: of the two requests for a memory (the model calls the tool that stores it, and is told the result) one is counted, in the metrics of the
# run and in those of the session: 3,300 of 4,400 tokens with a summary of the session. The result of a team states the requests of its
# leader alone, 2,200 of 3,300, streamed or not; those of its members are in `member_responses` and in the metrics of the session.
# Tools and `parser_model` are counted right.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install agno==3.1.10 openai==3.57.0
"$tmp/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.models.openai import OpenAIChat
from agno.team import Team
from pydantic import BaseModel

logging.disable(logging.CRITICAL)
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
ANSWER = json.dumps({"summary": "They spoke of the weather.", "topics": ["weather"]})
requests = 0


class Provider(BaseHTTPRequestHandler):
    """Calls the first tool that it is given, once, and then answers."""

    def do_POST(self):
        global requests
        requests += 1
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message, end = {"role": "assistant", "content": ANSWER}, "stop"
        if asked.get("tools") and not any(message["role"] == "tool" for message in asked["messages"]):
            tool = asked["tools"][0]["function"]
            fields = tool["parameters"]["properties"]
            arguments = {name: ["weather"] if of.get("type") == "array" else "helper" for name, of in fields.items()}
            call = {"name": tool["name"], "arguments": json.dumps(arguments)}
            message["content"], end = None, "tool_calls"
            message["tool_calls"] = [{"index": 0, "id": f"call_{requests}", "type": "function", "function": call}]
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "usage": USAGE}
        choice = {"index": 0, "finish_reason": end}
        self.send_response(200)
        if asked.get("stream"):
            self.send_header("content-type", "text/event-stream")
            chunk = answer | {"object": "chat.completion.chunk"}
            chunks = [chunk | {"choices": [choice | {"delta": message}], "usage": None}, chunk | {"choices": []}]
            body = "".join(f"data: {event}\n\n" for event in [*map(json.dumps, chunks), "[DONE]"])
        else:
            self.send_header("content-type", "application/json")
            body = json.dumps(answer | {"choices": [choice | {"message": message}]})
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()


class Talk(BaseModel):
    summary: str


def weather(city: str) -> str:
    """The weather of a city."""
    return "sunny"


def agent(**options):
    return Agent(model=model(), db=InMemoryDb(), telemetry=False, **options)


def model():
    return OpenAIChat(id="gpt-4o", base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")


def team():
    return Team(members=[agent(name="helper", id="helper")], model=model(), db=InMemoryDb(), telemetry=False)


def run(by, stream=False):
    """The tokens that were sent, and those that the result and the session state."""
    global requests
    requests = 0
    result = by.run("Weather?", session_id="s", user_id="u", **({"stream": True, "stream_events": True} if stream else {}))
    if stream:
        result = list(result)[-1]
    return requests * 1_100, result.metrics.total_tokens, by.get_session_metrics(session_id="s").total_tokens


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("agno", "openai")))
print("expected: the result and the session state the tokens that were sent")
seen = {
    "tools": run(agent(tools=[weather])),
    "tools and a parser": run(agent(tools=[weather], parser_model=model(), output_schema=Talk)),
    "a summary of the session": run(agent(enable_session_summaries=True)),
    "a memory": run(agent(update_memory_on_run=True)),
    "a memory and a summary": run(agent(update_memory_on_run=True, enable_session_summaries=True)),
    "a team": run(team()),
    "a team, streamed": run(team(), stream=True),
}
for name, (sent, stated, session) in seen.items():
    print(f"seen: {name}: {sent} sent, {stated} in the result, {session} in the session")
right = [(2_200, 2_200, 2_200), (3_300, 3_300, 3_300), (2_200, 2_200, 2_200)]
memory = [(3_300, 2_200, 2_200), (4_400, 3_300, 3_300)]
teams = [(3_300, 2_200, 3_300)] * 2
sys.exit(0 if list(seen.values()) == right + memory + teams else 1)
PYTHON
