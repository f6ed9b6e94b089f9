"""Checks that our books and the fake Stripe's agree to the cent, at the end of every test that touched both.

`agree(services, fake_url)` from a thread next to the server (with `running_farebox`), `await agreed(…)` inside a loop.
Both read committed state only, on connections of their own, and raise AssertionError that names each difference.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from farebox.ledger.audit import audit
from farebox.money import NANOS_PER_CENT
from farebox.payments.states import OPEN_TOP_UPS
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.storage.sql import Connection
from tests.engines import looking

Json = dict[str, Any]
TAKEN = ("needs_response", "under_review", "lost")
"""Statuses of a dispute whose money has been taken."""


class Stripe(msgspec.Struct):
    """The fake's statement of all money movements: docs/fake-stripe.md."""

    payments: list[Json]
    refunds: list[Json]
    disputes: list[Json]


def agree(services: Services, fake_url: str) -> None:
    """Compare, from a thread that does not run the fake's loop."""
    compare(services.settings, httpx.get(f"{fake_url}/_fake/ledger"))


async def agreed(services: Services, fake_url: str) -> None:
    """Compare, from inside a loop, which may be the fake's."""
    async with httpx.AsyncClient() as client:
        compare(services.settings, await client.get(f"{fake_url}/_fake/ledger"))


def compare(settings: Settings, response: httpx.Response) -> None:
    """Compare the database that the settings name with the fake's statement."""
    stripe = msgspec.json.decode(response.raise_for_status().content, type=Stripe)
    with looking(settings) as connection:
        found = [*differences(connection, stripe), *(str(difference) for difference in audit(connection))]
        found += silent_stops(connection)
    assert not found, "our books and Stripe's differ:\n  " + "\n  ".join(found)


def differences(connection: Connection, stripe: Stripe) -> Iterator[str]:
    """The differences, as text."""
    top_ups = _top_ups(connection)
    by_intent = {top_up["payment_intent_id"]: top_up for top_up in top_ups if top_up["payment_intent_id"]}
    by_charge = {top_up["charge_id"]: top_up for top_up in top_ups if top_up["charge_id"]}
    owner: dict[str, Json] = {}
    for payment in stripe.payments:
        top_up = by_intent.get(payment["payment_intent"]) or by_charge.get(payment["charge"])
        if top_up is None:
            yield f"{payment['charge']}: {payment['amount']} cents were captured without a top-up"
        elif any(known is top_up for known in owner.values()):
            yield f"{payment['charge']}: captured a second time for {top_up['top_up_id']}"
        else:
            owner[payment["charge"]] = top_up
            yield from _captured(top_up, payment)
    for top_up in top_ups:
        if top_up["state"] == "paid" and not any(known is top_up for known in owner.values()):
            yield f"{_name(top_up)} is paid, but nothing was captured for it"
        yield from _credited(connection, top_up)
    yield from _given_back(owner, stripe)


_OPEN = ", ".join(f"'{state}'" for state in OPEN_TOP_UPS)


def silent_stops(connection: Connection) -> Iterator[str]:
    """Auto top-up rules that nothing would ever resume, and open top-ups that would never be processed again.

    Invariant after every commit: an active rule is armed, or has its one top-up open. Every other rule is disarmed, and
    has a time at which it continues, a top-up whose end it waits for, or a reason about which its owner was notified.
    """
    cursor = connection.execute(
        f"SELECT r.account_id, r.state, r.reason, r.until, r.threshold_cents * {NANOS_PER_CENT}, b.top_up_below, "
        "(SELECT t.state FROM top_ups t WHERE t.bucket = r.bucket AND t.account_id = r.account_id AND t.kind = 'auto' "
        f"AND t.state IN ({_OPEN})) "
        "FROM top_up_rules r JOIN balances b ON b.bucket = r.bucket AND b.account_id = r.account_id"
    )
    for account_id, state, reason, until, threshold, below, waiting in cursor.fetchall():
        name = f"{account_id}: the rule is {state} ({reason}), its top-up {waiting}, the mark {below}"
        armed = None if state != "active" or waiting is not None else threshold
        if below != armed:
            yield f"{name} instead of {armed}"
        if state == "paused" and until is None:
            yield f"{name}: paused for ever"
        if state == "action_required" and waiting is None:
            yield f"{name}: nothing is left to confirm"
        if (state == "active") != (reason is None):
            yield f"{name}: without its reason"
    armed_alone = connection.execute(
        "SELECT account_id FROM balances b WHERE top_up_below IS NOT NULL AND NOT EXISTS (SELECT 1 FROM top_up_rules r "
        "WHERE r.bucket = b.bucket AND r.account_id = b.account_id)"
    )
    for (account_id,) in armed_alone.fetchall():
        yield f"{account_id}: armed without a rule"
    forgotten = connection.execute(
        f"SELECT account_id, top_up_id, state FROM top_ups WHERE state IN ({_OPEN}) AND next_at IS NULL"
    )
    for account_id, top_up_id, state in forgotten.fetchall():
        yield f"{account_id}/{top_up_id}: {state}, and never looked at again"


