#!/bin/bash
# structlog 26.1.0 (PyPI): a log line that cannot be written raises in the code that logs it.
#
# Guess: as with the standard library's logging, whose handlers swallow OSError, a call such as log.info("…") returns
#        whatever happens to the stream; losing a line is the worst that a full disk does to a program.
# Seen:  with PrintLogger, the default, and BytesLogger, the quick one, log.info raises OSError (ENOSPC) where the disk is
#        full, BrokenPipeError where the reader has gone, and ValueError where the stream is closed. A request that was
#        served is answered 500 by its own log line. What could not be written stays in the stream's buffer: the next
#        call raises again.
# A program that must not fail for its log gives structlog a logger of its own that catches these.
#
# Installs structlog into a temporary folder and runs it there. Exits non-zero where the behaviour has changed.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q "structlog==26.1.0"
"$tmp/venv/bin/python" - <<'PYTHON'
import logging
import os
import sys

import structlog


def broken_pipe(mode):
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, mode)


def closed(mode):
    stream = open(os.devnull, mode)
    stream.close()
    return stream


def outcome(log):
    try:
        log()
    except Exception as error:  # what is looked at
        return type(error).__name__
    return "returned"


expected = {"full disk": "OSError", "reader gone": "BrokenPipeError", "closed": "ValueError"}
streams = {"full disk": lambda mode: open("/dev/full", mode), "reader gone": broken_pipe, "closed": closed}
seen = {}
kept = []  # so that no stream is flushed while it is collected
for name, opened in streams.items():
    for logger, mode in ((structlog.PrintLogger, "w"), (structlog.BytesLogger, "wb")):
        stream = opened(mode)
        kept.append(stream)
        line = "a line" if mode == "w" else b"a line"
        seen[name, logger.__name__] = outcome(lambda: logger(stream).info(line))
logging.raiseExceptions = False
stream = open("/dev/full", "w")
kept.append(stream)
handler = logging.StreamHandler(stream)
library = outcome(lambda: handler.handle(logging.makeLogRecord({"msg": "a line", "levelno": logging.INFO})))
print(f"structlog 26.1.0; a log call, by what its stream is like:")
for (name, logger), what in seen.items():
    print(f"  {name:<12} {logger:<12} guess: returned   seen: {what}")
print(f"  full disk    logging      guess: returned   seen: {library}")
same = library == "returned" and all(what == expected[name] for (name, _), what in seen.items())
sys.stdout.flush()
os._exit(0 if same else 1)
PYTHON
