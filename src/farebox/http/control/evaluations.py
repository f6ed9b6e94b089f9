"""Evaluations: the cost, speed and ratings of datasets' logs; and the available types."""

from functools import partial
from typing import Annotated, Literal

import msgspec

from farebox.calls import evaluations, logs
from farebox.calls.evaluations import EVALUATORS, Result, datasets_of, results_of
from farebox.calls.log_filters import Filter
from farebox.http.control.datasets import Dataset, Name, check_name, list_items, paged
from farebox.http.control.wire import Paging, iso, require
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.http.validation import Fault, InvalidInput, invalid
from farebox.storage import datasets as store
from farebox.storage.datasets import EvaluationRow
from farebox.storage.sql import Connection

EVALUATIONS_MAX = 1_000
"""Maximum evaluations of one gateway."""
SINCE_MS = 1_796_000_000_000
"""When the evaluation types last changed, in Unix milliseconds."""


class EvaluationCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    dataset_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=5)]
    evaluation_type_ids: Annotated[list[str], msgspec.Meta(max_length=20)]


class EvaluationResult(msgspec.Struct, frozen=True, kw_only=True):
    """`status`: 0 pending, 1 completed, 2 without data."""

    id: str
    evaluation_id: str
    evaluation_type_id: str
    status: int
    status_description: str
    result: str
    total_logs: int
    created_at: str
    modified_at: str


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    gateway_id: str
    name: str
    processed: bool
    total_logs: int
    datasets: list[Dataset]
    results: list[EvaluationResult]
    created_at: str
    modified_at: str


class EvaluationsQuery(Paging, frozen=True, kw_only=True):
    """`search` matches the id or the name."""

    name: str | None = None
    processed: bool | None = None
    search: str = ""


class EvaluationType(msgspec.Struct, frozen=True, kw_only=True):
    """A mandatory type is part of every evaluation."""

    id: str
    name: str
    type: str
    description: str
    mandatory: bool
    enable: bool
    created_at: str
    modified_at: str


class TypesQuery(Paging, frozen=True, kw_only=True):
    """`order_by` is one of the fields; any other value is treated as `mandatory`."""

    order_by: str = "mandatory"
    order_by_direction: Literal["asc", "desc"] = "desc"


async def list_all(request: Request, query: EvaluationsQuery) -> Response:
    def shown(row: EvaluationRow) -> bool:
        return (
            query.name in (None, row.name)
            and query.processed in (None, row.processed)
            and any(query.search in text for text in (row.evaluation_id, row.name))
        )

    found = await list_items(request, store.EVALUATIONS.list)
    return paged([_evaluation(row) for row in found if shown(row)], query.window())


async def create(request: Request, body: EvaluationCreate) -> Response:
    """The evaluation is computed by a background job."""
    await logs.check_gateway(request.services, request.account_id, request.path["gateway_id"])
    _check_types(body.evaluation_type_ids)
    services, account_id, gateway_id = request.services, request.account_id, request.path["gateway_id"]
    at, evaluation_id = services.clock.now_ms(), services.ids.log_id()
    results = evaluations.pending(services, body.evaluation_type_ids)

    def write(connection: Connection) -> EvaluationRow:
        datasets = _chosen(connection, request, body.dataset_ids)
        others = store.EVALUATIONS.list(connection, account_id, gateway_id)
        if len(others) >= EVALUATIONS_MAX:
            raise invalid(f"A gateway has at most {EVALUATIONS_MAX} evaluations: delete old ones", "body", "name")
        check_name("An evaluation", body.name, [each.name for each in others])
        row = EvaluationRow(
            account_id, gateway_id, evaluation_id, body.name, datasets, results, 0, processed=False,
            created_at=at, modified_at=at,
        )  # fmt: skip
        store.add_evaluation(connection, row, due_at=at)
        return row

    return ok(_evaluation(await services.database.write(write)))


