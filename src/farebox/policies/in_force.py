"""The limits that a gateway's policies set now, by the scopes in which they count (policies.decide)."""

from collections.abc import Iterable, Mapping
from typing import get_args

import msgspec

from farebox.periods import Period
from farebox.policies.decide import actor_named, nanos_of, resource_key, scope_prefix
from farebox.policies.document import Block, Limit, PolicyDocument
from farebox.policies.matching import Actor, InvalidActor, compile_actor, compile_resource


class LimitInForce(msgspec.Struct, frozen=True):
    """A limit of a policy."""

    actor: Actor
    period: Period
    amount: int | None
    """Nano-dollars; None: for the calls of these actors there is no limit."""

    def may_count(self, named: str) -> bool:
        """Whether it may count calls whose actor stands at the end of a scope as `named` (decide.actor_named)."""
        if len(self.actor.parts) == 1:
            return actor_named(self.actor.parts[0]) == named
        if not named.startswith('"'):  # a hash in place of a long actor
            return True
        return self.actor.may_be(msgspec.json.decode(named, type=str))


def limits_in_force(
    gateway_id: str, documents: Iterable[PolicyDocument], slugs: Mapping[str, str]
) -> dict[str, list[LimitInForce]]:
    """The limits of these policies, by their scopes without the actor. `slugs`: as for `compile_policy`."""
    found: dict[str, list[LimitInForce]] = {}
    for document in documents:
        action = document.action
        if isinstance(action, Block):
            continue
        if not isinstance(action, Limit) and document.condition.strip() != "true":
            continue  # which calls it frees of limits is not known
        try:
            actor = compile_actor(document.actor)
        except InvalidActor:  # it refuses all calls (runtime.stored_policies)
            continue
        resource = resource_key(compile_resource(document.resource, slugs))
        periods: tuple[Period, ...] = (action.period,) if isinstance(action, Limit) else get_args(Period)
        amount = nanos_of(action.amount) if isinstance(action, Limit) else None
        for period in periods:
            name = f"{scope_prefix(gateway_id)}{period}/{resource}"
            found.setdefault(name, []).append(LimitInForce(actor, period, amount))
    return found
