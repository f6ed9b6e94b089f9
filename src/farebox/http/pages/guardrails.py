"""Guardrails of a gateway: what to look for in the content of its calls, what to do about it, and a text to try it
on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farebox.calls.screening.trial import Trial, try_text
from farebox.detection.scan import Match
from farebox.errors import NOT_FOUND, Problem
from farebox.gateway import Check
from farebox.http.control import dlp_profiles
from farebox.http.control import gateways as api
from farebox.http.control.wire import Paging
from farebox.http.envelope import Response
from farebox.http.pages.fields import Field, FieldGroup, Values, shown, values_of
from farebox.http.pages.gateways import HERE, gateway
from farebox.http.pages.own_api import all_items, submit
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit
from farebox.http.validation import InvalidInput

POLICIES_MAX = 20
TEXT_MAX = 8_000
ACTIONS = {"FLAG": "flag it", "BLOCK": "block the call"}
CHECKS = {"REQUEST": "request", "RESPONSE": "response"}
HAZARDS: dict[str, str] = {
    "P1": "Prompt injection",
    "S1": "Violent crimes",
    "S2": "Non-violent crimes",
    "S3": "Sex-related crimes",
    "S4": "Child sexual exploitation",
    "S5": "Defamation",
    "S6": "Specialized advice",
    "S7": "Privacy",
    "S8": "Intellectual property",
    "S9": "Indiscriminate weapons",
    "S10": "Hate",
    "S11": "Suicide and self-harm",
    "S12": "Sexual content",
    "S13": "Elections",
}
_SIDES: dict[Check, str] = {"REQUEST": "prompt", "RESPONSE": "response"}


async def guardrails(visit: Visit) -> Shown:
    return await _shown(visit)


async def _shown(
    visit: Visit, sent: tuple[str, Values, InvalidInput] | None = None, tried: "TrialResult | None" = None
) -> Shown:
    """The page's content. `sent`: a group that was not saved, with what was sent and its faults."""
    found = await gateway(visit, visit.request.path["gateway_id"])
    name, values, error = sent or ("", {}, None)
    groups = await _groups(visit)
    stored = _with_one_more({"dlp": _as_policies(found.get("dlp")), "guardrails": found["guardrails"]})
    values = _with_one_more(values)
    return {
        "title": f"Guardrails of {found['id']}",
        "gateway": found,
        "groups": [shown(each, values, error) if each.name == name else shown(each, stored) for each in groups],
        "failed": sent is not None,
        "scored": visit.services.scorer is not None,
        "checks": CHECKS,
        "tried": tried,
    }


def _with_one_more(values: Values) -> Values:
    """The values with another, empty policy."""
    dlp = values.get("dlp") or {"enabled": False}
    blank = {"id": None, "enabled": True, "action": "BLOCK", "check": ["REQUEST"], "profiles": []}
    policies = [*(dlp.get("policies") or ()), blank][:POLICIES_MAX]
    return {**values, "dlp": {**dlp, "policies": policies}}


