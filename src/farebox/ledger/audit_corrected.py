"""The audit of corrected calls: what a re-rating says that it changed must be what its transfers moved."""

from collections.abc import Iterator

from farebox.ledger.audit_keys import Key
from farebox.ledger.differences import Difference
from farebox.storage.sql import Connection
from farebox.storage.statement import NO_CHARGE

_DIFFERING = f"""
SELECT cause, sum(said), sum(moved) FROM (
    SELECT 'correction:' || correction_id AS cause, amount AS said, 0 AS moved FROM corrected_calls
    WHERE bucket = ?1 AND account_id = ?2
    UNION ALL
    SELECT substr(transfer_id, 1, instr(transfer_id || '/', '/') - 1), 0,
        CASE from_book WHEN 'revenue' THEN amount ELSE -amount END FROM transfers
    WHERE bucket = ?1 AND account_id = ?2 AND kind = 'correction' AND {NO_CHARGE}
        AND transfer_id >= 'correction:rerate:' AND transfer_id < 'correction:rerate;'
) both_sides GROUP BY cause HAVING sum(said) != sum(moved) ORDER BY cause
"""


def check_corrected(connection: Connection, key: Key) -> Iterator[Difference]:
    """Compare the calls of each correction with its transfers."""
    for cause, said, moved in connection.execute(_DIFFERING, key):
        yield Difference(
            account_id=key[1], what="corrected_calls", expected=int(moved), found=int(said), transfer_id=cause
        )
