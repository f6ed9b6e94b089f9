"""Policies of a gateway: who may call which models, and for how much; drafts, and simulating them for a call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farebox.http.control import policies as api
from farebox.http.control import policy_simulation
from farebox.http.envelope import Response
from farebox.http.pages import labels
from farebox.http.pages.fields import Field, FieldGroup, Values, shown, values_of
from farebox.http.pages.gateways import HERE, gateway
from farebox.http.pages.own_api import invoke, submit
from farebox.http.pages.policy_lines import PERIODS, lines_of
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit
from farebox.http.validation import InvalidInput
from farebox.money import NANOS_PER_USD
from farebox.storage.policies import POLICIES

SHOWN = 15
"""Policies that one page of the list shows."""
_ACTIONS = {
    "limit": "allow, up to a limit",
    "no-limit": "allow without a limit",
    "block": "refuse the call",
    "except": "refuse calls that do not match",
}

# fmt: off
_ABOUT = (
    Field(name="name", label="Name"),
    Field(name="actor", label="Budget for",
          hint="Who shares a budget. With user:{user}, each end user has one; with team:blue, all calls share one."),
    Field(name="condition", label="Condition", wide=True,
          hint='An expression in CEL, such as token.name == "batch" or metadata.team == "red". For all calls: true.'),
)
_RESOURCE = (
    Field(name="resource.model", label="Models", kind="lines",
          hint="One per line, as provider/model; * matches any characters except a slash. Leave empty for all."),
    Field(name="resource.provider", label="Providers", kind="lines", hint="One per line. Leave empty for all."),
)
_ACTION = (
    Field(name="action.type", label="Action", kind="choice", options=_ACTIONS),
    Field(name="action.amount", label="Limit in US dollars", kind="number", hint="Only for the action with a limit."),
    Field(name="action.period", label="Limit per", kind="choice", options=PERIODS),
)
_CALL = (
    Field(name="model", label="Model", hint="As provider/model."),
    Field(name="identity.user", label="End user"),
    Field(name="identity.token.name", label="Token name"),
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


_POLICY = FieldGroup(name="policy", title="Policy", fields=lambda _: (*_ABOUT, *_RESOURCE, *_ACTION), body=_body)
_SIMULATION = FieldGroup(name="call", title="A call", fields=lambda _: _CALL, body=_call_body)
_NEW: Values = {"condition": "true", "actor": "user:{user}", "action": {"type": "limit", "period": "daily"}}


def _as_fields(policy: Values) -> Values:
    """A policy as form values: names as lists, and the two kinds of refusal as separate actions."""
    resource, action = policy.get("resource"), policy.get("action") or {}
    names = resource if isinstance(resource, dict) else {}
    lists = {name: [value] if isinstance(value, str) else value for name, value in names.items()}
    kind = "except" if action.get("except") else action.get("type")
    return {**policy, "resource": lists, "action": {**action, "type": kind}}


@dataclass(frozen=True, slots=True)
class SimulatedDecision:
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
    simulated: SimulatedDecision | None = None,
) -> Shown:
    """The page's content. `sent`: a policy that was refused, and why; `asked`: a call to simulate, with its faults;
    `simulated`: the decision for it."""
    found = await gateway(visit, visit.request.path["gateway_id"])
    account_id, gateway_id = visit.account_id, found["id"]
    rows = await visit.services.database.scan(lambda connection: POLICIES.list(connection, account_id, gateway_id))
    wanted = dict(visit.request.query_pairs()).get("policy", "")
    chosen = None
    if any(row.policy_id == wanted for row in rows):
        query = api.PoliciesQuery(include_staging=True)
        chosen = await invoke(visit, api.get, query, gateway_id=found["id"], id=wanted)
    values, error = sent or (chosen or _NEW, None)
    return {
        "title": f"Policies of {found['id']}",
        "gateway": found,
        **visit.part_of("lines", lines_of(rows), SHOWN),
        "drafts": sum(row.draft is not None for row in rows),
        "chosen": chosen,
        "policy": shown(_POLICY, _as_fields(values), error),
        "call": shown(_SIMULATION, *(asked or ({},))),
        "simulated": simulated,
        "failed": sent is not None,
    }


async def put(visit: Visit, form: Fields) -> Response | str:
    """Create or change a policy: at once, or as a draft."""
    gateway_id, policy_id, body = visit.request.path["gateway_id"], form.get("policy", ""), _POLICY.body(form)
    at_once = form.get("do") == "force"
    query = "commit=true" if at_once else ""
    try:
        if policy_id:
            await submit(visit, api.change, api.PolicyChange, body, query=query, gateway_id=gateway_id, id=policy_id)
        else:
            await submit(visit, api.create, api.PolicyCreate, body, query=query, gateway_id=gateway_id)
    except InvalidInput as error:
        return shell(visit, "policies.html", await _shown(visit, (body, error)), HERE)
    return f"The policy {body['name']} is {'now in force' if at_once else 'saved as a draft and not in force yet'}."


async def commit(visit: Visit, _: Fields) -> str:
    """Put all drafts in force."""
    done = await invoke(visit, api.commit, gateway_id=visit.request.path["gateway_id"])
    failed = "".join(f" The policy {each['policyId']} is not: {each['error']}." for each in done["errors"])
    are = "policy is" if done["committed"] == 1 else "policies are"
    return f"{done['committed']:,} {are} now in force.{failed}"


async def delete(visit: Visit, form: Fields) -> str:
    gateway_id = visit.request.path["gateway_id"]
    gone = await invoke(visit, api.delete, gateway_id=gateway_id, id=form.get("policy", ""))
    return f"Deleted the policy {gone['name']}."


async def simulate(visit: Visit, form: Fields) -> Response:
    """Show what the policies would decide for a call; nothing is called or counted."""
    gateway_id, body = visit.request.path["gateway_id"], _SIMULATION.body(form)
    try:
        answer = await submit(
            visit, policy_simulation.simulate, policy_simulation.Simulation, body, gateway_id=gateway_id
        )
    except InvalidInput as error:
        return shell(visit, "policies.html", await _shown(visit, asked=(body, error)), HERE)
    return shell(visit, "policies.html", await _shown(visit, asked=(body, None), simulated=_simulated(answer)), HERE)


_CAUSES = {
    "blocked": "refused by the policy {policyName}",
    "no_match": "refused: no policy matches the call",
    "not_evaluable": "refused: a condition cannot be evaluated ({why})",
}


def _simulated(answer: Mapping[str, Any]) -> SimulatedDecision:
    decision, enforced = answer["evaluation"], answer["enforcement"]
    if enforced["allowed"]:
        verdict = ("good", "allowed")
    else:
        words = {"policyName": enforced.get("policyName", ""), "why": enforced.get("why", "")}
        verdict = ("bad", _CAUSES.get(enforced.get("cause", ""), "refused: a budget is used up").format_map(words))
    return SimulatedDecision(verdict, decision["matched"], [_budget(each) for each in decision["buckets"]])


def _budget(bucket: Mapping[str, Any]) -> str:
    amount = labels.exact_usd(round(bucket["limit"] * NANOS_PER_USD))
    return f"{amount} USD per {PERIODS[bucket['period']]} for {bucket['bucket']}"
