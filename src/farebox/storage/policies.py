"""The store of policies: what is in force, and drafts that are not yet."""

from dataclasses import dataclass

from farebox.storage.own_rows import OwnRows


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


_COLUMNS = "account_id, gateway_id, policy_id, live, draft, created_at, modified_at"

POLICIES = OwnRows(
    "policies", _COLUMNS, ("gateway_id", "policy_id"), "created_at, policy_id", PolicyRow, served=True
)  # fmt: skip
"""A gateway's policies and drafts, oldest first."""
