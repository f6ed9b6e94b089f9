"""`python -m bench.bare ANSWER TOKEN`: the least that could answer a billing read, to compare Farebox with.

The same server with the same settings, embedded the same way; the token found by its HMAC in a dict, the JSON of file
ANSWER encoded anew each time. No routes, no permissions, no database. Says its port on stdout, and runs until SIGTERM.
"""

import asyncio
import json
import logging
import re
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from farebox.http.server import reserve
from farebox.vault import Vault

_BEARER = re.compile(r"[Bb]earer +([A-Za-z0-9._~+/=-]{1,512})")
_HEADERS = [("content-type", "application/json")]


async def serve(response: object, token: str) -> None:
    vault, encoder = Vault(bytes(32)), msgspec.json.Encoder()
    accounts = {vault.hash_token(token): response}

    async def application(scope: Any, protocol: Any) -> None:
        found = _BEARER.fullmatch(scope.headers.get("authorization") or "")
        shown = None if found is None else accounts.get(vault.hash_token(found.group(1)))
        protocol.response_bytes(401 if shown is None else 200, _HEADERS, encoder.encode(shown))

    reserved = reserve("127.0.0.1", 0)
    port = reserved.getsockname()[1]
    logging.getLogger("_granian").setLevel(logging.ERROR)
    server = Server(
        application,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        backpressure=100_000,
        http1_settings=HTTP1Settings(max_buffer_size=65_536, header_read_timeout=30_000),
        log_enabled=False,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    print(json.dumps({"port": port}), flush=True)
    await server.serve()
    reserved.close()


if __name__ == "__main__":
    uvloop.run(serve(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]))
