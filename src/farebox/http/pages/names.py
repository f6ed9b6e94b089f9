"""Names of a gateway: model aliases, its own and those of the account, and custom domains."""

import re
from collections.abc import Mapping
from typing import Any

from farebox.http.control import custom_domains, model_aliases
from farebox.http.control.wire import Paging
from farebox.http.envelope import Response
from farebox.http.pages.fields import Field, Values, group, shown, values_of
from farebox.http.pages.gateways import HERE, gateway
from farebox.http.pages.own_api import all_items, invoke, submit
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit
from farebox.http.validation import InvalidInput

_ALIASES, _DOMAINS = 20, 10
"""What one page shows of either list."""
_SCOPES = {"gateway": "this gateway", "account": "all gateways of the account"}
STATES = {
    "pending_dcv": ("wait", "is waiting for its TXT record"),
    "active": ("good", "is active"),
    "blocked": ("bad", "is in use by another account"),
    "error": ("bad", "has no TXT record: add it again"),
}
_ALIAS = group(
    "alias",
    "Alias",
    Field(
        name="alias",
        label="Name",
        hint="Programs use it in place of a model. Letters, digits, underscores, dots, colons and hyphens.",
    ),
    Field(name="scope", label="Applies to", kind="choice", options=_SCOPES),
    Field(
        name="targets",
        label="Models",
        kind="lines",
        wide=True,
        hint="One per line, as provider/model. Each is tried if the previous one fails. With a number after each, "
        "calls are distributed by these weights.",
    ),
)
_DOMAIN = group("domain", "Domain", Field(name="domain", label="Host name", hint="For example ai.example.com."))
_weighted = re.compile(r"(\S+)\s+(\d{1,4})").fullmatch


async def names(visit: Visit) -> Shown:
    return await _shown(visit)


async def _shown(
    visit: Visit,
    alias: tuple[Values, InvalidInput] | None = None,
    domain: tuple[Values, InvalidInput] | None = None,
) -> Shown:
    """The page's content. `alias`, `domain`: what was refused, and why."""
    found = await gateway(visit, visit.request.path["gateway_id"])
    place = {"gateway_id": found["id"]}
    own = await all_items(visit, model_aliases.list_of_gateway, Paging(), **place)
    domains = await all_items(visit, custom_domains.list_all, custom_domains.CustomDomainsQuery(), **place)
    aliases = [*own, *await all_items(visit, model_aliases.list_all, Paging())]
    return {
        "title": f"Names of {found['id']}",
        "gateway": found,
        **visit.part_of("aliases", aliases, _ALIASES),
        "targets": _texts,
        **visit.part_of("domains", domains, _DOMAINS, prefix="domain_"),
        "states": STATES,
        "alias": shown(_ALIAS, *(alias or ({"scope": "gateway"},))),
        "domain": shown(_DOMAIN, *(domain or ({},))),
        "failed": alias is not None or domain is not None,
    }


def _texts(alias: Mapping[str, Any]) -> list[str]:
    """The targets of an alias as text."""
    return [each if isinstance(each, str) else f"{each['model']} {each['weight']}" for each in alias["targets"]]


def _place(visit: Visit, form: Fields) -> dict[str, str]:
    """The scope of an alias: the gateway or the account."""
    name = {"alias": form.get("alias", "").strip()}
    return name if form.get("scope") == "account" else name | {"gateway_id": visit.request.path["gateway_id"]}


async def put_alias(visit: Visit, form: Fields) -> Response | str:
    await gateway(visit, visit.request.path["gateway_id"])
    sent = values_of(_ALIAS.fields({}), form)
    place = _place(visit, form)
    try:
        body = {"targets": [_target(line) for line in sent["targets"]]}
        await submit(visit, model_aliases.put, model_aliases.AliasSet, body, **place)
    except InvalidInput as error:
        return shell(visit, "names.html", await _shown(visit, alias=(sent, error)), HERE)
    return f"Programs can now use {place['alias']} as the model."


def _target(line: str) -> str | dict[str, Any]:
    found = _weighted(line)
    return line if found is None else {"model": found[1], "weight": int(found[2])}


async def delete_alias(visit: Visit, form: Fields) -> str:
    await gateway(visit, visit.request.path["gateway_id"])
    gone = await invoke(visit, model_aliases.delete, **_place(visit, form))
    return f"Deleted the alias {gone['alias']}."


async def add_domain(visit: Visit, form: Fields) -> Response | str:
    body = {"domain": form.get("domain", "").strip()}
    place = {"gateway_id": visit.request.path["gateway_id"]}
    try:
        made = await submit(visit, custom_domains.create, custom_domains.CustomDomainCreate, body, **place)
    except InvalidInput as error:
        return shell(visit, "names.html", await _shown(visit, domain=(body, error)), HERE)
    return f"{made['hostname']} becomes active once its TXT record is found."


async def check_domain(visit: Visit, form: Fields) -> str:
    """Look for the domain's record now."""
    found = await invoke(visit, custom_domains.get, **_of_domain(visit, form))
    return f"{found['hostname']} {STATES[found['status']][1]}."


async def delete_domain(visit: Visit, form: Fields) -> str:
    gone = await invoke(visit, custom_domains.delete, **_of_domain(visit, form))
    return f"Deleted {gone['hostname']}."


def _of_domain(visit: Visit, form: Fields) -> dict[str, str]:
    return {"gateway_id": visit.request.path["gateway_id"], "hostname": form.get("hostname", "")}
