"""One attempted charge of a card: guards and declines count these."""

from typing import Literal, TypeAlias

import msgspec

from farebox.payments.model import TopUpKind

AttemptOutcome: TypeAlias = Literal["paid", "declined", "action_required", "closed"]
"""closed: the charge never took place, or ended without the card being charged."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `top_up_attempts`. While `outcome` is None the result is unknown: neither success nor failure.

    `amount_cents` is the charge, in US cents; moments are milliseconds since the Unix epoch.
    """

    top_up_id: str
    attempt: int
    kind: TopUpKind
    fingerprint: str
    amount_cents: int
    started_at: int
    ended_at: int | None = None
    outcome: AttemptOutcome | None = None
    decline_code: str | None = None
