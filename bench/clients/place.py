"""The environment in which clients are run: a Farebox with an account for each situation, the demo provider behind it,
and a relay in front that counts the calls of each account as they arrive."""

import contextlib
import json
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.served import Broken, run, serving
from farebox.model import Permission
from farebox.money import NANOS_PER_CENT

ANSWER, BALANCE, LIMIT, RATE, CUT = "answer", "empty balance", "spending limit", "rate limit", "cut stream"
SITUATIONS = (BALANCE, LIMIT, RATE, CUT)
"""The situations that are tried after a client has got an answer."""
MODEL = "acme-1"
_PERMITTED = [word for permission in Permission for word in ("--permission", permission.value)]
_DEMO = ("openai", "anthropic", "google-ai-studio", "groq", "mistral", "openrouter")
_OTHERS = {"cohere": MODEL, "workers-ai": "@cf/acme/*"}
_PRICE = ("--input", "20000", "--output", "1", "--output-max", "100", "--rate", "web_searches_kcount=10")
"""Per million tokens, in US dollars: two cents an input token. Agents have the model search the web."""
_LIMIT_CENTS = 500_000
"""More than any client's call may cost; otherwise the limit would be too low for the call."""
_RATE_LIMIT = {"rate_limiting_limit": 1, "rate_limiting_interval": 3600, "rate_limiting_technique": "sliding"}


@dataclass(slots=True)
class Place:
    url: str
    """The base URL of the relay."""
    accounts: dict[str, tuple[str, str]]
    """Account ID and token, by situation."""
    sent: list[tuple[str, float, str]] = field(default_factory=list)
    """Account, time and path of each call since the list was cleared."""

    def use_up(self) -> None:
        """Use up both limits, whose windows may have ended since the last client."""
        chat = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
        with contextlib.suppress(urllib.error.HTTPError):  # the rate limit is used up
            _post(self, "/v1/{}/default/openai/chat/completions", RATE, chat)
        holds, hold_id = "/client/v4/accounts/{}/farebox/holds", uuid4().hex
        amount = {"amount_nanos": _LIMIT_CENTS * NANOS_PER_CENT}
        with contextlib.suppress(urllib.error.HTTPError):  # the spending limit is used up
            _post(self, holds, LIMIT, {"hold_id": hold_id, **amount})
            _post(self, f"{holds}/{hold_id}/settle", LIMIT, amount)


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    with _demo() as demo_url, _server(Provider) as other:
        accounts = _set_up(folder, demo_url, f"http://127.0.0.1:{other.server_address[1]}")
        with serving(folder, folder / "targets") as served, _server(Relay) as relay:
            found = Place(f"http://127.0.0.1:{relay.server_address[1]}", accounts)
            relay.port, relay.sent = served.port, found.sent
            _limit(found)
            yield found


@contextmanager
def _server(handler: type[socketserver.StreamRequestHandler]) -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def _demo() -> Iterator[str]:
    command = [sys.executable, "-m", "farebox.demo_provider.provider", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline() if process.stdout else ""
            if not said.startswith("demo provider on "):
                raise Broken("the demo provider did not start")
            yield said.split()[-1]
        finally:
            process.terminate()


def _set_up(folder: Path, demo_url: str, other_url: str) -> dict[str, tuple[str, str]]:
    run(folder, "init")
    models = {**dict.fromkeys(_DEMO, "*"), **_OTHERS}
    for slug, model in models.items():
        url = demo_url if slug in _DEMO else other_url
        run(folder, "provider", "set", slug, "--base-url", url, "--api-key", "sk-bench")
        run(folder, "price", "set", slug, model, *_PRICE)
    accounts = {}
    for situation in (ANSWER, *SITUATIONS):
        account = run(folder, "account", "create", "--name", situation)["account_id"]
        token = run(folder, "token", "create", "--account", account, *_PERMITTED)["token"]
        if situation != BALANCE:
            run(folder, "grant", "--account", account, "--amount", "10000000")
        accounts[situation] = account, token
    return accounts


def _limit(place: Place) -> None:
    """Set a daily spending limit and an hourly rate limit."""
    gateways = "/client/v4/accounts/{}/ai-gateway/"
    daily = {"amount": _LIMIT_CENTS, "duration": "daily", "strategy": "fixed"}
    _post(place, gateways + "billing/spending-limit", LIMIT, daily)
    gateway = {
        "id": "default",
        "cache_invalidate_on_update": False,
        "cache_ttl": 0,
        "collect_logs": True,
        **_RATE_LIMIT,
    }
    _post(place, gateways + "gateways", RATE, gateway)


def _post(place: Place, path: str, situation: str, body: dict[str, Any]) -> None:
    account, token = place.accounts[situation]
    request = urllib.request.Request(place.url + path.format(account), json.dumps(body).encode())
    request.add_header("authorization", f"Bearer {token}")
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request) as response:
        response.read()


# The relay ------------------------------------------------------------------------------------------------------------


class Relay(socketserver.StreamRequestHandler):
    """Passes connections on to Farebox, and records the calls."""

    def handle(self) -> None:
        server: Any = self.server
        with socket.create_connection(("127.0.0.1", server.port)) as farebox:
            back = threading.Thread(target=_copy, args=(farebox, self.connection, lambda chunk: None))
            back.start()
            _copy(self.connection, farebox, lambda chunk: server.sent.extend(calls_in(chunk)))
            back.join()


_CALL = re.compile(rb"POST (/(?:v1|client/v4/accounts)/([0-9a-f]{32})/(?!ai-gateway)[^ ]*) HTTP/1.1\r\n")


def calls_in(chunk: bytes) -> list[tuple[str, float, str]]:
    """Account, time and path of the calls whose heads begin in this chunk."""
    now = time.monotonic()
    return [(account.decode(), now, path.decode()) for path, account in _CALL.findall(chunk)]


def _copy(source: socket.socket, sink: socket.socket, look: Callable[[bytes], object]) -> None:
    with contextlib.suppress(OSError):  # either side may leave
        while chunk := source.recv(65_536):
            look(chunk)
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


# Formats that the demo provider does not have -------------------------------------------------------------------------

_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
_BEGUN = {
    "/v2/chat": b'event: message-start\ndata: {"type": "message-start", "id": "c", "delta": {"message": '
    b'{"role": "assistant", "content": []}}}\n\n',
    "/run/": b'data: {"response": "Hel"}\n\n',
    "": b'data: {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "acme-1", "choices": '
    b'[{"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "finish_reason": null}]}\n\n',
}
_WHOLE: dict[str, dict[str, Any]] = {
    "/v2/chat": {
        "id": "c",
        "finish_reason": "COMPLETE",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
        "usage": {"tokens": {"input_tokens": 1, "output_tokens": 1}},
    },
    "/run/": {"result": {"response": "Hello", "usage": _USAGE}, "success": True, "errors": [], "messages": []},
    "": {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": _USAGE,
    },
}
"""Responses, by a part of the path."""


class Provider(socketserver.StreamRequestHandler):
    """Stands in for Cohere and Workers AI: answers, and breaks off every stream after its first event."""

    def handle(self) -> None:
        path, length = self.rfile.readline().split()[1].decode(), 0
        while line := self.rfile.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        asked = json.loads(self.rfile.read(length))
        if asked.get("stream"):
            events = next(events for part, events in _BEGUN.items() if part in path)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            self.wfile.write(head + b"%x\r\n%s\r\n" % (len(events), events))
            return
        body = json.dumps(next(whole for part, whole in _WHOLE.items() if part in path)).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        self.wfile.write(head % len(body) + body)
