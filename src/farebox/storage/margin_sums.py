"""What one account's calls on the operator's keys cost, and what was charged for them."""

import json
from collections.abc import Iterator

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.call_reports import detail_flag
from farebox.storage.log_totals import id_at
from farebox.storage.sql import Connection, rows

_RECEIPTS_AT_ONCE = 1_000


def margin_sums(connection: Connection, account_id: str, start: int, end: int) -> list[tuple[str, str, int, int, int]]:
    """The account's calls on the operator's keys that began in [start, end): provider, model, calls, cost, charge
    (nano-dollars)."""
    found = rows(
        connection,
        f"SELECT provider, model, count(*), sum(cost), sum(charge) FROM calls WHERE {OF_ACCOUNT} "
        "AND log_id >= ? AND log_id < ? AND (status_code < 300 OR cost > 0) "
        f"AND {detail_flag('own_key', default=False)} = 0 AND {detail_flag('cached', default=False)} = 0 "
        "GROUP BY 1, 2",
        (*key_of(connection, account_id), id_at(start), id_at(end)),
    )
    return [
        (str(provider), str(model), int(calls), int(cost), int(charge))
        for provider, model, calls, cost, charge in found
    ]


def stated_costs(connection: Connection, account_id: str, start: int, end: int) -> Iterator[tuple[str, str, int, str]]:
    """Those calls whose cost the provider stated: provider, model, the stated cost (nano-dollars), and the cost by the
    price list (exact, as text). Few receipts are in memory at a time."""
    after, last = id_at(start), id_at(end)
    while True:
        found = rows(
            connection,
            f"SELECT provider, model, cost, receipt, log_id FROM calls WHERE {OF_ACCOUNT} "
            "AND log_id > ? AND log_id < ? "
            "AND (status_code < 300 OR cost > 0) AND receipt LIKE '%\"computed_nanos\"%' "
            f"AND {detail_flag('own_key', default=False)} = 0 AND {detail_flag('cached', default=False)} = 0 "
            "ORDER BY log_id LIMIT ?",
            (*key_of(connection, account_id), after, last, _RECEIPTS_AT_ONCE),
        )
        for provider, model, cost, receipt, _ in found:
            computed = json.loads(receipt).get("computed_nanos")
            if computed is not None:
                yield str(provider), str(model), int(cost), str(computed)
        if len(found) < _RECEIPTS_AT_ONCE:
            return
        after = str(found[-1][-1])
