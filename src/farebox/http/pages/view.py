"""What the billing page shows, in one struct: `billing_view` fills it, the templates show it.

Times are milliseconds since the Unix epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, TypeAlias

from farebox.billing.account_reports import MonthUsage
from farebox.calls.spending.spending_limit import LimitState
from farebox.model import Account, Balance
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import Card, Dispute, Refund, TopUp, TopUpRule
from farebox.payments.states import PENDING_TOP_UPS
from farebox.storage.transfer_statement import TransferRow

MOVEMENTS = 10
TRANSFERS_READ = 50
"""A movement may consist of several transfers: how many transfers are read, and how many movements are shown."""

REFRESH_MS = 120_000
"""A page refreshes itself while a top-up is in progress, but no longer than this, so that its forms stay usable."""


Tone: TypeAlias = Literal["good", "bad", "warn"]

_EXPLAINED = ("grant", "correction")
"""Kinds of transfer whose notes were written by people."""
_OWN = ("granted", "credit")
"""Books that make up the balance."""


@dataclass(frozen=True, slots=True)
class Flash:
    """The outcome of the last form, shown once at the top of the next page."""

    tone: Tone
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One movement of money, of one or more transfers. Nano-dollars."""

    at: int
    kind: str
    note: str | None
    change: int
    """Its effect on the balance; 0 if it was between the operator's own books."""
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """Who the invoices are addressed to."""

    name: str = ""
    email: str = ""
    address: str = ""
    country: str = ""
    tax_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The current billing state of one account. Amounts of payments in US cents, of the ledger in nano-dollars."""

    account: Account
    now: int
    balance: Balance
    owed: int = 0
    payments_on: bool = True
    switch: str = "on"
    """The operator's setting of auto top-up: on, dry_run, off."""
    cards: list[Card] = field(default_factory=list)
    details: Details = field(default_factory=Details)
    limits: tuple[int, int]
    top_ups: list[TopUp] = field(default_factory=list)
    """The latest ones, newest first, in any state."""
    rule: TopUpRule | None = None
    charged_cents: int = 0
    """By auto top-up in this calendar month, with fees and taxes: what the rule's monthly cap counts."""
    spending: LimitState | None = None
    refunds: list[Refund] = field(default_factory=list)
    disputes: list[Dispute] = field(default_factory=list)
    transfers: list[TransferRow] = field(default_factory=list)
    usage: MonthUsage
    links: Mapping[str, str] = field(default_factory=dict)
    """Payment or refund → URL of its document."""
    statement: str | None = None

    @property
    def default_card(self) -> Card | None:
        return next((card for card in self.cards if card.is_default), None)

    @property
    def waiting(self) -> list[TopUp]:
        """Payments that the owner has to confirm."""
        return [each for each in self.top_ups if each.state == "action_required" and each.kind != "checkout"]

    @property
    def declined(self) -> TopUp | None:
        """An auto top-up whose card was declined and will be retried."""
        return next((each for each in self.top_ups if each.state == "declined"), None)

    @property
    def until_purchase(self) -> int | None:
        """How far the balance is above the threshold of auto top-up, in nano-dollars; 0: it is not above it. None if
        nothing would be bought: auto top-up is off or stopped, or a charge is open or will be retried."""
        pending = any(each.kind == "auto" and each.state in (*PENDING_TOP_UPS, "declined") for each in self.top_ups)
        if self.rule is None or self.rule.state != "active" or self.switch != "on" or pending:
            return None
        return max(self.balance.posted - self.rule.threshold_cents * NANOS_PER_CENT, 0)

    @property
    def contested(self) -> bool:
        """Whether a dispute, or a bank's inquiry before one, is still open."""
        return any(dispute.state in ("open", "inquiry") for dispute in self.disputes)

    @property
    def under_way(self) -> bool:
        """Whether credit may arrive at any moment."""
        return any(each.state in PENDING_TOP_UPS and self.now - each.created_at < REFRESH_MS for each in self.top_ups)

    @property
    def movements(self) -> list[Movement]:
        """The latest movements of money, newest first."""
        return [_movement(parts) for parts in _by_cause(self.transfers)[:MOVEMENTS]]

    def credit_notes(self, refunds: list[Refund], disputes: list[Dispute]) -> list[str]:
        """URLs of the refunds' credit notes."""
        causes = [refund.refund_id for refund in refunds] + [dispute.dispute_id for dispute in disputes]
        return [self.links[cause] for cause in causes if cause in self.links]


def _by_cause(transfers: list[TransferRow]) -> list[list[TransferRow]]:
    """Transfers, newest first, grouped by cause: a call that empties one lot and continues with the next has several
    (`…`, `…/2`, `…/3`). The oldest group is left out if part of it may be missing."""
    groups = [
        list(parts) for _, parts in groupby(transfers, lambda each: (each.transfer_id.partition("/")[0], each.kind))
    ]
    return groups[:-1] if len(transfers) == TRANSFERS_READ and len(groups) > 1 else groups


def _movement(parts: list[TransferRow]) -> Movement:
    first = parts[0]
    return Movement(
        at=first.at,
        kind=first.kind,
        note=first.note if first.kind in _EXPLAINED else None,
        change=sum(((each.to_book in _OWN) - (each.from_book in _OWN)) * each.amount for each in parts),
        amount=sum(each.amount for each in parts),
    )
