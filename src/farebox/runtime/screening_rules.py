"""Reading the screening rules of a gateway from the database."""

import asyncio

import msgspec

from farebox.detection.own_profiles import OwnProfile, profile_of
from farebox.detection.profiles import BUILT_IN
from farebox.detection.rules import ScreeningRules, profile_ids_of, rules_of
from farebox.gateway import GatewayConfig
from farebox.storage.database import Database
from farebox.storage.dlp_profiles import PROFILES


async def read_rules(database: Database, account_id: str, config: GatewayConfig) -> ScreeningRules:
    """The screening rules of a gateway of the account. They are compiled in a thread, as there may be many patterns."""
    wanted = profile_ids_of(config) - BUILT_IN.keys()
    rows = await database.get(lambda connection: PROFILES.list(connection, account_id)) if wanted else []
    own = [
        profile_of(row.profile_id, msgspec.json.decode(row.config, type=OwnProfile))
        for row in rows
        if row.profile_id in wanted
    ]
    return await asyncio.to_thread(rules_of, config, own)
