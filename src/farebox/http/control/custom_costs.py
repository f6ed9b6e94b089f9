"""Prices of custom providers' models, in US dollars per token: shown in the log, and charged to nobody."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from farebox.custom_provider import CustomCostConfig, TokenPricing
from farebox.http.control.bodies import body_of, given
from farebox.http.control.wire import Paging, iso, require
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.pricing.custom_provider_costs import compile_cost
from farebox.pricing.rates import InvalidPrice
from farebox.storage.account_keys import find_key
from farebox.storage.custom_providers import CustomCostRow, costs_of, delete_cost, find_cost, find_provider, put_cost
from farebox.storage.sql import Connection

COSTS_MAX = 200
"""Maximum costs of one account."""
_CHANGED_BY = "manual"
_READ_ONLY = ("id", "account_id", "account_tag", "changed_by", "created_at", "modified_at")

_OF_PROVIDER = ("account_provider_id", Annotated[str, msgspec.Meta(min_length=1, max_length=64)])


class _Sent(CustomCostConfig, frozen=True, kw_only=True):
    """A cost as it is sent: token prices may be a string that contains JSON, the form in which they are returned."""

    token_pricing: TokenPricing | str | None = None  # type: ignore[assignment]


CustomCostCreate = body_of(
    "CustomCostCreate", _Sent, required=("account_provider_id", "model"), more=(_OF_PROVIDER,), ignored=_READ_ONLY
)
CustomCostChange = body_of("CustomCostChange", _Sent, ignored=(*_READ_ONLY, "account_provider_id"))


class CustomCost(msgspec.Struct, frozen=True, kw_only=True):
    """One cost. `token_pricing` is a string that contains a JSON object."""

    id: str
    account_provider_id: str
    model: str
    model_rule: str
    cost_type: str
    enable: bool
    weight: int
    changed_by: str
    created_at: str
    modified_at: str
    cost_in: float | UnsetType = UNSET
    cost_out: float | UnsetType = UNSET
    token_pricing: str | UnsetType = UNSET


class CustomCostsQuery(Paging, frozen=True, kw_only=True):
    enable: bool | None = None
    account_provider_id: str | None = None
    model_rule: Literal["equals", "starts-with", "contains"] | None = None
    cost_type: str | None = None
    search: str = ""
    """Only costs whose model or `changed_by` contains this."""


async def list_all(request: Request, query: CustomCostsQuery) -> Response:
    account_id = request.account_id
    rows = await request.services.database.scan(lambda connection: costs_of(connection, account_id))
    found = [cost for cost in map(_wire, rows) if _chosen(cost, query)]
    window = query.window()
    shown = found[window.offset : window.offset + window.per_page]
    return page(shown, window.page, window.per_page, len(found))


async def get(request: Request, _: None) -> Response:
    account_id, cost_id = request.account_id, request.path["id"]
    row = await request.services.database.get(lambda connection: find_cost(connection, account_id, cost_id))
    return ok(_wire(require(row)))


async def create(request: Request, body: Any) -> Response:
    services, account_id = request.services, request.account_id
    at, cost_id = services.clock.now_ms(), services.ids.log_id()
    config = _checked(cost_id, _config({}, _given(body)))
    made = CustomCostRow(cost_id, body.account_provider_id, msgspec.json.encode(config), at, at)

    def write(connection: Connection) -> None:
        if find_provider(connection, account_id, made.provider_id) is None:
            raise invalid("The custom provider was not found", "body", "account_provider_id")
        others = costs_of(connection, account_id)
        if len(others) >= COSTS_MAX:
            raise invalid(f"The account has {COSTS_MAX} costs, the maximum: delete one", "body")
        _put(connection, account_id, made, others)

    await services.database.write(write)
    await services.configuration.notice_own_change()
    return ok(_wire(made))


async def change(request: Request, body: Any) -> Response:
    services, account_id, cost_id = request.services, request.account_id, request.path["id"]
    at, changes = services.clock.now_ms(), _given(body)

    def write(connection: Connection) -> CustomCostRow:
        before = require(find_cost(connection, account_id, cost_id))
        stored = msgspec.structs.asdict(msgspec.json.decode(before.config, type=CustomCostConfig))
        config = _checked(cost_id, _config(stored, changes))
        after = CustomCostRow(cost_id, before.provider_id, msgspec.json.encode(config), before.created_at, at)
        _put(connection, account_id, after, costs_of(connection, account_id))
        return after

    changed = await services.database.write(write)
    await services.configuration.notice_own_change()
    return ok(_wire(changed))


async def delete(request: Request, _: None) -> Response:
    account_id, cost_id = request.account_id, request.path["id"]

    def write(connection: Connection) -> CustomCostRow:
        row = require(find_cost(connection, account_id, cost_id))
        delete_cost(connection, account_id, cost_id)
        return row

    row = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return ok(_wire(row))


def _given(body: Any) -> dict[str, Any]:
    """The fields that were sent. Raises InvalidInput."""
    found = given(body, _Sent)
    pricing = found.get("token_pricing")
    if isinstance(pricing, str):
        try:
            found["token_pricing"] = msgspec.json.decode(pricing, type=TokenPricing)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise invalid(f"Expected the prices as an object: {error}", "body", "token_pricing") from error
    return found


def _config(stored: dict[str, Any], changes: dict[str, Any]) -> CustomCostConfig:
    return CustomCostConfig(**{**stored, **changes})


def _checked(cost_id: str, config: CustomCostConfig) -> CustomCostConfig:
    """Raises InvalidInput."""
    try:
        compile_cost(cost_id, "custom", config)
    except InvalidPrice as error:
        raise invalid(str(error), "body") from error
    return config


def _put(connection: Connection, account_id: str, made: CustomCostRow, others: list[CustomCostRow]) -> None:
    """Raises InvalidInput, Problem (NOT_FOUND)."""
    if any(_matched(other) == _matched(made) and other.cost_id != made.cost_id for other in others):
        raise invalid("A cost of this provider with the same model and rule already exists", "body", "model")
    key = require(find_key(connection, account_id))
    put_cost(connection, key, made)


def _matched(row: CustomCostRow) -> tuple[str, str, str]:
    """The provider, model and rule that identify a cost."""
    config = msgspec.json.decode(row.config, type=CustomCostConfig)
    return row.provider_id, config.model_rule, config.model.lower()


def _chosen(cost: CustomCost, query: CustomCostsQuery) -> bool:
    asked = (
        (query.enable, cost.enable),
        (query.account_provider_id, cost.account_provider_id),
        (query.model_rule, cost.model_rule),
        (query.cost_type, cost.cost_type),
    )
    if any(wanted not in (None, value) for wanted, value in asked):
        return False
    return any(query.search.lower() in text.lower() for text in (cost.model, cost.changed_by))


def _wire(row: CustomCostRow) -> CustomCost:
    config = msgspec.json.decode(row.config, type=CustomCostConfig)
    pricing = config.token_pricing
    return CustomCost(
        id=row.cost_id,
        account_provider_id=row.provider_id,
        model=config.model,
        model_rule=config.model_rule,
        cost_type=config.cost_type,
        enable=config.enable,
        weight=config.weight,
        changed_by=_CHANGED_BY,
        created_at=iso(row.created_at),
        modified_at=iso(row.modified_at),
        cost_in=UNSET if config.cost_in is None else config.cost_in,
        cost_out=UNSET if config.cost_out is None else config.cost_out,
        token_pricing=UNSET if pricing is None else msgspec.json.encode(pricing).decode(),
    )
