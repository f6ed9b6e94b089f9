"""Databases as the two ends of a copy: rows out in key order, rows in with a note of how far the copy has come.

`source` and `target` open an end of either engine. Both are for the command line, where no event loop runs.
"""

from farebox.settings import Settings
from farebox.storage.dbcopy.ends import CopySource, CopyTarget, Progress, Row

__all__ = ["CopySource", "CopyTarget", "Progress", "Row", "source", "target"]


def source(settings: Settings) -> CopySource:
    """The database that is copied; nothing can write to it until it is closed.

    Raises DatabaseUnavailable (also if a server has it), SchemaMismatch.
    """
    if settings.engine == "sqlite":
        from farebox.storage.dbcopy.sqlite import SqliteSource

        return SqliteSource(settings.database_path)
    from farebox.storage.dbcopy.postgres import PostgresSource

    return PostgresSource(settings.database_url)


def target(settings: Settings, buckets: int) -> CopyTarget:
    """The database that is copied into, after bringing its schema up to date; a missing file is created. On PostgreSQL
    it is set up with this many buckets.

    Raises DatabaseUnavailable (also if a server or another copy has it), SchemaMismatch.
    """
    if settings.engine == "sqlite":
        from farebox.storage.dbcopy.sqlite import SqliteTarget

        return SqliteTarget(settings.database_path)
    from farebox.storage.dbcopy.postgres import PostgresTarget

    return PostgresTarget(settings.database_url, buckets)
