"""The store of an account's own settings: its time zones, and whether it wants alerts about its spending.

They are in the row of its balance, because the ledger needs the time zone for the window of a spending limit in the
transaction that locks that row.
"""

from dataclasses import dataclass

import msgspec

from farebox.calendar import DAY_MS
from farebox.periods import UTC_NAME, ZoneChange, Zones
from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.config import note_change
from farebox.storage.sql import Connection, row

KEPT_MS = 35 * DAY_MS
"""How long a former time zone is remembered: longer than any window that began under it."""
CHANGES_MAX = 20
"""Most changes of the time zone within KEPT_MS; all of them are remembered."""

_decode = msgspec.json.Decoder(tuple[ZoneChange, ...]).decode


@dataclass(frozen=True, slots=True)
class AccountSettings:
    zones: Zones
    """Oldest first; empty: UTC."""
    spend_alerts: bool

    @property
    def zone(self) -> str:
        """The current time zone."""
        return self.zones[-1].zone if self.zones else UTC_NAME


def decode_zones(text: str | None) -> Zones:
    return () if text is None else _decode(text)


def read_settings(connection: Connection, account_id: str) -> AccountSettings | None:
    """None if there is no such account."""
    found = row(
        connection, f"SELECT zones, alerts_off FROM balances WHERE {OF_ACCOUNT}", key_of(connection, account_id)
    )
    return None if found is None else AccountSettings(decode_zones(found[0]), not found[1])


def set_zone(connection: Connection, account_id: str, zone: str, at: int) -> bool:
    """Change the time zone from `at` on (0: for all time). Returns False, and changes nothing, if there is no such
    account or its time zone was changed too often."""
    stored = read_settings(connection, account_id)
    if stored is None:
        return False
    old = [change for change in stored.zones if change.at <= at - KEPT_MS]
    kept = [ZoneChange(0, change.zone) for change in old[-1:]] + [c for c in stored.zones if c.at > at - KEPT_MS]
    if len(kept) >= CHANGES_MAX:
        return False
    zones = [ZoneChange(at, zone)] if at == 0 else [*kept, ZoneChange(at, zone)]
    connection.execute(
        f"UPDATE balances SET zones = ?, limit_from = NULL, limit_until = NULL WHERE {OF_ACCOUNT}",
        (msgspec.json.encode(zones).decode(), *key_of(connection, account_id)),
    )
    note_change(connection, account_id)
    return True


def set_alerts(connection: Connection, account_id: str, *, wanted: bool) -> None:
    connection.execute(
        f"UPDATE balances SET alerts_off = ? WHERE {OF_ACCOUNT}",
        (int(not wanted), *key_of(connection, account_id)),
    )
