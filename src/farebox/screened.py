"""What screening found in a call, as its log row records it: names and positions, never the text."""

import msgspec

from farebox.gateway import Action, Check


class DlpFinding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one profile has found."""

    check: Check
    action: Action
    profile_id: str
    entry_ids: tuple[str, ...]
    policy_ids: tuple[str, ...] = ()
    count: int
    """Number of matches; per entry, a hundred can stand for more."""
    positions: tuple[int, ...]
    """Where the first matches begin, in bytes of the scanned text."""


class HazardFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A hazard that the scorer has found and for which the gateway has a rule."""

    check: Check
    action: Action
    categories: tuple[str, ...]


class Screened(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The results of screening a call."""

    dlp: tuple[DlpFinding, ...] = ()
    guardrails: tuple[HazardFinding, ...] = ()
    unscreened: tuple[str, ...] = ()
    """Parts that could not be screened, and why."""
