#!/usr/bin/env bash
# llama-index-core 0.14.25 with llama-index-llms-openai 0.8.3, -anthropic 0.12.3 and -google-genai 0.11.3 (PyPI): the tokens that its
# `TokenCountingHandler` counts.
# Guess: those that the API states, in streams too, where OpenAI's Responses API, Anthropic's and Gemini's always state them; with what was
# read from the cache or written to it, and with thoughts, since all of that is billed.
# Seen: so it is with OpenAI's chat. A stream of the Responses API is counted by LlamaIndex's own tokenizer, from the text alone: four tokens
# out where 100 were billed, most of them for reasoning. Of an answer of Anthropic's, 100 of 5,100 tokens in are counted, because its
# `input_tokens` does not contain what came from the cache (3,000) or went there (2,000). Of Gemini's 100 tokens out, the 60 thoughts
# are left out.
# The tokenizer is replaced here, because tiktoken, the default, would download its table. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install llama-index-core==0.14.25 llama-index-llms-openai==0.8.3 \
    llama-index-llms-anthropic==0.12.3 llama-index-llms-google-genai==0.11.3 openai==2.54.0 anthropic==0.125.0 google-genai==2.34.0
"$tmp/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage
from llama_index.llms.anthropic import Anthropic
from llama_index.llms.google_genai import GoogleGenAI
from llama_index.llms.openai import OpenAI, OpenAIResponses

logging.disable(logging.CRITICAL)
OPENAI = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
OPENAI["completion_tokens_details"] = {"reasoning_tokens": 60}
RESPONSES = {"input_tokens": 1_000, "output_tokens": 100, "total_tokens": 1_100}
RESPONSES |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 60}}
CACHE = {"cache_creation_input_tokens": 2_000, "cache_read_input_tokens": 3_000}
ANTHROPIC = {"input_tokens": 100, "output_tokens": 100, **CACHE}
GEMINI = {"promptTokenCount": 1_000, "candidatesTokenCount": 40, "thoughtsTokenCount": 60, "totalTokenCount": 1_100}


def chat(streamed):
    message, choice = {"role": "assistant", "content": "It is sunny"}, {"index": 0, "finish_reason": "stop"}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": OPENAI}
    if not streamed:
        return answer | {"choices": [choice | {"message": message}]}
    chunk = answer | {"object": "chat.completion.chunk"}
    return [chunk | {"usage": None, "choices": [choice | {"delta": message}]}, chunk | {"choices": []}]


def response(streamed):
    text = {"type": "output_text", "text": "It is sunny", "annotations": []}
    item = {"id": "i", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    answer = {"id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed", "output": [item]}
    answer |= {"usage": RESPONSES, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    if not streamed:
        return answer
    begun = answer | {"status": "in_progress", "output": [], "usage": None}
    delta = {"item_id": "i", "output_index": 0, "content_index": 0, "delta": "It is sunny", "logprobs": []}
    events = [{"type": "response.created", "response": begun}, {"type": "response.output_text.delta"} | delta]
    events += [{"type": "response.output_item.done", "output_index": 0, "item": item}]
    events += [{"type": "response.completed", "response": answer}]
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def message(streamed):
    text = {"type": "text", "text": "It is sunny"}
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [text]}
    answer |= {"stop_reason": "end_turn", "stop_sequence": None, "usage": ANTHROPIC}
    if not streamed:
        return answer
    begun = answer | {"content": [], "stop_reason": None, "usage": ANTHROPIC | {"output_tokens": 1}}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "It is sunny"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": ANTHROPIC},
        {"type": "message_stop"},
    ]


def gemini(streamed):
    candidate = {"index": 0, "content": {"role": "model", "parts": [{"text": "It is sunny"}]}, "finishReason": "STOP"}
    answer = {"candidates": [candidate], "usageMetadata": GEMINI, "modelVersion": "m"}
    return [answer] if streamed else answer


class Provider(BaseHTTPRequestHandler):
    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        """Gemini's description of a model, which LlamaIndex asks for."""
        self.answer("application/json", json.dumps({"name": "models/m", "inputTokenLimit": 1_000_000, "outputTokenLimit": 8_000}))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        streamed = asked.get("stream") or "stream" in self.path
        forms = {"completions": chat, "responses": response, "messages": message, "enerateContent": gemini}
        answer = next(form for end, form in forms.items() if end in self.path)(streamed)
        if not streamed:
            self.answer("application/json", json.dumps(answer))
            return
        events = [(f"event: {event['type']}\n" if "type" in event else "") + f"data: {json.dumps(event)}\n\n" for event in answer]
        self.answer("text/event-stream", "".join(events))

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
at = f"http://127.0.0.1:{server.server_port}"
with_usage = {"stream_options": {"include_usage": True}}
# What each model is, what it is given for streams alone, and what was billed.
models = {
    "OpenAI": (lambda **more: OpenAI(model="gpt-4o", api_base=f"{at}/v1", **more), {"additional_kwargs": with_usage}, (1_000, 100)),
    "OpenAIResponses": (lambda **more: OpenAIResponses(model="gpt-4o", api_base=f"{at}/v1", **more), {}, (1_000, 100)),
    "Anthropic": (lambda **more: Anthropic(model="claude-sonnet-4-5", base_url=at, **more), {}, (5_100, 100)),
    "GoogleGenAI": (lambda **more: GoogleGenAI(model="gemini-2.5-flash", http_options={"base_url": at}, **more), {}, (1_000, 100)),
}
packages = ("core", "llms-openai", "llms-anthropic", "llms-google-genai")
print(*(f"llama-index-{name} {importlib.metadata.version(f'llama-index-{name}')}" for name in packages))
print("expected: the tokens counted are those billed")
seen = []
for name, (make, for_streams, billed) in models.items():
    for streamed in (False, True):
        handler = TokenCountingHandler(tokenizer=str.split)
        more = for_streams if streamed else {}
        model = make(api_key="none", callback_manager=CallbackManager([handler]), **more)
        question = [ChatMessage(role="user", content="How is the weather?")]
        list(model.stream_chat(question)) if streamed else model.chat(question)
        seen.append((handler.prompt_llm_token_count, handler.completion_llm_token_count))
        print(f"seen: {name}{', streamed' if streamed else ''}: {seen[-1]} in and out, {billed} billed")
expected = [(1_000, 100)] * 3 + [(9, 4)] + [(100, 100)] * 2 + [(1_000, 40)] * 2
sys.exit(0 if seen == expected else 1)
PYTHON
