"""What was found in what a call says, as its log row has it: names and places, never the text."""

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
    """Matches; a hundred stand for any number of one entry."""
    positions: tuple[int, ...]
    """Where the first of them begin, in bytes of the text that was looked at."""


class HazardFinding(msgspec.Struct, frozen=True, kw_only=True):
    """What the scorer has found, as far as the gateway has rules for it."""

    check: Check
    action: Action
    categories: tuple[str, ...]


class Screened(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of screening a call."""

    dlp: tuple[DlpFinding, ...] = ()
    guardrails: tuple[HazardFinding, ...] = ()
    unscreened: tuple[str, ...] = ()
    """What of it could not be judged, and why."""
