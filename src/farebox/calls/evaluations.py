"""Evaluations: what the logs of a gateway's datasets cost, how fast they were, and how people rated them.

An evaluation is stored at once and processed by a background job; it keeps the datasets as they were then.

Times are milliseconds since the Unix epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Final

import msgspec

from farebox.calendar import MINUTE_MS
from farebox.calls.log_filters import Filter, conditions_of
from farebox.money import NANOS_PER_USD
from farebox.runtime.services import Services
from farebox.storage.call_reports import LogFigures, LogQuery, log_figures
from farebox.storage.datasets import (
    EvaluationRow,
    claim_evaluation,
    due_evaluations,
    finish_evaluation,
)

AT_ONCE: Final = 10
"""Number of evaluations that one round of the job processes."""
LEASE_MS: Final = 15 * MINUTE_MS
"""Time after which another worker takes over an evaluation that was not finished."""
PENDING, COMPLETED, WITHOUT_DATA = 0, 1, 2
_DESCRIPTIONS: Final = {PENDING: "pending", COMPLETED: "completed", WITHOUT_DATA: "no logs to evaluate"}


@dataclass(frozen=True, slots=True)
class Evaluator:
    """One kind of evaluation. A mandatory evaluator is part of every evaluation."""

    id: str
    name: str
    description: str
    mandatory: bool
    measure: Callable[[LogFigures], Decimal | None]
    """The result; None if there is nothing to compute it from."""


def _cost(figures: LogFigures) -> Decimal | None:
    return Decimal(figures.cost) / NANOS_PER_USD / figures.calls if figures.calls else None


def _speed(figures: LogFigures) -> Decimal | None:
    return Decimal(figures.duration) / figures.calls if figures.calls else None


def _feedback(figures: LogFigures) -> Decimal | None:
    return Decimal(100 * figures.positive) / figures.rated if figures.rated else None


EVALUATORS: Final[dict[str, Evaluator]] = {
    each.id: each
    for each in (
        Evaluator("cost", "Cost", "Average cost of a log, in US dollars", True, _cost),
        Evaluator("speed", "Speed", "Average duration of a log, in milliseconds", True, _speed),
        Evaluator("feedback", "Human feedback", "Share of positive ratings among all, in percent", False, _feedback),
    )
}


class Result(msgspec.Struct, frozen=True):
    """What one evaluator found. Times are in milliseconds."""

    id: str
    type_id: str
    created_at: int
    modified_at: int
    status: int = PENDING
    result: str = ""
    total_logs: int = 0

    @property
    def description(self) -> str:
        return _DESCRIPTIONS[self.status]


class FrozenDataset(msgspec.Struct, frozen=True):
    """A dataset as it was when its evaluation was created."""

    id: str
    name: str
    enable: bool
    filters: list[Filter]
    created_at: int
    modified_at: int


_results: Final = msgspec.json.Decoder(list[Result])
_datasets: Final = msgspec.json.Decoder(list[FrozenDataset])


def results_of(evaluation: EvaluationRow) -> list[Result]:
    return _results.decode(evaluation.results)


def datasets_of(evaluation: EvaluationRow) -> list[FrozenDataset]:
    return _datasets.decode(evaluation.datasets)


def pending(services: Services, type_ids: list[str]) -> str:
    """Results without values for a new evaluation of these types and of the mandatory ones."""
    wanted = dict.fromkeys([each.id for each in EVALUATORS.values() if each.mandatory] + type_ids)
    at = services.clock.now_ms()
    return msgspec.json.encode([Result(services.ids.log_id(), type_id, at, at) for type_id in wanted]).decode()


async def work(services: Services) -> None:
    """One round of the background job: process the evaluations that are due."""
    at = services.clock.now_ms()
    for account_id, gateway_id, evaluation_id in await services.database.scan(
        partial(due_evaluations, at=at, limit=AT_ONCE)
    ):
        claim = partial(
            claim_evaluation,
            account_id=account_id,
            gateway_id=gateway_id,
            evaluation_id=evaluation_id,
            at=at,
            until=at + LEASE_MS,
        )
        evaluation = await services.database.write(claim)
        if evaluation is not None:
            await _process(services, evaluation)


async def _process(services: Services, evaluation: EvaluationRow) -> None:
    datasets = [conditions_of(each.filters) for each in datasets_of(evaluation)]
    read = partial(
        log_figures, account_id=evaluation.account_id, gateway_id=evaluation.gateway_id, query=LogQuery(any_of=datasets)
    )
    figures = await services.database.scan(read)
    at = services.clock.now_ms()
    results = [_measured(result, figures, at) for result in results_of(evaluation)]
    finish = partial(
        finish_evaluation,
        evaluation=evaluation,
        results=msgspec.json.encode(results).decode(),
        total_logs=figures.calls,
        at=at,
    )
    await services.database.write(finish)


def _measured(result: Result, figures: LogFigures, at: int) -> Result:
    evaluator = EVALUATORS.get(result.type_id)  # another release may know other types
    found = None if evaluator is None else evaluator.measure(figures)
    return msgspec.structs.replace(
        result,
        modified_at=at,
        status=WITHOUT_DATA if found is None else COMPLETED,
        result="" if found is None else f"{found.quantize(Decimal('1e-12')).normalize():f}",
        total_logs=figures.calls,
    )
