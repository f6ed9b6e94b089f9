"""The audit of corrected calls: what a re-rating recorded as changed must be what its transfers moved."""

from collections.abc import Iterator

from farebox.ledger.audit_keys import IN_PAGE, Page
from farebox.ledger.differences import Difference
from farebox.storage.sql import Connection
from farebox.storage.transfer_statement import NO_CHARGE

_DIFFERING = f"""
SELECT account_id, cause, sum(recorded), sum(moved) FROM (
    SELECT account_id, 'correction:' || correction_id AS cause, amount AS recorded, 0 AS moved FROM corrected_calls
    WHERE {IN_PAGE}
    UNION ALL
    SELECT account_id, substr(transfer_id, 1, instr(transfer_id || '/', '/') - 1), 0,
        CASE from_book WHEN 'revenue' THEN amount ELSE -amount END FROM transfers
    WHERE {IN_PAGE} AND kind = 'correction' AND {NO_CHARGE}
        AND transfer_id >= 'correction:rerate:' AND transfer_id < 'correction:rerate;'
) both_sides GROUP BY account_id, cause HAVING sum(recorded) != sum(moved) ORDER BY account_id, cause
"""


def check_corrected(connection: Connection, page: Page) -> Iterator[Difference]:
    """Compare the calls of each correction with its transfers."""
    for account_id, cause, recorded, moved in connection.execute(_DIFFERING, page):
        yield Difference(
            account_id=account_id, what="corrected_calls", expected=int(moved), found=int(recorded), transfer_id=cause
        )
