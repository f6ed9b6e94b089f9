"""The style sheet, scripts and icon: files that browsers cache, at addresses that change with their contents."""

import gzip
import hashlib
from functools import cache
from importlib.resources import files

from farebox.errors import NO_ROUTE, Problem
from farebox.http.envelope import Response
from farebox.http.request import Request

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_KEPT = ("cache-control", "public, max-age=31536000, immutable")
_ASKED = ("cache-control", "no-cache")
_SAFE = ("x-content-type-options", "nosniff")


async def asset(request: Request, _: None) -> Response:
    """One file. An address with the current version may be cached forever."""
    name = request.path["name"]
    if name not in _names():
        raise Problem(NO_ROUTE, "This file does not exist")
    body, packed, version = _read(name)
    headers = [_SAFE, ("vary", "accept-encoding"), _KEPT if request.query == f"v={version}" else _ASKED]
    if "gzip" in (request.headers.get("accept-encoding") or ""):
        body = packed
        headers.append(("content-encoding", "gzip"))
    return Response(body, 200, _TYPES[name.rpartition(".")[2]], tuple(headers))


def address_of(name: str) -> str:
    """The file's address on pages."""
    return f"/ui/assets/{name}?v={_read(name)[2]}"


@cache
def _names() -> frozenset[str]:
    return frozenset(each.name for each in files(__package__).joinpath("assets").iterdir())


@cache
def _read(name: str) -> tuple[bytes, bytes, str]:
    """The file, its compressed form, and its version."""
    body = files(__package__).joinpath("assets", name).read_bytes()
    return body, gzip.compress(body, 9, mtime=0), hashlib.sha256(body).hexdigest()[:12]
