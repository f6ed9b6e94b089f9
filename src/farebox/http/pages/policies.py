"""Policies of a gateway: who may call which models, and for how much; drafts, and simulating them for a call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farebox.http.control import policies as api
from farebox.http.control import policy_simulation
from farebox.http.envelope import Response
from farebox.http.pages import labels
from farebox.http.pages.fields import Field, Group, Values, shown, values_of
from farebox.http.pages.gateways import HERE, gateway
from farebox.http.pages.own_api import ask, tell
from farebox.http.pages.policy_lines import lines_of
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit
from farebox.http.validation import InvalidInput
from farebox.money import NANOS_PER_USD
from farebox.storage.policies import POLICIES

_ACTIONS = {
    "limit": "allow it, up to a limit",
    "no-limit": "allow it without a limit",
    "block": "refuse the call",
    "except": "refuse every other call",
}
_PERIODS = {"hourly": "an hour", "daily": "a day", "weekly": "a week", "monthly": "a month"}

# fmt: off
_ABOUT = (
    Field(name="name", label="Name"),
    Field(name="actor", label="Counted for",
          hint="The calls that share a budget: with user:{user} each end user has one, with team:blue all share one."),
    Field(name="condition", label="If", wide=True,
          hint='An expression in CEL, such as token.name == "batch" or metadata.team == "red"; true for every call.'),
)
_RESOURCE = (
    Field(name="resource.model", label="Models", kind="lines",
          hint="One per line, as provider/model; * matches any characters except a slash. Empty: all."),
    Field(name="resource.provider", label="Providers", kind="lines", hint="One per line. Empty: all."),
)
_ACTION = (
    Field(name="action.type", label="Then", kind="choice", options=_ACTIONS),
    Field(name="action.amount", label="US dollars", kind="number", hint="Of a limit."),
    Field(name="action.period", label="In", kind="choice", options=_PERIODS),
)
_CALL = (
    Field(name="model", label="Model", hint="As provider/model."),
    Field(name="identity.user", label="End user"),
    Field(name="identity.token.name", label="Name of the token"),
    Field(name="identity.metadata", label="Metadata", kind="pairs", hint="One per line, as key: value."),
)
# fmt: on


def _body(form: Mapping[str, str]) -> dict[str, Any]:
    about, action = values_of(_ABOUT, form), values_of(_ACTION, form)
    resource = {name: names for name, names in values_of(_RESOURCE, form).items() if names}
    about = {name: value or "" for name, value in about.items()}
    return about | {"resource": resource or "*", "action": _action_sent(action)}


def _action_sent(action: Mapping[str, Any]) -> dict[str, Any]:
    match action["type"]:
        case "limit":
            amount = {} if action["amount"] is None else {"amount": action["amount"]}
            return {"type": "limit", **amount, "period": action["period"], "technique": "named-interval"}
        case "except":
            return {"type": "block", "except": True}
        case kind:
            return {"type": kind}


def _call_body(form: Mapping[str, str]) -> dict[str, Any]:
    sent = values_of(_CALL, form)
    identity: dict[str, Any] = {"metadata": sent["metadata"]}
    if sent["user"]:
        identity["user"] = sent["user"]
    if sent["name"]:
        identity["token"] = {"name": sent["name"]}
    return {"model": sent["model"] or "", "identity": identity}


_POLICY = Group(name="policy", title="Policy", fields=lambda _: (*_ABOUT, *_RESOURCE, *_ACTION), body=_body)
_SIMULATION = Group(name="call", title="A call", fields=lambda _: _CALL, body=_call_body)
_NEW: Values = {"condition": "true", "actor": "user:{user}", "action": {"type": "limit", "period": "daily"}}


def _as_fields(policy: Values) -> Values:
    """A policy as form values: names as lists, and the two kinds of refusal as separate actions."""
    resource, action = policy.get("resource"), policy.get("action") or {}
    names = resource if isinstance(resource, dict) else {}
    lists = {name: [value] if isinstance(value, str) else value for name, value in names.items()}
    kind = "except" if action.get("except") else action.get("type")
    return {**policy, "resource": lists, "action": {**action, "type": kind}}


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the policies, including drafts, would decide for a call."""

    verdict: tuple[str, str]
    matched: list[str]
    budgets: list[str]


async def policy_list(visit: Visit) -> Shown:
    """A gateway's policies and drafts, and a form for a new one, or for the one that is asked for."""
    return await _shown(visit)


