"""nginx as a reverse proxy that reads nothing: the lower bound of any gateway's cost."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.peers.peer import SYSTEM_PATH, Peer, Served, await_health, free_port, running
from bench.served import Broken, Mock

CONFIGURATION = """
worker_processes 1;
daemon off;
pid {folder}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream provider {{
        server 127.0.0.1:{provider};
        keepalive 128;
        keepalive_requests 10000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def _install() -> None:
    if _program() is None:
        raise Broken("it comes from the system: on Debian, `apt-get install nginx-light`")


def _version() -> str | None:
    program = _program()
    if program is None:
        return None
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"nginx/(\S+)", said)
    return found[1] if found else "unknown"


def _program() -> str | None:
    return shutil.which("nginx", path=SYSTEM_PATH)


@contextlib.contextmanager
def _serve(folder: Path, mock: Mock) -> Iterator[Served]:
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(CONFIGURATION.format(folder=folder, port=port, provider=mock.port))
    with running([_program() or "nginx", "-c", file, "-p", folder, "-e", "stderr"], folder) as process:
        served = Served(process.pid, port)
        await_health(process, served, folder, "/stats")
        yield served


PEER = Peer("nginx", "nginx, a reverse proxy that reads nothing", "nothing", _install, _version, _serve)
