#!/bin/bash
# mypyc 2.4.1 compiles a msgspec.Struct without the keywords of its class statement, and says nothing.
#
# A record that is declared `frozen=True, omit_defaults=True` is what a ledger passes around; compiling the module that
# declares it is an obvious way to make a hot path faster.
#
# Guess: the compiled class is configured like the interpreted one, or the compiler refuses it.
# Seen:  it compiles, and `__struct_config__` of the compiled class has frozen False and omit_defaults False: a field can
#        be assigned to, and the JSON has the defaults in it.
#
# Needs a C compiler and Python's headers. Exits with 0 as long as that is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check mypy==2.4.1 msgspec==0.22.0 setuptools==80.9.0
cd "$tmp"
cat > record.py <<'PYTHON'
import msgspec


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    amount: int = 0
PYTHON
cat > ask.py <<'PYTHON'
import sys
from importlib.metadata import version

import msgspec
import record

compiled = record.__file__.endswith(".so")
config = record.Record.__struct_config__
text = msgspec.json.encode(record.Record())
print(f"mypy {version('mypy')}, msgspec {version('msgspec')}, compiled: {compiled}, frozen: {config.frozen}, JSON: {text}")
sys.exit(0 if (compiled, config.frozen, config.omit_defaults) in {(False, True, True), (True, False, False)} else 1)
PYTHON
"$tmp/venv/bin/python" ask.py
"$tmp/venv/bin/mypyc" record.py > mypyc.log 2>&1 || { cat mypyc.log; exit 1; }
"$tmp/venv/bin/python" ask.py
ls record*.so > /dev/null
