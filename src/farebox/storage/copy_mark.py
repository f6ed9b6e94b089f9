"""The mark of a database that `farebox copy` has not finished."""

COPY_PROGRESS = "copy_progress"
"""The table that exists for as long as the copy is in progress (storage.dbcopy)."""

COPY_INCOMPLETE = (
    "the database is half copied: run the same `farebox copy` again until it completes; or empty the database (a file: "
    "delete it with its -wal and -shm) and start again"
)
"""Why other commands refuse to open it, and what to do."""
