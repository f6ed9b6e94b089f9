"""Where the processor's webhooks arrive: `POST /webhooks/stripe`, open to anyone, authenticated by signature."""

from farebox.billing import processor_events
from farebox.http.envelope import Response, plain
from farebox.http.request import Request

BODY_LIMIT = 2**18
"""Maximum bytes of a webhook; events have a few thousand, and anyone may send one. For the route's `raw_limit`."""


async def stripe(request: Request, _: None) -> Response:
    """Store the event and acknowledge it; it is processed afterwards."""
    await processor_events.receive(request.services, request.body, request.headers.get("stripe-signature") or "")
    return plain({"received": True})
