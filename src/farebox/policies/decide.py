"""What a gateway's policies say about a call: refused, let through, or let through within limits.

All of them are asked, in no order. One that blocks refuses the call; of the others at least one must match. Those that
match are grouped by actor and resource: in a group, one without a limit lifts the others, and of several limits over
the same period the highest counts. A call must fit in what is left, in every group and over every period: those are
budgets of its hold (ledger.budgets), decided in its transaction.

What cannot be decided is refused.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import msgspec

from farebox.money import NANOS_PER_USD
from farebox.periods import Period, Zones
from farebox.policies.conditions import Condition, Unevaluable, Unresolved, bind, compile_condition
from farebox.policies.document import Block, Limit, NoLimit, PolicyDocument
from farebox.policies.matching import Actor, Covered, compile_actor, compile_resource

Metadata: TypeAlias = Mapping[str, str | int | float | bool]
Reason: TypeAlias = Literal["", "blocked", "no_match", "not_evaluable"]
"""Why a call is refused; empty: it is not."""

POLICIES_MAX: Final = 50
"""Of one gateway, drafts included: a call asks all of them."""
ACTOR_SHOWN_MAX: Final = 256
"""Characters of a resolved actor; a longer one is counted by its hash."""

_reads_user = re.compile(r"(?<![\w.])user\b").search


class Policy(msgspec.Struct, frozen=True):
    """A policy, compiled."""

    policy_id: str
    document: PolicyDocument
    actor: Actor
    covered: Covered
    resource_key: str
    """The same for resources that cover the same."""
    condition: Condition


class Policies(msgspec.Struct, frozen=True):
    """The policies of a gateway: at least one."""

    gateway_id: str
    policies: tuple[Policy, ...]
    zones: Zones = ()
    """By which the periods of their limits are cut."""
    reads_user: bool = False
    """Whether one of them reads the end user that a request's body names."""
    names_models: bool = False
    """Whether one of them is about certain models."""


class PolicyLimit(msgspec.Struct, frozen=True):
    """A limit that a call must fit in."""

    policy_id: str
    name: str
    """Of the policy."""
    bucket: str
    """The resolved actor."""
    scope: str
    """Of its budget in the ledger."""
    amount: int
    """Nano-dollars."""
    period: Period
    zones: Zones


class Asked(msgspec.Struct, frozen=True):
    """What is asked for, and by whom."""

    provider: str
    models: tuple[str | None, ...]
    """All that the call may reach; None: one that cannot be read."""
    only_reads: bool = False
    """A request that asks no model for anything: what it would call does not matter."""
    fields: Mapping[str, str] = {}
    """conditions.FIELDS, as far as there is a value."""
    metadata: Metadata = {}


class Decision(msgspec.Struct, frozen=True):
    """What the policies say."""

    reason: Reason = ""
    policy: Policy | None = None
    """That blocks, or cannot be evaluated."""
    why: str = ""
    """What is wrong with that."""
    matched: tuple[Policy, ...] = ()
    """Those that match and do not block."""
    limits: tuple[PolicyLimit, ...] = ()


def compile_policy(policy_id: str, document: PolicyDocument, slugs: Mapping[str, str]) -> Policy:
    """`slugs`: other names of providers, and theirs. Raises InvalidActor, InvalidCondition."""
    covered = compile_resource(document.resource, slugs)
    return Policy(
        policy_id,
        document,
        compile_actor(document.actor),
        covered,
        _resource_key(covered),
        compile_condition(document.condition),
    )


def refusing_policy(policy_id: str, document: PolicyDocument, why: str) -> Policy:
    """Stands for a policy that cannot be compiled any more: no call can be decided."""
    covered = Covered(None, None)
    return Policy(policy_id, document, Actor(("",)), covered, "*", Condition(document.condition, None, why))


