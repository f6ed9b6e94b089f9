"""Everything that `credit-balance` returns, in one statement, because it is the most frequent read."""

import msgspec

from farebox.storage.account_keys import key_of
from farebox.storage.sql import Connection, row


class Credit(msgspec.Struct, frozen=True):
    """What an account has and how it buys more. Amounts in nano-dollars, those named …_cents in US cents;
    times in milliseconds since the Unix epoch."""

    posted: int
    brand: str | None
    """Brand of the default card; None if there is none."""
    last4: str | None
    amount_cents: int | None
    """Amount of the auto top-up. This and its other fields are None if it is off."""
    threshold_cents: int | None
    rule_state: str | None
    rule_reason: str | None
    rule_error: str | None
    last_failed_at: int | None
    bought_by_hand: bool
    """Whether credit was ever bought manually."""


def read_credit(connection: Connection, account_id: str) -> Credit | None:
    """None if there is no such account."""
    found = row(
        connection,
        "SELECT b.posted, c.brand, c.last4, r.amount_cents, r.threshold_cents, r.state, r.reason, r.error, "
        "r.last_failed_at, EXISTS (SELECT 1 FROM top_ups t WHERE t.bucket = ?1 AND t.account_id = ?2 "
        "AND t.state = 'paid' AND t.kind IN ('manual', 'checkout')) "
        "FROM balances b LEFT JOIN cards c ON c.bucket = b.bucket AND c.account_id = b.account_id "
        "AND c.is_default = 1 LEFT JOIN top_up_rules r ON r.bucket = b.bucket AND r.account_id = b.account_id "
        "WHERE b.bucket = ?1 AND b.account_id = ?2",
        key_of(connection, account_id),
    )
    return None if found is None else Credit(*(*found[:-1], bool(found[-1])))
