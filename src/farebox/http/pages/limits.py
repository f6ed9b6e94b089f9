"""Limits: what is left of the account's and the gateways' limits, and setting them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import msgspec

from farebox.calendar import DAY_MS, HOUR_MS
from farebox.calls.spending import spending_limit
from farebox.calls.spending.rules import window_of
from farebox.errors import NOT_FOUND, VALIDATION_FAILED, Problem
from farebox.gateway import DEFAULT_GATEWAY, GatewayConfig, Selector, SpendLimits, SpendRule
from farebox.http.control import gateways
from farebox.http.control.spend_rules import RuleStates, SpendState, faults, with_ids
from farebox.http.pages import labels
from farebox.http.pages.fields import words_of
from farebox.http.pages.own_api import invoke
from farebox.http.pages.policy_lines import lines_of
from farebox.http.pages.table import BUILD, MONEY, Fields, Shown
from farebox.http.pages.token_names import tokens_to_choose
from farebox.http.pages.visit import Visit, last_page
from farebox.money import InvalidAmount, nanos_to_usd, parse_usd
from farebox.operator.tokens import no_model
from farebox.periods import Period, Zones
from farebox.providers.formats.base import InvalidRequest
from farebox.providers.naming import compat_model
from farebox.storage.account_settings import read_settings
from farebox.storage.accounts import token_labels
from farebox.storage.gateways import GatewayRow, list_gateways
from farebox.storage.policies import POLICIES, PolicyRow
from farebox.storage.sql import Connection

WINDOWS = {"hour": HOUR_MS // 1000, "day": DAY_MS // 1000, "week": 7 * DAY_MS // 1000, "30 days": 30 * DAY_MS // 1000}
"""Lengths of windows, in seconds."""
PARTITIONS = {"": "nothing (all calls together)", "user": "each end user", "token": "each token", "model": "each model"}
TECHNIQUES = {"sliding": "over a sliding window", "fixed": "by the clock, in UTC", "calendar": "by your calendar"}
"""`calendar` becomes a `period` of the rule: 30 days then mean a month."""
PERIODS: dict[str, Period] = {"hour": "hourly", "day": "daily", "week": "weekly", "30 days": "monthly"}
"""Window name → period of a rule."""
_SHOWN = 10
"""Rules and policies that one page shows."""
_STATES_MIN, _STATES_MAX, _STATES_SHOWN = 2, 20, 30
"""Combinations of values shown of a rule, at least and at most, and of all rules on the page."""
_VALUES_SHOWN = 10
"""Values by which a rule selects that are shown, at most."""
_PARTITION_MAX, _PARTITION_VALUE_MIN = 100, 20
"""Characters that are shown of a combination of values, and at least of each."""
_BY = {"model": "model", "provider": "provider", "token": "token", "user": "end user"}
"""What a rule can select by, besides metadata, and how it is called."""


@dataclass(frozen=True, slots=True)
class RuleLine:
    """A rule with what is left of it, for the first combinations of values that it counts separately."""

    gateway_id: str
    rule: SpendRule
    text: str
    technique: str
    states: list[SpendState]
    count: int
    enabled: bool


async def limits(visit: Visit) -> Shown:
    """The rules, and what is left of each."""
    services, account_id, now = visit.services, visit.account_id, visit.now
    asked = dict(visit.request.query_pairs())

    def read(connection: Connection) -> Shown:
        gateways = list_gateways(connection, account_id)
        settings = read_settings(connection, account_id)
        rules = [rule for gateway in gateways for rule in _rules(gateway)]
        part = visit.part_of("rules", rules, _SHOWN)
        policies, policy_page = _policies(connection, visit)
        named = [gateway.gateway_id for gateway in gateways] or [DEFAULT_GATEWAY]
        tokens = tokens_to_choose(connection, account_id, [asked.get("token", "")], now)
        return {
            "lines": _lines(connection, account_id, part["rules"], () if settings is None else settings.zones, now),
            "page": part["page"],
            "more": part["more"],
            "policies": lines_of(policies[:_SHOWN]),
            "policy_page": policy_page,
            "more_policies": len(policies) > _SHOWN,
            "chosen_gateway": asked["gateway"] if asked.get("gateway") in named else DEFAULT_GATEWAY,
            "chosen_token": asked["token"] if asked.get("token") in tokens else "",
            **_choices(named, tokens),
        }

    return {
        "account_limit": await spending_limit.state(services, account_id),
        "builds": visit.may(BUILD),
        "pays": visit.may(MONEY),
        **await services.database.scan(read),
    }


def _policies(connection: Connection, visit: Visit) -> tuple[list[PolicyRow], int]:
    """One part of the policies, plus the first policy of the next part; and the number of the part."""
    page, of = visit.page("policies"), partial(POLICIES.list, connection, visit.account_id)
    found = of(offset=(page - 1) * _SHOWN, limit=_SHOWN + 1)
    if found or page == 1:
        return found, page
    page = last_page(len(of()), _SHOWN)
    return of(offset=(page - 1) * _SHOWN, limit=_SHOWN + 1), page


class _Rule(NamedTuple):
    """A rule of a gateway; `enforced`: whether the gateway enforces its rules."""

    gateway_id: str
    rule: SpendRule
    enforced: bool


def _rules(gateway: GatewayRow) -> list[_Rule]:
    found = msgspec.json.decode(gateway.config, type=GatewayConfig).spend_limits or SpendLimits()
    return [_Rule(gateway.gateway_id, rule, found.enabled) for rule in found.rules]


def _choices(gateways: list[str], tokens: dict[str, str]) -> Shown:
    return {
        "gateways": {gateway: gateway for gateway in gateways},
        "tokens": {"": "any"} | tokens,
        "windows": {name: name for name in WINDOWS},
        "partitions": PARTITIONS,
        "techniques": TECHNIQUES,
    }


def _lines(connection: Connection, account_id: str, rules: Sequence[_Rule], zones: Zones, now: int) -> list[RuleLine]:
    found = list[tuple[_Rule, list[SpendState], int]]()
    most = min(max(_STATES_SHOWN // max(len(rules), 1), _STATES_MIN), _STATES_MAX)
    for each in rules:
        window = window_of(each.gateway_id, each.rule, zones)
        states = RuleStates(connection, account_id, each.rule, window, now, each.enforced)
        found.append((each, states.states(most, 0), states.count()))
    counted = {state.partition["token"] for _, states, _ in found for state in states if "token" in state.partition}
    tokens = token_labels(connection, account_id, counted | tokens_in(each.rule for each in rules))
    return [
        RuleLine(
            each.gateway_id,
            each.rule,
            rule_text(each.rule, tokens),
            technique_of(each.rule),
            [_as_shown(state, tokens) for state in states],
            count,
            each.enforced and each.rule.enabled,
        )
        for each, states, count in found
    ]


def tokens_in(rules: Iterable[SpendRule]) -> set[str]:
    """The IDs of the tokens that `rule_text` names."""
    selectors = [rule.token for rule in rules if isinstance(rule.token, Selector)]
    return {token_id for selector in selectors for token_id in selector.values[:_VALUES_SHOWN]}


def _as_shown(state: SpendState, tokens: dict[str, str]) -> SpendState:
    """The state of a rule with the token's name in place of its ID, and with its values shortened."""
    named = {name: tokens.get(value, value) if name == "token" else value for name, value in state.partition.items()}
    most = max(_PARTITION_MAX // max(len(named), 1), _PARTITION_VALUE_MIN)
    return msgspec.structs.replace(
        state, partition={name: labels.shortened(value, most) for name, value in named.items()}
    )


def technique_of(rule: SpendRule) -> str:
    """The technique of a rule, as in the form."""
    return rule.technique if rule.period is msgspec.UNSET else "calendar"


def rule_text(rule: SpendRule, tokens: dict[str, str]) -> str:
    """A rule in words: `5.00 USD per day, each end user, model demo/demo-1`."""
    name = next((name for name, seconds in WINDOWS.items() if seconds == rule.window), _span(rule.window))
    name = name if rule.period is msgspec.UNSET or name != "30 days" else "month"
    metadata = {} if rule.metadata is msgspec.UNSET else rule.metadata
    every = [*((word, getattr(rule, name)) for name, word in _BY.items()), *metadata.items()]
    selectors = [(word, each) for word, each in every if isinstance(each, Selector)]
    shown = max(1, _VALUES_SHOWN // max(1, sum(each.mode == "filter" for _, each in selectors)))
    parts = [f"{labels.exact_usd(round(rule.limit * 10**9))} USD per {name}"]
    for word, each in selectors:
        values = [tokens.get(value, value) for value in each.values] if each is rule.token else each.values
        parts.append(f"each {word}" if each.mode == "partition" else f"{word} {labels.any_of(values, shown)}")
    return ", ".join(parts)


def _span(seconds: int) -> str:
    """`2 days`, `90 seconds`, `minute`."""
    units = (("day", DAY_MS // 1000), ("hour", HOUR_MS // 1000), ("minute", 60), ("second", 1))
    unit, length = next((unit, length) for unit, length in units if seconds % length == 0)
    return unit if seconds == length else f"{seconds // length:,} {unit}s"


# --- setting them -----------------------------------------------------------------------------------------------------


def rule_of(form: Fields) -> SpendRule:
    """The rule that a form describes. Raises Problem (VALIDATION_FAILED)."""
    try:
        limit = nanos_to_usd(parse_usd(form.get("limit", "").strip()))
    except InvalidAmount as error:
        message = "Enter the limit in US dollars, above 0 and at most 1,000,000,000, such as 50 or 0.25"
        raise Problem(VALIDATION_FAILED, message, path=("body", "limit")) from error
    _check_choices(form)
    selectors: dict[str, object] = {}
    models = [_model_of(name) for name in words_of(form.get("models", ""))]
    if form.get("partition"):
        selectors[form["partition"]] = {"mode": "partition"}
    tokens = [form["only_token"]] if form.get("only_token") else []
    for name, values in (("model", models), ("token", tokens)):
        if values and name in selectors:
            raise Problem(
                VALIDATION_FAILED,
                f"Choose either certain {name}s or a separate limit for each {name}, not both",
                path=("body", name),
            )
        if values:
            selectors[name] = {"mode": "filter", "values": values}
    window, technique = form["window"], form["technique"]
    given: dict[str, object] = {"limit": limit, "limitType": "cost", "window": WINDOWS[window]}
    if technique == "calendar":
        given["period"], technique = PERIODS[window], "fixed"
    try:
        rule = msgspec.convert(given | {"technique": technique} | selectors, SpendRule)
    except msgspec.ValidationError as error:
        message = "Name at most 200 models, each with at most 256 characters"
        raise Problem(VALIDATION_FAILED, message, path=("body", "model")) from error
    if found := faults(SpendLimits(rules=(rule,))):
        raise Problem(VALIDATION_FAILED, found[0].message, path=("body",))
    return rule


def _model_of(name: str) -> str:
    """A model in the form that calls are compared with. Rules that are set by the API may also name models without
    their providers. Raises Problem (VALIDATION_FAILED)."""
    try:
        provider, model = compat_model(name)
    except InvalidRequest as error:
        raise Problem(VALIDATION_FAILED, no_model(name), path=("body", "models")) from error
    if "*" in model:
        raise Problem(VALIDATION_FAILED, "A limit is for certain models: name each", path=("body", "models"))
    return f"{provider}/{model}"


def _check_choices(form: Fields) -> None:
    """Raises Problem (VALIDATION_FAILED) for a choice that the form does not offer."""
    for name, what, options in (
        ("window", "the period", {window: window for window in WINDOWS}),
        ("technique", "how spending is counted", TECHNIQUES),
        ("partition", "what has separate limits", PARTITIONS),
    ):
        if form.get(name, "") not in options:
            offered = "; ".join(options.values())
            raise Problem(VALIDATION_FAILED, f"Choose {what}: {offered}", path=("body", name))


async def check_tokens(visit: Visit, rule: SpendRule) -> dict[str, str]:
    """The names of the tokens that the rule names, by ID. Raises Problem (NOT_FOUND) if one is not the account's."""
    wanted = tokens_in([rule])
    names = await visit.services.database.scan(partial(token_labels, account_id=visit.account_id, token_ids=wanted))
    if wanted - names.keys():
        raise Problem(NOT_FOUND, "Choose one of the account’s access tokens: this one does not exist")
    return names


async def add(visit: Visit, form: Fields) -> str:
    """Add a rule to a gateway's spend limits, and enforce them."""
    rule = rule_of(form)
    tokens = await check_tokens(visit, rule)
    gateway_id = form.get("gateway", DEFAULT_GATEWAY)

    def changed(found: SpendLimits) -> SpendLimits:
        return with_ids(SpendLimits(enabled=True, rules=(*found.rules, rule)))

    await _change(visit, gateway_id, changed)
    return f"Set the limit: {rule_text(rule, tokens)}. It counts calls from now on."


async def remove(visit: Visit, form: Fields) -> str:
    """Remove a rule."""
    rule_id = form.get("rule", "")

    def changed(found: SpendLimits) -> SpendLimits:
        left = tuple(rule for rule in found.rules if rule.id != rule_id)
        if len(left) == len(found.rules):
            raise Problem(NOT_FOUND, "This limit does not exist")
        return msgspec.structs.replace(found, rules=left)

    await _change(visit, form.get("gateway", ""), changed)
    return "Removed the limit."


async def _change(visit: Visit, gateway_id: str, changed: Callable[[SpendLimits], SpendLimits]) -> None:
    def bounded(found: SpendLimits) -> SpendLimits:
        try:
            return msgspec.convert(msgspec.to_builtins(changed(found)), SpendLimits)
        except msgspec.ValidationError as error:
            raise Problem(
                VALIDATION_FAILED, "A gateway can have at most 20 limits: remove one first", path=("body",)
            ) from error

    if await visit.services.configuration.gateway(visit.account_id, gateway_id) is None:  # creates `default`
        raise Problem(NOT_FOUND, "This gateway does not exist")
    await invoke(visit, gateways.change_limits, bounded, gateway_id=gateway_id)
