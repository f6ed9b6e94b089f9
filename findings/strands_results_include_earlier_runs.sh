#!/usr/bin/env bash
# strands-agents 1.62.0 with openai 2.54.0 (PyPI): the tokens that `accumulated_usage` of a graph's or a swarm's result states.
# Guess: those of the run whose result it is: a run of a graph of two agents makes two requests, 2,000 tokens in and 200 out, each time.
# Seen: the first result states that. The second states 4,000 and 400, the third 6,000 and 600: the usage of each agent since it was made
# is added up, not that of the run. Whoever bills or logs results one by one counts 12,000 tokens where 6,000 were read, and with n
# runs (n+1)/2 times what was billed. A swarm does the same. In a graph with a cycle, one result is too high by itself: four requests
# are stated as six, because the second visit of a node counts the first one again. New agents for every run avoid the former;
# the latter does not show in `result.results` either.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install "strands-agents[openai]==1.62.0" openai==2.54.0
"$tmp/bin/python" - <<'PYTHON'
import importlib.metadata
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from strands import Agent
from strands.models.openai import OpenAIModel
from strands.multiagent import GraphBuilder, Swarm

USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
requests = 0


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        requests += 1
        self.rfile.read(int(self.headers["content-length"]))
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        delta = {"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "finish_reason": None}
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        chunks = [chunk | {"choices": [delta]}, chunk | {"choices": [last]}, chunk | {"choices": [], "usage": USAGE}]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in [*map(json.dumps, chunks), "[DONE]"]:
            self.wfile.write(f"data: {event}\n\n".encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()


def agent(name):
    client = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "none"}
    return Agent(name=name, model=OpenAIModel(client_args=client, model_id="m"), callback_handler=None)


def graph(cycle):
    builder = GraphBuilder()
    builder.add_node(agent("writer"), "writer")
    builder.add_node(agent("editor"), "editor")
    builder.add_edge("writer", "editor")
    builder.set_entry_point("writer")
    if cycle:
        once = iter([True])
        builder.add_edge("editor", "writer", condition=lambda _: next(once, False))
        builder.set_max_node_executions(10)
    return builder.build()


def run(team):
    """The requests of a run, and the tokens that its result states."""
    global requests
    requests = 0
    usage = team("Write a poem").accumulated_usage
    return requests, usage["inputTokens"], usage["outputTokens"]


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("strands-agents", "openai")))
print("expected: 1,000 tokens in and 100 out for each request of the run")
plain, swarm, cyclic = graph(False), Swarm([agent("writer"), agent("editor")]), graph(True)
seen = []
for name, team in [("graph", plain)] * 3 + [("swarm", swarm)] * 2 + [("graph with a cycle", cyclic)]:
    seen.append(run(team))
    print(f"seen: {name}: {seen[-1][0]} requests; {seen[-1][1]} tokens in, {seen[-1][2]} out")
expected = [(2, 2_000, 200), (2, 4_000, 400), (2, 6_000, 600), (1, 1_000, 100), (1, 2_000, 200), (4, 6_000, 600)]
sys.exit(0 if seen == expected else 1)
PYTHON
