"""The services for a command that calls the payment processor, with or without a running server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from farebox.cli.session import CliSession, Stopped

if TYPE_CHECKING:
    from farebox.runtime.services import Services

T = TypeVar("T")

GRACE_SECONDS = 10.0
"""How long tasks in progress may continue once the command has its result."""


def run_with_services(session: CliSession, work: "Callable[[Services], Awaitable[T]]") -> T:
    """Run `work` in its own event loop. An API error (Problem) stops the command."""
    import asyncio

    import structlog

    from farebox import logs
    from farebox.errors import Problem

    before = structlog.get_config()
    # On standard error, and only warnings: the command itself reports what was done.
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
async def _opened(session: CliSession) -> "AsyncIterator[Services]":
    from farebox.cli.server_file import running_settings
    from farebox.runtime.opening import open_services

    settings, base_url = running_settings(session.settings)
    with session.reading():  # stops if there is no database
        pass
    async with open_services(
        settings,
        clock=session.clock,
        ids=session.ids,
        vault=session.vault,
        base_url=base_url,
        grace_seconds=GRACE_SECONDS,
        serves=False,
    ) as services:
        yield services
