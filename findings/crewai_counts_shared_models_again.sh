#!/usr/bin/env bash
# crewai 1.15.30 with openai 2.54.0 (PyPI): the tokens in `token_usage` of a crew's result.
# Guess: those of the requests that were sent for this result, 1,100 each, whoever sent them.
# Seen: that is so for the first run of a crew each of whose agents has an `LLM` of its own. The figures are those of the `LLM` since it was
# made, added up over the agents: three agents with the same `LLM` state three times what was sent. A second run includes the first, and
# so does the run of another crew with the same `LLM`. `kickoff_for_each` states 1,100, 2,200 and 3,300 for three inputs of one request
# each, and their sum as `usage_metrics` of the crew: twice what was billed, and with n inputs (n+1)/2 times. A new `LLM` for every agent
# and every run avoids it. `Agent.kickoff` without a crew states each run's own.
# Needs about 1 GB for a moment. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install crewai==1.15.30 openai==2.54.0
cd "$tmp"
HOME=$tmp OTEL_SDK_DISABLED=true CREWAI_DISABLE_TELEMETRY=true CREWAI_TRACING_ENABLED=false "$tmp/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from crewai import LLM, Agent, Crew, Task

USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
requests = 0


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        requests += 1
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "Thought: I now know the final answer\nFinal Answer: done"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()


def model():
    return LLM(model="openai/gpt-4o", base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")


def crew(*models):
    """A crew with an agent and a task for each model."""
    agents = [Agent(role=f"agent {number}", goal="g", backstory="b", llm=llm) for number, llm in enumerate(models)]
    return Crew(agents=agents, tasks=[Task(description="d", expected_output="o", agent=agent) for agent in agents])


def sent(run):
    """The tokens of the requests that were sent, and those that are stated."""
    global requests
    requests = 0
    stated = run()
    return requests * 1_100, stated


def stated(team):
    return sent(lambda: team.kickoff().token_usage.total_tokens)


def inputs(team):
    results = team.kickoff_for_each(inputs=[{}, {}, {}])
    return [result.token_usage.total_tokens for result in results], team.usage_metrics.total_tokens


def alone(agent):
    return sum(agent.kickoff("Hello").usage_metrics["total_tokens"] for _ in range(2))


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("crewai", "openai")))
print("expected: the tokens stated are those that were sent")
shared = model()
again = crew(model())
seen = {
    "three agents, a model each": stated(crew(model(), model(), model())),
    "three agents with the same model": stated(crew(shared, shared, shared)),
    "another crew with this model": stated(crew(shared)),
    "a crew's first run": stated(again),
    "its second run": stated(again),
    "three inputs": sent(lambda: inputs(crew(model()))),
    "two runs of an agent without a crew": sent(lambda: alone(again.agents[0])),
}
for name, (really, said) in seen.items():
    print(f"seen: {name}: {really} tokens sent, {said} stated")
expected = [(3_300, 3_300), (3_300, 9_900), (1_100, 4_400), (1_100, 1_100), (1_100, 2_200)]
expected += [(3_300, ([1_100, 2_200, 3_300], 6_600)), (2_200, 2_200)]
sys.exit(0 if list(seen.values()) == expected else 1)
PYTHON
