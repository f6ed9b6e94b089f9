"""Starts the proxies of docs/proxies.md with the configurations on that page."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.support import free_port

PAGE = Path(__file__).parents[2] / "docs" / "proxies.md"
START_SECONDS = 30.0

_HERE, _THERE = "8080", "127.0.0.1:8787"
"""The ports on the page: those of the proxies, and Farebox's."""


@dataclass(frozen=True)
class Proxy:
    """One program. `lay_out` gets its path, the page's blocks with this run's addresses, and a folder; it writes the
    program's configuration, and returns the command that runs it in the foreground."""

    title: str
    """The page's heading."""
    programs: tuple[str, ...]
    """Possible names of the program."""
    lay_out: Callable[[str, list[str], Path], list[str]]
    source: str
    """How to install it."""

    @property
    def path(self) -> str | None:
        """The program, if it is installed; programs from PyPI are next to Python."""
        search = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", str(Path(sys.executable).parent)))
        return next(filter(None, (shutil.which(name, path=search) for name in self.programs)), None)

    @contextlib.contextmanager
    def running(
        self, farebox_url: str, folder: Path, *, port: int = 0, edit: Callable[[str], str] = str
    ) -> Iterator[str]:
        """Run the proxy in front of this Farebox; its URL. `edit` changes the page's configuration."""
        assert self.path is not None
        folder.mkdir(parents=True, exist_ok=True)
        port = port or free_port()
        blocks = [edit(_moved(block, port, farebox_url)) for block in blocks_of(self.title)]
        command = self.lay_out(self.path, blocks, folder)
        environment = dict(os.environ, HOME=str(folder), XDG_DATA_HOME=str(folder), XDG_CONFIG_HOME=str(folder))
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url, folder / "output")
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def blocks_of(title: str) -> list[str]:
    """The configuration blocks under a heading of the page."""
    section = PAGE.read_text().partition(f"\n### {title}\n")[2].partition("\n### ")[0]
    return re.findall(r"^```\w+\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def _moved(block: str, port: int, farebox_url: str) -> str:
    """The block with this run's addresses. Fails if an address of the page appears in an unknown form."""
    address = urlsplit(farebox_url)
    assert address.port is not None
    block = re.sub(rf"(?<!\d){_HERE}(?!\d)", str(port), block)
    block = block.replace(_THERE, f"{address.hostname}:{address.port}")
    return re.sub(r"(?<!\d)8787(?!\d)", str(address.port), block)


def _wait(process: "subprocess.Popen[bytes]", url: str, output: Path) -> None:
    """Wait until Farebox answers through the proxy."""
    end = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, output.read_text()[-3000:]
        assert time.monotonic() < end, output.read_text()[-3000:]
        with contextlib.suppress(httpx.HTTPError):
            response = httpx.get(f"{url}/healthz", timeout=5)
            unread = response.text == "404 page not found\n"  # Traefik's response before it has read its routes
            if response.status_code in (200, 404) and not unread:
                return
        time.sleep(0.02)


# --- additions to the page's configuration for each program -----------------------------------------------------------


def _written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def _nginx(program: str, blocks: list[str], folder: Path) -> list[str]:
    places = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("proxy", "client_body", "fastcgi", "uwsgi", "scgi")
    )
    text = (
        f"{'user root;' if _root() else ''} daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {places}\n{blocks[0]}}}\n"
    )
    return [program, "-p", str(folder), "-e", "stderr", "-c", _written(folder, "nginx.conf", text)]


def _haproxy(program: str, blocks: list[str], folder: Path) -> list[str]:
    return [program, "-db", "-f", _written(folder, "haproxy.cfg", blocks[0])]


def _apache(program: str, blocks: list[str], folder: Path) -> list[str]:
    modules = ("mpm_event", "authz_core", "headers", "proxy", "proxy_http")
    port = re.search(r":(\d+)>", blocks[0])
    assert port is not None
    lines = [f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in modules]
    lines += [f"ServerRoot {folder}", f"PidFile {folder}/pid", "ErrorLog /dev/stderr", f"DefaultRuntimeDir {folder}"]
    lines += ["ServerName localhost", f"Listen 127.0.0.1:{port[1]}", "StartServers 1"]
    lines += ["User nobody", "Group nogroup"] if _root() else []
    return [program, "-D", "FOREGROUND", "-f", _written(folder, "apache.conf", "\n".join([*lines, blocks[0]]))]


def _caddy(program: str, blocks: list[str], folder: Path) -> list[str]:
    text = "{\n\tadmin off\n\tauto_https off\n}\n" + blocks[0]
    return [program, "run", "--adapter", "caddyfile", "--config", _written(folder, "Caddyfile", text)]


def _envoy(program: str, blocks: list[str], folder: Path) -> list[str]:
    file = _written(folder, "envoy.yaml", blocks[0])
    return [program, "-c", file, "--disable-hot-restart", "--log-level", "warning", "--concurrency", "1"]


def _traefik(program: str, blocks: list[str], folder: Path) -> list[str]:
    _written(folder, "farebox.yaml", blocks[1])
    return [program, f"--configFile={_written(folder, 'traefik.yaml', blocks[0])}"]


def _varnish(program: str, blocks: list[str], folder: Path) -> list[str]:
    _written(folder, "farebox.vcl", blocks[0])
    _, *arguments = blocks[1].split()
    arguments[arguments.index("farebox.vcl")] = str(folder / "farebox.vcl")
    return [program, "-F", "-j", "none", "-n", str(folder / "work"), *arguments]


def _lighttpd(program: str, blocks: list[str], folder: Path) -> list[str]:
    text = f'server.bind = "127.0.0.1"\n{blocks[0].replace("/var/empty", str(folder))}'
    return [program, "-D", "-f", _written(folder, "lighttpd.conf", text)]


def _root() -> bool:
    return os.geteuid() == 0


PROXIES = (
    Proxy("nginx", ("nginx",), _nginx, "Debian: nginx"),
    Proxy("HAProxy", ("haproxy",), _haproxy, "Debian: haproxy"),
    Proxy("Apache", ("apache2", "httpd"), _apache, "Debian: apache2"),
    Proxy("Caddy", ("caddy",), _caddy, "Debian: caddy"),
    Proxy("Envoy", ("envoy",), _envoy, "`make proxies` installs it"),
    Proxy("Traefik", ("traefik",), _traefik, "`make proxies` installs it"),
    Proxy("Varnish", ("varnishd",), _varnish, "Debian: varnish"),
    Proxy("lighttpd", ("lighttpd",), _lighttpd, "Debian: lighttpd"),
)
