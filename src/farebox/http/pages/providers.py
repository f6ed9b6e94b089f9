"""Custom providers: the list, creating, changing and deleting them, and what their models cost."""

from collections.abc import Mapping
from typing import Any

import msgspec

from farebox.custom_provider import TokenPricing
from farebox.errors import NOT_FOUND, Problem
from farebox.http.control import custom_costs, custom_providers
from farebox.http.control.custom_headers import AS_LINES
from farebox.http.envelope import Response
from farebox.http.pages.fields import Field, FieldGroup, Values, group, shown, values_of
from farebox.http.pages.own_api import all_items, invoke, submit
from farebox.http.pages.table import Fields, Shown, redirect_with_note, shell
from farebox.http.pages.view import Flash
from farebox.http.pages.visit import Visit
from farebox.http.validation import InvalidInput, invalid

HERE = "/ui/providers"
SHOWN = 40
"""Providers that one page of the list shows,"""
COSTS_SHOWN = 20
"""and costs of the models of one provider. Each of these has a form."""

# fmt: off
_PROVIDER = group("provider", "Provider",
    Field(name="name", label="Name"),
    Field(name="slug", label="Slug", hint="Calls use custom- and the slug. Lowercase letters, digits, - and _."),
    Field(name="base_url", label="Base URL", wide=True,
          hint="What comes before the path of a call, such as https://llm.example.com/v1."),
    Field(name="headers", label="Headers", kind="area", wide=True,
          hint="Sent with each call, one per line: Name: value. Stored "
              "values show only their ends; unchanged, they are kept."),
    Field(name="enable", label="Enabled", kind="switch"),
    Field(name="beta", more=True, label="Beta", kind="switch", hint="Shown in lists; it has no other effect."),
    Field(name="description", more=True, label="Description", kind="area", wide=True),
    Field(name="link", more=True, label="Link", hint="To its documentation."),
    Field(name="position", more=True, label="Position", kind="number", hint="In lists. Leave empty to sort by name."),
    Field(name="curl_example", more=True, label="Example with curl", kind="area", wide=True),
    Field(name="js_example", more=True, label="Example in JavaScript", kind="area", wide=True),
    Field(name="logo", more=True, label="Logo", kind="area", wide=True, hint="An SVG in Base64. Leave empty to "
        "generate one."),
)
_USD = "US dollars per token: 0.000001 is 1 USD per million tokens."
_COST = (
    Field(name="model", label="Model"),
    Field(name="model_rule", label="Applies to models whose name", kind="choice",
          options={"equals": "is this", "starts-with": "starts with this", "contains": "contains this"}),
    Field(name="cost_in", label="Input", kind="number", hint=_USD),
    Field(name="cost_out", label="Output", kind="number", hint=_USD),
    Field(name="weight", label="Weight", kind="number", hint="If several costs match, the one with "
        "the highest weight applies."),
    Field(name="enable", label="Enabled", kind="switch"),
)
_KINDS = tuple(
    Field(name=f"token_pricing.{name}", label=name.replace("_", " ").capitalize(), kind="number", more=True)
    for name in TokenPricing.__struct_fields__
)
# fmt: on


def _cost_body(form: Mapping[str, str]) -> dict[str, Any]:
    kinds = {name: value for name, value in values_of(_KINDS, form).items() if value is not None}
    body = values_of(_COST, form)
    return body | {"weight": body["weight"] or 0, "token_pricing": kinds or None}


_COSTS = FieldGroup(name="cost", title="Cost", fields=lambda _: (*_COST, *_KINDS), body=_cost_body)


async def provider_list(visit: Visit) -> Shown:
    return await _list(visit, {"enable": True})


async def _list(visit: Visit, values: Values, error: InvalidInput | None = None) -> Shown:
    query = custom_providers.CustomProvidersQuery(order_by="position ASC")
    return {
        "title": "Custom providers",
        **visit.part_of("providers", await all_items(visit, custom_providers.list_all, query), SHOWN),
        "create": shown(_PROVIDER, values, error),
    }


async def create(visit: Visit, form: Fields) -> Response:
    body = _sent(form)
    try:
        _check_headers(body["headers"])
        made = await submit(visit, custom_providers.create, custom_providers.CustomProviderCreate, body)
    except InvalidInput as error:
        return shell(visit, "providers.html", await _list(visit, body, error), HERE)
    return redirect_with_note(visit, f"{HERE}/{made['id']}", Flash("good", f"Created the provider {made['name']}."))


