"""The search of the queues knows every queue, and every statement that fills one."""

import re

from farebox.metrics.families import JOBS
from farebox.storage import queues
from farebox.storage.queues import QUEUES, fills_queue
from tests.repo.statements import statements, stores


def test_every_queue_has_its_job() -> None:
    assert set(JOBS) >= QUEUES


def test_every_statement_that_may_fill_a_queue_is_recognized() -> None:
    writes = re.compile(rf"\b(INSERT\s+INTO|UPDATE)\s+({'|'.join(queues._TABLES)})\b")
    found = [each for each in statements(stores()) if writes.search(each.sql)]
    assert len(found) > 20
    assert [each.where for each in found if not fills_queue(each.sql)] == []
