"""The mark of a database that `farebox copy` has not finished."""

COPYING = "copy_progress"
"""The table that exists for as long as the copy is in progress (storage.dbcopy)."""

HALF_COPIED = (
    "the database is half copied: run the same `farebox copy` again until it completes; or empty the database (a file: "
    "delete it with its -wal and -shm) and start again"
)
"""Why other commands refuse to open it, and what to do."""
