"""Farebox extension: an account's time zone, and whether it wants alerts about its spending."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from farebox.errors import ACCESS_DENIED, Problem
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.periods import is_zone
from farebox.storage.account_settings import AccountSettings, read_settings, set_alerts, set_zone
from farebox.storage.sql import Connection


class SettingsChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields that are not sent stay as they are."""

    time_zone: Annotated[str, msgspec.Meta(max_length=64)] | UnsetType = UNSET
    """An IANA name, such as `Europe/Berlin`. Calendar windows in progress end as they would have without the change."""
    spend_alerts: bool | UnsetType = UNSET


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    time_zone: str
    """The zone of calendar hours, days, weeks and months: for policies, the spending limit, and usage by day."""
    spend_alerts: bool
    """Whether the owner gets messages at 50, 80 and 100 % of a limit."""


async def get(request: Request, _: None) -> Response:
    account_id = request.account_id
    return ok(_shown(await request.services.database.get(lambda connection: read_settings(connection, account_id))))


async def change(request: Request, body: SettingsChange) -> Response:
    services, account_id, at = request.services, request.account_id, request.services.clock.now_ms()
    zone, alerts = body.time_zone, body.spend_alerts
    if not isinstance(zone, UnsetType) and not is_zone(zone):
        raise invalid(f"There is no time zone '{zone}': use an IANA name such as 'Europe/Berlin'", "body", "time_zone")

    def write(connection: Connection) -> AccountSettings | None:
        stored = read_settings(connection, account_id)
        changes = stored is not None and not isinstance(zone, UnsetType) and zone != stored.zone
        if changes and not set_zone(connection, account_id, str(zone), at):
            raise invalid("The time zone was changed too often: wait a few weeks", "body", "time_zone")
        if not isinstance(alerts, UnsetType):
            set_alerts(connection, account_id, wanted=alerts)
        return read_settings(connection, account_id)

    stored = await services.database.write(write)
    await services.configuration.notice_own_change()
    return ok(_shown(stored))


def _shown(stored: AccountSettings | None) -> Settings:
    if stored is None:
        raise Problem(ACCESS_DENIED, "Authentication error")
    return Settings(time_zone=stored.zone, spend_alerts=stored.spend_alerts)
