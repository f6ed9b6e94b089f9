"""Cloudflare's envelope around the response of a model called through `/ai/run`."""

from typing import Final

from farebox.calls.model import Call

START: Final = b'{"result":'
END: Final = b',"success":true,"errors":[],"messages":[]}'


def in_envelope(call: Call, status: int, body: bytes) -> bytes:
    """The body in the form that the caller expects; errors, and bodies that are not JSON objects, are unchanged."""
    if not call.enveloped or status >= 300 or not body.lstrip().startswith(b"{"):
        return body
    return b"".join((START, body, END))
