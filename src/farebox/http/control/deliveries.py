"""Farebox extension: how what a gateway sends elsewhere of its calls gets on."""

import msgspec

from farebox.errors import NOT_FOUND, Problem
from farebox.http.control.wire import iso
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.storage.exports import ExportState, GatewayKey, count_waiting, find_state
from farebox.storage.gateways import find_gateway
from farebox.storage.sql import Connection


class Deliveries(msgspec.Struct, frozen=True, kw_only=True):
    """Of one gateway."""

    gateway_id: str
    waiting: int
    """Calls that are still to be delivered; 10000: that many, or more."""
    delivered_at: str | None
    failures: int
    """In a row."""
    error: str | None
    """Why the last attempt failed."""
    next_at: str | None
    """When the next is made, where it failed."""


async def meter_events(request: Request, _: None) -> Response:
    """Of events for the gateway's Stripe meter."""
    account_id, gateway_id = request.account_id, request.path["gateway_id"]

    def read(connection: Connection) -> Deliveries:
        if find_gateway(connection, account_id, gateway_id) is None:
            raise Problem(NOT_FOUND, "Not Found")
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
