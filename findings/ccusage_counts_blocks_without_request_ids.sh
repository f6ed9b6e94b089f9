#!/usr/bin/env bash
# ccusage 20.0.24 (npm): the tokens and the cost that `ccusage daily` states of the log of Claude Code.
# Guess: 2,000 tokens in and 200 out, for two messages of 1,000 and 100: each message has an ID of its own (`msg_…`).
# Seen: that is so if the lines have a `requestId`. Without it, ccusage states 4,000 in, 400 out, and twice the cost: Claude Code writes a
# line for each block of a message, each with the usage of the whole message (here a text and two tool calls, then a text), and
# ccusage takes lines for one message only if they have a request ID as well. The ID is the header `request-id` of the response,
# which Anthropic sends, and many servers and gateways with the same API do not; Claude Code 2.1.197 then writes lines without one.
# Claude Code's own `total_cost_usd` is right in both cases. The lines below are shortened from such logs.
# Needs npm and python3. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" ccusage@20.0.24 >/dev/null
python3 - "$tmp" <<'PYTHON'
import json
import os
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(sys.argv[1])
SESSION = "6edea15e-97c0-44d0-80a1-04b528884d69"
USAGE = {"input_tokens": 1000, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 100}
MESSAGES = {"msg_1": ("text", "tool_use", "tool_use"), "msg_2": ("text",)}
TEXT = {"type": "text", "text": "Hello."}


def block(kind, number):
    tool = {"type": "tool_use", "id": f"toolu_{number}", "name": "Bash", "input": {"command": f"echo {number}"}}
    return TEXT if kind == "text" else tool


def lines(with_ids):
    number = 0
    for message_id, kinds in MESSAGES.items():
        for kind in kinds:
            number += 1
            message = {"id": message_id, "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
            message |= {"content": [block(kind, number)], "stop_reason": None, "usage": USAGE}
            line = {"type": "assistant", "sessionId": SESSION, "version": "2.1.197", "cwd": "/srv/project"}
            line |= {"uuid": f"dcb3200f-73be-44f6-9793-ae762f55842{number}", "message": message}
            line["timestamp"] = f"2026-12-01T12:00:0{number}.000Z"
            yield line | ({"requestId": f"req_of_{message_id}"} if with_ids else {})


def stated(home, with_ids):
    """What ccusage states of a log."""
    log = home / ".claude" / "projects" / "-srv-project" / f"{SESSION}.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines(with_ids)))
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude")}
    command = [FOLDER / "node_modules" / ".bin" / "ccusage", "daily", "--json", "--offline"]
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=300)
    total = json.loads(done.stdout)["totals"]
    return total["inputTokens"], total["outputTokens"], round(total["totalCost"], 6)


print("ccusage 20.0.24; expected: 2000 in, 200 out, 0.009 USD")
seen = []
for with_ids in (True, False):
    seen.append(stated(FOLDER / str(with_ids), with_ids))
    print("lines %s requestId: %d in, %d out, %s USD" % ("with" if with_ids else "without", *seen[-1]))
sys.exit(0 if seen == [(2000, 200, 0.009), (4000, 400, 0.018)] else 1)
PYTHON
