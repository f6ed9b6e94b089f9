#!/usr/bin/env bash
# fal-client 1.0.3 (PyPI): how many pictures `fal_client.run(…, timeout=1)` orders from a model that takes longer than a second.
# Guess: one. `timeout` is documented as the "client-side HTTP timeout in seconds", so the call raises after it; and a POST that
# may have been carried out is not repeated by itself.
# Seen: a time limit that has passed counts as a failure of the network, and those are repeated: the same POST goes out ten
# times, without a key by which the ten could be identified as one request, and the exception comes after the tenth. So does a connection
# that ends while the picture is made. A server that finishes what it has begun bills each. With `start_timeout` besides (a
# header that asks the server to give up), there is one request. Its pauses between requests are shortened here.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install fal-client==1.0.3 trustme==1.2.1
"$tmp/bin/python" - "$tmp" <<'PYTHON'
import http.server
import importlib.metadata
import os
import ssl
import sys
import threading
import time

import trustme

orders = []
slow = True


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        orders.append({name.lower() for name in self.headers})
        if slow:
            time.sleep(3)  # it works on the picture; the client has gone by then
        self.connection.close()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # clients that have gone


authority = trustme.CA()
authority.cert_pem.write_to_path(f"{sys.argv[1]}/authority.pem")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("127.0.0.1").configure_cert(context)
server = Server(("127.0.0.1", 0), Provider)
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ |= {"FAL_KEY": "none", "FAL_RUN_HOST": f"127.0.0.1:{server.server_port}", "SSL_CERT_FILE": f"{sys.argv[1]}/authority.pem"}
import fal_client.client

fal_client.client.MAX_DELAY = 0.2  # seconds: its pauses between the requests, shortened
print("fal-client", importlib.metadata.version("fal-client"))
print("expected: one request each")
seen = {}
for name, slow, limits in (
    ("timeout=1", True, {"timeout": 1}),
    ("the connection ends", False, {}),
    ("timeout=1.5, start_timeout=2", True, {"timeout": 1.5, "start_timeout": 2}),
):
    orders.clear()
    try:
        fal_client.run("fal-ai/flux/dev", arguments={"prompt": "A harbour"}, **limits)
    except Exception as error:
        print(f"{name}: {len(orders)} requests, then {type(error).__name__}")
    seen[name] = len(orders), any("idempotency-key" in names for names in orders)
sys.exit(0 if list(seen.values()) == [(10, False), (10, False), (1, False)] else 1)
PYTHON
