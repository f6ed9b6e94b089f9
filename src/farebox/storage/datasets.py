"""The store of datasets (named filters over a gateway's log) and of their evaluations.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass
from typing import Any

from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, find_key, key_of
from farebox.storage.every_bucket import rows_available
from farebox.storage.own_rows import OwnRows
from farebox.storage.sql import Connection


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A dataset. It stores filters; its logs are searched for each time."""

    account_id: str
    gateway_id: str
    dataset_id: str
    name: str
    enabled: bool
    filters: str
    """JSON array of calls.log_filters.Filter."""
    created_at: int
    modified_at: int


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """An evaluation: what is computed over which datasets, and the results."""

    account_id: str
    gateway_id: str
    evaluation_id: str
    name: str
    datasets: str
    """JSON array: the datasets as they were when the evaluation was created."""
    results: str
    """JSON array of calls.evaluations.Result."""
    total_logs: int
    processed: bool
    created_at: int
    modified_at: int


_OF_EVALUATION = f"{OF_ACCOUNT} AND gateway_id = ? AND evaluation_id = ?"
_DATASET = "account_id, gateway_id, dataset_id, name, enabled, filters, created_at, modified_at"
_EVALUATION = (
    "account_id, gateway_id, evaluation_id, name, datasets, results, total_logs, processed, created_at, modified_at"
)


def _dataset(*fields: Any) -> DatasetRow:
    account_id, gateway_id, dataset_id, name, enabled, *rest = fields
    return DatasetRow(account_id, gateway_id, dataset_id, name, bool(enabled), *rest)


def _evaluation(*fields: Any) -> EvaluationRow:
    account_id, gateway_id, evaluation_id, name, datasets, results, total_logs, processed, *rest = fields
    return EvaluationRow(
        account_id, gateway_id, evaluation_id, name, datasets, results, total_logs, bool(processed), *rest
    )


DATASETS = OwnRows("datasets", _DATASET, ("gateway_id", "dataset_id"), "dataset_id DESC", _dataset, served=False)
"""A gateway's datasets, newest first, as are the evaluations below."""
EVALUATIONS = OwnRows(
    "evaluations", _EVALUATION, ("gateway_id", "evaluation_id"), "evaluation_id DESC", _evaluation, served=False
)  # fmt: skip


def add_evaluation(connection: Connection, evaluation: EvaluationRow, due_at: int) -> None:
    """Store a new evaluation for a worker to process; does nothing if there is no such account."""
    key = find_key(connection, evaluation.account_id)
    if key is None:
        return
    connection.execute(
        f"INSERT INTO evaluations (bucket, {_EVALUATION}, next_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *key,
            evaluation.gateway_id,
            evaluation.evaluation_id,
            evaluation.name,
            evaluation.datasets,
            evaluation.results,
            evaluation.total_logs,
            evaluation.processed,
            evaluation.created_at,
            evaluation.modified_at,
            due_at,
        ),
    )


def due_evaluations(connection: Connection, at: int, limit: int) -> list[tuple[str, str, str]]:
    """Account, gateway and ID of evaluations to be processed, the most overdue first."""
    found = rows_available(
        connection,
        "SELECT next_at, account_id, gateway_id, evaluation_id FROM evaluations INDEXED BY evaluations_due "
        "WHERE bucket = ? AND next_at <= ? ORDER BY next_at LIMIT ?",
        at,
        limit,
    )
    return [(account_id, gateway_id, evaluation_id) for _, account_id, gateway_id, evaluation_id in sorted(found)][
        :limit
    ]


def claim_evaluation(
    connection: Connection, account_id: str, gateway_id: str, evaluation_id: str, *, at: int, until: int
) -> EvaluationRow | None:
    """Claim an evaluation that is due; None if another worker has it, or it is gone."""
    key = key_of(connection, account_id)
    connection.execute(
        f"UPDATE evaluations SET next_at = ? WHERE {_OF_EVALUATION} AND next_at <= ?",
        (until, *key, gateway_id, evaluation_id, at),
    )
    if connection.changes() == 0:
        return None
    return EVALUATIONS.find(connection, account_id, gateway_id, evaluation_id)


def finish_evaluation(
    connection: Connection, evaluation: EvaluationRow, *, results: str, total_logs: int, at: int
) -> None:
    """Store the results of an evaluation. One that is already finished stays as it is."""
    connection.execute(
        "UPDATE evaluations SET results = ?, total_logs = ?, processed = 1, modified_at = ?, next_at = NULL "
        f"WHERE {_OF_EVALUATION} AND processed = 0",
        (results, total_logs, at, *_key(connection, evaluation)),
    )


def _key(connection: Connection, evaluation: EvaluationRow) -> tuple[object, ...]:
    key: AccountKey = key_of(connection, evaluation.account_id)
    return (*key, evaluation.gateway_id, evaluation.evaluation_id)
