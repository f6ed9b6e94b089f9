"""What an account's owner reads about calls: log rows, stored bodies, receipts."""

from functools import partial

from farebox.errors import NOT_FOUND, Problem
from farebox.gateway import DEFAULT_GATEWAY
from farebox.storage.calls import CallRow, find_receipt
from farebox.storage.reports import LogPage, LogQuery, find_log, list_logs
from farebox.usecases.services import Services


async def exists(services: Services, account_id: str, gateway_id: str) -> bool:
    """Whether there is such a gateway to be called; `default` always is: its first call makes it."""
    if gateway_id == DEFAULT_GATEWAY:
        return True
    return await services.configuration.gateway(account_id, gateway_id, create=False) is not None


async def page(services: Services, account_id: str, gateway_id: str, query: LogQuery) -> LogPage:
    """One page of the gateway's log. Raises Problem (NOT_FOUND): no such gateway."""
    if not await exists(services, account_id, gateway_id):
        raise Problem(NOT_FOUND, "Not Found")
    return await services.database.scan(partial(list_logs, account_id=account_id, gateway_id=gateway_id, query=query))


async def one(services: Services, account_id: str, gateway_id: str, log_id: str) -> CallRow:
    """One log row with its stored bodies. Raises Problem (NOT_FOUND)."""
    found = await services.database.scan(partial(find_log, account_id=account_id, gateway_id=gateway_id, log_id=log_id))
    if found is None:
        raise Problem(NOT_FOUND, "Not Found")
    return found


async def receipt(services: Services, account_id: str, log_id: str) -> bytes:
    """The receipt of one call as JSON; it exists also where the call was not logged. Raises Problem (NOT_FOUND)."""
    found = await services.database.scan(partial(find_receipt, log_id=log_id, account_id=account_id))
    if found is None:
        raise Problem(NOT_FOUND, "Not Found")
    return found
