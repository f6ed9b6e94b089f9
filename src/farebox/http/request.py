"""What a handler of the control plane is given: an authenticated request whose path has been understood."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from farebox.errors import BODY_LATE, Problem
from farebox.http.exchange import Exchange, RequestHeaders
from farebox.http.validation import invalid
from farebox.model import Caller
from farebox.settings import Settings
from farebox.usecases.services import Services

_PARAMETERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Request:
    services: Services
    headers: RequestHeaders
    path: Mapping[str, str]
    """The path's parameters by name, percent-decoded."""
    query: str
    caller: Caller | None
    """None on routes that anyone may call, and where the handler itself judges the credentials."""

    @property
    def account_id(self) -> str:
        return self.path["account_id"]

    def query_pairs(self) -> list[tuple[str, str]]:
        """The query's parameters in order, blank ones left out. Raises InvalidInput where there are too many."""
        return parse_query(self.query)


def parse_query(query: str) -> list[tuple[str, str]]:
    """Percent-decoded pairs in order, blank ones left out. Raises InvalidInput where there are too many."""
    if not query:
        return []
    try:
        return parse_qsl(query, max_num_fields=_PARAMETERS_MAX)
    except ValueError as error:
        raise invalid(f"At most {_PARAMETERS_MAX} query parameters are read", "query") from error


async def whole_body(exchange: Exchange, settings: Settings) -> bytes:
    """The request body. Raises Problem: BODY_TOO_LARGE, or BODY_LATE where a client sends it too slowly."""
    try:
        async with asyncio.timeout(settings.read_timeout_ms / 1000):
            return await exchange.body(settings.body_limit_bytes)
    except TimeoutError as error:
        raise Problem(BODY_LATE, "The request body did not arrive in time") from error