def _sent(form: Mapping[str, str]) -> dict[str, Any]:
    """The body to send to the API. Headers are text; the name and the URL are required, so empty ones are sent as empty
    texts."""
    body = _PROVIDER.body(form)
    return body | {name: body[name] or "" for name in ("name", "slug", "base_url", "headers")}


def _check_headers(text: str) -> None:
    """Raises InvalidInput for a line without a colon, which the API takes for a header with an empty value."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not text.lstrip().startswith("{") and not all(":" in line for line in lines):
        raise invalid(AS_LINES, "body", "headers")


async def provider(visit: Visit) -> Shown:
    return await _one(visit)


async def _one(
    visit: Visit,
    changed: tuple[Values, InvalidInput] | None = None,
    costed: tuple[Values, InvalidInput] | None = None,
) -> Shown:
    """The page's content. `changed`, `costed`: changes to the provider or a cost that were refused, and why."""
    found = await _provider(visit)
    query = custom_costs.CustomCostsQuery(account_provider_id=found["id"])
    costs = [_with_kinds(each) for each in await all_items(visit, custom_costs.list_all, query)]
    chosen = dict(visit.request.query_pairs()).get("cost")
    cost = next((each for each in costs if each["id"] == chosen), None)
    return {
        "title": found["name"],
        "provider": found,
        "settings": shown(_PROVIDER, *(changed or (found,))),
        **visit.part_of("costs", costs, COSTS_SHOWN),
        "chosen": cost,
        "cost": shown(_COSTS, *(costed or (cost or {"enable": True, "weight": 0},))),
    }


async def _provider(visit: Visit) -> dict[str, Any]:
    """The provider, with its headers as lines, and without a generated logo. Raises Problem (NOT_FOUND)."""
    try:
        found = await invoke(visit, custom_providers.get, id=visit.request.path["provider_id"])
    except Problem as problem:
        if problem.kind is not NOT_FOUND:
            raise
        raise Problem(NOT_FOUND, "This provider does not exist") from problem
    headers = msgspec.json.decode(found["headers"], type=dict[str, str])
    lines = "\n".join(f"{name}: {value}" for name, value in headers.items())
    logo = None if found["logo"] == custom_providers.generated_logo(found["name"]) else found["logo"]
    return {**found, "headers": lines, "logo": logo}


def _with_kinds(cost: Mapping[str, Any]) -> dict[str, Any]:
    """The cost, with its prices by kind of token as an object."""
    text = cost.get("token_pricing")
    return {**cost, "token_pricing": None if text is None else msgspec.json.decode(text)}


async def change(visit: Visit, form: Fields) -> Response | str:
    body = _sent(form)
    try:
        _check_headers(body["headers"])
        await submit(
            visit,
            custom_providers.change,
            custom_providers.CustomProviderChange,
            body,
            id=visit.request.path["provider_id"],
        )
    except InvalidInput as error:
        return shell(visit, "provider.html", await _one(visit, changed=(body, error)), HERE)
    return "Saved the provider."


async def delete(visit: Visit, _: Fields) -> Response:
    gone = await invoke(visit, custom_providers.delete, id=visit.request.path["provider_id"])
    return redirect_with_note(visit, HERE, Flash("good", f"Deleted the provider {gone['name']}."))


async def put_cost(visit: Visit, form: Fields) -> Response | str:
    """Add a cost, or change the one that is named."""
    body, cost_id = _COSTS.body(form), form.get("cost", "")
    try:
        if cost_id:
            await submit(visit, custom_costs.change, custom_costs.CustomCostChange, body, id=cost_id)
        else:
            body["account_provider_id"] = visit.request.path["provider_id"]
            await submit(visit, custom_costs.create, custom_costs.CustomCostCreate, body)
    except InvalidInput as error:
        return shell(visit, "provider.html", await _one(visit, costed=(body, error)), HERE)
    return "Saved the cost."


async def remove_cost(visit: Visit, form: Fields) -> str:
    gone = await invoke(visit, custom_costs.delete, id=form.get("cost", ""))
    return f"Removed the cost of {gone['model']}."
