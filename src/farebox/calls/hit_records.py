"""Writing the log rows of cache hits: nothing was held or charged, so the response does not wait for them.

Many are written together, a fraction of a second later. If the process is killed before that, those rows are lost, and
nothing else. If too much is waiting to be written, the next hit waits too.
"""

from functools import partial
from typing import Final

from farebox.calls.model import Call
from farebox.calls.persist import persist
from farebox.calls.record import CallRecord
from farebox.runtime.observers import best_effort, observer_failed
from farebox.runtime.services import Services
from farebox.storage.sql import DatabaseUnavailable

COLLECT_SECONDS: Final = 0.05
_ROW_BYTES: Final = 1024
"""Bytes counted for a row in addition to its bodies."""


async def write_soon(services: Services, record: CallRecord) -> None:
    """Write the record in the background, or at once if too much is waiting. Raises nothing."""
    if services.pending_writes.fits(_size(record)):
        write_later(services, record)
    else:
        await _write(services, [record])


def write_later(services: Services, record: CallRecord) -> None:
    """Write a record in the background, if `fits` says that there is room. Raises nothing."""
    services.pending_writes.add(record, _size(record))
    services.tasks.begin("records of hits", partial(_write_all, services))


def fits(services: Services, call: Call, response: bytes) -> bool:
    """Whether there is room now for the record of the call with this response; the two bodies are its largest part."""
    return services.pending_writes.fits(_ROW_BYTES + len(call.body) + len(response))


def _size(record: CallRecord) -> int:
    return _ROW_BYTES + len(record.ended.request_body or b"") + len(record.ended.response_body or b"")


async def _write_all(services: Services) -> None:
    while services.pending_writes:
        await services.clock.sleep(COLLECT_SECONDS)
        await _write(services, services.pending_writes.take())


async def _write(services: Services, records: list[CallRecord]) -> None:
    try:
        services.database.check()
        await services.ledger.record_all([(record.call.account_id, record) for record in records])
        return
    except DatabaseUnavailable as error:
        services.database.report_failure(error)
    except Exception as error:  # noqa: BLE001 - a row that cannot be written must not take the others with it
        observer_failed("the log", error)
    for record in records:
        with best_effort("the log"):  # the journal takes the record if the database is unavailable
            await persist(services, None, record, services.clock.now_ms())
