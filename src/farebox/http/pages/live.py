"""Live pages: server-sent events for pages whose content changes. Every page works without them.

Writers send no notifications: for each open page, the server reads a few figures every two seconds, and sends only
changes. So calls do no work for this, and while no page is open nothing is done.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from farebox.billing import account_reports
from farebox.calendar import DAY_MS
from farebox.http.envelope import Response, Stream
from farebox.http.exchange import ResponseStream
from farebox.http.pages import calls, labels
from farebox.http.pages.visit import Visit, headers_of_pages
from farebox.identity import sessions
from farebox.storage.call_reports import usage_by_window

POLL_SECONDS = 2.0
ALIVE_SECONDS = 15.0
"""After this long without a change a comment is sent, because proxies close silent connections."""
LASTS_SECONDS = 600.0
"""How long a stream lasts before the browser must reconnect."""
_AGAIN = b"retry: 3000\n\n"

Poll: TypeAlias = Callable[[Visit], Awaitable[str]]
"""Reads what a page shows that may change, as the event's data."""


async def events(visit: Visit) -> Response:
    """The events for the page that the address names. Browsers do not reconnect after a 204."""
    poll = _POLLS.get(dict(visit.request.query_pairs()).get("of", "")) if visit.account_id else None
    if poll is None or (poll is latest and not calls.is_live(visit)):
        return Response(b"", 204, "text/plain", headers_of_pages())
    headers = (*headers_of_pages(), ("x-accel-buffering", "no"))
    return Stream(body=_AGAIN, content_type="text/event-stream", headers=headers, feed=partial(_feed, visit, poll))


async def _feed(visit: Visit, poll: Poll, stream: ResponseStream, gone: Awaitable[None]) -> None:
    """Send changes until the client disconnects, the session ends or changes, or the process stops."""
    person = visit.session.sign_in.email or visit.session.sign_in.session_id
    with visit.services.live_pages.place(visit.account_id, person) as stopped:
        if stopped is None:
            await stream.send(b"event: full\ndata:\n\n")
            return
        ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(gone), asyncio.ensure_future(stopped.wait())]
        try:
            await _send_changes(visit, poll, stream, ends)
        finally:
            for end in ends:
                end.cancel()


async def _send_changes(visit: Visit, poll: Poll, stream: ResponseStream, ends: Sequence[asyncio.Future[Any]]) -> None:
    loop, sent = asyncio.get_running_loop(), ""
    over = loop.time() + LASTS_SECONDS
    silent_since = loop.time()
    while loop.time() < over and await sessions.unchanged(visit.services, visit.session):
        found = await poll(visit)
        if found != sent:
            await stream.send(f"event: change\ndata: {found}\n\n".encode())
        elif loop.time() - silent_since >= ALIVE_SECONDS:
            await stream.send(b":\n\n")
        if found != sent or loop.time() - silent_since >= ALIVE_SECONDS:
            sent, silent_since = found, loop.time()
        done, _ = await asyncio.wait(ends, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return


async def figures(visit: Visit) -> str:
    """The account's balance and what it was charged today, as texts by the names of their places on the page."""
    services, account_id, now = visit.services, visit.account_id, visit.services.clock.now_ms()
    balance = await account_reports.balance(services, account_id)
    day = now - now % DAY_MS
    read = partial(usage_by_window, account_id=account_id, start=day, end=now + 1, window_ms=DAY_MS)
    today = await services.database.scan(read)
    return json.dumps(
        {
            "available": labels.floor_usd(max(0, balance.available)),
            "posted": labels.exact_usd(balance.posted),
            "held": labels.exact_usd(balance.held),
            "today": labels.exact_usd(sum(each.charge for each in today)),
        }
    )


async def latest(visit: Visit) -> str:
    """A text that identifies the beginning of the list of calls; the page fetches the list itself when it changes."""
    return await calls.latest(visit)


_POLLS: dict[str, Poll] = {"overview": figures, "calls": latest}
