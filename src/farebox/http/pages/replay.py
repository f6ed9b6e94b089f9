"""Snippets that repeat a call, to be pasted into a terminal or a program."""

import json
import shlex

import msgspec

from farebox.gateway import gateway_path
from farebox.storage.calls import CallRow

_BODY_MAX = 16_384
"""A longer body gets no snippets."""


def snippets(base_url: str, call: CallRow) -> list[tuple[str, str]]:
    """How to send the call again: the name of a language, and the text. Empty if its request was not stored."""
    if call.request_body is None or len(call.request_body) > _BODY_MAX or not call.detail.path:
        return []
    url = f"{base_url}{gateway_path(call.account_id, call.gateway_id)}/{call.provider}/{call.detail.path.lstrip('/')}"
    body = pretty(call.request_body)
    return [("curl", _curl(url, body)), ("Python", _python(url, body)), ("TypeScript", _typescript(url, body))]


def pretty(body: bytes) -> str:
    """JSON, indented; anything else unchanged."""
    try:
        return msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode(errors="replace")


def _curl(url: str, body: str) -> str:
    return (
        f'curl {shlex.quote(url)} \\\n  -H "cf-aig-authorization: Bearer $TOKEN" \\\n'
        f"  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(body)}"
    )


def _python(url: str, body: str) -> str:
    return (
        "import os\n\nimport httpx\n\n"
        f"answer = httpx.post(\n    {json.dumps(url)},\n"
        '    headers={"cf-aig-authorization": f"Bearer {os.environ[\'TOKEN\']}", "content-type": "application/json"},\n'
        f"    content={body!r}.encode(),\n    timeout=600,\n)\nprint(answer.text)"
    )


def _typescript(url: str, body: str) -> str:
    return (
        f'const answer = await fetch({json.dumps(url)}, {{\n  method: "POST",\n'
        '  headers: { "cf-aig-authorization": `Bearer ${process.env.TOKEN}`, "content-type": "application/json" },\n'
        f"  body: {json.dumps(body)},\n}});\nconsole.log(await answer.text());"
    )
