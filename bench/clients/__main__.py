"""`python -m bench.clients`: what the official SDKs do, and show, when Farebox refuses a call or a stream breaks off.

Each client is installed, in the version named here, into a temporary environment of its own from the package index, and
driven against a Farebox of the bench's own, behind which a provider answers, or breaks off in the middle of a stream.
Prints the table, and writes it into docs/clients.md; bench/results/clients.json has what was shown in full. Takes about
three minutes. The exit status is 0 if every client raised in every situation.
"""

import argparse
import contextlib
import json
import re
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import urllib.request
import venv
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.record import ROOT, shown, write
from bench.served import Broken, Farebox, run, serving
from bench.tables import markdown
from farebox.model import Permission

CLIENTS = {
    "openai": "openai==3.57.0",
    "openai_responses": "openai==3.57.0",
    "anthropic": "anthropic==2.14.0",
    "google_genai": "google-genai==3.6.1",
    "groq": "groq==1.7.0",
    "mistral": "mistralai==3.7.0",
    "cohere": "cohere==7.3.1",
    "litellm": "litellm==1.110.2",
    "langchain_openai": "langchain-openai==1.7.4",
}
"""Function of bench.clients.probe, and what it needs."""
PROVIDERS = ("openai", "anthropic", "google-ai-studio", "groq", "mistral", "cohere")
SITUATIONS = ("empty balance", "spending limit", "rate limit", "cut stream")
PAGE = ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- clients -->\n", "<!-- /clients -->"
SHOWN_MAX = 160
PERMITTED = [word for permission in Permission for word in ("--permission", permission.value)]
PROBE = Path(__file__).with_name("probe.py")

EVENTS = {
    "/messages": b'event: message_start\ndata: {"type": "message_start", "message": {"id": "m", "type": "message", '
    b'"role": "assistant", "model": "acme-1", "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}}}\n\n',
    "Content": b'data: {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hel"}]}, "index": 0}]}\n\n',
    "/responses": b'event: response.created\ndata: {"type": "response.created", "sequence_number": 0, "response": '
    b'{"id": "r", "object": "response", "status": "in_progress", "model": "acme-1", "output": []}}\n\n',
    "/v2/chat": b'event: message-start\ndata: {"type": "message-start", "id": "c", "delta": {"message": '
    b'{"role": "assistant", "content": []}}}\n\n',
    "": b'data: {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "acme-1", "choices": '
    b'[{"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "finish_reason": null}]}\n\n',
}
"""How a stream begins, by what its path contains."""


class Provider(socketserver.StreamRequestHandler):
    """Begins every response as a stream of events, and ends the connection in the middle of it."""

    def handle(self) -> None:
        path, length = self.rfile.readline().split()[1].decode(), 0
        while line := self.rfile.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        self.rfile.read(length)
        events = next(events for part, events in EVENTS.items() if part in path)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self.wfile.write(head + b"%x\r\n%s\r\n" % (len(events), events))


@contextmanager
def provider() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Provider) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class Relay(socketserver.StreamRequestHandler):
    """Passes connections on to Farebox, and counts the calls of each account."""

    def handle(self) -> None:
        server: Any = self.server
        with socket.create_connection(("127.0.0.1", server.port)) as farebox:
            back = threading.Thread(target=copy, args=(farebox, self.connection, lambda chunk: None))
            back.start()
            copy(self.connection, farebox, lambda chunk: server.calls.update(_CALL.findall(chunk)))
            back.join()


def copy(source: socket.socket, sink: socket.socket, look: Callable[[bytes], object]) -> None:
    with contextlib.suppress(OSError):  # either side may leave
        while chunk := source.recv(65_536):
            look(chunk)
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


_CALL = re.compile(rb"POST /v1/([^/]+)/")


