"""The store of datasets (named filters over a gateway's log) and of their evaluations."""

from dataclasses import dataclass
from typing import Any

from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, find_key, key_of
from farebox.storage.every_bucket import rows_at_hand
from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A dataset. Its logs are found anew each time."""

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
    """An evaluation: what is computed over which datasets, and what came of it."""

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


_OF_GATEWAY = f"{OF_ACCOUNT} AND gateway_id = ?"
_DATASET = "account_id, gateway_id, dataset_id, name, enabled, filters, created_at, modified_at"
_EVALUATION = (
    "account_id, gateway_id, evaluation_id, name, datasets, results, total_logs, processed, created_at, modified_at"
)


def find_dataset(connection: Connection, account_id: str, gateway_id: str, dataset_id: str) -> DatasetRow | None:
    found = row(
        connection,
        f"SELECT {_DATASET} FROM datasets WHERE {_OF_GATEWAY} AND dataset_id = ?",
        (*key_of(connection, account_id), gateway_id, dataset_id),
    )
    return None if found is None else _dataset(found)


def list_datasets(connection: Connection, account_id: str, gateway_id: str) -> list[DatasetRow]:
    """The gateway's datasets, newest first."""
    found = rows(
        connection,
        f"SELECT {_DATASET} FROM datasets WHERE {_OF_GATEWAY} ORDER BY dataset_id DESC",
        (*key_of(connection, account_id), gateway_id),
    )
    return [_dataset(fields) for fields in found]


def put_dataset(connection: Connection, dataset: DatasetRow) -> None:
    """Create the dataset, or replace it; nothing if there is no such account."""
    key = find_key(connection, dataset.account_id)
    if key is None:
        return
    connection.execute(
        f"INSERT INTO datasets (bucket, {_DATASET}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id, gateway_id, dataset_id) DO UPDATE SET name = excluded.name, "
        "enabled = excluded.enabled, filters = excluded.filters, modified_at = excluded.modified_at",
        (
            *key,
            dataset.gateway_id,
            dataset.dataset_id,
            dataset.name,
            dataset.enabled,
            dataset.filters,
            dataset.created_at,
            dataset.modified_at,
        ),
    )


def delete_dataset(connection: Connection, account_id: str, gateway_id: str, dataset_id: str) -> None:
    connection.execute(
        f"DELETE FROM datasets WHERE {_OF_GATEWAY} AND dataset_id = ?",
        (*key_of(connection, account_id), gateway_id, dataset_id),
    )


def delete_datasets_of(connection: Connection, account_id: str, gateway_id: str) -> None:
    """Delete all datasets and evaluations of a gateway."""
    key = (*key_of(connection, account_id), gateway_id)
    connection.execute(f"DELETE FROM datasets WHERE {_OF_GATEWAY}", key)
    connection.execute(f"DELETE FROM evaluations WHERE {_OF_GATEWAY}", key)


# Evaluations.


def find_evaluation(
    connection: Connection, account_id: str, gateway_id: str, evaluation_id: str
) -> EvaluationRow | None:
    found = row(
        connection,
        f"SELECT {_EVALUATION} FROM evaluations WHERE {_OF_GATEWAY} AND evaluation_id = ?",
        (*key_of(connection, account_id), gateway_id, evaluation_id),
    )
    return None if found is None else _evaluation(found)


def list_evaluations(connection: Connection, account_id: str, gateway_id: str) -> list[EvaluationRow]:
    """The gateway's evaluations, newest first."""
    found = rows(
        connection,
        f"SELECT {_EVALUATION} FROM evaluations WHERE {_OF_GATEWAY} ORDER BY evaluation_id DESC",
        (*key_of(connection, account_id), gateway_id),
    )
    return [_evaluation(fields) for fields in found]


def add_evaluation(connection: Connection, evaluation: EvaluationRow, due_at: int) -> None:
    """Store a new evaluation, which a worker is to process; nothing if there is no such account."""
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


def delete_evaluation(connection: Connection, account_id: str, gateway_id: str, evaluation_id: str) -> None:
    connection.execute(
        f"DELETE FROM evaluations WHERE {_OF_GATEWAY} AND evaluation_id = ?",
        (*key_of(connection, account_id), gateway_id, evaluation_id),
    )


def due_evaluations(connection: Connection, at: int, limit: int) -> list[tuple[str, str, str]]:
    """Account, gateway and ID of evaluations to be processed, the most overdue first."""
    found = rows_at_hand(
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
        f"UPDATE evaluations SET next_at = ? WHERE {_OF_GATEWAY} AND evaluation_id = ? AND next_at <= ?",
        (until, *key, gateway_id, evaluation_id, at),
    )
    if connection.changes() == 0:
        return None
    return find_evaluation(connection, account_id, gateway_id, evaluation_id)


def finish_evaluation(
    connection: Connection, evaluation: EvaluationRow, *, results: str, total_logs: int, at: int
) -> None:
    """Store what came of an evaluation. One that was finished before stays as it is."""
    connection.execute(
        "UPDATE evaluations SET results = ?, total_logs = ?, processed = 1, modified_at = ?, next_at = NULL "
        f"WHERE {_OF_GATEWAY} AND evaluation_id = ? AND processed = 0",
        (results, total_logs, at, *_key(connection, evaluation)),
    )


def _key(connection: Connection, evaluation: EvaluationRow) -> tuple[object, ...]:
    key: AccountKey = key_of(connection, evaluation.account_id)
    return (*key, evaluation.gateway_id, evaluation.evaluation_id)


def _dataset(fields: tuple[Any, ...]) -> DatasetRow:
    account_id, gateway_id, dataset_id, name, enabled, filters, created_at, modified_at = fields
    return DatasetRow(account_id, gateway_id, dataset_id, name, bool(enabled), filters, created_at, modified_at)


def _evaluation(fields: tuple[Any, ...]) -> EvaluationRow:
    account_id, gateway_id, evaluation_id, name, datasets, results, total_logs, processed, created, modified = fields
    return EvaluationRow(
        account_id,
        gateway_id,
        evaluation_id,
        name,
        datasets,
        results,
        total_logs,
        bool(processed),
        created,
        modified,
    )
