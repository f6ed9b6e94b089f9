"""What screening finds in one call, collected for the response's header and the log row."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from farebox.detection.rules import ScreeningPolicy, Side
from farebox.detection.scan import Match
from farebox.gateway import Action, Check
from farebox.screened import DlpFinding, HazardFinding, Screened

POSITIONS_MAX: Final = 10
HEADER_BYTES_MAX: Final = 3_072
"""Proxies in front of us limit the size of headers: what does not fit is only in the log."""


class _Found(msgspec.Struct):
    """What one profile has found so far."""

    policies: tuple[ScreeningPolicy, ...]
    action: Action
    entries: dict[str, None]
    positions: list[int]
    count: int = 0


class Findings:
    """Collects the findings of one call."""

    def __init__(self) -> None:
        self._data: dict[tuple[Check, str], _Found] = {}
        self._hazards: dict[Check, dict[str, Action]] = {}
        self._unscreened: dict[str, None] = {}

    def has(self, check: Check) -> bool:
        """Whether anything was found on this side."""
        return check in self._hazards or any(side == check for side, _ in self._data)

    @property
    def dlp_action(self) -> str:
        """The strongest action taken; empty if nothing was found."""
        return _strongest(found.action for found in self._data.values()) if self._data else ""

    def matched(self, check: Check, side: Side, matches: Iterable[Match], offset: int = 0) -> bool:
        """Add matches in a text that begins at `offset`. Returns whether a policy blocks one of them."""
        blocked = False
        for match in matches:
            found = self._data.get((check, match.profile_id))
            if found is None:
                policies = tuple(policy for policy in side.policies if match.profile_id in policy.profile_ids)
                action = _strongest(policy.action for policy in policies)
                found = self._data[check, match.profile_id] = _Found(policies, action, {}, [])
            found.entries[match.entry_id] = None
            found.count += 1
            if len(found.positions) < POSITIONS_MAX:
                found.positions.append(offset + match.start)
            blocked = blocked or found.action == "BLOCK"
        return blocked

    def hazardous(self, check: Check, side: Side, categories: Iterable[str]) -> bool:
        """Add categories that the scorer found, except those that the gateway ignores. Returns whether the gateway
        blocks one of them."""
        of_rules = {name: side.hazards[name] for name in categories if name in side.hazards}
        if of_rules:
            self._hazards.setdefault(check, {}).update(of_rules)
        return "BLOCK" in of_rules.values()

    def unscreened(self, check: Check, why: str) -> None:
        """Record that this could not be screened and still passes."""
        self._unscreened[f"{check}: {why}"[:200]] = None

    def screened(self) -> Screened | None:
        """The findings for the log; None if there are none."""
        if not (self._data or self._hazards or self._unscreened):
            return None
        return Screened(
            dlp=tuple(
                DlpFinding(
                    check=check,
                    action=found.action,
                    profile_id=profile_id,
                    entry_ids=tuple(found.entries),
                    policy_ids=_ids(found.policies),
                    count=found.count,
                    positions=tuple(found.positions),
                )
                for (check, profile_id), found in self._data.items()
            ),
            guardrails=tuple(
                HazardFinding(check=check, action=_strongest(found.values()), categories=tuple(sorted(found)))
                for check, found in self._hazards.items()
            ),
            unscreened=tuple(self._unscreened),
        )

    def header(self) -> str:
        """The value of `cf-aig-dlp`, in Cloudflare's format."""
        shown: list[dict[str, Any]] = []
        text = ""
        for (check, profile_id), found in self._data.items():
            profile = {"context": {}, "entry_ids": list(found.entries), "profile_id": profile_id}
            shown.append({"profile": profile, "policy_ids": list(_ids(found.policies)), "check": check})
            longer = msgspec.json.encode({"findings": shown, "action": self.dlp_action}).decode()
            if len(longer) > HEADER_BYTES_MAX:
                break
            text = longer
        return text or msgspec.json.encode({"findings": [], "action": self.dlp_action}).decode()


def _ids(policies: tuple[ScreeningPolicy, ...]) -> tuple[str, ...]:
    return tuple(policy.policy_id for policy in policies if policy.policy_id)


def _strongest(actions: Iterable[Action]) -> Action:
    return "BLOCK" if "BLOCK" in actions else "FLAG"
