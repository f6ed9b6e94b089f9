"""Cloudflare's envelope around the response of a model that is called by `/ai/run`."""

from typing import Final

from farebox.calls.model import Call

START: Final = b'{"result":'
END: Final = b',"success":true,"errors":[],"messages":[]}'


def in_envelope(call: Call, status: int, body: bytes) -> bytes:
    """The body as its caller expects it; errors, and what is no JSON object, as they are."""
    if not call.enveloped or status >= 300 or not body.lstrip().startswith(b"{"):
        return body
    return b"".join((START, body, END))
