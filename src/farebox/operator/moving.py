"""Moves an account to another bucket while calls run, on PostgreSQL and Citus."""

from dataclasses import dataclass

from farebox.model import Operator
from farebox.operator.administer import ActionRefused, require_account
from farebox.storage.bucket_moves import lock_rows, move_rows
from farebox.storage.buckets import bucket_numbers
from farebox.storage.operator_actions import record_action
from farebox.storage.sql import Connection


@dataclass(frozen=True, slots=True)
class MoveResult:
    """The result of a move. `rows` is 0 if the account was already there."""

    account_id: str
    from_bucket: int
    to_bucket: int
    rows: int


def move_account(
    connection: Connection, *, by: Operator, account_id: str, at: int, to: int, buckets: int, rows_max: int
) -> MoveResult:
    """Move the account to bucket `to`, one of `buckets` buckets.

    Meanwhile its calls wait, as do all calls in both buckets and all jobs that write.
    """
    account = require_account(connection, account_id)
    numbers = bucket_numbers(buckets)
    if len(numbers) == 1:
        raise ActionRefused("there is only one bucket (FAREBOX_BUCKETS=1)")
    if to not in numbers:
        raise ActionRefused(f"there is no bucket {to}: the buckets are {', '.join(map(str, numbers))}")
    if to == account.bucket:
        return MoveResult(account_id, to, to, 0)
    locked = lock_rows(connection, account.bucket, account_id)
    count = sum(locked.values())
    if count > rows_max:
        raise ActionRefused(
            f"the account has {count:,} rows, and its calls wait while they are moved: do it at a quiet hour, with "
            f"`--rows-max {count + count // 10}`"
        )
    move_rows(connection, account_id, account.bucket, to, locked)
    before, after = {"bucket": account.bucket}, {"bucket": to}
    record_action(connection, by, "account.move", at, account_id=account_id, before=before, after=after)
    return MoveResult(account_id, account.bucket, to, count)
