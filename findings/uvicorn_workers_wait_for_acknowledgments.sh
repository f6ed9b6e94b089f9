#!/usr/bin/env bash
# uvicorn 0.54.0 (PyPI) on CPython's own event loop (--loop asyncio), Linux: what `--workers 2` costs a request.
# Guess: nothing; a second worker only adds processes.
# Seen: on a connection that is kept, each response takes about 40 ms more: 44 ms instead of 0.2. With workers (and with
# --reload or --fd) uvicorn binds the socket itself, with protocol 0; asyncio sets TCP_NODELAY only on sockets whose protocol
# is IPPROTO_TCP, and accepted ones inherit the 0. uvicorn writes head and body separately, so the body waits until the
# client's system acknowledges the head. The same holds for every server that hands asyncio a socket made by
# socket.create_server(): give it IPPROTO_TCP, or set the option on the listener, which its connections inherit.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install uvicorn==0.54.0 h11==0.16.0 httptools==0.9.0
cd "$tmp"
cat > hello.py <<'PYTHON'
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
PYTHON
"$tmp/bin/python" - <<'PYTHON'
import http.client
import importlib.metadata
import socket
import statistics
import subprocess
import sys
import time


def median_ms(*options):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "hello:app", "--port", str(port), "--loop", "asyncio"]
    server = subprocess.Popen([*command, "--log-level", "error", *options])
    try:
        for _ in range(300):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
                break
            except OSError:
                time.sleep(0.1)
        times = []
        for _ in range(40):
            began = time.monotonic()
            connection.request("GET", "/")
            connection.getresponse().read()
            times.append((time.monotonic() - began) * 1000)
        return statistics.median(times)
    finally:
        server.terminate()
        server.wait()


print("uvicorn", importlib.metadata.version("uvicorn"), "on Python", sys.version.split()[0])
one, two = median_ms(), median_ms("--workers", "2")
print(f"one process: {one:.1f} ms a response; --workers 2: {two:.1f} ms")
sys.exit(0 if two > 30 and one < 15 else 1)
PYTHON