@contextmanager
def relay(port: int) -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as server:
        server.daemon_threads = True
        server.port, server.calls = port, Counter[bytes]()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def set_up(folder: Path, base_url: str) -> dict[str, tuple[str, str]]:
    """An account (ID, token) for each situation."""
    run(folder, "init")
    for slug in PROVIDERS:
        run(folder, "provider", "set", slug, "--base-url", base_url, "--api-key", "sk-bench")
        run(folder, "price", "set", slug, "acme-1", "--input", "1000000", "--output", "1", "--output-max", "100")
    accounts = {}
    for situation in SITUATIONS:
        account = run(folder, "account", "create", "--name", situation)["account_id"]
        token = run(folder, "token", "create", "--account", account, *PERMITTED)["token"]
        if situation != "empty balance":
            run(folder, "grant", "--account", account, "--amount", "1000000")
        accounts[situation] = account, token
    return accounts


def limit(served: Farebox, accounts: dict[str, tuple[str, str]]) -> None:
    """A spending limit of a dollar a day, where a token costs one; and a rate limit of an hour that is used up."""

    def post(path: str, situation: str, body: dict[str, Any], method: str = "POST") -> None:
        account, token = accounts[situation]
        request = urllib.request.Request(f"http://127.0.0.1:{served.port}{path.format(account)}", method=method)
        request.add_header("authorization", f"Bearer {token}")
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, json.dumps(body).encode()) as response:
            response.read()

    gateways = "/client/v4/accounts/{}/ai-gateway/"
    daily = {"amount": 100, "duration": "daily", "strategy": "fixed"}
    post(gateways + "billing/spending-limit", "spending limit", daily)
    hourly = {"rate_limiting_limit": 1, "rate_limiting_interval": 3600, "rate_limiting_technique": "fixed"}
    gateway = {"id": "default", "cache_invalidate_on_update": False, "cache_ttl": 0, "collect_logs": True, **hourly}
    post(gateways + "gateways", "rate limit", gateway)
    chat = {"model": "acme-1", "messages": [{"role": "user", "content": "x"}], "stream": True}
    post("/v1/{}/default/openai/chat/completions", "rate limit", chat)


def observe(folder: Path, name: str, places: dict[str, Any]) -> dict[str, Any]:
    """What this client did in each situation."""
    home = folder / f"env-{name}"
    venv.create(home, with_pip=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", CLIENTS[name]], check=True, stderr=subprocess.DEVNULL)
    request = json.dumps({"client": name, "situations": places})
    command = [home / "bin" / "python", PROBE]
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise Broken(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


_HEADERS = re.compile(r"headers: \{.*?\}, ")
"""Cohere's SDK shows all of them."""


def cell(found: dict[str, Any]) -> str:
    text = " ".join(_HEADERS.sub("", found["shown"]).split()).replace("|", "\\|")
    short = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"
    return f"{found['requests']} in {found['seconds']} s: `{short}`"


def table(rows: list[dict[str, Any]]) -> str:
    lines = [[f"`{row['version']}`{row['note']}", *(cell(row["found"][name]) for name in SITUATIONS)] for row in rows]
    return markdown(("client", *SITUATIONS), lines)


def measure(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    rows = []
    with provider() as base_url:
        accounts = set_up(folder, base_url)
        with serving(folder, folder / "targets") as served, relay(served.port) as counted:
            limit(served, accounts)
            for name in names:
                counted.calls.clear()
                url = f"http://127.0.0.1:{counted.server_address[1]}/v1"
                places = {key: {"base": f"{url}/{ID}/default", "token": token} for key, (ID, token) in accounts.items()}
                note = " Responses" if name.endswith("responses") else ""
                found = observe(folder, name, places)
                for situation, (account, _) in accounts.items():
                    found[situation]["requests"] = counted.calls[account.encode()]
                rows.append({"client": name, "version": CLIENTS[name].replace("==", " "), "note": note, "found": found})
                print(f"{name}: " + "; ".join(cell(found[situation]) for situation in SITUATIONS), flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.clients", description=__doc__)
    parser.add_argument("--only", choices=CLIENTS, action="append", help="this client; the page is not written then")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory(prefix="farebox-clients-") as folder:
        try:
            rows = measure(Path(folder), only or list(CLIENTS))
        except Broken as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    if only is None:
        head, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{table(rows)}\n\n{END}{rest.partition(END)[2]}")
        print(f"written: {shown(write('clients', rows))}, {shown(PAGE)}")
    return int(any(found["shown"].startswith("no error") for row in rows for found in row["found"].values()))


if __name__ == "__main__":
    sys.exit(main())
