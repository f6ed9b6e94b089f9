"""The nouns of payments: cards, top-ups, rules, refunds, disputes. Amounts are US cents, times milliseconds."""

from typing import Literal, TypeAlias

import msgspec

TopUpKind: TypeAlias = Literal["manual", "auto", "checkout"]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A saved card, as far as it may be known here: its number never is."""

    card_id: str
    """The processor's payment method."""
    brand: str
    last4: str
    exp_month: int
    exp_year: int
    fingerprint: str
    """The same for the same card saved twice."""
    is_default: bool = False
    created_at: int = 0


class TopUp(msgspec.Struct, frozen=True, kw_only=True):
    """One purchase of credit: a row of `top_ups`. `charge_cents` is what the card pays."""

    account_id: str
    top_up_id: str
    kind: TopUpKind
    state: str
    """A key of states.TOP_UP_STATES."""
    credit_cents: int
    fee_cents: int
    tax_cents: int
    lines: bytes
    """JSON of the purchase.Purchase as it was priced."""
    card_id: str | None = None
    fingerprint: str | None = None
    brand: str | None = None
    last4: str | None = None
    payment_id: str | None = None
    """The processor's invoice; what the wire calls `payment_intent_id`."""
    checkout_id: str | None = None
    request_key: str | None = None
    request_hash: str | None = None
    attempt: int = 0
    lease_owner: str | None = None
    lease_epoch: int = 0
    lease_until: int | None = None
    next_at: int | None = None
    first_unknown_at: int | None = None
    unseen_at: int | None = None
    retry_at: int | None = None
    """Declined: when the card may be tried again."""
    client_secret: str | None = None
    action_url: str | None = None
    decline_code: str | None = None
    error: str | None = None
    refunded_cents: int = 0
    disputed_cents: int = 0
    clawed_cents: int = 0
    created_at: int
    updated_at: int
    paid_at: int | None = None

    @property
    def charge_cents(self) -> int:
        return self.credit_cents + self.fee_cents + self.tax_cents


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """An account's auto top-up: buy `amount_cents` when the posted balance is below `threshold_cents`."""

    account_id: str
    amount_cents: int
    threshold_cents: int
    monthly_cap_cents: int
    state: str = "active"
    """A key of states.RULE_STATES."""
    reason: str | None = None
    """A key of states.DISABLED_REASONS, unless active."""
    error: str | None = None
    until: int | None = None
    failures: int = 0
    last_failed_at: int | None = None
    fingerprint: str | None = None
    sequence: int = 0
    updated_at: int = 0


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """Money paid back to the card it came from."""

    account_id: str
    refund_id: str
    top_up_id: str
    processor_id: str | None
    state: str
    amount_cents: int
    credit_cents: int
    reason: str = ""
    error: str | None = None
    next_at: int | None = None
    created_at: int
    updated_at: int


class Dispute(msgspec.Struct, frozen=True, kw_only=True):
    """A charge that the card's owner contests at their bank."""

    account_id: str
    dispute_id: str
    top_up_id: str
    state: str
    amount_cents: int
    """What the bank disputes."""
    taken_cents: int = 0
    """What of it counts against the captured amount: refunds go first, and nothing is taken twice."""
    credit_cents: int
    """What was taken of the credit for that."""
    take_id: str = ""
    """The ledger took it as `dispute:{take_id}`."""
    reason: str
    created_at: int
    updated_at: int
