"""What our books say about payments, as reconciliation reads it: purchases, their credit, refunds, disputes."""

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from farebox.storage.account_keys import key_of
from farebox.storage.every_bucket import rows_everywhere
from farebox.storage.sql import Connection, row, rows
from farebox.storage.transfer_statement import NO_CHARGE


class BookedPayment(msgspec.Struct, frozen=True, kw_only=True):
    """A top-up that a payment belongs to, in US cents, and what the ledger credited for it."""

    account_id: str
    top_up_id: str
    payment_id: str
    payment_intent_id: str | None
    charge_id: str | None
    state: str
    charge_cents: int
    credit_cents: int
    credited: tuple[int, ...]
    """Amounts of the ledger's transfers named after the payment, in nano-dollars: one, if all is well."""


class BookedClawback(msgspec.Struct, frozen=True, kw_only=True):
    """A refund or dispute, by the processor's ID; the amount in US cents."""

    account_id: str
    payment_id: str
    processor_id: str
    state: str
    amount_cents: int


_BOOKED = (
    "SELECT p.account_id, p.top_up_id, p.payment_id, p.payment_intent_id, p.charge_id, t.state, "
    "t.credit_cents + t.fee_cents + t.tax_cents, t.credit_cents, t.bucket FROM payments p "
    "JOIN top_ups t ON t.account_id = p.account_id AND t.top_up_id = p.top_up_id WHERE t.bucket = ?"
)


def booked_since(connection: Connection, since: int) -> list[BookedPayment]:
    """The top-ups with a payment that were requested, paid or changed since."""
    found = rows_everywhere(connection, f"{_BOOKED} AND (t.updated_at >= ? OR t.paid_at >= ?)", since, since)
    return sorted((_payment(connection, fields) for fields in list(found)), key=lambda booked: booked.payment_id)


def booked_payment(
    connection: Connection,
    *,
    payment_id: str | None = None,
    payment_intent_id: str | None = None,
    charge_id: str | None = None,
) -> BookedPayment | None:
    """The top-up that a payment belongs to, by any of the processor's IDs for it."""
    names = (("payment_id", payment_id), ("payment_intent_id", payment_intent_id), ("charge_id", charge_id))
    for column, value in names:
        tied = (
            None if value is None else row(connection, f"SELECT account_id FROM payments WHERE {column} = ?", (value,))
        )
        if tied is None:
            continue
        bucket = key_of(connection, tied[0]).bucket
        found = row(connection, f"{_BOOKED} AND p.{column} = ?", (bucket, value))
        if found is not None:
            return _payment(connection, found)
    return None


def paid_without_payment(connection: Connection) -> list[tuple[str, str, int]]:
    """Account, top-up and cents of top-ups that are paid although no payment at the processor belongs to them."""
    return [
        (account_id, top_up_id, cents)
        for account_id, top_up_id, cents in rows_everywhere(
            connection,
            "SELECT t.account_id, t.top_up_id, t.credit_cents + t.fee_cents + t.tax_cents FROM top_ups t "
            "WHERE t.bucket = ? AND t.state = 'paid' AND NOT EXISTS "
            "(SELECT 1 FROM payments p WHERE p.payment_id = t.payment_id)",
        )
    ]


_REFUND = (
    "SELECT r.account_id, t.payment_id, r.processor_id, r.state, r.amount_cents FROM refunds r "
    "JOIN top_ups t ON t.bucket = r.bucket AND t.account_id = r.account_id AND t.top_up_id = r.top_up_id "
    "WHERE r.bucket = ?"
)
_DISPUTE = (
    "SELECT d.account_id, t.payment_id, d.dispute_id, d.state, d.amount_cents FROM disputes d "
    "JOIN top_ups t ON t.bucket = d.bucket AND t.account_id = d.account_id AND t.top_up_id = d.top_up_id "
    "WHERE d.bucket = ?"
)


def refunds_since(connection: Connection, since: int) -> list[BookedClawback]:
    """Refunds that the processor knows, and that were created or changed since."""
    since_then = " AND r.processor_id IS NOT NULL AND (r.created_at >= ? OR r.updated_at >= ?)"
    return _clawbacks(rows_everywhere(connection, _REFUND + since_then, since, since))


def disputes_since(connection: Connection, since: int) -> list[BookedClawback]:
    since_then = " AND (d.created_at >= ? OR d.updated_at >= ?)"
    return _clawbacks(rows_everywhere(connection, _DISPUTE + since_then, since, since))


def refunds_named(connection: Connection, names: Collection[str]) -> dict[str, BookedClawback]:
    """Those of these refunds that our books have, by the processor's ID."""
    found: list[tuple[Any, ...]] = []
    for name in names:
        ours = row(connection, "SELECT account_id, refund_id FROM refund_names WHERE processor_id = ?", (name,))
        if ours is not None:
            key = key_of(connection, ours[0])
            found += rows(connection, f"{_REFUND} AND r.account_id = ? AND r.refund_id = ?", (*key, ours[1]))
    return {refund.processor_id: refund for refund in _clawbacks(found)}


def disputes_named(connection: Connection, names: Collection[str]) -> dict[str, BookedClawback]:
    """Those of these disputes that our books have."""
    found = disputes_since(connection, 0)
    return {dispute.processor_id: dispute for dispute in found if dispute.processor_id in names}


def _payment(connection: Connection, fields: tuple[object, ...]) -> BookedPayment:
    account_id, top_up_id, payment_id, intent_id, charge_id, state, charge_cents, credit_cents, bucket = fields
    cause = f"top_up:{payment_id}"
    credited = rows(
        connection,
        f"SELECT amount FROM transfers WHERE bucket = ? AND account_id = ? AND {NO_CHARGE} "
        "AND (transfer_id = ? OR (transfer_id > ? AND transfer_id < ?)) AND kind = 'top_up'",
        (bucket, account_id, cause, f"{cause}/", f"{cause}0"),  # parts of a transfer are numbered after a slash
    )
    return msgspec.convert(
        {
            "account_id": account_id,
            "top_up_id": top_up_id,
            "payment_id": payment_id,
            "payment_intent_id": intent_id,
            "charge_id": charge_id,
            "state": state,
            "charge_cents": charge_cents,
            "credit_cents": credit_cents,
            "credited": [amount for (amount,) in credited],
        },
        BookedPayment,
    )


def _clawbacks(found: Iterable[tuple[Any, ...]]) -> list[BookedClawback]:
    return [
        BookedClawback(
            account_id=account_id, payment_id=payment_id, processor_id=processor_id, state=state, amount_cents=cents
        )
        for account_id, payment_id, processor_id, state, cents in found
    ]
