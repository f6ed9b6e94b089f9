"""Compiling a gateway's stored policies."""

import asyncio

import msgspec
import structlog

from farebox.policies.conditions import InvalidPolicyCondition
from farebox.policies.decide import Policies, Policy, compile_policy, policies_of, refusing_policy
from farebox.policies.document import PolicyDocument
from farebox.policies.matching import InvalidActor
from farebox.providers.catalogue import SLUG_OF_ALIAS
from farebox.storage.account_settings import read_settings
from farebox.storage.database import Database
from farebox.storage.policies import POLICIES

log = structlog.get_logger("farebox.configuration")


async def read_policies(database: Database, account_id: str, gateway_id: str) -> Policies | None:
    """The policies in force now; None if there are none."""
    rows = await database.get(lambda connection: POLICIES.list(connection, account_id, gateway_id))
    live = [(row.policy_id, row.live) for row in rows if row.live is not None]
    if not live:
        return None
    settings = await database.get(lambda connection: read_settings(connection, account_id))
    zones = () if settings is None else settings.zones
    # In a thread, as all of them may take a tenth of a second; the event loop gets to run between two of them.
    return policies_of(gateway_id, await asyncio.to_thread(_compiled, live), zones)


def _compiled(live: list[tuple[str, str]]) -> list[Policy]:
    return [stored_policy(policy_id, text) for policy_id, text in live]


def stored_policy(policy_id: str, text: str) -> Policy:
    """A stored policy, compiled. It could be compiled when it was stored; if that is no longer so, it refuses every
    call."""
    document = msgspec.json.decode(text, type=PolicyDocument)
    try:
        return compile_policy(policy_id, document, SLUG_OF_ALIAS)
    except (InvalidActor, InvalidPolicyCondition) as error:
        log.exception("a policy cannot be parsed", policy=policy_id, why=str(error))
        return refusing_policy(policy_id, document, str(error))
