"""IDs of calls are in the order of their creation."""

import uuid

from farebox.clock import RandomIds, SystemClock


class _OneMillisecond(SystemClock):
    def now_ms(self) -> int:
        return 1_796_083_200_000


def test_ids_of_one_millisecond_are_in_the_order_in_which_they_were_made() -> None:
    ids = RandomIds(_OneMillisecond())
    made = [ids.log_id() for _ in range(2000)]
    assert made == sorted(made)
    assert len(set(made)) == 2000
    assert {(uuid.UUID(log_id).version, uuid.UUID(log_id).variant) for log_id in made} == {(7, uuid.RFC_4122)}
    assert {log_id[:13].replace("-", "") for log_id in made} == {f"{1_796_083_200_000:012x}"}
