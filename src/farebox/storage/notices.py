"""The store of notices: messages to an account's owner and to the operator, and their deliveries.

A notice is written in the same transaction as the event it reports; who gets it, and how, is decided afterwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.every_bucket import list_available, rows_available
from farebox.storage.sql import Connection, row, rows

KINDS: dict[str, str] = {
    "low_balance": "The posted balance fell below the account's low-balance threshold.",
    "top_up_paid": "Credit was bought, by hand or by auto top-up.",
    "top_up_failed": "A charge for credit failed.",
    "top_up_action_required": "The bank wants the cardholder to confirm a payment on the hosted page.",
    "auto_top_up_suspended": "Auto top-up was suspended and does not resume by itself.",
    "auto_top_up_paused": "Auto top-up is paused: the monthly cap is reached, or credit was bought unusually often.",
    "card_expiring": "The default card expires soon.",
    "limit_reached": "A call was refused because the account's spending limit is reached.",
    "spend_alert": "50, 80 or 100 % of a spend limit, a policy's limit or the spending limit is spent.",
    "dispute_opened": "A payment is disputed; its credit was taken back.",
    "dispute_closed": "A dispute was won or lost.",
    "refunded": "Money was refunded to the card.",
    "charges_corrected": "A price was wrong, and what calls were charged by it was corrected.",
    "export_failing": "Data about a gateway's calls cannot be delivered to its destination.",
    "provider_key_trouble": "A provider rejected the operator's key, or the operator's account there has no credit.",
    "usage_disbelieved": "A provider reported impossible usage; the call was charged by a rule instead.",
    "cost_differs": "A provider's stated cost differs from the price list.",
    "bill_differs": "A provider bills another amount for a day than was metered on the operator's keys.",
    "tier_unknown": "A provider applied a service tier, or another variant, that the price list does not know.",
    "overrun": "A call cost more than was held for it, and the account could not pay the rest.",
    "database_trouble": "The disk is full, failing or read-only, or the database is damaged or was replaced.",
    "journal_unwritable": "The journal cannot be written: if the database failed now, charges could not be kept.",
}
"""Kind of notice → what it reports. Documented in docs/messages.md."""

ALARM_KINDS = (
    "provider_key_trouble",
    "usage_disbelieved",
    "cost_differs",
    "bill_differs",
    "tier_unknown",
    "overrun",
    "database_trouble",
    "journal_unwritable",
)
"""Sent only to the operator: such a notice belongs to no account (storage.buckets.OPERATOR)."""


def add_notice(
    connection: Connection,
    bucket: int,
    account_id: str,
    notice_id: str,
    kind: str,
    content: Mapping[str, object],
    at: int,
) -> bool:
    """Write a notice. Its ID is derived from its cause, so a repeat of the same event writes nothing.

    `content` is plain JSON: amounts in nano-dollars (`…_nanos`) or US cents (`…_cents`). Returns whether it was new.
    """
    assert kind in KINDS, f"{kind} is no kind of notice"
    connection.execute(
        "INSERT INTO notices (bucket, account_id, notice_id, kind, content, created_at) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        (bucket, account_id, notice_id, kind, msgspec.json.encode(content).decode(), at),
    )
    return connection.changes() == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A notice as it was written, in milliseconds since the Unix epoch."""

    bucket: int
    account_id: str
    notice_id: str
    kind: str
    content: dict[str, Any]
    created_at: int


_COLUMNS = "bucket, account_id, notice_id, kind, content, created_at"


def new_notices(connection: Connection, limit: int) -> list[Notice]:
    """Notices whose deliveries have not been written yet, the oldest first."""
    found = rows_available(
        connection,
        f"SELECT {_COLUMNS} FROM notices INDEXED BY notices_new WHERE bucket = ? AND fanned_out = 0 "
        "ORDER BY created_at LIMIT ?",
        limit,
    )
    return sorted((_notice(fields) for fields in found), key=_age)[:limit]


def claim_delivery(connection: Connection, notice: Notice) -> bool:
    """Claim the writing of the notice's deliveries, in this transaction; True for exactly one caller."""
    connection.execute(
        "UPDATE notices SET fanned_out = 1 WHERE bucket = ? AND account_id = ? AND notice_id = ? AND fanned_out = 0",
        (notice.bucket, notice.account_id, notice.notice_id),
    )
    return connection.changes() == 1


def find_notice(connection: Connection, account_id: str, notice_id: str) -> Notice | None:
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM notices WHERE {OF_ACCOUNT} AND notice_id = ?",
        (*key_of(connection, account_id), notice_id),
    )
    return None if found is None else _notice(found)


def list_notices(connection: Connection, account_id: str, offset: int, limit: int) -> tuple[list[Notice], int]:
    """The account's notices, newest first, and how many there are in all."""
    key = key_of(connection, account_id)
    found = rows(  # `+`: not by the index of all accounts' notices, in which the account's may be far apart
        connection,
        f"SELECT {_COLUMNS} FROM notices WHERE {OF_ACCOUNT} ORDER BY +created_at DESC, notice_id DESC LIMIT ? OFFSET ?",
        (*key, limit, offset),
    )
    total = row(connection, f"SELECT count(*) FROM notices WHERE {OF_ACCOUNT}", key)
    return [_notice(fields) for fields in found], int(total[0]) if total else 0


def latest_notices(connection: Connection, limit: int) -> tuple[list[Notice], bool]:
    """The newest notices of all accounts (the operator's view), and whether none are missing because a node is
    unavailable."""
    found, complete = list_available(
        connection,
        f"SELECT {_COLUMNS} FROM notices WHERE bucket = ? ORDER BY created_at DESC, notice_id DESC LIMIT ?",
        limit,
    )
    return sorted(map(_notice, found), key=_age, reverse=True)[:limit], complete


def _age(notice: Notice) -> tuple[int, str]:
    return notice.created_at, notice.notice_id


@dataclass(frozen=True, slots=True)
class ExpiringCard:
    """An account's default card that expires soon."""

    bucket: int
    account_id: str
    card_id: str
    brand: str
    last4: str
    exp_month: int
    exp_year: int


def expiring_cards(connection: Connection, year: int, month: int) -> list[ExpiringCard]:
    """Default cards that expire in that month or the next one. Reads every card."""
    found = rows_available(
        connection,
        "SELECT bucket, account_id, card_id, brand, last4, exp_month, exp_year FROM cards "
        "WHERE bucket = ? AND is_default = 1 AND exp_year * 12 + exp_month BETWEEN ? AND ? ORDER BY account_id",
        year * 12 + month,
        year * 12 + month + 1,
    )
    return [ExpiringCard(*fields) for fields in found]


def _notice(fields: tuple[Any, ...]) -> Notice:
    bucket, account_id, notice_id, kind, content, created_at = fields
    return Notice(
        bucket=bucket,
        account_id=account_id,
        notice_id=notice_id,
        kind=kind,
        content=msgspec.json.decode(content, type=dict[str, Any]),
        created_at=created_at,
    )
