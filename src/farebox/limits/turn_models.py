"""Which model has answered a turn of a conversation, so that the rest of the turn goes to the same model."""

from collections import OrderedDict
from typing import Final

TURNS_MAX: Final = 500
"""Maximum number of turns that are remembered for one account."""
ACCOUNTS_MAX: Final = 2_000


class TurnModels:
    """By account: turns with the names of their models, the most recently remembered last. Kept in the memory of this
    process."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, OrderedDict[str, str]] = OrderedDict()

    def find(self, account_id: str, turn: str) -> str | None:
        turns = self._accounts.get(account_id)
        return None if turns is None else turns.get(turn)

    def forget(self, account_id: str, turn: str) -> None:
        self._accounts.get(account_id, OrderedDict()).pop(turn, None)

    def remember(self, account_id: str, turn: str, model: str) -> None:
        turns = self._accounts.setdefault(account_id, OrderedDict())
        self._accounts.move_to_end(account_id)
        turns[turn] = model
        turns.move_to_end(turn)
        if len(turns) > TURNS_MAX:
            turns.popitem(last=False)
        if len(self._accounts) > ACCOUNTS_MAX:
            self._accounts.popitem(last=False)
