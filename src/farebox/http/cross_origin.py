"""Calls from pages of other origins (CORS, in the Fetch standard): which origins may call, and the headers for their
browsers.

Pages send their token in a header, never a cookie, so credentials in the browser's sense are not allowed, and every
response header may be read.
"""

import re
from collections.abc import Collection

from farebox.http.exchange import HeaderList, RequestHeaders

MAX_AGE_SECONDS = 7200
"""How long a browser may cache the response to a preflight request; no browser caches it longer."""
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~ ,-]{1,4096}")


def allowed(origins: Collection[str], origin: str) -> bool:
    """Whether pages of this origin may call."""
    return bool(origins) and ("*" in origins or origin.lower() in origins)


def readable(origin: str) -> HeaderList:
    """Headers that let a page of the origin read a response."""
    return [
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", "*"),
        ("vary", "origin"),
    ]


def preflight(headers: RequestHeaders) -> HeaderList:
    """The response to a browser's preflight request: all methods that providers take, and the headers it names."""
    asked = headers.get("access-control-request-headers") or ""
    response = [
        ("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE"),
        ("access-control-max-age", str(MAX_AGE_SECONDS)),
    ]
    if _NAMES.fullmatch(asked):
        response.append(("access-control-allow-headers", asked))
    return response
