"""The operator's page of providers: keys, their state, and the credit left.

Times are milliseconds since the Unix epoch.
"""

import re
from dataclasses import dataclass
from typing import Final

from farebox.http.envelope import Response
from farebox.http.pages.operator_forms import invalid, run_action, text
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit
from farebox.operator import administer, shared_keys
from farebox.operator.remaining_credit import ASKED, CreditQuery, CreditUnknown, RemainingCredit, remaining
from farebox.operator.shared_keys import FIRST, WEIGHT_MAX
from farebox.providers.catalogue import PROVIDERS
from farebox.runtime.provider_access import OperatorKey, ProviderAccess
from farebox.settings import proxies
from farebox.storage.buckets import OPERATOR
from farebox.storage.config import list_provider_keys, list_providers
from farebox.storage.last_uses import uses_of
from farebox.storage.operator_alarms import Alarm, open_alarms
from farebox.storage.sql import Connection
from farebox.vault import masked

HERE: Final = "/ui/provider-keys"
_DEMO: Final = "demo"
_WEIGHT: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class KeyLine:
    """An operator's key at a provider."""

    key_id: str
    name: str
    """Its name among the provider's keys; the first is `default`."""
    shown: str
    weight: int
    used_at: int | None
    paused_until: int | None
    """Until then, this process uses another key, because the provider has refused this one or limited its rate."""


@dataclass(frozen=True, slots=True)
class ProviderLine:
    """A provider that the operator has set up."""

    slug: str
    base_url: str
    keys: list[KeyLine]
    alarms: list[Alarm]
    states_credit: bool


async def provider_keys(visit: Visit) -> Shown:
    """The providers that are set up, with their keys."""
    return await _page(visit, {})


async def _page(visit: Visit, credit: dict[str, str]) -> Shown:
    services, now = visit.services, visit.services.clock.now_ms()

    def read(connection: Connection) -> tuple[set[str], dict[str, int], list[Alarm]]:
        slugs = {row.name for row in list_providers(connection)}
        slugs |= {row.provider for row in list_provider_keys(connection)}
        return slugs, uses_of(connection, OPERATOR, "provider"), open_alarms(connection)

    slugs, used, alarms = await services.database.scan(read)
    lines = []
    for slug in sorted(slugs - {_DEMO}):
        access = services.configuration.provider(slug)
        if access is None:
            continue
        keys = []
        for key in keys_of(access):
            until = services.paused_keys.until(OPERATOR, key.key_id, "")
            paused = until if until > now else None
            name = key.key_id.partition("/")[2] or FIRST
            keys.append(KeyLine(key.key_id, name, masked(key.key), key.weight, used.get(key.key_id), paused))
        about = [alarm for alarm in alarms if alarm.about.partition("/")[0] == slug]
        lines.append(ProviderLine(slug, access.base_url, keys, about, slug in ASKED))
    known = {each.slug: each.slug for each in PROVIDERS if each.slug != _DEMO}
    stating = [each.name for each in PROVIDERS if each.slug in ASKED]
    shared = {line.slug: line.slug for line in lines if line.keys}
    return {
        "title": "Operator’s provider keys", "lines": lines, "known": known, "credit": credit, "stating": stating,
        "shared": shared, "weight_max": WEIGHT_MAX,
    }  # fmt: skip


def keys_of(access: ProviderAccess) -> tuple[OperatorKey, ...]:
    """The operator's keys at a provider, including a single one."""
    if access.keys or access.api_key is None:
        return access.keys
    return (OperatorKey(access.key_id or access.provider.slug, access.api_key, 1),)


async def save(visit: Visit, form: Fields) -> str:
    """Set a provider's key or base URL; empty fields stay unchanged."""
    services = visit.services
    row = await run_action(
        visit,
        lambda connection, by: administer.set_provider(
            connection,
            services.vault,
            by=by,
            name=text(form, "provider"),
            at=services.clock.now_ms(),
            base_url=text(form, "base_url") or None,
            api_key=form.get("api_key", "").strip() or None,
        ),
    )
    return f"{row.name} is now called at {row.base_url}{', with a key' if row.api_key else ', without a key'}."


async def save_key(visit: Visit, form: Fields) -> str:
    """Add a further key, or change the weight of one, or the key itself."""
    services, weight = visit.services, text(form, "weight")
    if weight and not _WEIGHT.fullmatch(weight):
        raise invalid(f"Enter the weight as a whole number from 0 to {WEIGHT_MAX:,}")
    row = await run_action(
        visit,
        lambda connection, by: shared_keys.set_key(
            connection,
            services.vault,
            by=by,
            provider=text(form, "provider"),
            name=text(form, "name"),
            at=services.clock.now_ms(),
            api_key=form.get("api_key", "").strip() or None,
            weight=int(weight) if weight else None,
        ),
    )
    return f"The key {text(form, 'name')} at {text(form, 'provider')} now has weight {row.weight:,}."


async def remove_key(visit: Visit, form: Fields) -> str:
    """Remove a further key."""
    at, provider, name = visit.services.clock.now_ms(), text(form, "provider"), text(form, "name")
    await run_action(
        visit,
        lambda connection, by: shared_keys.remove_key(connection, by=by, provider=provider, name=name, at=at),
    )
    return f"Removed the key {name} of {provider}."


async def ask_credit(visit: Visit, _: Fields) -> Response:
    """Query the credit left at the providers that report it."""
    configured = {slug: visit.services.configuration.provider(slug) for slug in ASKED}
    asked = [
        (CreditQuery(slug, access.base_url, key.key), key.key_id)
        for slug, access in configured.items()
        if access is not None
        for key in keys_of(access)
    ]
    left = await remaining([each for each, _ in asked], proxies())
    found = {key_id: _credit_text(each) for (_, key_id), each in zip(asked, left, strict=True)}
    return shell(visit, "operator_keys.html", await _page(visit, found), HERE)


def _credit_text(left: RemainingCredit | CreditUnknown | None) -> str:
    if isinstance(left, CreditUnknown):
        return str(left)
    if left is None:
        return "not reported"
    return f"{left.amount:,.0f} {left.unit}" if left.unit == "characters" else f"{left.amount:,.2f} {left.unit}"
