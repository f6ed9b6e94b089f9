"""The mark of a database that `farebox copy` has not finished."""

COPYING = "copy_progress"
"""The table that is there for as long as the copy is under way (storage.dbcopy)."""

HALF_COPIED = (
    "the database is half copied: give the `farebox copy` that was begun again, until it says that it is done; or "
    "empty the database (of a file: delete it with its -wal and -shm) and begin anew"
)
"""Why no other command opens it, and what to do."""
