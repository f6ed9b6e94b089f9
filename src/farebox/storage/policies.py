"""The store of policies: what is in force, and drafts that are not yet."""

from dataclasses import dataclass
from typing import Any

from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.config import note_change
from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A policy. Both texts are JSON: farebox.policies.document.PolicyDocument."""

    account_id: str
    gateway_id: str
    policy_id: str
    live: str | None
    """What is in force; None: it is a draft that never was."""
    draft: str | None
    """What will be in force once it is committed; None: there is none."""
    created_at: int
    modified_at: int


_OF_GATEWAY = f"{OF_ACCOUNT} AND gateway_id = ?"
_OF_POLICY = f"{_OF_GATEWAY} AND policy_id = ?"
_COLUMNS = "account_id, gateway_id, policy_id, live, draft, created_at, modified_at"


def find_policy(connection: Connection, account_id: str, gateway_id: str, policy_id: str) -> PolicyRow | None:
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM policies WHERE {_OF_POLICY}",
        (*key_of(connection, account_id), gateway_id, policy_id),
    )
    return None if found is None else _policy(found)


def list_policies(connection: Connection, account_id: str, gateway_id: str) -> list[PolicyRow]:
    """The gateway's policies and drafts, oldest first."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM policies WHERE {_OF_GATEWAY} ORDER BY created_at, policy_id",
        (*key_of(connection, account_id), gateway_id),
    )
    return [_policy(fields) for fields in found]


def put_policy(connection: Connection, policy: PolicyRow) -> None:
    """Create or replace the policy; nothing if there is no such account."""
    key = find_key(connection, policy.account_id)
    if key is None:
        return
    note_change(connection, policy.account_id)
    connection.execute(
        f"INSERT INTO policies (bucket, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id, gateway_id, policy_id) "
        "DO UPDATE SET live = excluded.live, draft = excluded.draft, modified_at = excluded.modified_at",
        (
            *key,
            policy.gateway_id,
            policy.policy_id,
            policy.live,
            policy.draft,
            policy.created_at,
            policy.modified_at,
        ),
    )


def delete_policy(connection: Connection, policy: PolicyRow) -> None:
    """Delete it with its draft."""
    note_change(connection, policy.account_id)
    connection.execute(
        f"DELETE FROM policies WHERE {_OF_POLICY}",
        (*key_of(connection, policy.account_id), policy.gateway_id, policy.policy_id),
    )


def delete_policies_of(connection: Connection, account_id: str, gateway_id: str) -> None:
    """Delete all policies of a gateway."""
    connection.execute(f"DELETE FROM policies WHERE {_OF_GATEWAY}", (*key_of(connection, account_id), gateway_id))


def _policy(fields: tuple[Any, ...]) -> PolicyRow:
    return PolicyRow(*fields)
