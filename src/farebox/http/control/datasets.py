"""Datasets: named filters over a gateway's log, for evaluations."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, TypeVar

import msgspec

from farebox.calls import logs
from farebox.calls.log_filters import Filter as LogFilter
from farebox.http.control.wire import Paging, Window, iso, require
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.storage import datasets as store
from farebox.storage.datasets import DatasetRow
from farebox.storage.sql import Connection

T = TypeVar("T")

DATASETS_MAX = 200
"""Maximum datasets of one gateway."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Key = Literal[
    "created_at",
    "request_content_type",
    "response_content_type",
    "success",
    "cached",
    "provider",
    "model",
    "cost",
    "tokens",
    "tokens_in",
    "tokens_out",
    "duration",
    "feedback",
]


class Filter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A filter as in lists of logs. A value that does not have the type of the key matches nothing."""

    key: Key
    operator: Literal["eq", "contains", "lt", "gt"]
    value: Annotated[list[str | float | bool], msgspec.Meta(max_length=100)]


class DatasetSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Filters that must all match."""

    name: Name
    enable: bool
    filters: Annotated[list[Filter], msgspec.Meta(max_length=50)]


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    account_id: str
    account_tag: str
    gateway_id: str
    name: str
    enable: bool
    filters: list[LogFilter]
    created_at: str
    modified_at: str


class DatasetsQuery(Paging, frozen=True, kw_only=True):
    """`search` matches the id, the name or the filters."""

    name: str | None = None
    enable: bool | None = None
    search: str = ""


async def list_all(request: Request, query: DatasetsQuery) -> Response:
    def shown(row: DatasetRow) -> bool:
        searched = (row.dataset_id, row.name, row.filters)
        return (
            query.name in (None, row.name)
            and query.enable in (None, row.enabled)
            and any(query.search in text for text in searched)
        )

    found = await list_items(request, store.DATASETS.list)
    return paged([_dataset(row) for row in found if shown(row)], query.window())


async def create(request: Request, body: DatasetSet) -> Response:
    await logs.check_gateway(request.services, request.account_id, request.path["gateway_id"])
    services, gateway_id = request.services, request.path["gateway_id"]
    at = services.clock.now_ms()
    filters = msgspec.json.encode(body.filters).decode()
    account_id = request.account_id
    row = DatasetRow(account_id, gateway_id, services.ids.log_id(), body.name, body.enable, filters, at, at)

    def write(connection: Connection) -> DatasetRow:
        others = store.DATASETS.list(connection, account_id, gateway_id)
        if len(others) >= DATASETS_MAX:
            raise invalid(f"A gateway has at most {DATASETS_MAX} datasets", "body", "name")
        check_name("A dataset", row.name, [each.name for each in others])
        store.DATASETS.put(connection, row)
        return row

    return ok(_dataset(await services.database.write(write)))


async def get(request: Request, _: None) -> Response:
    return ok(_dataset(await request.services.database.get(partial(_find, request=request))))


async def replace(request: Request, body: DatasetSet) -> Response:
    at = request.services.clock.now_ms()
    filters = msgspec.json.encode(body.filters).decode()

    def write(connection: Connection) -> DatasetRow:
        stored = _find(connection, request)
        others = store.DATASETS.list(connection, stored.account_id, stored.gateway_id)
        check_name("A dataset", body.name, [each.name for each in others if each.dataset_id != stored.dataset_id])
        row = DatasetRow(
            stored.account_id,
            stored.gateway_id,
            stored.dataset_id,
            body.name,
            body.enable,
            filters,
            stored.created_at,
            at,
        )
        store.DATASETS.put(connection, row)
        return row

    return ok(_dataset(await request.services.database.write(write)))


async def delete(request: Request, _: None) -> Response:
    """Existing evaluations keep the dataset as it was."""

    def write(connection: Connection) -> DatasetRow:
        row = _find(connection, request)
        store.DATASETS.delete(connection, row.account_id, row.gateway_id, row.dataset_id)
        return row

    return ok(_dataset(await request.services.database.write(write)))


def _find(connection: Connection, request: Request) -> DatasetRow:
    """Raises Problem (NOT_FOUND)."""
    return require(store.DATASETS.find(connection, request.account_id, request.path["gateway_id"], request.path["id"]))


def _dataset(row: DatasetRow) -> Dataset:
    return Dataset(
        id=row.dataset_id,
        account_id=row.account_id,
        account_tag=row.account_id,
        gateway_id=row.gateway_id,
        name=row.name,
        enable=row.enabled,
        filters=msgspec.json.decode(row.filters, type=list[LogFilter]),
        created_at=iso(row.created_at),
        modified_at=iso(row.modified_at),
    )


async def list_items(request: Request, read: Callable[[Connection, str, str], list[T]]) -> list[T]:
    """The items that `read` returns for the gateway. Raises Problem (NOT_FOUND)."""
    await logs.check_gateway(request.services, request.account_id, request.path["gateway_id"])
    account_id, gateway_id = request.account_id, request.path["gateway_id"]
    return await request.services.database.scan(lambda connection: read(connection, account_id, gateway_id))


def paged(items: list[T], window: Window) -> Response:
    shown = items[window.offset : window.offset + window.per_page]
    return page(shown, window.page, window.per_page, len(items))


def check_name(what: str, name: str, others: list[str]) -> None:
    """Raises InvalidInput."""
    if name in others:
        raise invalid(f"{what} with the name '{name[:64]}' already exists", "body", "name")
