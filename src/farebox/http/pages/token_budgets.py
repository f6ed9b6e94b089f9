"""What is left of what access tokens may spend: of the limits that count a token's calls apart, or only certain tokens.

The figures are those by which calls are admitted (ledger.budgets), looked up by their keys: no call is read.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from farebox.calls.policy_check import token_fields
from farebox.calls.spending.rules import CalendarWindow, SpendingWindow, scope_of, window_of
from farebox.gateway import GatewayConfig, Selector, SpendRule
from farebox.http.pages.limits import TECHNIQUES, rule_text, technique_of, tokens_in
from farebox.http.pages.policy_lines import limit_text
from farebox.ledger.budgets import ScopeUsage, read_scopes
from farebox.model import AccessToken
from farebox.periods import Zones
from farebox.policies.conditions import CF_USER_EMAIL, CF_USER_ID, TOKEN_ID, TOKEN_NAME
from farebox.policies.decide import Policies, limits_apart
from farebox.runtime.services import Services
from farebox.storage.account_settings import read_settings
from farebox.storage.accounts import token_labels
from farebox.storage.gateways import list_gateways
from farebox.storage.policies import gateways_with_policies
from farebox.storage.sql import Connection

_OF_TOKEN = frozenset((TOKEN_ID, TOKEN_NAME, CF_USER_ID, CF_USER_EMAIL))
"""What policies read of an access token."""


class TokenBudget(msgspec.Struct, frozen=True):
    """A limit on what a token spends, with what is left of it. Nano-dollars, milliseconds."""

    gateway_id: str
    text: str
    technique: str
    limit: int
    spent: int
    held: int
    resets_at: int | None
    """When nothing that counts now counts any more; None if nothing does."""
    shared: bool
    """Other tokens spend from it too."""
    by_value: bool
    """There is one for each combination of further values (end users, models …): they have no figures here."""

    @property
    def taken(self) -> int:
        return self.spent + self.held

    @property
    def left(self) -> int:
        return max(0, self.limit - self.taken)


class _Limit(msgspec.Struct, frozen=True):
    """A limit that counts a token's calls."""

    token_id: str
    gateway_id: str
    text: str
    technique: str
    window: SpendingWindow | CalendarWindow
    scope: str | None
    """Of its budget; None where it has one for each combination of further values."""
    shared: bool


class _OfToken(msgspec.Struct, frozen=True):
    """The values of a token's calls by which a rule selects (calls.spending.rules.ValuesOfCall), as far as they are all
    that the name of its budget depends on: those of a filter are not part of it."""

    rule: SpendRule
    token_id: str

    def values(self, name: str) -> tuple[str, ...]:
        selector = getattr(self.rule, name)
        return (self.token_id,) if name == "token" else selector.values if selector.mode == "filter" else ()

    def metadata(self, key: str) -> tuple[str, ...]:
        assert isinstance(self.rule.metadata, dict)
        selector = self.rule.metadata[key]
        return selector.values if selector.mode == "filter" else ()


