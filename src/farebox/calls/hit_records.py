"""The log rows of hits of the cache: nothing was held or charged, so the response does not wait for them.

They are written many at once, a fraction of a second later. A process that is killed before loses those rows, and
nothing else. Where too much waits to be written, the next hit waits too.
"""

from functools import partial
from typing import Final

from farebox.calls.model import Call
from farebox.calls.persist import persist
from farebox.calls.record import CallRecord
from farebox.runtime.observers import best_effort
from farebox.runtime.services import Services
from farebox.storage.sql import DatabaseUnavailable

COLLECT_SECONDS: Final = 0.05
_ROW_BYTES: Final = 1024
"""Counted for a row besides its bodies."""


async def write_soon(services: Services, record: CallRecord) -> None:
    """Write the record in the background, or at once where too much waits. Raises nothing."""
    if services.unwritten.fits(_size(record)):
        write_later(services, record)
    else:
        await _write(services, [record])


def write_later(services: Services, record: CallRecord) -> None:
    """Write a record that `fits` in the background. Raises nothing."""
    services.unwritten.add(record, _size(record))
    services.tasks.begin("records of hits", partial(_write_all, services))


def fits(services: Services, call: Call, response: bytes) -> bool:
    """Whether there is room now for the record of the call with this response; it has no more than their bodies."""
    return services.unwritten.fits(_ROW_BYTES + len(call.body) + len(response))


def _size(record: CallRecord) -> int:
    return _ROW_BYTES + len(record.ended.request_body or b"") + len(record.ended.response_body or b"")


async def _write_all(services: Services) -> None:
    while services.unwritten:
        await services.clock.sleep(COLLECT_SECONDS)
        await _write(services, services.unwritten.take())


async def _write(services: Services, records: list[CallRecord]) -> None:
    try:
        services.database.check()
        await services.ledger.record_all([(record.call.account_id, record) for record in records])
    except DatabaseUnavailable as error:
        services.database.report_failure(error)
        for record in records:
            with best_effort("the log"):  # the journal takes it
                await persist(services, None, record, services.clock.now_ms())
