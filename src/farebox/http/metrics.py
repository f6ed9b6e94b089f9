"""`GET /metrics` for Prometheus: on a separate port, or on the main one for requests with the operator's token.

If neither is configured, the page does not exist.
"""

from typing import Any

from farebox.errors import CREDENTIALS_REJECTED, METHOD_NOT_ALLOWED, Problem
from farebox.http.envelope import Response, failure
from farebox.http.exchange import Exchange, RequestHeaders
from farebox.http.refusals import Pages
from farebox.http.request import Request
from farebox.http.router import no_route, tidy_path
from farebox.http.server.state import Handler
from farebox.runtime.services import Services
from farebox.vault import same

PATH = "/metrics"


async def metrics(request: Request, _: Any) -> Response:
    """The metrics on the main port: only if a token is configured, and only with it."""
    token = request.services.settings.metrics_token
    if not token:
        raise no_route(PATH)
    _check(request.headers, token)
    return await _page(request.services, request.headers)


def at_own_port(services: Services) -> Handler:
    """The handler of the separate port. A configured token is required there, too."""
    token = services.settings.metrics_token

    async def handle(exchange: Exchange) -> None:
        try:
            if tidy_path(exchange.path) != PATH:
                raise no_route(exchange.path)
            if exchange.method not in ("GET", "HEAD"):
                raise Problem(METHOD_NOT_ALLOWED, "Metrics are available only by GET.")
            if token:
                _check(exchange.headers, token)
            response = await _page(services, exchange.headers)
        except Problem as problem:
            response = failure(problem, Pages("", ""))
        exchange.respond(response.status, [("content-type", response.content_type), *response.headers], response.body)

    return handle


def _check(headers: RequestHeaders, token: str) -> None:
    """Raises Problem (CREDENTIALS_REJECTED) unless the request brings the token: `Authorization: Bearer …`."""
    scheme, _, brought = (headers.get("authorization") or "").partition(" ")
    right = same(brought.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not right:
        raise Problem(CREDENTIALS_REJECTED, "The token is not the one for metrics (FAREBOX_METRICS_TOKEN)")


async def _page(services: Services, headers: RequestHeaders) -> Response:
    from farebox.metrics.exposition import render  # loads prometheus-client only at the first scrape

    counts, database = services.metrics, services.database
    figures = await counts.figures.now(database, services.clock)
    counts.sample()
    body, content_type = render(
        counts.places,
        figures,
        engine=database.engine,
        now_ms=services.clock.now_ms(),
        accept=headers.get("accept"),
    )
    return Response(body, content_type=content_type)
