"""What a gateway's policies say about a call: refused, let through, or let through within limits.

All policies are evaluated, in no particular order. If one blocks, the call is refused; of the others at least one must
match. Matching policies are grouped by actor and resource: within a group, a policy without a limit overrides the
others, and of several limits over the same period the highest applies. A call must fit into the remaining amount of
every group and every period. Those are budgets of its hold (ledger.budgets), checked in the hold's transaction.

If a policy cannot be evaluated, the call is refused.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import msgspec

from farebox.money import NANOS_PER_USD
from farebox.periods import Period, Zones
from farebox.policies.conditions import Condition, Unevaluable, UnresolvedField, bind, compile_condition
from farebox.policies.document import Block, Limit, NoLimit, PolicyDocument
from farebox.policies.matching import Actor, ResourceMatcher, compile_actor, compile_resource

Metadata: TypeAlias = Mapping[str, str | int | float | bool]
Reason: TypeAlias = Literal["", "blocked", "no_match", "not_evaluable"]
"""Why a call is refused; empty if it is not."""

POLICIES_MAX: Final = 50
"""Maximum number of policies of one gateway, drafts included: each call evaluates all of them."""
ACTOR_SHOWN_MAX: Final = 256
"""Characters of a resolved actor that are shown; a longer actor is represented by its hash."""

_reads_user = re.compile(r"(?<![\w.])user\b").search


class Policy(msgspec.Struct, frozen=True):
    """A policy, compiled."""

    policy_id: str
    document: PolicyDocument
    actor: Actor
    resource: ResourceMatcher
    resource_key: str
    """The same for all resources that cover the same models and providers."""
    condition: Condition


class Policies(msgspec.Struct, frozen=True):
    """The policies of a gateway: at least one."""

    gateway_id: str
    policies: tuple[Policy, ...]
    zones: Zones = ()
    """The time zones by whose calendar the periods of their limits begin."""
    reads_user: bool = False
    """Whether one of them reads the end user named in a request's body."""
    names_models: bool = False
    """Whether one of them covers only certain models."""


class PolicyLimit(msgspec.Struct, frozen=True):
    """A limit that a call must fit in."""

    policy_id: str
    name: str
    """Name of the policy."""
    bucket: str
    """The resolved actor."""
    scope: str
    """Scope of the limit's budget in the ledger."""
    amount: int
    """Nano-dollars."""
    period: Period
    zones: Zones


class AccessRequest(msgspec.Struct, frozen=True):
    """What a call asks for, and on whose behalf."""

    provider: str
    models: tuple[str | None, ...]
    """All models that the call may reach; None stands for a model that cannot be determined."""
    only_reads: bool = False
    """The request only reads, and does not run a model: which models it names does not matter."""
    fields: Mapping[str, str] = {}
    """Values of conditions.FIELDS, as far as the call has them."""
    metadata: Metadata = {}


class Decision(msgspec.Struct, frozen=True):
    """What the policies say."""

    reason: Reason = ""
    policy: Policy | None = None
    """The policy that blocks the call, or that cannot be evaluated."""
    why: str = ""
    """Why that policy cannot be evaluated."""
    matched: tuple[Policy, ...] = ()
    """The policies that match and do not block."""
    limits: tuple[PolicyLimit, ...] = ()


def compile_policy(policy_id: str, document: PolicyDocument, slugs: Mapping[str, str]) -> Policy:
    """`slugs`: alternative names of providers, with their slugs. Raises InvalidActor, InvalidCondition."""
    resource = compile_resource(document.resource, slugs)
    return Policy(
        policy_id,
        document,
        compile_actor(document.actor),
        resource,
        resource_key(resource),
        compile_condition(document.condition),
    )


def refusing_policy(policy_id: str, document: PolicyDocument, why: str) -> Policy:
    """A stand-in for a policy that can no longer be compiled: every call that it covers is refused."""
    resource = ResourceMatcher(None, None)
    return Policy(policy_id, document, Actor(("",)), resource, "*", Condition(document.condition, None, why))


