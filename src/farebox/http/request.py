"""What a handler of the control plane receives: an authenticated request with a parsed path."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from farebox.errors import BODY_LATE, Problem
from farebox.http.exchange import Exchange, RequestHeaders
from farebox.http.validation import invalid
from farebox.model import Caller
from farebox.runtime.services import Services
from farebox.settings import Settings

_PARAMETERS_MAX = 500
BODY_MAX = 64 * 1024
"""Maximum bytes of a control-plane body: it is parsed on the event loop, whatever it contains."""


@dataclass(frozen=True, slots=True)
class Request:
    services: Services
    headers: RequestHeaders
    path: Mapping[str, str]
    """The path's parameters by name, percent-decoded."""
    query: str
    caller: Caller | None
    """None on routes that anyone may call, and on those whose handler checks the credentials itself."""
    body: bytes = b""
    """The raw body, only on routes with a `raw_limit`."""
    client: str = ""
    """The client's address, as far as it is known."""
    encrypted: bool = False
    """Whether the client used TLS."""
    data_plane: Callable[[Exchange], Awaitable[None] | None] | None = None
    """Serves model calls; for the page that makes one."""

    @property
    def account_id(self) -> str:
        return self.path["account_id"]

    def query_pairs(self) -> list[tuple[str, str]]:
        """The query's parameters in order, without blank ones. Raises InvalidInput if there are too many."""
        return parse_query(self.query)

    def form(self) -> dict[str, str]:
        """The fields of an HTML form (`application/x-www-form-urlencoded`), on a route with a `raw_limit`.

        Blank fields are kept. Raises InvalidInput if the body is not a form.
        """
        kind = (self.headers.get("content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise invalid("Expected application/x-www-form-urlencoded", "body")
        try:
            text = self.body.decode("ascii")
            return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_PARAMETERS_MAX, errors="strict"))
        except ValueError as error:
            raise invalid("The form cannot be read", "body") from error

    def cookie(self, name: str) -> str | None:
        """The value of a cookie that the browser sent; other cookies of the host may be malformed."""
        for pair in (self.headers.get("cookie") or "").split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name:
                return value
        return None


def parse_query(query: str) -> list[tuple[str, str]]:
    """Percent-decoded pairs in order, without blank ones. Raises InvalidInput if there are too many."""
    if not query:
        return []
    try:
        return parse_qsl(query, max_num_fields=_PARAMETERS_MAX)
    except ValueError as error:
        raise invalid(f"At most {_PARAMETERS_MAX} query parameters are read", "query") from error


async def whole_body(exchange: Exchange, settings: Settings, limit: int = BODY_MAX) -> bytes:
    """The request body, up to this limit.

    Raises Problem: BODY_TOO_LARGE, or BODY_LATE if a client sends it too slowly; ACCOUNT_BYTES_FULL or
    SERVER_BYTES_FULL if there is no room for it.
    """
    try:
        async with asyncio.timeout(settings.read_timeout_ms / 1000):
            return await exchange.body(limit)
    except TimeoutError as error:
        raise Problem(BODY_LATE, "The request body did not arrive in time") from error
