"""Whether a large body is worth reading: not if the account certainly cannot pay for the call.

Only certain cases are refused here, after one read of the balance. A body up to LARGE_BODY is read in any case, because
the check would cost more than reading it: such a call is refused when its hold is made.
"""

from typing import Final

from farebox.calls.unlisted import OPENROUTER
from farebox.errors import NO_CREDIT, Problem, Shortage
from farebox.model import Balance
from farebox.money import format_usd
from farebox.runtime.services import Services
from farebox.storage.accounts import read_balance
from farebox.storage.sql import Connection
from farebox.storage.top_up_rules import rule_of
from farebox.storage.top_ups import auto_under_way

LARGE_BODY: Final = 256 * 2**10
"""Bytes. About this many arrive before they are requested; decoding and reading them takes a fraction of the time of a
database statement."""


async def check_worth_reading(services: Services, account_id: str, provider: str | None) -> None:
    """Raises Problem (NO_CREDIT) if no call of the account to this provider (None: to any) can be admitted.

    That is the case if the account has no money, no auto top-up could add any, and no model is free. Money that other
    calls hold still counts, since it may be released.
    """
    if provider in (None, OPENROUTER):  # it has models that cost nothing
        openrouter = services.configuration.provider(OPENROUTER)
        if openrouter is not None and openrouter.api_key is not None:
            return
    if services.configuration.prices.may_be_free(account_id, provider):
        return
    balance = await services.database.get(lambda connection: _insufficient(connection, account_id))
    if balance is not None:
        raise Problem(
            NO_CREDIT,
            f"Insufficient credits: the account has {format_usd(balance.posted)} USD, so the request's body was not "
            "read. Add credit to the account, or send your own provider key.",
            shortage=Shortage(None, max(balance.posted - balance.held, 0)),
        )


def _insufficient(connection: Connection, account_id: str) -> Balance | None:
    """The balance of an account that has no money and gets none automatically; otherwise None."""
    balance = read_balance(connection, account_id)
    if balance is None or balance.posted > 0:
        return None
    rule = rule_of(connection, account_id)
    if (rule is not None and rule.state == "active") or auto_under_way(connection, account_id):
        return None
    return balance
