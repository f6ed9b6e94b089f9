"""Adds what the operator's pages show of a large installation: messages with deliveries, findings, alarms, actions."""

from pathlib import Path
from typing import Final

from bench.engines import Engine
from farebox.calendar import DAY_MS
from farebox.clock import SystemClock
from farebox.model import Operator
from farebox.storage.database import opened_for_command
from farebox.storage.findings import Finding, add_finding
from farebox.storage.operator_actions import record_action
from farebox.storage.operator_alarms import Alarm, put_alarm
from farebox.storage.sql import Connection

FINDINGS, ALARMS, ACTS = 300, 100, 1_000
GIVEN_UP: Final = 100
"""One delivery in this many was given up."""
_BY: Final = Operator("bench@example.com", "page")


def fill_operator(folder: Path, engine: Engine) -> None:
    """Add them to a database that has accounts, with one message for each account."""
    now = SystemClock().now_ms()
    with opened_for_command(engine.settings(folder), writing=True) as connection:
        _messages(connection, now)
        for number in range(FINDINGS):
            named = f"bench:{number}"
            found = Finding(finding_id=named, kind="not_credited", amount_cents=number, detail=named, found_at=now)
            add_finding(connection, found)
        for number in range(ALARMS):
            about = f"bench/{number}"
            put_alarm(connection, Alarm(kind="cost_differs", about=about, content={}, first_at=now, last_at=now))
        for number in range(ACTS):
            record_action(connection, _BY, "credit.grant", now, account_id="bench", after={"amount": number})


def _messages(connection: Connection, now: int) -> None:
    numbered = "(SELECT bucket, account_id, row_number() OVER (ORDER BY account_id) AS number FROM accounts) AS a"
    connection.execute(
        "INSERT INTO notices (bucket, account_id, notice_id, kind, content, created_at, fanned_out) "
        f"SELECT bucket, account_id, 'bench', 'low_balance', '{{}}', number * 1000 + ?, 1 FROM {numbered}",
        (now - 30 * DAY_MS,),
    )
    connection.execute(
        "INSERT INTO deliveries (bucket, account_id, notice_id, target, attempts, delivered_at) "
        "SELECT bucket, account_id, 'bench', 'mailto:bench@example.com', 1, "
        f"CASE WHEN number % {GIVEN_UP} = 0 THEN NULL ELSE number * 1000 + ? END FROM {numbered}",
        (now - 30 * DAY_MS,),
    )
