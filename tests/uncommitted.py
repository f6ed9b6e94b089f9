"""Changes of another process that are not committed yet."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager

import asyncpg

from farebox.storage.sqlite import connect as connect_sqlite
from tests.support import Farebox


@contextmanager
def uncommitted(farebox: Farebox, *statements: str) -> Iterator[None]:
    """What another process has changed, and commits at the end."""
    settings = farebox.services.settings
    if settings.engine == "sqlite":
        with closing(connect_sqlite(settings.database_path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement)
            yield
            connection.execute("COMMIT")
        return
    with asyncio.Runner() as runner:
        session = runner.run(asyncpg.connect(settings.database_url))
        for statement in ("BEGIN", *statements):
            runner.run(session.execute(statement))
        yield
        runner.run(session.execute("COMMIT"))
        runner.run(session.close())
