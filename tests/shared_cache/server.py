"""A Valkey or Redis server for tests: on a free loopback port, with a password and without files."""

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import redis

from tests.support import free_port
from tests.waiting import until

PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")
PASSWORD = "s3cret-of-the-tests"


@dataclass
class CacheServer:
    """A server that can be killed and restarted."""

    folder: Path
    port: int
    tls: list[str] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"valkey://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert PROGRAM is not None
        port = self.tls or ["--port", str(self.port)]
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--requirepass", PASSWORD]
        command = [PROGRAM, *port, *options, "--dir", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        client = redis.Redis(host="127.0.0.1", port=self.port, password=PASSWORD)
        try:
            yield client
        finally:
            client.close()

    def entries(self) -> dict[bytes, bytes]:
        """The stored entries of responses, by key."""
        with self.client() as client:
            names = [name for name in cast("list[bytes]", client.keys("*")) if client.type(name) == b"string"]
            return {name: cast(Any, client.get(name)) for name in names}

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


@contextlib.contextmanager
def cache_server(*tls: str) -> Iterator[CacheServer]:
    """Run a server until the block ends. `tls`: extra options that make it accept only TLS."""
    with tempfile.TemporaryDirectory(prefix="farebox-cache-") as folder:
        port = free_port()
        options = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", *tls] if tls else []
        server = CacheServer(Path(folder), port, options)
        server.start()
        try:
            yield server
        finally:
            server.stop()
