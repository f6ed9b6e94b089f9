"""The operator's page of messages: what was sent to owners and the operator, and sending it again."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from farebox.http.pages.operator_forms import invalid, run_action, text
from farebox.http.pages.table import Fields, Shown
from farebox.http.pages.visit import Visit
from farebox.model import Operator
from farebox.operator import messages as actions
from farebox.operator.messages import with_deliveries
from farebox.storage.deliveries import Delivery, count_given_up
from farebox.storage.notices import latest_notices, list_notices
from farebox.storage.sql import Connection, DatabaseUnavailable

SHOWN: Final = 40
COUNTED: Final = 10_000
"""Most failed deliveries that are counted, and sent again with one click."""


async def sent(visit: Visit) -> Shown:
    """The latest messages with their deliveries; with `of`, only those of that account."""
    of = dict(visit.request.query_pairs()).get("of", "").strip()[:64]

    def read(connection: Connection) -> Shown:
        latest, complete = latest_notices(connection, SHOWN) if not of else ([], True)
        notices = list_notices(connection, of, 0, SHOWN)[0] if of else latest
        messages = [with_deliveries(connection, notice) for notice in notices]
        return {"messages": messages, "complete": complete, "failed": count_given_up(connection, COUNTED + 1)}

    return {"counted": COUNTED, "of": of, "shown": SHOWN, **await visit.services.database.scan(read)}


async def resend(visit: Visit, form: Fields) -> str:
    """Deliver a message again, to its current recipients."""
    services = visit.services
    account_id, notice_id = text(form, "of"), text(form, "message")
    count = await run_action(
        visit,
        lambda connection, by: actions.replay_notice(
            connection, services.settings, account_id, notice_id, services.clock.now_ms(), by=by
        ),
    )
    if count is None:
        raise invalid("This message does not exist")
    if not count:
        return "This message has no recipient: there is no endpoint and no e-mail address for it."
    return _due_again(count)


async def resend_failed(visit: Visit, _: Fields) -> str:
    """Deliver again everything that was given up, part by part; if the database becomes unavailable, what was done
    before is reported."""
    at, count, found = visit.services.clock.now_ms(), 0, actions.AGAIN_AT_ONCE
    while count < COUNTED and found == actions.AGAIN_AT_ONCE:
        try:
            items = await visit.services.database.scan(actions.some_given_up)
            again = await run_action(visit, partial(_retry, items, at))
        except DatabaseUnavailable:
            if not count:
                raise
            return (
                f"{_due_again(count)} The rest was not scheduled because the database is unavailable: try again later."
            )
        count += again
        found = len(items) if again else 0
    return _due_again(count)


def _retry(items: Sequence[Delivery], at: int, connection: Connection, by: Operator) -> int:
    return actions.replay_given_up(connection, items, at, by=by)


def _due_again(count: int) -> str:
    return f"{count:,} {'delivery is' if count == 1 else 'deliveries are'} scheduled again."