def _as_policies(dlp: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Policies for the short form, which has one action for everything."""
    if dlp is None or "policies" in dlp or not dlp.get("profiles"):
        return dlp
    policy = {"id": "all", "enabled": True, "action": dlp["action"], "check": list(CHECKS), "profiles": dlp["profiles"]}
    return {"enabled": dlp["enabled"], "policies": [policy]}


async def _groups(visit: Visit) -> list[FieldGroup]:
    profiles = {each["id"]: each["name"] for each in await all_items(visit, dlp_profiles.list_all, Paging())}
    groups = [
        FieldGroup(
            name="dlp",
            title="Data loss prevention",
            hint="Detects sensitive data by patterns. To remove a policy, clear its ID and profiles.",
            fields=lambda values: _policies(values, profiles),
            body=lambda form: _policies_sent(form, profiles),
        )
    ]
    if scorer := visit.services.scorer:
        hazards = {hazard: name for hazard, name in HAZARDS.items() if hazard in scorer.hazards}
        sides = [field for side in _SIDES.values() for field in _side(side, hazards)]
        groups.append(
            FieldGroup(
                name="guardrails",
                title="Hazards",
                hint="The operator’s scorer decides what is hazardous.",
                fields=lambda _: sides,
                body=lambda form: {"guardrails": _sides_sent(form, hazards)},
            )
        )
    return groups


# --- data loss prevention ---------------------------------------------------------------------------------------------

_ENABLED = Field(name="dlp.enabled", label="Screen calls", kind="switch")


def _policies(values: Values, profiles: Mapping[str, str]) -> Sequence[Field]:
    count = len(values["dlp"]["policies"])
    return [_ENABLED, *(each for number in range(count) for each in _policy(number, profiles))]


def _policy(number: int, profiles: Mapping[str, str]) -> Sequence[Field]:
    place, which = f"dlp.policies.{number}", f" {number + 1}" if number else ""
    return (
        Field(name=f"{place}.id", label=f"Policy ID{which}", hint="It appears in findings, for example no-cards."),
        Field(name=f"{place}.action", label=f"Action{which}", kind="choice", options=ACTIONS),
        Field(name=f"{place}.enabled", label=f"Policy{which} enabled", kind="switch"),
        Field(name=f"{place}.check", label=f"Check{which}", kind="several", options=CHECKS, wide=True),
        Field(name=f"{place}.profiles", label=f"What to look for{which}", kind="several", options=profiles, wide=True),
    )


def _policies_sent(form: Mapping[str, str], profiles: Mapping[str, str]) -> dict[str, Any]:
    sent = [values_of(_policy(number, profiles), form) for number in range(POLICIES_MAX)]
    policies = [policy | {"id": policy["id"] or ""} for policy in sent if policy["id"] or policy["profiles"]]
    enabled = values_of([_ENABLED], form)["enabled"]
    return {"dlp": {"enabled": enabled, "policies": policies} if policies or enabled else None}


# --- hazards ----------------------------------------------------------------------------------------------------------


def _side(side: str, hazards: Mapping[str, str]) -> list[Field]:
    subject = {"prompt": "request", "response": "response"}[side]
    options = {"": "ignore it"} | ACTIONS
    return [
        Field(name=f"guardrails.{side}.{hazard}", label=f"{name}, {subject}", kind="choice", options=options)
        for hazard, name in hazards.items()
    ]


def _sides_sent(form: Mapping[str, str], hazards: Mapping[str, str]) -> dict[str, Any] | None:
    sides = {side: values_of(_side(side, hazards), form) for side in _SIDES.values()}
    found = {side: {name: action for name, action in actions.items() if action} for side, actions in sides.items()}
    return found if any(found.values()) else None


async def save(visit: Visit, form: Fields) -> Response | str:
    """Save one of the two groups."""
    gateway_id, name = visit.request.path["gateway_id"], form.get("group")
    group = next((each for each in await _groups(visit) if each.name == name), None)
    if group is None:
        raise Problem(NOT_FOUND, "These settings do not exist")
    body = group.body(form)
    try:
        await submit(visit, api.change, api.GatewayChange, body, gateway_id=gateway_id)
    except InvalidInput as error:
        return shell(visit, "guardrails.html", await _shown(visit, (group.name, body, error)), HERE)
    return f"{group.title}: saved."


# --- trying a text ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A text, and what the rules find in it."""

    check: str
    text: str
    verdict: tuple[str, str]
    trial: Trial
    names: Mapping[str, str]
    """Names of profiles and entries, by ID."""
    parts: list[tuple[str, str]]
    """The text in parts, each with the finding there, if any."""
    hazards: list[str]


async def try_it(visit: Visit, form: Fields) -> Response:
    """Apply the saved rules to a text, and show the findings."""
    gateway_id, text = visit.request.path["gateway_id"], form.get("text", "")[:TEXT_MAX].replace("\r\n", "\n")
    await gateway(visit, gateway_id)
    config = await visit.services.configuration.gateway(visit.account_id, gateway_id)
    if config is None:
        raise Problem(NOT_FOUND, "This gateway does not exist")
    check: Check = "RESPONSE" if form.get("check") == "RESPONSE" else "REQUEST"
    body = text.encode()
    trial = await try_text(visit.services, visit.account_id, gateway_id, config, check, body)
    found = trial.screened
    verdict = ("bad", "would be blocked") if trial.blocked else ("good", "would pass")
    if not trial.blocked and (found.dlp or found.guardrails):
        verdict = ("warn", "would be flagged")
    hazards = [f"{HAZARDS.get(name, name)} ({name})" for one in found.guardrails for name in one.categories]
    names = await _names(visit)
    tried = TrialResult(check, text, verdict, trial, names, _parts(body, trial.matches, names), hazards)
    return shell(visit, "guardrails.html", await _shown(visit, tried=tried), HERE)


async def _names(visit: Visit) -> dict[str, str]:
    profiles = await all_items(visit, dlp_profiles.list_all, Paging())
    return {each["id"]: each["name"] for profile in profiles for each in (profile, *profile["entries"])}


def _parts(body: bytes, matches: Sequence[Match], names: Mapping[str, str]) -> list[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    at = 0
    for match in sorted(matches, key=lambda match: (match.start, -match.end)):
        if match.start >= at:
            parts.append((body[at : match.start].decode(errors="replace"), ""))
            what = ": ".join(names.get(each, each) for each in (match.profile_id, match.entry_id))
            parts.append((body[match.start : match.end].decode(errors="replace"), what))
            at = match.end
    return [part for part in [*parts, (body[at:].decode(errors="replace"), "")] if part[0]]
