"""The metadata on every object we create at the processor: which account it belongs to, and which row requested it."""

from collections.abc import Mapping

ACCOUNT = "farebox_account"
TOP_UP = "farebox_top_up"
REFUND = "farebox_refund"
INSTALLATION = "farebox_installation"
"""Two installations may share a processor account, and may have accounts with the same ID."""


def of_top_up(account_id: str, top_up_id: str) -> dict[str, str]:
    """The metadata of a top-up's invoice or Checkout page."""
    return {ACCOUNT: account_id, TOP_UP: top_up_id}


def of_refund(account_id: str, top_up_id: str, refund_id: str) -> dict[str, str]:
    """The metadata of a refund."""
    return {**of_top_up(account_id, top_up_id), REFUND: refund_id}


def refund_of(metadata: Mapping[str, str]) -> tuple[str, str]:
    """The account and the refund that the metadata names; empty if it names none."""
    return metadata.get(ACCOUNT, ""), metadata.get(REFUND, "")


def top_up_of(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """The account and the top-up that the metadata names; None if it is not ours."""
    account_id, top_up_id = metadata.get(ACCOUNT), metadata.get(TOP_UP)
    return (account_id, top_up_id) if account_id and top_up_id else None


def marked(metadata: Mapping[str, str], installation: str) -> dict[str, str]:
    """The metadata with the mark of this installation."""
    return {**metadata, INSTALLATION: installation}


def unless_foreign(metadata: Mapping[str, str], installation: str) -> Mapping[str, str]:
    """The metadata, or an empty mapping if it is another installation's, whose IDs mean nothing here."""
    return metadata if metadata.get(INSTALLATION, "") == installation else {}
