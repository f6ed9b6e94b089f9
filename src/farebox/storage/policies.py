"""The store of policies that are in force, and of drafts that are not in force yet.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.own_rows import OwnRows
from farebox.storage.sql import Connection, rows


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A policy. `live` and `draft` are JSON: farebox.policies.document.PolicyDocument."""

    account_id: str
    gateway_id: str
    policy_id: str
    live: str | None
    """The text in force; None: it is a draft that has never been in force."""
    draft: str | None
    """The text that will be in force once it is committed; None: there is no draft."""
    created_at: int
    modified_at: int


_COLUMNS = "account_id, gateway_id, policy_id, live, draft, created_at, modified_at"

POLICIES = OwnRows(
    "policies", _COLUMNS, ("gateway_id", "policy_id"), "created_at, policy_id", PolicyRow, served=True
)  # fmt: skip
"""A gateway's policies and drafts, oldest first."""


def gateways_with_policies(connection: Connection, account_id: str) -> set[str]:
    """The account's gateways that have policies or drafts."""
    sql = f"SELECT DISTINCT gateway_id FROM policies WHERE {OF_ACCOUNT}"
    return {gateway_id for (gateway_id,) in rows(connection, sql, key_of(connection, account_id))}