def _top_ups(connection: Connection) -> list[Json]:
    """Every top-up with the payment, the customer, and its refunds and disputes."""
    cursor = connection.execute(
        "SELECT t.bucket, t.account_id, t.top_up_id, t.kind, t.state, t.credit_cents, "
        "t.credit_cents + t.fee_cents + t.tax_cents AS charge_cents, t.payment_id, t.refunded_cents, t.disputed_cents, "
        "t.clawed_cents, p.payment_intent_id, p.charge_id, c.customer_id, "
        "(SELECT coalesce(sum(r.amount_cents), 0) FROM refunds r WHERE r.bucket = t.bucket "
        "AND r.account_id = t.account_id AND r.top_up_id = t.top_up_id AND r.state != 'failed') AS refunds, "
        "(SELECT coalesce(sum(r.credit_cents), 0) FROM refunds r WHERE r.bucket = t.bucket "
        "AND r.account_id = t.account_id AND r.top_up_id = t.top_up_id AND r.state != 'failed') AS refunds_credit, "
        "(SELECT coalesce(sum(d.taken_cents), 0) FROM disputes d WHERE d.bucket = t.bucket "
        "AND d.account_id = t.account_id AND d.top_up_id = t.top_up_id AND d.state IN ('open', 'lost')) AS disputes, "
        "(SELECT coalesce(sum(d.credit_cents), 0) FROM disputes d WHERE d.bucket = t.bucket AND d.account_id = "
        "t.account_id AND d.top_up_id = t.top_up_id AND d.state IN ('open', 'lost')) AS disputes_credit "
        "FROM top_ups t LEFT JOIN payments p ON p.payment_id = t.payment_id "
        "LEFT JOIN customers c ON c.account_id = t.account_id"
    )
    found = cursor.fetchall()
    names = (
        "bucket", "account_id", "top_up_id", "kind", "state", "credit_cents", "charge_cents", "payment_id",
        "refunded_cents", "disputed_cents", "clawed_cents", "payment_intent_id", "charge_id", "customer_id",
        "refunds", "refunds_credit", "disputes", "disputes_credit",
    )  # fmt: skip
    return [dict(zip(names, fields, strict=True)) for fields in found]


def _captured(top_up: Json, payment: Json) -> Iterator[str]:
    """Compare a captured payment with its top-up."""
    if top_up["state"] != "paid":
        yield f"{_name(top_up)} is {top_up['state']}, but {payment['amount']} cents were captured for it"
    if top_up["charge_cents"] != payment["amount"]:
        yield f"{_name(top_up)} is of {top_up['charge_cents']} cents, but {payment['amount']} were captured"
    if payment["invoice"] != top_up["payment_id"]:
        yield f"{_name(top_up)} was paid as {payment['invoice']}"
    if payment["customer"] != top_up["customer_id"]:
        yield f"{_name(top_up)} was paid by {payment['customer']}, the account's customer is {top_up['customer_id']}"


def _credited(connection: Connection, top_up: Json) -> Iterator[str]:
    """Compare a top-up with the ledger, and with the refunds and disputes in its own row."""
    key = (top_up["bucket"], top_up["account_id"])
    credited = connection.execute(
        "SELECT count(*), coalesce(sum(amount), 0) FROM transfers WHERE bucket = ? AND account_id = ? "
        "AND kind = 'top_up' AND lot_id = ?",
        (*key, f"top_up:{top_up['payment_id']}"),
    ).fetchone()
    due = (1, top_up["credit_cents"] * NANOS_PER_CENT) if top_up["state"] == "paid" else (0, 0)
    if credited != due:
        yield f"{_name(top_up)} is {top_up['state']}: credited (times, nanos) {credited} instead of {due}"
    ((clawed,),) = connection.execute(
        "SELECT coalesce(sum(CASE WHEN kind IN ('refund', 'dispute') THEN amount ELSE -amount END), 0) FROM transfers "
        "WHERE bucket = ? AND account_id = ? AND kind IN ('refund', 'dispute', 'refund_failed', 'dispute_won') "
        "AND note = ?",
        (*key, f"top_up:{top_up['payment_id']}"),
    ).fetchall()
    if clawed != top_up["clawed_cents"] * NANOS_PER_CENT:
        yield f"{_name(top_up)}: the ledger took {clawed} nanos back, the row says {top_up['clawed_cents']} cents"
    for column, sums in (
        ("refunded_cents", top_up["refunds"]),
        ("disputed_cents", top_up["disputes"]),
        ("clawed_cents", top_up["refunds_credit"] + top_up["disputes_credit"]),
    ):
        if top_up[column] != sums:
            yield f"{_name(top_up)}: {column} is {top_up[column]}, its rows say {sums}"
    if top_up["refunded_cents"] + top_up["disputed_cents"] > top_up["charge_cents"]:
        yield f"{_name(top_up)}: more was taken than captured"
    if top_up["clawed_cents"] > top_up["credit_cents"]:
        yield f"{_name(top_up)}: more credit was taken than bought"


def _given_back(owner: dict[str, Json], stripe: Stripe) -> Iterator[str]:
    """Compare the refunds and disputes of each captured charge, there and here."""
    refunded: defaultdict[str, int] = defaultdict(int)
    disputed: defaultdict[str, int] = defaultdict(int)
    for refund in stripe.refunds:
        if refund["status"] in ("pending", "requires_action", "succeeded"):
            refunded[refund["charge"]] += refund["amount"]
    for dispute in stripe.disputes:
        if dispute["status"] in TAKEN:
            disputed[dispute["charge"]] += dispute["amount"]
    for charge_id, top_up in owner.items():
        if top_up["refunded_cents"] != refunded[charge_id]:
            yield f"{_name(top_up)}: {top_up['refunded_cents']} cents refunded here, {refunded[charge_id]} at Stripe"
        gone = min(disputed[charge_id], top_up["charge_cents"] - refunded[charge_id])
        if top_up["disputed_cents"] != gone:
            yield f"{_name(top_up)}: {top_up['disputed_cents']} cents disputed here, {gone} at Stripe"


def _name(top_up: Json) -> str:
    return f"{top_up['account_id']}/{top_up['top_up_id']} ({top_up['payment_id']})"
