"""A gateway's screening rules, compiled from its configuration."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from farebox.detection.profiles import BUILT_IN, Detector, Profile
from farebox.detection.scan import Scanner
from farebox.gateway import Action, Check, Dlp, GatewayConfig, Hazard


class ScreeningPolicy(msgspec.Struct, frozen=True):
    """A data loss prevention policy that is switched on."""

    policy_id: str
    """Empty if the gateway has one action for all profiles instead of policies."""
    action: Action
    check: frozenset[Check]
    profile_ids: frozenset[str]


class Side(msgspec.Struct, frozen=True):
    """What is looked for in the requests, or in the responses, of a gateway."""

    scanner: Scanner | None
    """None if no policy checks this side."""
    policies: tuple[ScreeningPolicy, ...]
    hazards: Mapping[str, Action]
    """The action for each of the scorer's categories; if empty, the scorer is not asked."""
    in_helper: bool
    """Whether to scan in a helper process: the account's own patterns must not block the event loop."""

    @property
    def blocks(self) -> bool:
        return self.data_blocks or self.hazard_blocks

    @property
    def data_blocks(self) -> bool:
        return any(policy.action == "BLOCK" for policy in self.policies)

    @property
    def hazard_blocks(self) -> bool:
        return "BLOCK" in self.hazards.values()


class ScreeningRules(msgspec.Struct, frozen=True):
    """The rules of a gateway."""

    request: Side
    response: Side


def profile_ids_of(config: GatewayConfig) -> frozenset[str]:
    """The profiles that the gateway names, whether or not the rule that names them is switched on."""
    dlp = config.dlp
    if dlp is None:
        return frozenset()
    named = set(dlp.profiles or ())
    for policy in dlp.policies or ():
        named.update(policy.profiles)
    return frozenset(named)


def rules_of(config: GatewayConfig, own: Iterable[Profile]) -> ScreeningRules:
    """The screening rules of a gateway. `own`: the profiles of its account. Compiles the patterns, which may take a
    while."""
    known = {**BUILT_IN, **{profile.profile_id: profile for profile in own}}
    policies = _policies(config.dlp)
    guardrails = config.guardrails
    prompt = {} if guardrails is None else _by_name(guardrails.prompt)
    response = {} if guardrails is None else _by_name(guardrails.response)
    return ScreeningRules(_side("REQUEST", policies, known, prompt), _side("RESPONSE", policies, known, response))


def _by_name(actions: Mapping[Hazard, Action]) -> dict[str, Action]:
    return {str(hazard): action for hazard, action in actions.items()}


def _policies(dlp: Dlp | None) -> list[ScreeningPolicy]:
    if dlp is None or not dlp.enabled:
        return []
    if dlp.policies:
        return [
            ScreeningPolicy(policy.id, policy.action, frozenset(policy.check), frozenset(policy.profiles))
            for policy in dlp.policies
            if policy.enabled
        ]
    if not dlp.action or not dlp.profiles:
        return []
    return [ScreeningPolicy("", dlp.action, frozenset(("REQUEST", "RESPONSE")), frozenset(dlp.profiles))]


_ANYTHING: Final = Detector("missing", r"(?s).")
"""Stands for a profile that no longer exists: a rule that names it must not let everything through."""


def _side(
    check: Check, policies: list[ScreeningPolicy], known: Mapping[str, Profile], hazards: Mapping[str, Action]
) -> Side:
    applied = tuple(policy for policy in policies if check in policy.check and policy.profile_ids)
    wanted = sorted({profile_id for policy in applied for profile_id in policy.profile_ids})
    profiles = tuple(known.get(name) or Profile(name, (_ANYTHING,)) for name in wanted)
    in_helper = any(profile.profile_id not in BUILT_IN for profile in profiles)
    return Side(Scanner(profiles) if profiles else None, applied, hazards, in_helper)
