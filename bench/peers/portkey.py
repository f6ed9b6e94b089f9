"""Portkey's open gateway, on Node.js."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.peers import install
from bench.peers.peer import PEERS, Peer, Served, await_health, free_port, running
from bench.served import Mock

NAME = "portkey"
VERSION = "1.15.2"
PINS = {"@portkey-ai/gateway": VERSION}
OVERRIDES = {"hono": "4.9.7", "@hono/node-server": "1.13.5"}
"""The versions of its own lock file. With the newest ones every stream fails with 500."""
STAMP = [f"{name}@{version}" for name, version in {**PINS, **OVERRIDES}.items()]

# It has no setting for the address, and would listen on all of them.
LOOPBACK = """
const { Server } = require("node:net");
const { listen } = Server.prototype;
Server.prototype.listen = function (port, host, ...rest) {
    return listen.call(this, port, "127.0.0.1", ...rest);
};
"""


def _install() -> None:
    install.node_packages(NAME, PINS, OVERRIDES)
    install.stamp(NAME, STAMP)


def _version() -> str | None:
    return VERSION if install.is_installed(NAME, STAMP) else None


@contextlib.contextmanager
def _serve(folder: Path, mock: Mock) -> Iterator[Served]:
    port = free_port()
    loopback = folder / "loopback.cjs"
    loopback.write_text(LOOPBACK)
    program = PEERS / NAME / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    command: list[str | Path] = ["node", "--require", loopback, program, f"--port={port}", "--headless"]
    with running(command, folder, NODE_ENV="production") as process:
        headers = (
            "x-portkey-provider: openai",
            f"x-portkey-custom-host: http://127.0.0.1:{mock.port}/v1",
            "authorization: Bearer sk-bench",
        )
        served = Served(process.pid, port, headers=headers)
        await_health(process, served, folder, "/")
        yield served


PEER = Peer(NAME, "Portkey's open gateway (Node.js)", "nothing", _install, _version, _serve)
