#!/usr/bin/env bash
# openai 3.57.0, groq 1.7.0, together 3.1.1 and anthropic 2.14.0 (PyPI): what ends a stream that is left by `break`.
# Guess: `for chunk in client.chat.completions.create(..., stream=True): ...; break` ends the request. Nothing refers to the stream
# after the loop, and CPython then closes at once what is iterated. A provider that notices stops generating, and billing.
# Seen: it does with Anthropic's. With the other three the connection stays open and the server writes its answer to the end (here
# four seconds of it), in `async for` as well: the stream is part of a reference cycle, so that only the garbage collector closes it,
# which in a program that waits for people may not run for minutes. The answer nobody reads is generated, and billed, in full.
# `with` around the stream, or its `close()`, ends it at once.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install openai==3.57.0 groq==1.7.0 together==3.1.1 anthropic==2.14.0
"$tmp/bin/python" - <<'PYTHON'
import asyncio
import http.server
import importlib.metadata
import json
import sys
import threading
import time

import anthropic
import groq
import openai
import together

PIECES = 40
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
MESSAGE = {
    "id": "m", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None, "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}  # fmt: skip
written = 0
ended = threading.Event()


def events(anthropics):
    """Forty pieces of text, ten a second."""
    if anthropics:
        yield {"type": "message_start", "message": MESSAGE}
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for _ in range(PIECES):
        delta = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
        text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}}
        yield text if anthropics else CHUNK | {"choices": [delta]}
        time.sleep(0.1)


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global written
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        try:
            for written, event in enumerate(events("messages" in self.path), 1):
                name = f"event: {event['type']}\n" if "type" in event else ""
                text = f"{name}data: {json.dumps(event)}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        except OSError:
            pass
        ended.set()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
options = {"api_key": "key", "base_url": f"http://127.0.0.1:{server.server_port}"}
ask = {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "Hello"}], "stream": True}


def left(create):
    for number, _ in enumerate(create(**ask)):
        if number == 2:
            break


def left_in_with(create):
    with create(**ask) as stream:
        for number, _ in enumerate(stream):
            if number == 2:
                break


async def left_async(create):
    async for _ in await create(**ask):
        break


def share(leave):
    """Which share of the answer the server wrote."""
    ended.clear()
    leave()
    ended.wait()
    return written / PIECES


async def main():
    clients = {
        "openai": (openai.OpenAI(**options).chat.completions, openai.AsyncOpenAI(**options).chat.completions),
        "groq": (groq.Groq(**options).chat.completions, groq.AsyncGroq(**options).chat.completions),
        "together": (together.Together(**options).chat.completions, together.AsyncTogether(**options).chat.completions),
        "anthropic": (anthropic.Anthropic(**options).messages, anthropic.AsyncAnthropic(**options).messages),
    }
    seen = True
    for name, (sync, aio) in clients.items():
        plain, closed = share(lambda: left(sync.create)), share(lambda: left_in_with(sync.create))
        ended.clear()
        await left_async(aio.create)
        await asyncio.to_thread(ended.wait)
        shares = [plain, written / PIECES, closed]
        print(name, importlib.metadata.version(name), "wrote after break {:.0%}, async {:.0%}, in with {:.0%}".format(*shares))
        whole = name != "anthropic"
        seen &= (plain == 1) == whole and (shares[1] == 1) == whole and closed < 0.9
    return seen


sys.exit(0 if asyncio.run(main()) else 1)
PYTHON
