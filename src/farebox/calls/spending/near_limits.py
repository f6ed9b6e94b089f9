"""Limits of an account that are nearly used up: of rules of spend limits, of policies, and of dynamic routes.

What counts in the budgets (ledger.budgets) is compared with the limits that are in force now. A budget may have been
left behind: by a rule whose window or partition was changed, a policy that was deleted, an earlier version of a route.

There may be a budget for each user of an account, so only some are read: of each kind of limit at most PAGES pages, in
the order of their scopes, and of a limit whose budgets fill a page not many more.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote

import msgspec

from farebox.calls.spending.rules import ROUTE_SCOPE, CalendarWindow, SpendingWindow, counts_in, window_of
from farebox.dynamic_routes.elements import Element, Limit, Rate
from farebox.dynamic_routes.graph import key_field
from farebox.gateway import GatewayConfig, SpendRule
from farebox.periods import Zones
from farebox.policies.document import PolicyDocument
from farebox.policies.in_force import LimitInForce, limits_in_force
from farebox.providers.catalogue import SLUG_OF_ALIAS
from farebox.storage.account_settings import read_settings
from farebox.storage.dynamic_routes import RouteInUse, routes_in_use
from farebox.storage.gateways import list_gateways
from farebox.storage.policies import POLICIES
from farebox.storage.spend_alerts import Slot, slots_from
from farebox.storage.sql import Connection

PAGE: Final = 500
"""Slots that are read at once."""
PAGES: Final = 12
ROUTES_MAX: Final = 200
"""Routes that are looked up: those in whose budgets most is used, by their limit at the latest hold."""

_RULES: Final = (("", "policy:"), ("policy;", ROUTE_SCOPE), ("route;", "\U0010ffff"))
_POLICIES: Final = (("policy:", "policy;"),)
_ROUTES: Final = ((ROUTE_SCOPE, "route;"),)
"""Where the scopes of each kind are among all: from, to. `;` follows `:`."""

_Spans: TypeAlias = tuple[tuple[str, str], ...]
_AnyWindow: TypeAlias = SpendingWindow | CalendarWindow


class NearLimit(NamedTuple):
    """A budget that is nearly used up. Nano-dollars."""

    scope: str
    used: int
    """What is spent, and what open holds reserve."""
    limit: int
    gateway_id: str
    rule: SpendRule | None = None
    """None: it is the limit of a policy or of a route."""
    route: str = ""
    """The route's name; empty: it is another kind of limit."""


def near_limits(connection: Connection, account_id: str, at: int, *, percent: int, limit: int) -> list[NearLimit]:
    """Budgets of the account of whose limit at least `percent` percent are used, the fullest first; at most `limit`."""
    settings = read_settings(connection, account_id)
    zones = () if settings is None else settings.zones
    found = [
        *_of_rules(connection, account_id, at, zones, percent),
        *_of_policies(connection, account_id, at, zones),
        *_of_routes(connection, account_id, at),
    ]
    near = [each for each in found if each.used * 100 >= each.limit * percent and each.limit > 0]
    return sorted(near, key=lambda each: (-each.used / each.limit, each.scope))[:limit]


def _of_rules(connection: Connection, account_id: str, at: int, zones: Zones, percent: int) -> Iterator[NearLimit]:
    """Only those that are nearly used up: whether the rule counts in a budget takes longer to find out than that."""
    present: dict[str, tuple[str, SpendRule, _AnyWindow]] = {}
    for gateway in list_gateways(connection, account_id):
        limits = msgspec.json.decode(gateway.config, type=GatewayConfig).spend_limits
        for rule in () if limits is None or not limits.enabled else limits.rules:
            window = window_of(gateway.gateway_id, rule, zones)
            if rule.enabled:
                present[window.name] = gateway.gateway_id, rule, window
    for scope, slots in _budgets(connection, account_id, _RULES, lambda name: name in present):
        gateway_id, rule, window = present[_name(scope)]
        used = _used(slots, window, at)
        if used * 100 >= window.limit * percent and counts_in(rule, window.name, scope):
            yield NearLimit(scope, used, window.limit, gateway_id, rule)


