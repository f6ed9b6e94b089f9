"""`python -m bench.bare SERVER ANSWER TOKEN`: the smallest possible server for a billing read, as a baseline.

SERVER is `granian`, a server written in Rust, or `farebox`, Farebox's own. It looks the token up by its HMAC in a dict,
and encodes the JSON of the file ANSWER for each response. No routes, no permissions, no database. Prints its port on
stdout, and runs until SIGTERM.
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

from farebox.http.exchange import Exchange
from farebox.http.server import reserve, serve
from farebox.vault import Vault

_BEARER = re.compile(r"[Bb]earer +([A-Za-z0-9._~+/=-]{1,512})")
_HEADERS = [("content-type", "application/json")]


class Balance:
    """Maps an Authorization header to a status and a response body."""

    def __init__(self, response: object, token: str) -> None:
        self._vault, self._encoder = Vault(bytes(32)), msgspec.json.Encoder()
        self._accounts = {self._vault.hash_token(token): response}

    def read(self, authorization: str | None) -> tuple[int, bytes]:
        found = _BEARER.fullmatch(authorization or "")
        shown = None if found is None else self._accounts.get(self._vault.hash_token(found.group(1)))
        return 401 if shown is None else 200, self._encoder.encode(shown)


async def on_granian(balance: Balance) -> None:
    async def application(scope: Any, protocol: Any) -> None:
        status, body = balance.read(scope.headers.get("authorization"))
        protocol.response_bytes(status, _HEADERS, body)

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


async def on_farebox(balance: Balance) -> None:
    async def handle(exchange: Exchange) -> None:
        status, body = balance.read(exchange.head.headers.get("authorization"))
        exchange.respond(status, _HEADERS, body)

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = await serve(handle, "127.0.0.1", 0)
    print(json.dumps({"port": server.port}), flush=True)
    await stopped.wait()
    await server.close()


SERVERS = {"granian": on_granian, "farebox": on_farebox}

if __name__ == "__main__":
    uvloop.run(SERVERS[sys.argv[1]](Balance(json.loads(Path(sys.argv[2]).read_text()), sys.argv[3])))
