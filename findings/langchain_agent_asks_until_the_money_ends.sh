#!/usr/bin/env bash
# langchain 1.5.2 with langchain-openai 1.7.4 (PyPI): how often `create_agent(model, [], response_format=Schema)` asks a model that
# never gives a valid object.
# Guess: two or three times, then it raises, as other libraries do that repair structured output.
# Seen: without an end. Each rejected object goes back with the error and asks again (`ToolStrategy` has `handle_errors=True`), and
# nothing counts: what stops it is the recursion limit, which `create_agent` sets to 9,999. Here it asks until the server answers
# 402, sixty requests later, and each request carries all earlier ones, so that the input paid for grows with the square of
# their number. A model that answers in prose is asked again in the same way. `ToolStrategy(Schema, handle_errors=False)` raises
# after the first object; `config={"recursion_limit": 10}` after the tenth request.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install langchain==1.5.2 langchain-openai==1.7.4
"$tmp/bin/python" - <<'PYTHON'
import http.server
import importlib.metadata
import json
import sys
import threading

import openai
from langchain.agents import create_agent
from langchain.agents.structured_output import StructuredOutputValidationError, ToolStrategy
from langchain_openai import ChatOpenAI
from langgraph.errors import GraphRecursionError
from pydantic import BaseModel

CREDIT = 60
sizes = []
prose = False


class City(BaseModel):
    name: str
    people: int


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        sizes.append(int(self.headers["content-length"]))
        self.rfile.read(sizes[-1])
        if len(sizes) > CREDIT:
            self.answer(402, {"error": {"message": "Insufficient credits", "type": "no_credit", "code": "no_credit"}})
            return
        function = {"name": "City", "arguments": '{"name": "Tokyo", "people": "about 37 million"}'}
        calls = [{"id": f"call_{len(sizes)}", "type": "function", "function": function}]
        message = {"content": "Tokyo, with about 37 million."} if prose else {"content": None, "tool_calls": calls}
        choice = {"index": 0, "finish_reason": "stop" if prose else "tool_calls", "message": {"role": "assistant"} | message}
        usage = {"prompt_tokens": sizes[-1] // 4, "completion_tokens": 20, "total_tokens": sizes[-1] // 4 + 20}
        self.answer(200, {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage})

    def answer(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
model = ChatOpenAI(model="m", base_url=f"http://127.0.0.1:{server.server_port}", api_key="key")
question = {"messages": [{"role": "user", "content": "Which city is the largest?"}]}
for package in ("langchain", "langgraph", "langchain-openai", "openai"):
    print(package, importlib.metadata.version(package))


def run(what, response_format, **config):
    """The exception, and how many requests were paid for."""
    sizes.clear()
    try:
        create_agent(model, [], response_format=response_format).invoke(question, config=config or None)
        raised = None
    except (openai.APIStatusError, StructuredOutputValidationError, GraphRecursionError) as error:
        raised = type(error)
    paid = min(len(sizes), CREDIT)
    name = raised.__name__ if raised else "nothing"
    print(f"{what}: {paid} requests of {sum(sizes[:paid])} bytes, the first of {sizes[0]}; raised: {name}")
    return raised, paid


agent = create_agent(model, [], response_format=City)
print("recursion limit", agent.config["recursion_limit"])
seen = [
    run("never valid", City),
    run("never valid, handle_errors=False", ToolStrategy(City, handle_errors=False)),
    run("never valid, recursion_limit 10", City, recursion_limit=10),
]
prose = True
seen.append(run("in prose", ToolStrategy(City)))
expected = [
    (openai.APIStatusError, CREDIT),
    (StructuredOutputValidationError, 1),
    (GraphRecursionError, 10),
    (openai.APIStatusError, CREDIT),
]
sys.exit(0 if seen == expected and agent.config["recursion_limit"] == 9_999 else 1)
PYTHON
