"""Farebox extension: the profiles that a gateway's `dlp` may name, including the predefined ones, which can only be
read."""

from typing import Literal

import msgspec
from msgspec.structs import replace

from farebox.detection.own_profiles import PATTERNS_OF_ACCOUNT_MAX, PROFILES_MAX, Entry, OwnProfile, pattern_of
from farebox.detection.profiles import BUILT_IN, NAMES
from farebox.detection.rules import profile_ids_of
from farebox.detection.scan import check_pattern
from farebox.gateway import GatewayConfig
from farebox.helper_processes import HelperDied, PoolBusy, TooMuchWork
from farebox.http.control.wire import Paging, iso, iso_or_none, require
from farebox.http.envelope import Response, ok, page
from farebox.http.parse_body import busy
from farebox.http.request import Request
from farebox.http.validation import Fault, InvalidInput, invalid
from farebox.runtime.services import Services
from farebox.storage.dlp_profiles import PROFILES, DlpProfileRow
from farebox.storage.gateways import list_gateways
from farebox.storage.sql import Connection


class ProfileSet(OwnProfile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profile as it is written: each entry has a pattern or a keyword."""


class DlpProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A profile. The entries of a predefined one have no patterns."""

    id: str
    type: Literal["predefined", "custom"]
    name: str
    description: str | None
    entries: list[Entry]
    created_at: str | None
    modified_at: str | None


async def list_all(request: Request, query: Paging) -> Response:
    rows = await request.services.database.scan(lambda connection: PROFILES.list(connection, request.account_id))
    found = [*(_built_in(profile_id) for profile_id in BUILT_IN), *map(_wire, rows)]
    window = query.window()
    return page(found[window.offset : window.offset + window.per_page], window.page, window.per_page, len(found))


async def get(request: Request, _: None) -> Response:
    account_id, profile_id = request.account_id, request.path["profile_id"]
    if profile_id in BUILT_IN:
        return ok(_built_in(profile_id))
    row = await request.services.database.get(lambda connection: PROFILES.find(connection, account_id, profile_id))
    return ok(_wire(require(row)))


async def create(request: Request, body: ProfileSet) -> Response:
    at, profile_id = request.services.clock.now_ms(), request.services.ids.log_id()
    return await _written(request, profile_id, await _checked(request, body), at, created=True)


async def change(request: Request, body: ProfileSet) -> Response:
    """Replace the profile."""
    profile_id = request.path["profile_id"]
    _check_own(profile_id)
    at = request.services.clock.now_ms()
    return await _written(request, profile_id, await _checked(request, body), at, created=False)


async def delete(request: Request, _: None) -> Response:
    account_id, profile_id = request.account_id, request.path["profile_id"]
    _check_own(profile_id)

    def write(connection: Connection) -> DlpProfileRow:
        row = require(PROFILES.find(connection, account_id, profile_id))
        users = [
            gateway.gateway_id
            for gateway in list_gateways(connection, account_id)
            if profile_id in profile_ids_of(msgspec.json.decode(gateway.config, type=GatewayConfig))
        ]
        if users:
            raise invalid(f"The profile is in use by the gateways {', '.join(users)}", "path", "profile_id")
        PROFILES.delete(connection, account_id, profile_id)
        return row

    row = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return ok(_wire(row))


async def _written(request: Request, profile_id: str, profile: OwnProfile, at: int, *, created: bool) -> Response:
    account_id = request.account_id

    def write(connection: Connection) -> DlpProfileRow:
        others = {row.profile_id: row for row in PROFILES.list(connection, account_id)}
        before = None if created else require(others.pop(profile_id, None))
        if len(others) >= PROFILES_MAX:
            raise invalid(f"The account has {PROFILES_MAX} DLP profiles, the maximum: delete one", "body")
        entries = sum(len(_profile(row).entries) for row in others.values()) + len(profile.entries)
        if entries > PATTERNS_OF_ACCOUNT_MAX:
            message = f"All DLP profiles of the account together can have at most {PATTERNS_OF_ACCOUNT_MAX} entries"
            raise invalid(message, "body", "entries")
        row = DlpProfileRow(
            account_id,
            profile_id,
            msgspec.json.encode(profile).decode(),
            at if before is None else before.created_at,
            at,
        )
        PROFILES.put(connection, row)
        return row

    row = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return ok(_wire(row))


async def _checked(request: Request, body: ProfileSet) -> OwnProfile:
    """The profile as it is stored, each entry with an id. Raises InvalidInput, Problem."""
    faults: list[Fault] = []
    entries: list[Entry] = []
    seen: set[str] = set()
    for at, entry in enumerate(body.entries):
        path = ("body", "entries", at)
        if bool(entry.pattern) == bool(entry.keyword):
            words = "Enter either a keyword or a pattern, and not both"
            faults.append(Fault(path, "An entry has either a 'pattern' or a 'keyword'", words))
        elif entry.keyword and len("".join(entry.keyword.split())) < 2:
            faults.append(Fault((*path, "keyword"), "String must contain at least 2 characters that are not spaces"))
        elif wrong := await _wrong(request.services, request.account_id, pattern_of(entry)):
            faults.append(Fault((*path, "pattern", "regex"), wrong) if entry.pattern else Fault(path, wrong))
        named = entry if entry.id else replace(entry, id=request.services.ids.log_id())
        if named.id in seen:
            faults.append(Fault((*path, "id"), f"Another entry has the id '{named.id}' too"))
        seen.add(named.id)
        entries.append(named)
    if faults:
        raise InvalidInput(faults)
    return OwnProfile(name=body.name, description=body.description, entries=tuple(entries))


async def _wrong(services: Services, account_id: str, pattern: str) -> str:
    """What is wrong with a pattern; empty if nothing is. It is compiled in a helper process. Raises Problem."""
    try:
        return await services.helpers.run(account_id, check_pattern, pattern.encode())
    except TooMuchWork:
        return "It takes too long to compile"
    except (PoolBusy, HelperDied) as error:
        raise busy("The pattern could not be checked.") from error


def _check_own(profile_id: str) -> None:
    """Raises InvalidInput if the profile is not the account's own."""
    if profile_id in BUILT_IN:
        raise invalid(f"The profile '{profile_id}' is predefined and cannot be changed", "path", "profile_id")


def _profile(row: DlpProfileRow) -> OwnProfile:
    return msgspec.json.decode(row.config, type=OwnProfile)


def _wire(row: DlpProfileRow) -> DlpProfile:
    profile = _profile(row)
    return DlpProfile(
        id=row.profile_id,
        type="custom",
        name=profile.name,
        description=profile.description,
        entries=list(profile.entries),
        created_at=iso(row.created_at),
        modified_at=iso(row.modified_at),
    )


def _built_in(profile_id: str) -> DlpProfile:
    profile = BUILT_IN[profile_id]
    return DlpProfile(
        id=profile_id,
        type="predefined",
        name=NAMES[profile],
        description=None,
        entries=[Entry(id=one.entry_id, name=one.entry_id) for one in profile.detectors],
        created_at=iso_or_none(None),
        modified_at=None,
    )
