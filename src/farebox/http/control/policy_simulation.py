"""What a gateway's policies, including drafts, would decide about a call, in full detail for the owner."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from farebox.calls.policy_check import token_fields
from farebox.http.control import policies
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.money import nanos_to_usd
from farebox.periods import Period
from farebox.policies.conditions import CF_USER_EMAIL, CF_USER_ID, TOKEN_ID, TOKEN_NAME, USER
from farebox.policies.decide import AccessRequest, Decision, PolicyLimit, decide, nanos_of, policies_of
from farebox.providers.catalogue import SLUG_OF_ALIAS
from farebox.runtime.stored_policies import stored_policy

_Text = Annotated[str, msgspec.Meta(max_length=1024)]


class CfUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Replaces the user that the access token stands for."""

    id: _Text | UnsetType = UNSET
    email: _Text | UnsetType = UNSET


class Cf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: CfUser = CfUser()


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The access token."""

    id: _Text = ""
    name: _Text = ""


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The caller. The call lacks everything that is omitted."""

    cf: Cf = Cf()
    token: Token | UnsetType = UNSET
    user: _Text = ""
    """The end user that the request's body names."""
    metadata: dict[str, str | int | float | bool] = {}


class BucketUsage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    spent: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    """US dollars."""


class Simulation(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """`bucket_usage`: the amount spent, by policy name; zero for policies that are not listed."""

    identity: Identity = Identity()
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    provider: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """If omitted, the model names it."""
    bucket_usage: dict[str, BucketUsage] = {}


class Bucket(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A budget that the call must fit in, in US dollars."""

    bucket: str
    """The resolved actor."""
    policy_name: str
    period: Period
    limit: float
    spent: float


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    decision: Literal["no-limit", "block", "check_limits"]
    buckets: list[Bucket]
    matched: list[str]
    """Names of the policies that match and do not block."""


class Enforcement(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Whether the call would be admitted."""

    allowed: bool
    reason: Literal["", "blocked", "limit_exceeded"] = ""
    cause: Literal["", "blocked", "no_match", "not_evaluable"] = ""
    """Why it is blocked: by a policy, because none matches, or because one cannot be evaluated."""
    why: str = ""
    bucket: str = ""
    spent: float | UnsetType = UNSET
    limit: float | UnsetType = UNSET
    policy_name: str = ""


class Simulated(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    evaluation: Evaluation
    enforcement: Enforcement
    policies_evaluated: int


async def simulate(request: Request, body: Simulation) -> Response:
    """Nothing is called or counted. What is spent is taken from the request, not from the actual budgets."""
    rows = await policies.rows_of(request)
    texts = [(row.policy_id, row.draft or row.live or "") for row in rows]
    found = policies_of(request.path["gateway_id"], [stored_policy(*each) for each in texts])
    decision = Decision() if found is None else decide(found, _access_request(body))
    buckets = [_bucket(limit, body.bucket_usage) for limit in decision.limits]
    evaluation = Evaluation(
        decision="block" if decision.reason else "check_limits" if buckets else "no-limit",
        buckets=buckets,
        matched=[policy.document.name for policy in decision.matched],
    )
    enforcement = _enforcement(decision, buckets)
    return ok(Simulated(evaluation=evaluation, enforcement=enforcement, policies_evaluated=len(rows)))


def _access_request(body: Simulation) -> AccessRequest:
    provider = (body.provider or body.model.partition("/")[0]).lower()
    slug = SLUG_OF_ALIAS.get(provider, provider)
    model = body.model
    if model.lower().startswith(f"{provider}/"):
        model = model[len(provider) + 1 :]
    return AccessRequest(slug, (model,), fields=_fields(body.identity), metadata=body.identity.metadata)


def _fields(identity: Identity) -> dict[str, str]:
    token, user = identity.token, identity.cf.user
    found = {} if isinstance(token, UnsetType) else token_fields(token.id, token.name)
    sent: tuple[tuple[str, Any], ...] = ((CF_USER_ID, user.id), (CF_USER_EMAIL, user.email), (USER, identity.user))
    found |= {name: value for name, value in sent if value is not UNSET}
    return {name: value for name, value in found.items() if value or name in (TOKEN_ID, TOKEN_NAME)}


def _bucket(limit: PolicyLimit, usage: dict[str, BucketUsage]) -> Bucket:
    spent = usage.get(limit.name)
    return Bucket(
        bucket=limit.bucket,
        policy_name=limit.name,
        period=limit.period,
        limit=nanos_to_usd(limit.amount),
        spent=0.0 if spent is None else spent.spent,
    )


def _enforcement(decision: Decision, buckets: list[Bucket]) -> Enforcement:
    if decision.reason:
        name = "" if decision.policy is None else decision.policy.document.name
        return Enforcement(allowed=False, reason="blocked", cause=decision.reason, why=decision.why, policy_name=name)
    for bucket in buckets:
        if nanos_of(bucket.spent) >= nanos_of(bucket.limit):
            return Enforcement(
                allowed=False, reason="limit_exceeded", bucket=bucket.bucket, spent=bucket.spent, limit=bucket.limit,
                policy_name=bucket.policy_name,
            )  # fmt: skip
    return Enforcement(allowed=True)
