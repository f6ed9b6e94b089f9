#!/usr/bin/env bash
# brotli 1.2.1 (PyPI): a bounded decompressor says that it can take more input while it keeps most of its output back.
# Guess from its documentation: once `output_buffer_limit` is reached, `can_accept_more_data()` is False until the rest has
# been drawn by `process(b"")`; so a loop that draws while it is False has everything.
# Seen: after the first of 86 pieces it is True already. Such a loop gets 98,272 of 8,388,608 bytes, and no error. What
# gets everything is to draw until `process(b"")` returns nothing.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install brotli==1.2.1
"$tmp/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import brotli

LIMIT = 65_536
body = b"a" * 2**23
coded = brotli.compress(body)


def by_its_word() -> int:
    decompressor = brotli.Decompressor()
    size = len(decompressor.process(coded, output_buffer_limit=LIMIT))
    while not decompressor.can_accept_more_data():
        size += len(decompressor.process(b"", output_buffer_limit=LIMIT))
    return size


def until_nothing_comes() -> int:
    decompressor = brotli.Decompressor()
    size = len(decompressor.process(coded, output_buffer_limit=LIMIT))
    while piece := decompressor.process(b"", output_buffer_limit=LIMIT):
        size += len(piece)
    return size


told, whole = by_its_word(), until_nothing_comes()
print("brotli", importlib.metadata.version("brotli"))
print(f"expected: {len(body)} bytes by both loops")
print(f"seen: {told} while can_accept_more_data() is False, {whole} until nothing comes")
sys.exit(0 if told < len(body) == whole else 1)
PYTHON
