#!/usr/bin/env bash
# langchain-openai 1.7.4 and pydantic-ai-slim 2.68.0 (PyPI), with openai 3.57.0: the tokens that they report of a chat stream each chunk
# of which states the usage so far.
# Guess: those of the last chunk, 100 in and 10 out. Baseten streams so by default, vLLM and SGLang if asked
# (`stream_options.continuous_usage_stats`); "so far" means that each figure includes the one before.
# Seen: both add up all figures: 1,000 in and 55 out of ten chunks, the input as often as there are chunks. The cost
# that pydantic-ai states is nine times what it should be. The same stream with its usage in the last chunk alone is counted
# right by both, and the running usage by pydantic-ai with its setting `openai_continuous_usage_stats`.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install langchain-openai==1.7.4 "pydantic-ai-slim[openai]==2.68.0" openai==3.57.0
"$tmp/bin/python" - <<'PYTHON'
import asyncio
import http.server
import importlib.metadata
import json
import sys
import threading

from langchain_openai import ChatOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

WORDS = 10
running = True


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for said in range(1, WORDS + 1):
            last = said == WORDS
            choice = {"index": 0, "delta": {"role": "assistant", "content": "word "}, "finish_reason": "stop" if last else None}
            usage = {"prompt_tokens": 100, "completion_tokens": said, "total_tokens": 100 + said}
            event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [choice]}
            event |= {"usage": usage} if running or last else {}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"


def langchain():
    usage = ChatOpenAI(model="gpt-4o", base_url=url, api_key="key", streaming=True).invoke("Hello").usage_metadata
    return usage["input_tokens"], usage["output_tokens"]


async def pydantic_ai(**settings):
    model = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(base_url=url, api_key="key"))
    async with Agent(model, model_settings=settings).run_stream("Hello") as run:
        async for _ in run.stream_text():
            pass
    usage = run.usage
    print("  cost stated by pydantic-ai:", usage.cost)
    return usage.input_tokens, usage.output_tokens


for package in ("langchain-openai", "pydantic-ai-slim", "openai"):
    print(package, importlib.metadata.version(package))
seen = []
for running, name in ((False, "usage in the last chunk"), (True, "running usage")):
    seen += [langchain(), asyncio.run(pydantic_ai())]
    print(f"{name}: langchain-openai {seen[-2]}, pydantic-ai {seen[-1]}")
seen.append(asyncio.run(pydantic_ai(openai_continuous_usage_stats=True)))
print(f"running usage, with the setting: pydantic-ai {seen[-1]}")
added = (100 * WORDS, WORDS * (WORDS + 1) // 2)
sys.exit(0 if seen == [(100, WORDS), (100, WORDS), added, added, (100, WORDS)] else 1)
PYTHON
