"""The schema of both engines: `schema.sql` is the data model, `upgrade_N.sql` brings a database of version N-1 to
version N.

A database records its version: in `PRAGMA user_version`, or in the table `schema_version` of PostgreSQL.
"""

from importlib import resources

from farebox.storage.sql import SchemaMismatch

VERSION = 10
"""The version of `schema.sql`. A change to that file needs an upgrade file that does the same to a database of the
previous version."""
OLDEST = 7
"""The oldest version that this release upgrades."""
OLDEST_RELEASE = "0.5.0"
"""The release that wrote that version."""


def missing(version: int) -> list[tuple[int, str]]:
    """The upgrades that a database of this version needs, in order: the resulting version, and the statements.

    0 is an empty database. Raises SchemaMismatch if this release cannot use a database of this version.
    """
    if version == 0:
        return [(VERSION, _read("schema.sql"))]
    if version > VERSION:
        raise SchemaMismatch("the database was written by a newer release of Farebox: install that release")
    if version < OLDEST:
        raise SchemaMismatch(
            f"the database was written by a release before Farebox {OLDEST_RELEASE} (schema version {version}; this "
            f"release upgrades from {OLDEST}): install Farebox {OLDEST_RELEASE}, run `farebox migrate` once, and then "
            "install this release again"
        )
    return [(number, _read(f"upgrade_{number}.sql")) for number in range(version + 1, VERSION + 1)]


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text()
