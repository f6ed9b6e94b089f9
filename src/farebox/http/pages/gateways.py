"""Gateways: the list, creating and deleting them, how programs call one, and its settings."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from farebox.errors import NOT_FOUND, Problem
from farebox.gateway import DEFAULT_GATEWAY, GatewayConfig, gateway_path
from farebox.http.control import gateways as api
from farebox.http.envelope import Response
from farebox.http.pages.fault_texts import renamed
from farebox.http.pages.fields import shown
from farebox.http.pages.gateway_fields import GROUPS
from farebox.http.pages.own_api import all_items, invoke, submit
from farebox.http.pages.sdk_snippets import example_model, snippets
from farebox.http.pages.table import Fields, Shown, redirect_with_note, shell
from farebox.http.pages.view import Flash
from farebox.http.pages.visit import Visit
from farebox.http.validation import InvalidInput
from farebox.providers.catalogue import PROVIDERS
from farebox.storage.accounts import tokens_of_gateway

HERE = "/ui/gateways"
TOKENS_NAMED = 3
"""Tokens named in the message about a deleted gateway."""
SHOWN = 40
"""Gateways that one page of the list shows."""
_LABEL_MAX = 50
_USUAL = ("openai", "anthropic", "google-ai-studio")


async def gateway_list(visit: Visit) -> Shown:
    """All gateways; the default one exists from the first view of this page on, as it would from the first call."""
    await visit.services.configuration.gateway(visit.account_id, DEFAULT_GATEWAY)
    found = await all_items(visit, api.list_all, api.GatewaysQuery())
    return {**visit.part_of("gateways", found, SHOWN), "features": features_of}


def features_of(gateway: Mapping[str, Any]) -> list[str]:
    """The special properties of a gateway, a few words each."""
    cached, attempts = gateway["cache_ttl"] or 0, gateway["retry_max_attempts"]
    calls, seconds = gateway["rate_limiting_limit"] or 0, gateway["rate_limiting_interval"] or 0
    found = [
        (cached, f"caches for {cached:,} s"),
        (calls and seconds, f"{calls:,} calls in {seconds:,} s"),
        (attempts, f"{attempts} attempts"),
        (not gateway["authentication"], "no token needed"),
        (gateway["byok_only"], "own keys only"),
        (gateway["zdr"], "zero data retention"),
        (not gateway["collect_logs"], "content not logged"),
        (gateway.get("dlp") or gateway["guardrails"], "guardrails"),
        (gateway["otel"], "sends spans"),
        (gateway["logpush"], "pushes logs"),
        (gateway["stripe"], "Stripe meters"),
    ]
    return [text for there, text in found if there]


async def create(visit: Visit, form: Fields) -> Response:
    """Create a gateway with the default settings, which can be changed on its page."""
    defaults = GatewayConfig()
    required = {each: getattr(defaults, each) for each in api.GatewayCreate.__struct_fields__ if each in api.REQUIRED}
    try:
        made = await submit(visit, api.create, api.GatewayCreate, {"id": form.get("name", "").strip(), **required})
    except InvalidInput as error:
        raise renamed(error, {"id": "name"}) from error
    return redirect_with_note(visit, f"{HERE}/{made['id']}", Flash("good", f"Created the gateway {made['id']}."))


async def delete(visit: Visit, _: Fields) -> Response:
    """Delete a gateway with its keys, routes and policies."""
    gateway_id, services = visit.request.path["gateway_id"], visit.services
    find = partial(tokens_of_gateway, account_id=visit.account_id, gateway_id=gateway_id)
    limited = await services.database.scan(find)
    await invoke(visit, api.delete, gateway_id=gateway_id)
    now = services.clock.now_ms()
    useless = [token.label for token in limited if token.gateways == (gateway_id,) and token.active(now)]
    return redirect_with_note(visit, HERE, Flash("good", f"Deleted the gateway {gateway_id}.{_useless_text(useless)}"))


def _useless_text(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    more = len(labels) - TOKENS_NAMED
    named = ", ".join(label[:_LABEL_MAX] for label in labels[:TOKENS_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f" It was the only gateway of these tokens, which can no longer reach any: {named}."


async def gateway(visit: Visit, gateway_id: str) -> Mapping[str, Any]:
    """One of the account's gateways; the default one as in their list. Raises Problem (NOT_FOUND)."""
    if gateway_id == DEFAULT_GATEWAY:
        await visit.services.configuration.gateway(visit.account_id, DEFAULT_GATEWAY)
    try:
        found: Mapping[str, Any] = await invoke(visit, api.get, gateway_id=gateway_id)
    except Problem as problem:
        if problem.kind is not NOT_FOUND:
            raise
        raise Problem(NOT_FOUND, "This gateway does not exist") from problem
    return found


async def connect(visit: Visit) -> Shown:
    """How programs call the gateway."""
    services = visit.services
    found = await gateway(visit, visit.request.path["gateway_id"])
    gateway_id = found["id"]
    own = await services.configuration.own_providers(visit.account_id, gateway_id)
    root = services.base_url + gateway_path(visit.account_id, gateway_id)
    known = {each.slug: each.name for each in PROVIDERS if services.configuration.provider(each.slug) is not None}
    first = {"compat": "Any provider, in OpenAI’s format"} | {slug: known.pop(slug) for slug in _USUAL if slug in known}
    first |= {slug: slug for slug in own.custom}
    model = example_model(demo=services.configuration.demo)
    return {
        "title": f"Gateway {gateway_id}",
        "gateway": found,
        "features": features_of(found),
        "urls": [(name, f"{root}/{slug}") for slug, name in first.items()],
        "others": [(name, f"{root}/{slug}") for slug, name in known.items()],
        "snippets": snippets(services.base_url, visit.account_id, gateway_id, model),
    }


async def settings(visit: Visit) -> Shown:
    """All settings of the gateway that can be changed here."""
    return _settings(await gateway(visit, visit.request.path["gateway_id"]))


def _settings(found: Mapping[str, Any], sent: tuple[str, Mapping[str, Any], InvalidInput] | None = None) -> Shown:
    """The page's content. `sent`: a group that was not saved, with what was sent and its faults."""
    name, values, error = sent or ("", {}, None)
    groups = [shown(group, values, error) if group.name == name else shown(group, found) for group in GROUPS]
    return {"title": f"Settings of {found['id']}", "gateway": found, "groups": groups, "failed": sent is not None}


async def save(visit: Visit, form: Fields) -> Response | str:
    """Save one group of settings; if it is refused, show what was sent, with the faults at their places."""
    return await _save(visit, form, keys=False)


async def save_keys(visit: Visit, form: Fields) -> Response | str:
    """The same for a group with keys."""
    return await _save(visit, form, keys=True)


async def _save(visit: Visit, form: Fields, *, keys: bool) -> Response | str:
    gateway_id = visit.request.path["gateway_id"]
    group = next((each for each in GROUPS if (each.name, each.keys) == (form.get("group"), keys)), None)
    found = await gateway(visit, gateway_id)
    if group is None:
        raise Problem(NOT_FOUND, "These settings do not exist")
    body = group.body(form)
    try:
        await submit(visit, api.change, api.GatewayChange, body, gateway_id=gateway_id)
    except InvalidInput as error:
        return shell(visit, "gateway_settings.html", _settings(found, (group.name, body, error)), HERE)
    return f"{group.title}: saved."