async def get(request: Request, _: None) -> Response:
    return ok(_evaluation(await request.services.database.get(partial(_find, request=request))))


async def delete(request: Request, _: None) -> Response:
    def write(connection: Connection) -> EvaluationRow:
        row = _find(connection, request)
        store.EVALUATIONS.delete(connection, row.account_id, row.gateway_id, row.evaluation_id)
        return row

    return ok(_evaluation(await request.services.database.write(write)))


async def list_types(request: Request, query: TypesQuery) -> Response:
    types = [
        EvaluationType(
            id=each.id,
            name=each.name,
            type=each.id,
            description=each.description,
            mandatory=each.mandatory,
            enable=True,
            created_at=iso(SINCE_MS),
            modified_at=iso(SINCE_MS),
        )
        for each in EVALUATORS.values()
    ]
    order = query.order_by if query.order_by in EvaluationType.__struct_fields__ else "mandatory"
    types.sort(key=lambda each: str(getattr(each, order)), reverse=query.order_by_direction == "desc")
    return paged(types, query.window(50))


def _check_types(type_ids: list[str]) -> None:
    """Raises InvalidInput."""
    known = " | ".join(f"'{type_id}'" for type_id in EVALUATORS)
    faults = [
        Fault(("body", "evaluation_type_ids", at), f"Expected {known}, received '{type_id[:64]}'")
        for at, type_id in enumerate(type_ids)
        if type_id not in EVALUATORS
    ]
    if faults:
        raise InvalidInput(faults)


def _chosen(connection: Connection, request: Request, dataset_ids: list[str]) -> str:
    """The current datasets as JSON. Raises InvalidInput."""
    faults, found = [], []
    for at, dataset_id in enumerate(dataset_ids):
        row = store.DATASETS.find(connection, request.account_id, request.path["gateway_id"], dataset_id)
        if row is None or not row.enabled:
            why = "is switched off" if row else "does not exist"
            faults.append(Fault(("body", "dataset_ids", at), f"The dataset '{dataset_id[:64]}' {why}"))
        else:
            filters = msgspec.json.decode(row.filters, type=list[Filter])
            found.append(
                evaluations.FrozenDataset(
                    row.dataset_id, row.name, row.enabled, filters, row.created_at, row.modified_at
                )
            )
    if faults:
        raise InvalidInput(faults)
    return msgspec.json.encode(found).decode()


def _find(connection: Connection, request: Request) -> EvaluationRow:
    """Raises Problem (NOT_FOUND)."""
    return require(
        store.EVALUATIONS.find(connection, request.account_id, request.path["gateway_id"], request.path["id"])
    )


def _evaluation(row: EvaluationRow) -> Evaluation:
    return Evaluation(
        id=row.evaluation_id,
        gateway_id=row.gateway_id,
        name=row.name,
        processed=row.processed,
        total_logs=row.total_logs,
        datasets=[_evaluated(row, dataset) for dataset in datasets_of(row)],
        results=[_result(row, result) for result in results_of(row)],
        created_at=iso(row.created_at),
        modified_at=iso(row.modified_at),
    )


def _evaluated(row: EvaluationRow, dataset: evaluations.FrozenDataset) -> Dataset:
    return Dataset(
        id=dataset.id,
        account_id=row.account_id,
        account_tag=row.account_id,
        gateway_id=row.gateway_id,
        name=dataset.name,
        enable=dataset.enable,
        filters=dataset.filters,
        created_at=iso(dataset.created_at),
        modified_at=iso(dataset.modified_at),
    )


def _result(row: EvaluationRow, result: Result) -> EvaluationResult:
    return EvaluationResult(
        id=result.id,
        evaluation_id=row.evaluation_id,
        evaluation_type_id=result.type_id,
        status=result.status,
        status_description=result.description,
        result=result.result,
        total_logs=result.total_logs,
        created_at=iso(result.created_at),
        modified_at=iso(result.modified_at),
    )