async def budgets_of(
    services: Services,
    account_id: str,
    tokens: Sequence[AccessToken],
    most: int | None = None,
) -> dict[str, list[TokenBudget]]:
    """The budgets of each of these tokens of the account, by its ID, that with the smallest part left first. `most`:
    how many budgets are read at most; tokens for which that is too few are left out. None: no bound. Raises
    DatabaseUnavailable."""
    database, now = services.database, services.clock.now_ms()
    stored = await database.scan(partial(_stored, account_id=account_id, tokens=tokens))
    limits, policies, zones = len(stored.rules), list[Policies](), stored.zones
    for gateway_id in stored.with_policies:
        if most is not None and limits > most:  # not one token
            break
        of_gateway = await services.configuration.policies(account_id, gateway_id)
        if of_gateway is not None:
            policies.append(of_gateway)
            limits += len(of_gateway.policies)
    tokens = tokens if most is None else tokens[: most // max(1, limits)]
    found = await asyncio.to_thread(_limits, stored.rules, policies, zones, tokens, stored.names)
    counted = await database.scan(partial(_usage_of, account_id=account_id, limits=found, now=now))
    budgets: dict[str, list[TokenBudget]] = {token.token_id: [] for token in tokens}
    for limit in found:
        budgets[limit.token_id].append(_budget(limit, counted.get((limit.window.since(now), limit.scope)), now))
    return {token_id: sorted(of_token, key=_tightness) for token_id, of_token in budgets.items()}


class _Stored(msgspec.Struct, frozen=True):
    """What may limit the tokens: rules with their gateways, and the gateways with policies, of those that one of the
    tokens reaches."""

    rules: list[tuple[str, SpendRule]]
    with_policies: list[str]
    zones: Zones
    names: dict[str, str]
    """What the tokens are called that the rules name."""


def _stored(connection: Connection, account_id: str, tokens: Sequence[AccessToken]) -> _Stored:
    rules: list[tuple[str, SpendRule]] = []
    reached: list[str] = []
    for gateway in list_gateways(connection, account_id):
        if not any(token.may_reach(gateway.gateway_id) for token in tokens):
            continue
        reached.append(gateway.gateway_id)
        limits = msgspec.json.decode(gateway.config, type=GatewayConfig).spend_limits
        if limits is not None and limits.enabled:
            of_tokens = (rule for rule in limits.rules if rule.enabled and isinstance(rule.token, Selector))
            rules += ((gateway.gateway_id, rule) for rule in of_tokens if _counts(rule, tokens))
    settings, having = read_settings(connection, account_id), gateways_with_policies(connection, account_id)
    zones = () if settings is None else settings.zones
    names = token_labels(connection, account_id, tokens_in(rule for _, rule in rules))
    return _Stored(rules, [gateway_id for gateway_id in reached if gateway_id in having], zones, names)


def _counts(rule: SpendRule, tokens: Sequence[AccessToken]) -> bool:
    """Whether a rule by token counts calls of any of these tokens."""
    selector = rule.token
    assert isinstance(selector, Selector)
    return selector.mode == "partition" or any(token.token_id in selector.values for token in tokens)


def _tightness(budget: TokenBudget) -> tuple[bool, float]:
    return budget.by_value, budget.left / budget.limit


def _limits(
    rules: Iterable[tuple[str, SpendRule]],
    policies: Iterable[Policies],
    zones: Zones,
    tokens: Sequence[AccessToken],
    names: Mapping[str, str],
) -> list[_Limit]:
    found: list[_Limit] = []
    for gateway_id, rule in rules:
        if isinstance(rule.token, Selector):
            found += _of_rule(gateway_id, rule, rule.token, zones, tokens, names)
    for each in policies:
        found += (limit for token in tokens for limit in _of_policies(each, token))
    return found


def _of_rule(
    gateway_id: str,
    rule: SpendRule,
    selector: Selector,
    zones: Zones,
    tokens: Iterable[AccessToken],
    names: Mapping[str, str],
) -> Iterator[_Limit]:
    window, text, technique = (
        window_of(gateway_id, rule, zones),
        rule_text(rule, dict(names)),
        TECHNIQUES[technique_of(rule)],
    )
    filters = selector.mode == "filter"
    for token in tokens:
        if token.may_reach(gateway_id) and (not filters or token.token_id in selector.values):
            scope = scope_of(gateway_id, rule, _OfToken(rule, token.token_id))
            shared = filters and len(selector.values) > 1
            yield _Limit(token.token_id, gateway_id, text, technique, window, scope, shared)


def _of_policies(policies: Policies, token: AccessToken) -> Iterator[_Limit]:
    if not token.may_reach(policies.gateway_id):
        return
    fields = token_fields(token.token_id, token.name)
    for limit in limits_apart(policies, fields, _OF_TOKEN):
        window = CalendarWindow(limit.scope, limit.amount, limit.period, limit.zones)
        document = next(each.document for each in policies.policies if each.policy_id == limit.policy_id)
        shared = token.token_id not in limit.bucket  # by name, which others may have too
        text = limit_text(document)
        yield _Limit(token.token_id, policies.gateway_id, text, "by a policy", window, limit.scope, shared)


def _usage_of(
    connection: Connection, account_id: str, limits: Iterable[_Limit], now: int
) -> dict[tuple[int, str | None], ScopeUsage]:
    """What counts in the budgets, by the start of their window and their scope."""
    scopes: dict[int, dict[str, None]] = {}
    for limit in limits:
        if limit.scope is not None:
            scopes.setdefault(limit.window.since(now), {})[limit.scope] = None
    return {
        (since, scope): usage
        for since, some in scopes.items()
        for scope, usage in read_scopes(connection, account_id, list(some), since).items()
    }


def _budget(limit: _Limit, usage: ScopeUsage | None, now: int) -> TokenBudget:
    window = limit.window
    fixed = isinstance(window, CalendarWindow) or window.slot == window.length
    ends = window.ends_at(window.since(now)) if fixed else None
    return TokenBudget(
        limit.gateway_id,
        limit.text,
        limit.technique,
        window.limit,
        0 if usage is None else usage.spent,
        0 if usage is None else usage.held,
        ends if usage is None else usage.ends_at,
        limit.shared,
        by_value=limit.scope is None,
    )
