"""Shared by the tests of long calls."""

from typing import Any

from farebox.calls.long_calls import long_calls
from farebox.storage.long_calls import LongCall, list_long_calls
from farebox.storage.sql import Connection
from tests.engines import read_now
from tests.sdks import openai
from tests.support import Customer, Farebox
from tests.waiting import until

MODEL = "gpt-4o-mini"
TEXT = "Hello there " * 500


def begin(client: "openai.OpenAI", **more: Any) -> Any:
    """Start a background response."""
    asked = {"model": MODEL, "input": TEXT, "max_output_tokens": 200, "background": True, **more}
    return client.responses.create(**asked)


def running(customer: Customer) -> list[LongCall]:
    """The account's long calls that have not ended."""
    settings = customer.farebox.services.settings
    return read_now(settings, lambda connection: list_long_calls(connection, customer.account_id))


def make_due(farebox: Farebox, **columns: int) -> None:
    """Make every long call due now, and set these columns."""
    found = {"next_at": 1, **columns}

    def write(connection: Connection) -> None:
        for name, value in found.items():
            connection.execute(f"UPDATE long_calls SET {name} = ? WHERE bucket = 0 AND looks >= 0", (value,))

    farebox.run(farebox.services.database.write(write))


def look(farebox: Farebox) -> None:
    """Run the worker once, with every long call due."""
    make_due(farebox)
    farebox.run(long_calls.work(farebox.services))


def settled(customer: Customer) -> None:
    """Wait until the worker has ended all long calls of the account."""

    def ended() -> bool:
        look(customer.farebox)
        return not running(customer)

    until(ended, "the end of the long calls")


def spent(customer: Customer) -> int:
    """The amount that an account with initially five dollars has paid, in nano-dollars."""
    return 5_000_000_000 - customer.balance.posted
