#!/bin/bash
# msgspec 0.22.0 fills a large Struct much more slowly by name than by position, and the more fields, the worse.
#
# A record of a call or a receipt has 27 fields, and naming them is what reads well. It was the largest single cost of
# building one.
#
# Guess: arguments by name cost a little more than by position, by the same factor whatever the number of fields.
# Seen:  with 4 fields about twice, with 27 about 25 times, with 54 about 75 times: each name is looked for among all.
#
# Exits with 0 as long as 27 named fields cost at least 8 times what they do by position, and 4 at most 5 times.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check msgspec==0.22.0
"$tmp/venv/bin/python" - <<'PYTHON'
import timeit
from importlib.metadata import version

import msgspec


def nanoseconds(code, **names):
    return min(timeit.repeat(code, globals=names, number=20_000, repeat=7)) / 20_000 * 1e9


print(f"msgspec {version('msgspec')}")
factors = {}
for size in (4, 27, 54):
    fields = [f"field_{number}" for number in range(size)]
    record = msgspec.defstruct("Record", [(name, int) for name in fields])
    by_name = nanoseconds(f"record({', '.join(f'{name}=1' for name in fields)})", record=record)
    by_position = nanoseconds(f"record({', '.join('1' for _ in fields)})", record=record)
    factors[size] = by_name / by_position
    print(f"{size} fields: by name {by_name:.0f} ns, by position {by_position:.0f} ns, {factors[size]:.0f} times")
assert factors[27] >= 8
assert factors[4] <= 5
PYTHON