def _of_policies(connection: Connection, account_id: str, at: int, zones: Zones) -> Iterator[NearLimit]:
    known: dict[str, dict[str, list[LimitInForce]]] = {}

    def of(name: str) -> list[LimitInForce]:
        gateway_id = _gateway(name)
        if gateway_id not in known:
            rows = POLICIES.list(connection, account_id, gateway_id)
            texts = [row.live for row in rows if row.live is not None]
            documents = [msgspec.json.decode(text, type=PolicyDocument) for text in texts]
            known[gateway_id] = limits_in_force(gateway_id, documents, SLUG_OF_ALIAS)
        return known[gateway_id].get(name, [])

    for scope, slots in _budgets(connection, account_id, _POLICIES, lambda name: bool(of(name))):
        name = _name(scope)
        fit = [limit for limit in of(name) if limit.may_count(scope.removeprefix(f"{name}/"))]
        amounts = [limit.amount for limit in fit if limit.amount is not None]
        if not amounts or len(amounts) < len(fit):  # none, or one of them lifts the others
            continue
        # Which one counts depends on their conditions, too: the latest call knew it, unless it has been changed since.
        amount = slots[-1].most if slots[-1].most in amounts else max(amounts)
        window = CalendarWindow(name, amount, fit[0].period, zones)
        yield NearLimit(scope, _used(slots, window, at), amount, _gateway(name))


def _of_routes(connection: Connection, account_id: str, at: int) -> Iterator[NearLimit]:
    budgets = list(_budgets(connection, account_id, _ROUTES, lambda _: True))
    budgets.sort(key=_share, reverse=True)
    wanted = list(dict.fromkeys(_route(scope) for scope, _ in budgets))[:ROUTES_MAX]
    rates: dict[str, tuple[RouteInUse, Limit]] = {}
    for route in routes_in_use(connection, account_id, wanted):
        for element in msgspec.json.decode(route.elements, type=list[Element]):
            if isinstance(element, Rate) and element.properties.limit_type == "cost":
                limit = element.properties
                name = f"{quote(element.id, safe='')}/{limit.window}{limit.technique[0]}"
                rates[f"{ROUTE_SCOPE}{route.route_id}/{name}"] = route, limit
    for scope, slots in budgets:
        name = _name(scope)
        if name not in rates:
            continue
        route, limit = rates[name]
        if key_field(limit) is None and scope.removeprefix(name).strip("/"):  # it no longer counts by value
            continue
        rule = SpendRule(id="", limit=limit.limit, limit_type="cost", window=limit.window, technique=limit.technique)
        window = window_of("", rule, ())
        yield NearLimit(scope, _used(slots, window, at), window.limit, route.gateway_id, route=route.name)


def _budgets(
    connection: Connection, account_id: str, spans: _Spans, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, list[Slot]]]:
    """Budgets in these spans with all of their slots, in order. `wanted`: whether those of this name (`_name`) are."""
    left = PAGES
    for at, end in spans:
        while left:
            left -= 1
            page = slots_from(connection, account_id, at, end, PAGE)
            last = page[-1].scope if len(page) == PAGE else ""
            for scope, slots in groupby(page, key=attrgetter("scope")):
                if scope != last and wanted(_name(scope)):  # the last one may have further slots
                    yield scope, list(slots)
            if not last:
                break
            name = _name(last)
            skipped = name == _name(page[0].scope) or not wanted(name)
            at = f"{name}0" if skipped else last  # `0` follows `/`


def _name(scope: str) -> str:
    """The scope without the values by which its limit counts: `default/day/86400f`, `policy:default/daily/*`."""
    return "/".join(scope.split("/", 3)[:3])


def _gateway(name: str) -> str:
    """The gateway of a policy's scope."""
    return name.removeprefix("policy:").partition("/")[0]


def _route(scope: str) -> str:
    return scope.removeprefix(ROUTE_SCOPE).partition("/")[0]


def _share(budget: tuple[str, list[Slot]]) -> float:
    _, slots = budget
    return sum(slot.used for slot in slots) / max(1, slots[-1].most)


def _used(slots: Iterable[Slot], window: _AnyWindow, at: int) -> int:
    since = window.since(at)
    return sum(slot.used for slot in slots if slot.start >= since)
