#!/usr/bin/env bash
# smolagents 1.26.0 with openai 3.57.0 (PyPI): the tokens in `token_usage` of `agent.run(…, return_full_result=True)`.
# Guess: those of all requests of the run, 1,100 each, whichever of its agents sent them, as it includes those for plans.
# Seen: the requests of managed agents are left out, which often are the most of them: of five, two are counted. `run(…, reset=False)`, which
# goes on with a conversation, states the requests of its earlier runs again. `monitor` of the agent, whose sums its log shows after
# each step, leaves out the requests for plans, too.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install smolagents==1.26.0 openai==3.57.0
cat > "$tmp/run.py" <<'PYTHON'
import importlib.metadata
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from smolagents import LogLevel, OpenAIModel, ToolCallingAgent, tool

USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
requests = 0


class Provider(BaseHTTPRequestHandler):
    """Calls the agent's own tool, or the agent that it manages, until it has two results (a manager one); then gives the final answer."""

    def do_POST(self):
        global requests
        requests += 1
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        tools = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in asked.get("tools", [])}
        message = {"role": "assistant", "content": "1. Ask for the weather.\n<end_plan>"}
        if tools:
            results = str(asked["messages"][1:]).count("Observation:")
            others = [name for name in tools if name != "final_answer"]
            name = others[0] if results < (1 if others == ["helper"] else 2) else "final_answer"
            arguments = {key: {} if key == "additional_args" else "Bern" for key in tools[name]}
            call = {"name": name, "arguments": json.dumps(arguments)}
            message = {"role": "assistant", "content": None}
            message["tool_calls"] = [{"id": f"call_{requests}", "type": "function", "function": call}]
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if tools else "stop"}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()


@tool
def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: The name of the city.
    """
    return "sunny"


def agent(tools, **options):
    model = OpenAIModel(model_id="gpt-4o", api_base=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")
    return ToolCallingAgent(tools, model, verbosity_level=LogLevel.OFF, **options)


def run(by, **options):
    """The tokens that were sent, and those in the result and in the agent's monitor."""
    global requests
    requests = 0
    result = by.run("What is the weather?", return_full_result=True, **options)
    return requests * 1_100, result.token_usage.total_tokens, by.monitor.get_total_token_counts().total_tokens


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("smolagents", "openai")))
print("expected: the result and the monitor state the tokens that were sent")
plain = agent([weather])
helper = agent([weather], name="helper", description="Knows the weather.")
seen = {
    "an agent": run(plain),
    "the same again": run(plain),
    "the same, going on": run(plain, reset=False),
    "with a plan": run(agent([weather], planning_interval=5)),
    "with a managed agent": run(agent([], managed_agents=[helper])),
}
for name, (sent, stated, shown) in seen.items():
    print(f"seen: {name}: {sent} sent, {stated} in the result, {shown} in the monitor")
expected = [(3_300, 3_300, 3_300), (3_300, 3_300, 3_300), (1_100, 4_400, 4_400), (4_400, 4_400, 3_300), (5_500, 2_200, 2_200)]
sys.exit(0 if list(seen.values()) == expected else 1)
PYTHON
"$tmp/bin/python" -W ignore "$tmp/run.py"
