"""The account's own keys at providers: the list of a gateway, storing, replacing and deleting one."""

from collections.abc import Mapping
from typing import Any

from farebox.http.control import provider_configs as api
from farebox.http.control.wire import Paging
from farebox.http.envelope import Response
from farebox.http.pages.fault_texts import renamed
from farebox.http.pages.fields import Field, FieldGroup, Values, shown, values_of
from farebox.http.pages.gateways import HERE, gateway
from farebox.http.pages.own_api import all_items, invoke, submit
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit
from farebox.http.validation import InvalidInput
from farebox.providers.catalogue import PROVIDERS

SHOWN = 12
"""Keys that one page of the list shows. Each has two forms, 2 kB."""
_PLAIN = "workers-ai"
"""A provider whose keys cannot be stored."""


def _create(providers: Mapping[str, str]) -> FieldGroup:
    fields = (
        Field(name="provider_slug", label="Provider", kind="choice", options=providers),
        Field(name="alias", label="Alias", hint="Calls select the key by this name if the "
            "provider has several, such as default or eu."),
        Field(name="secret", label="Key", secret=True, wide=True,
              hint="As issued by the provider, or JSON if it has several parts. It is encrypted and not shown again."),
        Field(name="default_config", label="Default key of the provider", kind="switch",
              hint="Used for calls that name no alias."),
        Field(name="rate_limit", label="Maximum number of calls", kind="number", hint="Leave empty for no limit."),
        Field(name="rate_limit_period", label="Per how many seconds", kind="number", hint="Leave empty for 60."),
        Field(name="weight", label="Weight", kind="number", more=True,
              hint="Calls are distributed among the keys of a provider by weight. A key with weight 0 is not used."),
        Field(name="secret_id", label="Secret ID", more=True,
              hint="To use a key that is already stored, enter its ID and leave the key empty. Otherwise optional."),
    )  # fmt: skip

    def body(form: Mapping[str, str]) -> dict[str, Any]:
        return {name: value for name, value in values_of(fields, form).items() if value is not None}

    return FieldGroup(name="create", title="Store a key", fields=lambda _: fields, body=body)


async def key_list(visit: Visit) -> Shown:
    """A gateway's keys, and a form for another one."""
    return await _shown(visit, {"alias": "default", "default_config": True, "weight": 0})


async def _shown(visit: Visit, values: Values, error: InvalidInput | None = None) -> Shown:
    found = await gateway(visit, visit.request.path["gateway_id"])
    keys = await all_items(visit, api.list_all, Paging(), gateway_id=found["id"])
    return {
        "title": f"Provider keys of {found['id']}",
        "gateway": found,
        **visit.part_of("keys", keys, SHOWN),
        "create": shown(_create(await _providers(visit, found["id"])), values, error),
    }


async def _providers(visit: Visit, gateway_id: str) -> dict[str, str]:
    """The providers for which a key can be stored, by slug; the account's own first."""
    configuration = visit.services.configuration
    own = await configuration.own_providers(visit.account_id, gateway_id)
    known = {each.slug: each.name for each in PROVIDERS if configuration.provider(each.slug) and each.slug != _PLAIN}
    return {slug: slug for slug in own.custom} | known


async def create(visit: Visit, form: Fields) -> Response | str:
    gateway_id = visit.request.path["gateway_id"]
    body = _create({}).body(form)
    try:
        made = await submit(visit, api.create, api.ProviderConfigCreate, body, gateway_id=gateway_id)
    except InvalidInput as error:
        body.pop("secret", None)
        return shell(visit, "provider_keys.html", await _shown(visit, body, error), HERE)
    return f"Stored the key {made['alias']} for {made['provider_slug']}."


async def replace(visit: Visit, form: Fields) -> str:
    """Replace a key, or change its weight."""
    fields = (Field(name="secret", label="", secret=True), Field(name="weight", label="", kind="number"))
    body, path = values_of(fields, form), visit.request.path
    place = {"gateway_id": path["gateway_id"], "id": path["key_id"]}
    try:
        made = await submit(visit, api.replace, api.ProviderConfigReplace, body, **place)
    except InvalidInput as error:
        raise renamed(error, {"secret": "new key"}) from error
    return f"Changed the key {made['alias']} for {made['provider_slug']}."


async def delete(visit: Visit, _: Fields) -> str:
    path = visit.request.path
    gone = await invoke(visit, api.delete, gateway_id=path["gateway_id"], id=path["key_id"])
    return f"Deleted the key {gone['alias']} for {gone['provider_slug']}."
