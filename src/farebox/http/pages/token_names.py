"""What pages call an account's tokens, of which there may be thousands."""

from collections.abc import Iterable
from typing import Final

from farebox.storage.accounts import token_labels, token_page
from farebox.storage.sql import Connection

CHOICES: Final = 50
"""Tokens that a field offers; the page of any other one leads to the field with that one chosen."""


def tokens_to_choose(connection: Connection, account_id: str, also: Iterable[str], at: int) -> dict[str, str]:
    """The names of the newest tokens, those active at `at` first, and of those in `also`, by ID."""
    newest = {token.token_id: token.label for token in token_page(connection, account_id, at, limit=CHOICES).tokens}
    return newest | token_labels(connection, account_id, (each for each in also if each not in newest))