def policies_of(gateway_id: str, policies: Iterable[Policy], zones: Zones = ()) -> Policies | None:
    """The policies of a gateway; None if it has none."""
    found = tuple(policies)
    texts = [text for each in found for text in (each.document.condition, *each.actor.parts[1::2])]
    if not found:
        return None
    names_models = any(policy.resource.models is not None for policy in found)
    return Policies(gateway_id, found, zones, any(map(_reads_user, texts)), names_models)


def decide(policies: Policies, request: AccessRequest) -> Decision:
    """Evaluate the policies for a call. Raises nothing."""
    values = _Values(request)
    matched: list[tuple[str, Policy]] = []
    unmatched = set(range(len(request.models)))
    broken: Decision | None = None
    for policy in policies.policies:
        hit = _covered_models(policy, request)
        if not hit:
            continue
        try:
            if not policy.condition.is_constant and not policy.condition.holds(values.bound()):
                continue
            actor = policy.actor.resolve(request.fields, request.metadata)
        except UnresolvedField as error:
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


def limits_apart(policies: Policies, fields: Mapping[str, str], reads: Collection[str]) -> list[PolicyLimit]:
    """The limits that count calls with these fields separately, by one of the fields in `reads`, whatever model they
    call. Policies whose actor or condition needs other values of a call are left out. Raises nothing."""
    matched: list[tuple[str, Policy]] = []
    values = _Values(AccessRequest("", (), fields=fields))
    for policy in policies.policies:
        if isinstance(policy.document.action, Block) or not any(part in reads for part in policy.actor.parts[1::2]):
            continue
        try:
            if policy.condition.is_constant or policy.condition.holds(values.bound()):
                matched.append((policy.actor.resolve(fields, {}), policy))
        except (UnresolvedField, Unevaluable):
            continue
    return list(_limits(policies, matched))


def _covered_models(policy: Policy, request: AccessRequest) -> set[int]:
    """The models that the policy covers, as positions in `request.models`."""
    action, covers = policy.document.action, policy.resource.covers
    inverted = isinstance(action, Block) and action.inverted
    unknown = request.only_reads if inverted or not isinstance(action, Block) else not request.only_reads
    return {
        place
        for place, model in enumerate(request.models)
        if covers(request.provider, model, unknown=unknown) is not inverted
    }


class _Values:
    """The values of a call that conditions read, prepared when the first condition needs them."""

    def __init__(self, request: AccessRequest) -> None:
        self._request = request
        self._bound: Any = None

    def bound(self) -> Any:
        """The prepared values. Raises Unevaluable."""
        if self._bound is None:
            self._bound = bind(self._request.fields, self._request.metadata)
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
                f"{scope_prefix(policies.gateway_id)}{period}/{resource}/{actor_named(actor)}",
                nanos_of(amount),
                period,
                policies.zones,
            )


def nanos_of(amount: float) -> int:
    """An amount in dollars, a JSON number, in nano-dollars."""
    return int(Decimal(str(amount)) * NANOS_PER_USD)


def scope_prefix(gateway_id: str) -> str:
    """The prefix of the scopes of a gateway's policies."""
    return f"policy:{gateway_id}/"


def actor_named(actor: str) -> str:
    """A resolved actor as it is named in scopes: as JSON; a long one by its hash."""
    if len(actor) > ACTOR_SHOWN_MAX:
        return f"sha256:{hashlib.sha256(actor.encode()).hexdigest()}"
    return msgspec.json.encode(actor).decode()


def resource_key(resource: ResourceMatcher) -> str:
    """The name of a resource in scopes: the same for all that cover the same models and providers."""
    if resource.models is None and resource.providers is None:
        return "*"
    models = None if resource.models is None else sorted(set(resource.models))
    providers = None if resource.providers is None else sorted(resource.providers)
    return hashlib.blake2b(msgspec.json.encode((models, providers)), digest_size=8).hexdigest()
