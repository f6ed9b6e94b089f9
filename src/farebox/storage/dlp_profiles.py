"""The store of an account's own DLP profiles. Times are milliseconds since the Unix epoch."""

from dataclasses import dataclass

from farebox.storage.own_rows import OwnRows


@dataclass(frozen=True, slots=True)
class DlpProfileRow:
    """A profile as stored. `config` is JSON: http.control.dlp_profiles gives it its fields."""

    account_id: str
    profile_id: str
    config: str
    created_at: int
    modified_at: int


_COLUMNS = "account_id, profile_id, config, created_at, modified_at"

PROFILES = OwnRows(
    "dlp_profiles", _COLUMNS, ("profile_id",), "created_at, profile_id", DlpProfileRow, served=True
)  # fmt: skip
"""The account's profiles, oldest first."""
