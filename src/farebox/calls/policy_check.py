"""Applying the policies of a gateway to a call: the result is limits that the call must fit in, or an error for the
caller."""

from typing import Final

from msgspec.structs import replace

from farebox.calls.model import Call
from farebox.calls.spending.rules import user_of
from farebox.errors import INVALID_REQUEST, POLICY_DENIED, Problem
from farebox.model import AccessToken
from farebox.policies.conditions import CF_USER_EMAIL, CF_USER_ID, TOKEN_ID, TOKEN_NAME, USER
from farebox.policies.decide import AccessRequest, Policies, decide

DENIED: Final = "Access denied by policy"
"""Cloudflare's words. Only the owner may learn which policy it is, and why: by `simulate`."""


def apply_policies(
    policies: Policies, call: Call, token: AccessToken | None, counted_model: str = "", *, ambiguous: bool = False
) -> Call:
    """The call with the policy limits that it must fit in. `counted_model`: the model whose tokens it counts, free of
    charge. `ambiguous`: its body names its model twice, and it is unknown which one the provider uses.

    Raises Problem (POLICY_DENIED); INVALID_REQUEST if there are limits that cannot count it.
    """
    if ambiguous and policies.names_models:
        raise Problem(POLICY_DENIED, DENIED, reason="not_evaluable: the body names its model twice, or in another case")
    only_reads = call.parsed is None and call.method in ("GET", "HEAD")
    request = AccessRequest(
        call.provider, _models(call, counted_model), only_reads, _fields(policies, call, token), call.metadata or {}
    )
    decision = decide(policies, request)
    if decision.reason:
        named = decision.policy.policy_id if decision.policy is not None else ""
        raise Problem(POLICY_DENIED, DENIED, reason=": ".join(filter(None, (decision.reason, named, decision.why))))
    if decision.limits and call.parsed is None and call.format is not None:
        raise Problem(INVALID_REQUEST, "The gateway's policies cannot count this request: its body cannot be read.")
    return replace(call, policy_limits=decision.limits) if decision.limits else call


def _models(call: Call, counted_model: str) -> tuple[str | None, ...]:
    """All models that the call may reach."""
    parsed = call.parsed
    if parsed is None:
        return (counted_model or None,)
    named = [parsed.model or None, *(further.model for further in parsed.demand.further_models if further.model)]
    return tuple([*named, None] if parsed.unmetered else named)


def _fields(policies: Policies, call: Call, token: AccessToken | None) -> dict[str, str]:
    found: dict[str, str] = {}
    if token is not None:
        found = token_fields(token.token_id, token.name)
    user = user_of(call) if policies.reads_user else None
    return found | {USER: user} if user else found


def token_fields(token_id: str, name: str) -> dict[str, str]:
    """The fields of policies that an access token provides. The token stands for a user of Cloudflare Access, as far as
    possible: by its ID, and by its name if that is an e-mail address."""
    found = {CF_USER_ID: token_id, TOKEN_ID: token_id, TOKEN_NAME: name}
    local, _, domain = name.rpartition("@")
    return found | {CF_USER_EMAIL: name} if local and domain else found