def policies_of(gateway_id: str, policies: Iterable[Policy], zones: Zones = ()) -> Policies | None:
    """None: there are none."""
    found = tuple(policies)
    texts = [text for each in found for text in (each.document.condition, *each.actor.parts[1::2])]
    if not found:
        return None
    names_models = any(policy.covered.models is not None for policy in found)
    return Policies(gateway_id, found, zones, any(map(_reads_user, texts)), names_models)


def decide(policies: Policies, asked: Asked) -> Decision:
    """Raises nothing."""
    values = _Values(asked)
    matched: list[tuple[str, Policy]] = []
    unmatched = set(range(len(asked.models)))
    broken: Decision | None = None
    for policy in policies.policies:
        hit = _covered(policy, asked)
        if not hit:
            continue
        try:
            if not policy.condition.is_constant and not policy.condition.holds(values.bound()):
                continue
            actor = policy.actor.resolve(asked.fields, asked.metadata)
        except Unresolved as error:
            if isinstance(policy.document.action, Block):
                return Decision("blocked", policy, f"the call has no value for what it reads ({error})")
            continue
        except Unevaluable as error:
            broken = broken or Decision("not_evaluable", policy, str(error))
            continue
        if isinstance(policy.document.action, Block):
            return Decision("blocked", policy)
        matched.append((actor, policy))
        unmatched -= hit
    if broken is not None:
        return broken
    if unmatched:
        return Decision("no_match")
    return Decision(matched=tuple(policy for _, policy in matched), limits=tuple(_limits(policies, matched)))


def _covered(policy: Policy, asked: Asked) -> set[int]:
    """The models, by their places, that the policy is about."""
    action, covers = policy.document.action, policy.covered.covers
    inverted = isinstance(action, Block) and action.inverted
    unknown = asked.only_reads if inverted or not isinstance(action, Block) else not asked.only_reads
    return {
        place
        for place, model in enumerate(asked.models)
        if covers(asked.provider, model, unknown=unknown) is not inverted
    }


class _Values:
    """The values of a call, which conditions read: made where there is a condition."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._bound: Any = None

    def bound(self) -> Any:
        """Raises Unevaluable."""
        if self._bound is None:
            self._bound = bind(self._asked.fields, self._asked.metadata)
        return self._bound


def _limits(policies: Policies, matched: list[tuple[str, Policy]]) -> Iterator[PolicyLimit]:
    groups: dict[tuple[str, str], list[Policy]] = {}
    for actor, policy in matched:
        groups.setdefault((actor, policy.resource_key), []).append(policy)
    for (actor, resource), group in groups.items():
        if any(isinstance(policy.document.action, NoLimit) for policy in group):
            continue
        highest: dict[Period, tuple[float, Policy]] = {}
        for policy in group:
            action = policy.document.action
            assert isinstance(action, Limit)
            if action.period not in highest or action.amount > highest[action.period][0]:
                highest[action.period] = action.amount, policy
        for period, (amount, policy) in highest.items():
            yield PolicyLimit(
                policy.policy_id,
                policy.document.name,
                actor,
                f"{scope_prefix(policies.gateway_id)}{period}/{resource}/{_named(actor)}",
                nanos_of(amount),
                period,
                policies.zones,
            )


def nanos_of(amount: float) -> int:
    """Dollars as they are written in JSON, in nano-dollars."""
    return int(Decimal(str(amount)) * NANOS_PER_USD)


def scope_prefix(gateway_id: str) -> str:
    """With what the scopes of a gateway's policies begin."""
    return f"policy:{gateway_id}/"


def _named(actor: str) -> str:
    if len(actor) > ACTOR_SHOWN_MAX:
        return f"sha256:{hashlib.sha256(actor.encode()).hexdigest()}"
    return msgspec.json.encode(actor).decode()


def _resource_key(covered: Covered) -> str:
    if covered.models is None and covered.providers is None:
        return "*"
    models = None if covered.models is None else sorted(set(covered.models))
    providers = None if covered.providers is None else sorted(covered.providers)
    return hashlib.blake2b(msgspec.json.encode((models, providers)), digest_size=8).hexdigest()
