#!/bin/bash
# google-genai 3.4.0, given a `base_url` with `http://`, connects a Live session (`client.aio.live.connect`) by TLS all
# the same, at the same host and port; its other calls go there in the clear.
#
# A gateway on the loopback interface or in a private network is therefore reached by every call but these. The code
# sets the scheme of the base URL to `wss` whatever it was.
#
# Guess: `http://` becomes `ws://`, and the first bytes are `GET`.
# Seen:  the first byte is that of a TLS handshake (0x16).
#
# Exits with 0 as long as that is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check google-genai==3.4.0
"$tmp/venv/bin/python" - <<'PYTHON'
import asyncio
from importlib.metadata import version

from google import genai

seen = []


async def note(reader, writer):
    seen.append(await reader.read(3))
    writer.close()


async def main():
    server = await asyncio.start_server(note, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = genai.Client(api_key="the-key", http_options={"base_url": url})
    try:
        async with client.aio.live.connect(model="gemini-live-2.5-flash-preview", config={}):
            pass
    except Exception as error:
        print(f"connect: {type(error).__name__}")
    server.close()


asyncio.run(main())
print(f"google-genai {version('google-genai')}")
print(f"first bytes at an http base URL: {seen[0]!r}")
raise SystemExit(0 if seen[0][:1] == b"\x16" else 1)
PYTHON
