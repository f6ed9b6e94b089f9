"""The services for a command that calls the payment processor, with or without a running server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from farebox.cli.session import Session, Stopped

if TYPE_CHECKING:
    from farebox.runtime.services import Services

T = TypeVar("T")


def run_with_services(session: Session, work: "Callable[[Services], Awaitable[T]]") -> T:
    """Run `work` in its own event loop. What would be an API error stops the command."""
    import asyncio

    import structlog

    from farebox import logs
    from farebox.errors import Problem

    before = structlog.get_config()
    # On standard error, and only warnings: what was done, the command itself says.
    logs.configure(replace(session.settings, log_level="warning"), cached=False)

    async def run() -> T:
        async with _opened(session) as services:
            return await work(services)

    try:
        return asyncio.run(run())
    except Problem as problem:
        raise Stopped(f"{problem.message} {problem.kind.remedy}") from problem
    finally:
        structlog.configure(**before)


@asynccontextmanager
async def _opened(session: Session) -> "AsyncIterator[Services]":
    from farebox.app import open_processor
    from farebox.cli.server_file import settings_beside
    from farebox.ledger.ledger import ledger_of
    from farebox.providers.http1.pool import PooledUpstream
    from farebox.runtime.configuration import Configuration
    from farebox.runtime.services import Services
    from farebox.runtime.waiters import Waiters
    from farebox.settings import proxies
    from farebox.storage.config import installation_id
    from farebox.storage.database import open_database

    settings, base_url = settings_beside(session.settings)
    with session.reading():  # stops where there is no database
        pass
    async with AsyncExitStack() as stack:
        database = await open_database(settings)
        stack.push_async_callback(database.close)
        instance = session.ids.log_id()
        ledger = ledger_of(database, instance)
        stack.push_async_callback(ledger.close)
        named = partial(installation_id, new_id=session.ids.account_id()[:12])
        processor = open_processor(settings, await database.write(named))
        if processor is not None:
            stack.push_async_callback(processor.close)
        upstream = PooledUpstream(connect_seconds=settings.connect_timeout_ms / 1000, proxies=proxies())
        stack.push_async_callback(upstream.close)
        yield Services(
            settings=settings,
            clock=session.clock,
            ids=session.ids,
            vault=session.vault,
            database=database,
            ledger=ledger,
            configuration=await Configuration.load(database, session.vault, session.clock, demo_url=None),
            upstream=upstream,
            processor=processor,
            waiters=Waiters(),
            base_url=base_url,
            instance=instance,
        )
