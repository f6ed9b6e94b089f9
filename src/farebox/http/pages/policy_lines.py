"""Policies in words: who may call which models, and for how much."""

from dataclasses import dataclass

import msgspec

from farebox.http.pages import labels
from farebox.policies.document import Block, Limit, NoLimit, PolicyDocument, Resource
from farebox.storage.policies import PolicyRow

_NAMES_SHOWN = 5
"""Models, or providers, of a policy that are shown, at most."""
_TEXT_MAX = 200
"""Characters of a condition or an actor that are shown, at most."""
PERIODS = {"hourly": "hour"} | labels.DURATIONS


@dataclass(frozen=True, slots=True)
class PolicyLine:
    """A policy, or the draft of one."""

    gateway_id: str
    policy_id: str
    name: str
    does: str
    covers: str
    condition: str
    """The condition; empty: every call."""
    actor: str
    state: str
    """draft: it is not in force yet; changed: it is in force, and has a draft; empty: it is in force without a
    draft."""


def lines_of(rows: list[PolicyRow]) -> list[PolicyLine]:
    """Each policy as it is in force; those that never were, as drafted."""
    return [_line(row) for row in rows]


def limit_text(document: PolicyDocument) -> str:
    """What a policy with a limit says, in words: `policy research: at most 5.00 USD per day, all models`."""
    return f"policy {document.name}: {_does(document.action)}, {_covers(document.resource)}"


def _line(row: PolicyRow) -> PolicyLine:
    document = msgspec.json.decode(row.live or row.draft or "", type=PolicyDocument)
    return PolicyLine(
        gateway_id=row.gateway_id,
        policy_id=row.policy_id,
        name=document.name,
        does=_does(document.action),
        covers=_covers(document.resource),
        condition="" if document.condition == "true" else labels.shortened(document.condition, _TEXT_MAX),
        actor=labels.shortened(document.actor, _TEXT_MAX),
        state="draft" if row.live is None else "changed" if row.draft is not None else "",
    )


def _does(action: NoLimit | Block | Limit) -> str:
    match action:
        case Limit():
            amount = labels.exact_usd(round(action.amount * 10**9))
            return f"at most {amount} USD per {PERIODS.get(action.period, action.period)}"
        case Block():
            return "refuses calls that do not match" if action.inverted else "refuses the call"
        case NoLimit():
            return "no limit"


def _covers(resource: str | Resource) -> str:
    if not isinstance(resource, Resource):
        return "all models"
    parts = [
        f"{word} {labels.any_of((names,) if isinstance(names, str) else names, _NAMES_SHOWN)}"
        for word, names in (("model", resource.model), ("provider", resource.provider))
        if not isinstance(names, msgspec.UnsetType)
    ]
    return ", ".join(parts)
