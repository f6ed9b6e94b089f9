"""Farebox extension: the state of a gateway's deliveries to other services."""

import msgspec

from farebox.errors import not_found
from farebox.http.control.wire import iso
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.storage.exports import ExportState, GatewayKey, count_waiting, find_state
from farebox.storage.gateways import find_gateway
from farebox.storage.sql import Connection


class Deliveries(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one gateway's deliveries of one kind."""

    gateway_id: str
    waiting: int
    """Number of calls still to be delivered; 10000 stands for that many or more."""
    delivered_at: str | None
    failures: int
    """Failures in a row."""
    error: str | None
    """Why the last attempt failed."""
    next_at: str | None
    """If the last attempt failed: when the next one is made."""


async def meter_events(request: Request, _: None) -> Response:
    """The state of the events for the gateway's Stripe meter."""
    account_id, gateway_id = request.account_id, request.path["gateway_id"]

    def read(connection: Connection) -> Deliveries:
        if find_gateway(connection, account_id, gateway_id) is None:
            raise not_found()
        return deliveries(connection, account_id, find_state(connection, GatewayKey(account_id, gateway_id), "meter"))

    return ok(await request.services.database.scan(read))


def deliveries(connection: Connection, account_id: str, state: ExportState) -> Deliveries:
    return Deliveries(
        gateway_id=state.gateway_id,
        waiting=count_waiting(connection, GatewayKey(account_id, state.gateway_id), state.kind),
        delivered_at=None if state.delivered_at is None else iso(state.delivered_at),
        failures=state.failures,
        error=state.error or None,
        next_at=iso(state.next_at) if state.failures else None,
    )
