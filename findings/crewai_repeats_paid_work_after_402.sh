#!/usr/bin/env bash
# crewai 1.15.30 with openai 2.54.0 (PyPI): what an agent does if its fourth request is refused with 402.
# Guess: the run ends with the refusal. Asking again cannot help, OpenAI's SDK does not repeat a 402, and three answers have
# been paid for and three tools have run by then.
# Seen: the task begins again from its start, twice (`max_retry_limit` is 2): with the default settings twelve requests go
# out, nine answers are paid for, and each tool runs three times, whatever it does. A prepaid account that can pay for small requests
# but not for the last one, which carries the whole conversation, pays three times to learn so. The caller gets the
# third refusal. `Agent(max_retry_limit=0)` ends the run at the first.
# Needs about 1 GB for a moment. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install crewai==1.15.30 openai==2.54.0
cd "$tmp"
HOME=$tmp OTEL_SDK_DISABLED=true CREWAI_DISABLE_TELEMETRY=true CREWAI_TRACING_ENABLED=false "$tmp/bin/python" - <<'PYTHON'
import http.server
import importlib.metadata
import json
import logging
import sys
import threading

logging.disable(logging.CRITICAL)
import openai
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

CITIES = ["Delhi", "Shanghai", "Tokyo"]
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
paid, refused, ran = 0, 0, []


class Provider(http.server.BaseHTTPRequestHandler):
    """Asks for a tool three times; refuses what comes then."""

    def do_POST(self):
        global paid, refused
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        results = sum(message["role"] == "tool" for message in body["messages"])
        if results == len(CITIES):
            refused += 1
            self.answer(402, {"error": {"message": "Insufficient credits", "type": "no_credit", "code": "no_credit"}})
            return
        paid += 1
        function = {"name": "people", "arguments": json.dumps({"city": CITIES[results]})}
        message = {"role": "assistant", "content": None, "tool_calls": [{"id": f"call_{paid}", "type": "function", "function": function}]}
        choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
        self.answer(200, {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE})

    def answer(self, code, answer):
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
llm = LLM(model="openai/gpt-4o", base_url=f"http://127.0.0.1:{server.server_port}", api_key="key")


@tool("people")
def people(city: str) -> str:
    """How many people live in a city."""
    ran.append(city)
    return "30 million"


def run(**options):
    """How many answers were paid for, how many requests refused, and how often a tool ran."""
    global paid, refused
    paid, refused = 0, 0
    ran.clear()
    agent = Agent(role="Clerk", goal="Count", backstory="Counts", llm=llm, tools=[people], **options)
    try:
        Crew(agents=[agent], tasks=[Task(description="Count", expected_output="A number", agent=agent)]).kickoff()
    except openai.APIStatusError as error:
        print(f"{options or 'default settings'}: {paid} paid, {refused} refused, tools: {ran}; then {type(error).__name__}")
    return paid, refused, len(ran)


for package in ("crewai", "openai"):
    print(package, importlib.metadata.version(package))
seen = [run(), run(max_retry_limit=0)]
sys.exit(0 if seen == [(9, 3, 9), (3, 1, 3)] else 1)
PYTHON
