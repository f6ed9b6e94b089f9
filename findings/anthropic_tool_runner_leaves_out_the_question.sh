#!/usr/bin/env bash
# anthropic 2.15.0 (PyPI): what its tool runner sends to a server of the Messages API that does not have Anthropic's message threads.
# Guess: each request carries the whole conversation, as the API requires: question, tool call, tool result. Threads, which keep
# it at the server, are a beta; a client uses them where it is asked to, or where the server has said that it has them.
# Seen: `client.beta.messages.tool_runner` asks for a thread by default (`"thread": {"type": "create"}`) and takes any answer for a
# yes. Its second request consists of the tool's result alone: the model sees neither the question nor the tools, and answers
# all the same. Many servers with this API ignore fields that they do not know. Only an error with
# `error.details.error_code: thread_unsupported_request` makes the runner send everything. `thread=False` does, too.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install anthropic==2.15.0
"$tmp/bin/python" - <<'PYTHON'
import http.server
import importlib.metadata
import json
import sys
import threading

import anthropic

USAGE = {"input_tokens": 100, "output_tokens": 10}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
REFUSAL = {"type": "invalid_request_error", "message": "No threads here.", "details": {}}
REFUSAL["details"] = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
requests = []
refuses = False


class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if refuses and "thread" in asked:
            return self.answer(400, {"type": "error", "error": REFUSAL})
        requests.append(asked)
        answered = len(requests) > 1
        content = [{"type": "text", "text": "Rain."}] if answered else [CALL]
        message = {"id": f"msg_{len(requests)}", "type": "message", "role": "assistant", "model": asked["model"]}
        message |= {"content": content, "stop_reason": "end_turn" if answered else "tool_use", "usage": USAGE}
        return self.answer(200, message)

    def answer(self, status, body):
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_):
        pass


@anthropic.beta_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = anthropic.Anthropic(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}", max_retries=0)


def run(name, **options):
    """What the last request of a run contains."""
    requests.clear()
    question = [{"role": "user", "content": "Do I need an umbrella in Oslo?"}]
    runner = client.beta.messages.tool_runner(
        model="claude-sonnet-4-5", max_tokens=100, tools=[weather], messages=question, **options
    )
    said = runner.until_done().content[0].text
    last = requests[-1]
    print(f"{name}: {len(last['messages'])} message(s), tools: {'tools' in last}; the run ends with {said!r}")
    return len(last["messages"]), "tools" in last


print("anthropic", importlib.metadata.version("anthropic"))
print("the second request of a run; expected: 3 messages, tools: True")
ignored = run("server that ignores `thread`")
switched_off = run("the same, thread=False", thread=False)
refuses = True
refused = run("server that refuses threads")
sys.exit(0 if (ignored, switched_off, refused) == ((1, False), (3, True), (3, True)) else 1)
PYTHON
