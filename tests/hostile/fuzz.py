"""A fuzzer for both planes: mutates valid requests, responses, forms, headers, payment events and recordings.

    python -m tests.hostile.fuzz --seconds 600 [--seed 7] [--engine postgres]

The same seed produces the same inputs. The invariants: no internal error (500, code 2999); no hold is left open; the
books balance, and every change of a balance has a cause. The first input that violates one is printed, with its seed
and number; `--only NUMBER` sends only that input.
"""

# ruff: noqa: E501 - the tables are read in columns

import argparse
import asyncio
import contextlib
import gzip
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from farebox.decoding import BrokenCoding, TooLarge, UnknownCoding, codings, decode
from farebox.http.router import Access
from farebox.http.routes import ROUTES
from farebox.model import Permission
from farebox.providers.audio.length import audio_length
from tests import engines
from tests.calls.kit import differences, set_price, set_provider
from tests.calls.upstream import Upstream, serving
from tests.support import Customer, Farebox, quiet_logs, running_farebox

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
TEXT = [{"role": "user", "content": [{"type": "text", "text": "Good morning"}]}]
PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [*TEXT, {"role": "user", "content": PICTURE}],
    "max_tokens": 50,
    "stream": True,
}
CHAT |= {"tools": TOOLS, "n": 2, "service_tier": "auto", "stream_options": {"include_usage": False}}
RESPONSE: dict[str, Any] = {
    "model": "m",
    "input": TEXT,
    "max_output_tokens": 50,
    "tools": [{"type": "web_search"}],
    "max_tool_calls": 2,
}
MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 50,
    "messages": TEXT,
    "tools": [{"type": "web_search_20250305", "max_uses": 3}],
}
MESSAGES |= {"thinking": {"type": "enabled", "budget_tokens": 20}, "system": "Be brief", "metadata": {"user_id": "u"}}
GENERATE: dict[str, Any] = {
    "contents": [{"parts": [{"text": "Hi"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}]}]
}
GENERATE |= {"generationConfig": {"maxOutputTokens": 50, "candidateCount": 1}, "tools": [{"googleSearch": {}}]}
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b\r\nContent-Disposition: form-data; '
    b'name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0'
    b"\x80\x3e\0\0\2\0\x10\0data\0\0\0\0\r\n--b--\r\n"
)
CALLS: tuple[tuple[str, Any], ...] = (
    ("openai/chat/completions", CHAT),
    ("openai/completions", {"model": "m", "prompt": ["a", "b"], "best_of": 2}),
    ("openai/responses", RESPONSE),
    ("openai/embeddings", {"model": "m", "input": ["a", "b"]}),
    ("openai/images/generations", {"model": "m", "prompt": "A bridge", "n": 1, "size": "1024x1024", "quality": "low"}),
    ("openai/audio/speech", {"model": "m", "input": "Hi", "voice": "alloy", "response_format": "wav"}),
    ("openai/audio/transcriptions", FORM),
    ("openai/images/edits", FORM),
    ("anthropic/v1/messages", MESSAGES),
    ("google-ai-studio/v1beta/models/m:streamGenerateContent?alt=sse", GENERATE),
    ("google-ai-studio/v1beta/models/m:batchEmbedContents", {"requests": [{"content": {"parts": [{"text": "a"}]}}]}),
    ("cohere/v2/chat", CHAT),
    ("cohere/v2/embed", {"model": "m", "texts": ["a"]}),
    ("cohere/v2/rerank", {"model": "m", "query": "q", "documents": ["a", "b"]}),
    ("workers-ai/run/@cf/acme/m", {"messages": TEXT, "max_tokens": 50}),
    ("workers-ai/run/@cf/acme/m", {"audio": [82, 73, 70, 70]}),
    ("openrouter/chat/completions", CHAT | {"provider": {"max_price": {"prompt": 1}}}),
    ("mistral/ocr", {"model": "m", "document": {"document_url": "https://x.example"}}),
    ("compat/chat/completions", CHAT | {"model": "demo/demo-1", "stream": False}),
    ("compat/embeddings", {"model": "openai/m", "input": "a"}),
    ("", [{"provider": "openai", "endpoint": "chat/completions", "query": CHAT, "headers": {"a": "b"}, "config": {}}]),
    ("", [{"provider": "compat", "endpoint": "chat/completions", "query": CHAT, "config": {"maxAttempts": 1}}]),
)
"""Paths below a gateway's URL, and their request bodies."""
EVENT = b'data: {"choices":[{"delta":{"content":"Hi"},"index":0,"finish_reason":"stop"}]}\n\n'
ANSWERS: tuple[Any, ...] = (
    {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": USAGE},
    {"output": [{"type": "message", "content": [{"text": "Hi"}]}], "usage": {"input_tokens": 7, "output_tokens": 3}},
    {"content": [{"type": "text", "text": "Hi"}], "usage": {"input_tokens": 7, "output_tokens": 3}, "model": "m"},
    {"candidates": [{"content": {"parts": [{"text": "Hi"}]}}], "usageMetadata": {"promptTokenCount": 7}},
    {"data": [{"b64_json": "AAAA"}], "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}},
    {"error": {"message": "No", "type": "server_error", "code": "x"}},
    EVENT + b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\ndata: [DONE]\n\n",
    b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":{"input_tokens":7}}}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":3}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0",
    b'[{"candidates":[]},{"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":3}}]',
)
CONTROL: tuple[dict[str, Any], ...] = (
    {"id": "g", "cache_ttl": 0, "collect_logs": True, "rate_limiting_limit": 5, "rate_limiting_interval": 60},
    {"amount": 1000, "threshold": 500, "credit": 20, "currency": "usd"},
    {"amount": 10_000_000, "seconds": 60, "hold_id": "h", "metadata": {"a": 1}, "description": "x"},
    {"limit": 1000, "window": "day", "enabled": True, "duration": 86400, "strategy": "fixed"},
    {"url": "https://hooks.example/x", "kinds": ["balance_low"], "name": "n", "address": {"country": "DE"}},
    {
        "top_up_id": "t",
        "payment_intent_id": "pi_1",
        "reason": "requested_by_customer",
        "return_url": "https://a.example",
    },
)
WORDS: tuple[str, ...] = (
    *("null", "true", "-1", "0", "1e999", "-0.0", "NaN", "Infinity", '""', "[]", "{}", "[[]]", '{"":{}}', "1" * 5000),
    *(
        "9223372036854775808",
        "-9223372036854775809",
        "1.5",
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\u0000"',
        '"x"',
        "\x00",
    ),
    *(
        '"' + "m" * 300 + '"',
        "[" * 200 + "]" * 200,
        '{"a":' * 200 + "1" + "}" * 200,
        "1" * 100_000,
        '"\\x"',
        "'a'",
        "1.",
    ),
    *(
        "10000000000",
        "0.1",
        '"2026-02-30"',
        '"\\uffff\\u202e"',
        '[{"type":[]}]',
        '{"type":{}}',
        '["a",1,null,{}]',
        "1E400",
    ),
)
"""Replacements for values."""
BYTES = (b"\xf8", b"\xc3", b"\xed\xa0\x80", b"\0", b"\xff\xfe", b'"', b"\\", b"{", b"]", b",", b"\r\n", b"\xef\xbb\xbf")
HEADERS: tuple[str, ...] = (
    "cf-aig-metadata",
    "cf-aig-request-timeout",
    "cf-aig-max-attempts",
    "cf-aig-retry-delay",
    "cf-aig-backoff",
)
HEADERS += ("cf-aig-collect-log", "cf-aig-event-id", "cf-aig-gateway-id", "content-type", "content-encoding", "accept")
HEADERS += (
    "user-agent",
    "originator",
    "idempotency-key",
    "cookie",
    "origin",
    "cf-aig-no-wholesale",
    "stripe-signature",
)
HEADER_VALUES: tuple[str, ...] = (
    "",
    "1",
    "true",
    "\xf8\xff",
    "a" * 2000,
    '{"a":"\xff"}',
    '{"a":1e999}',
    '{"a":"\\ud800"}',
    "-1",
    "١٢",
)
HEADER_VALUES += (
    "gzip",
    "gzip, gzip, br",
    "identity",
    "multipart/form-data",
    "multipart/form-data; boundary=b",
    "1" * 50,
)
HEADER_VALUES += (
    "multipart/form-data; boundary=\xff",
    "application/json; charset=\xff",
    "t=1,v1=\xf8",
    "t=١,v1=a",
    "\t",
)
QUERIES: tuple[str, ...] = (
    "%ff=%f8",
    "a=%ed%a0%80",
    "alt=\xff",
    "key=%00",
    "page=99999999999999999999",
    "per_page=-1",
    "order=%22",
    "&&=",
)
QUERIES += (
    "limit=1e9",
    "month=2026-13",
    "start=٣",
    "queueRequest=%ff",
    "filters=[{",
    "a" * 900,
    "key=fbx_%ff",
    "search=%F8",
)


@dataclass(frozen=True)
class Sent:
    """One request, and the provider's response to it."""

    method: str
    path: bytes
    headers: list[tuple[str, bytes]]
    body: bytes
    response: bytes
    response_type: str

    def described(self) -> str:
        """A readable description."""
        return f"{self.method} {self.path[:300]!r}\n{self.headers}\n{self.body[:3000]!r}\n→ {self.response[:1500]!r}"


def mutated_json(rng: random.Random, value: Any) -> bytes:
    """JSON, with a few values or names replaced, doubled or left out, and perhaps a few bytes."""
    marks: dict[str, str] = {}

    def walk(node: Any) -> Any:
        if rng.random() < 0.06:
            mark = f"@{len(marks)}@"
            marks[mark] = rng.choice(WORDS)
            return mark
        if isinstance(node, dict):
            return {name: walk(inner) for name, inner in node.items() if rng.random() > 0.02}
        return [walk(inner) for inner in node] * rng.choice((1,) * 30 + (0, 3)) if isinstance(node, list) else node

    text = json.dumps(walk(value), ensure_ascii=rng.random() < 0.5)
    for mark, word in marks.items():
        text = text.replace(f'"{mark}"', word)
    if rng.random() < 0.15 and text.startswith("{"):
        name = rng.choice(("\\ud800", "a\\u0000", "model", "stream", "m" * 100, "provider", "max_tokens"))
        text = f'{{"{name}":{rng.choice(WORDS)},{text[1:]}'
    return scratched(rng, text.encode("utf-8", "surrogatepass"), 0.25)


def scratched(rng: random.Random, data: bytes, chance: float) -> bytes:
    """A few bytes inserted, changed or removed."""
    while rng.random() < chance and data:
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(4)
        if how == 0:
            data = data[:at] + rng.choice(BYTES) + data[at:]
        elif how == 1:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif how == 2:
            data = data[:at]
        else:
            end = min(len(data), at + rng.randrange(40))
            data = data[:at] + data[end:] if rng.random() < 0.5 else data[:end] + data[at:end] + data[end:]
    return data


def payload(rng: random.Random, value: Any) -> bytes:
    if isinstance(value, bytes):
        return scratched(rng, value, 0.7)
    return mutated_json(rng, value)


def with_nonsense(rng: random.Random, headers: dict[str, bytes]) -> list[tuple[str, bytes]]:
    while rng.random() < 0.3:
        headers[rng.choice(HEADERS)] = rng.choice(HEADER_VALUES).encode(
            "utf-8" if rng.random() < 0.3 else "latin-1", "replace"
        )
    return list(headers.items())


def a_call(rng: random.Random, customer: Customer) -> Sent:
    """A model call."""
    path, value = rng.choice(CALLS)
    content_type = b"multipart/form-data; boundary=b" if isinstance(value, bytes) else b"application/json"
    body = payload(rng, value)
    headers = {"authorization": f"Bearer {customer.token}".encode(), "content-type": content_type}
    if rng.random() < 0.1:
        headers["content-encoding"] = b"gzip"
        body = scratched(rng, gzip.compress(body, mtime=0), 0.3)
    if rng.random() < 0.1:
        headers = {"cf-aig-authorization": headers["authorization"], "x-api-key": b"own-key"} | headers
        headers.pop("authorization")
    if rng.random() < 0.2:
        path += ("&" if "?" in path else "?") + rng.choice(QUERIES)
    base = urlsplit(customer.gateway_url).path
    if path.startswith("compat") and rng.random() < 0.5:
        base, path = urlsplit(customer.api_url).path + "/ai/v1", path.removeprefix("compat/")
    target = f"{base}/{path}".encode("latin-1", "replace")
    response = payload(rng, rng.choice(ANSWERS))
    kind = rng.choice(("", "", "", "text/event-stream", "application/json", "audio/mpeg", "\xff"))
    return Sent("POST", scratched(rng, target, 0.03), with_nonsense(rng, headers), body, response, kind)


def a_command(rng: random.Random, customer: Customer) -> Sent:
    """A request to the control plane, or a payment event."""
    headers = {"authorization": f"Bearer {customer.token}".encode(), "content-type": b"application/json"}
    routes = [route for route in ROUTES if route.access is not Access.PUBLIC or route.path.startswith("/webhooks")]
    route = rng.choice(routes) if rng.random() < 0.9 else next(r for r in routes if r.path.startswith("/webhooks"))
    path = route.path.replace("{account_id}", customer.account_id)
    for name in route.parameters:
        values = ("default", "x", "2026-01", "%ff", "%00", "a" * 300, quote("ü/"), "..", customer.account_id)
        path = path.replace(f"{{{name}}}", rng.choice(values))
    value = rng.choice(CONTROL)
    if route.takes is not None and rng.random() < 0.8:
        value = {name: next(iter(value.values())) for name in route.takes.__struct_encode_fields__}
    if route.path.startswith("/webhooks"):
        headers["stripe-signature"] = rng.choice(HEADER_VALUES).encode("latin-1", "replace")
        value = {"id": "evt_1", "type": "invoice.paid", "data": {"object": {"id": "in_1", "object": "invoice"}}}
    if rng.random() < 0.4:
        path += "?" + rng.choice(QUERIES)
    if route.takes is not None and route.method in ("GET", "DELETE") and rng.random() < 0.7:
        names = list(route.takes.__struct_encode_fields__)
        path += ("&" if "?" in path else "?") + f"{rng.choice(names)}={quote(rng.choice(WORDS)[:500])}"
    body = mutated_json(rng, value) if route.method not in ("GET", "DELETE") else b""
    return Sent(route.method, path.encode("latin-1", "replace"), with_nonsense(rng, headers), body, b"{}", "")


def a_recording(rng: random.Random) -> bytes:
    starts: tuple[bytes, ...] = (
        ANSWERS[9],
        b"ID3\4\0\0\0\0\0\1a\xff\xfb\x90\0",
        b"OggS\0\2",
        b"\0\0\0\x18ftypM4A ",
        b"fLaC\0\0\0\x22",
    )
    starts += (
        b"\x1aE\xdf\xa3\x9fB\x86\x81\1",
        b"FORM\0\0\0\x20AIFFCOMM\0\0\0\x12",
        b"\xff\xf1\x50\x80",
        b"moov\0\0\0\x08",
    )
    return scratched(rng, rng.choice(starts) * rng.randrange(1, 9) + rng.randbytes(rng.randrange(200)), 0.8)


def decoders(rng: random.Random) -> None:
    """Fuzz parsers directly, without HTTP around them. An exception that they must not raise escapes."""
    audio_length(a_recording(rng))
    names = codings(rng.choice(("gzip", "br", "deflate", "zstd", "gzip, br", "\xff", ", ,", "gzip;q=1")))
    with contextlib.suppress(BrokenCoding, TooLarge, UnknownCoding):
        decode(scratched(rng, gzip.compress(b"a" * rng.randrange(5000), mtime=0), 0.7), names, 10_000)


class Fuzz:
    """Sends fuzzed input to one server, and reports violations."""

    def __init__(self, farebox: Farebox, upstream: Upstream, seed: int) -> None:
        self._farebox, self._upstream, self.seed = farebox, upstream, seed
        self._permissions = tuple(Permission)
        self.customer = farebox.funded("500")
        host = urlsplit(farebox.url)
        self._connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=60)
        self.sent = 0
        self.stalled = 0.0
        """The longest delay of the event loop, in seconds."""

    def one(self, number: int) -> str:
        """Send the input with this number. Returns what is wrong with its response, or an empty string."""
        rng = random.Random(f"{self.seed}/{number}")
        decoders(rng)
        make: Callable[[random.Random, Customer], Sent] = a_command if rng.random() < 0.35 else a_call
        sent = make(rng, self.customer)
        self._upstream.response, self._upstream.content_type = sent.response, sent.response_type
        status, response = self._exchange(sent)
        self.sent += 1
        if status == 500 or b'"code":2999' in response:
            return f"seed {self.seed}, number {number}: {status} {response[:500]!r}\n{sent.described()}"
        return ""

    def _exchange(self, sent: Sent) -> tuple[int, bytes]:
        connection = self._connection
        try:
            lines = [b"%s %s HTTP/1.1" % (sent.method.encode(), sent.path.replace(b" ", b"%20")), b"host: x"]
            lines += [name.encode() + b": " + value.replace(b"\n", b" ") for name, value in sent.headers]
            lines += [b"content-length: %d" % len(sent.body), b"connection: close"]
            connection.connect()
            connection.sock.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + sent.body)
            response = http.client.HTTPResponse(connection.sock, method=sent.method)
            response.begin()
            return response.status, response.read()
        except (
            http.client.HTTPException,
            ConnectionError,
        ):  # a stream that breaks off because of the provider's garbage
            return 0, b""
        finally:
            connection.close()

    def books(self) -> list[str]:
        """What is wrong with the money. Application holds created by fuzzed input may stay open."""
        found = differences(self._farebox)
        services = self._farebox.services
        query = (
            "SELECT COUNT(*) FROM holds WHERE account_id = ? AND state = 'open' "
            "AND hold_id NOT IN (SELECT hold_id FROM app_holds)"
        )
        account = self.customer.account_id
        [row] = self._farebox.run(services.database.scan(lambda c: c.execute(query, (account,)).fetchall()))
        return found + ([f"{row[0]} holds of calls are open"] if row[0] else [])

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Measure delays of the server's event loop."""

        async def tick() -> None:
            loop = asyncio.get_running_loop()
            while not stop.is_set():
                before = loop.time()
                await asyncio.sleep(0.001)
                self.stalled = max(self.stalled, loop.time() - before - 0.001)

        stop = threading.Event()
        thread = threading.Thread(target=self._farebox.run, args=(tick(), 86_400))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def fuzzing(folder: Path, seed: int) -> Iterator[Fuzz]:
    """A server, with one provider that answers garbage in place of all providers."""
    with serving() as upstream, running_farebox(folder, log_days=1) as farebox:
        for slug in ("openai", "anthropic", "google-ai-studio", "cohere", "workers-ai", "openrouter", "mistral"):
            set_provider(farebox, slug, base_url=upstream.url)
            set_price(farebox, slug, "@cf/acme/m" if slug == "workers-ai" else "m")
        yield Fuzz(farebox, upstream, seed)


def main() -> int:
    """Run until the time is over or something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--only", type=int)
    parser.add_argument("--engine", choices=engines.ENGINES, default="sqlite")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    quiet_logs()
    engines.use_engine(options.engine)
    wrong = ""
    with tempfile.TemporaryDirectory() as folder, fuzzing(Path(folder), options.seed) as fuzz, fuzz.watching():
        end, number = time.monotonic() + options.seconds, options.only or 0
        while not wrong and time.monotonic() < end:
            wrong = fuzz.one(number)
            number += 1
            if options.only is not None:
                break
            if number % 500 == 0 and not wrong:
                wrong = "\n".join(fuzz.books())
        wrong = wrong or "\n".join(fuzz.books())
        print(f"{fuzz.sent} requests, event loop at most {fuzz.stalled * 1000:.0f} ms late", flush=True)
    engines.close_engines()
    print(wrong or "nothing wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