async def _shown(
    visit: Visit,
    sent: tuple[Values, InvalidInput] | None = None,
    asked: tuple[Values, InvalidInput | None] | None = None,
    said: Simulated | None = None,
) -> Shown:
    """The page's content. `sent`: a policy that was refused, and why; `asked`: a call to simulate, with its faults;
    `said`: the decision for it."""
    found = await gateway(visit, visit.request.path["gateway_id"])
    account_id, gateway_id = visit.account_id, found["id"]
    rows = await visit.services.database.scan(lambda connection: POLICIES.list(connection, account_id, gateway_id))
    wanted = dict(visit.request.query_pairs()).get("policy", "")
    chosen = None
    if any(row.policy_id == wanted for row in rows):
        query = api.PoliciesQuery(include_staging=True)
        chosen = await ask(visit, api.get, query, gateway_id=found["id"], id=wanted)
    values, error = sent or (chosen or _NEW, None)
    return {
        "title": f"Policies of {found['id']}",
        "gateway": found,
        "lines": lines_of(rows),
        "drafts": sum(row.draft is not None for row in rows),
        "chosen": chosen,
        "policy": shown(_POLICY, _as_fields(values), error),
        "call": shown(_SIMULATION, *(asked or ({},))),
        "said": said,
        "failed": sent is not None,
    }


async def put(visit: Visit, form: Fields) -> Response | str:
    """Create or change a policy: at once, or as a draft."""
    gateway_id, policy_id, body = visit.request.path["gateway_id"], form.get("policy", ""), _POLICY.body(form)
    at_once = form.get("do") == "force"
    query = "commit=true" if at_once else ""
    try:
        if policy_id:
            await tell(visit, api.change, api.PolicyChange, body, query=query, gateway_id=gateway_id, id=policy_id)
        else:
            await tell(visit, api.create, api.PolicyCreate, body, query=query, gateway_id=gateway_id)
    except InvalidInput as error:
        return shell(visit, "policies.html", await _shown(visit, (body, error)), HERE)
    return f"The policy {body['name']} is {'in force' if at_once else 'a draft: it is not in force yet'}."


async def commit(visit: Visit, _: Fields) -> str:
    """Put all drafts in force."""
    done = await ask(visit, api.commit, gateway_id=visit.request.path["gateway_id"])
    failed = "".join(f" {each['policyId']} is not: {each['error']}." for each in done["errors"])
    are = "policy is" if done["committed"] == 1 else "policies are"
    return f"{done['committed']} {are} in force from now on.{failed}"


async def delete(visit: Visit, form: Fields) -> str:
    gateway_id = visit.request.path["gateway_id"]
    gone = await ask(visit, api.delete, gateway_id=gateway_id, id=form.get("policy", ""))
    return f"Deleted the policy {gone['name']}."


async def simulate(visit: Visit, form: Fields) -> Response:
    """Show what the policies would decide for a call; nothing is called or counted."""
    gateway_id, body = visit.request.path["gateway_id"], _SIMULATION.body(form)
    try:
        answer = await tell(
            visit, policy_simulation.simulate, policy_simulation.Simulation, body, gateway_id=gateway_id
        )
    except InvalidInput as error:
        return shell(visit, "policies.html", await _shown(visit, asked=(body, error)), HERE)
    return shell(visit, "policies.html", await _shown(visit, asked=(body, None), said=_said(answer)), HERE)


_CAUSES = {
    "blocked": "refused by the policy {policyName}",
    "no_match": "refused: no policy matches it",
    "not_evaluable": "refused: a condition cannot be evaluated: {why}",
}


def _said(answer: Mapping[str, Any]) -> Simulated:
    decision, enforced = answer["evaluation"], answer["enforcement"]
    if enforced["allowed"]:
        verdict = ("good", "let through")
    else:
        words = {"policyName": enforced.get("policyName", ""), "why": enforced.get("why", "")}
        verdict = ("bad", _CAUSES.get(enforced.get("cause", ""), "refused: a budget is used up").format_map(words))
    return Simulated(verdict, decision["matched"], [_budget(each) for each in decision["buckets"]])


def _budget(bucket: Mapping[str, Any]) -> str:
    amount = labels.exact_usd(round(bucket["limit"] * NANOS_PER_USD))
    return f"{amount} USD in {_PERIODS[bucket['period']]}, counted for {bucket['bucket']}"
