"""What the operator's pages share: actions in their own transactions, and amounts and times in forms."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from farebox.errors import VALIDATION_FAILED, Problem
from farebox.http.pages.table import Fields
from farebox.http.pages.visit import Visit
from farebox.model import Operator
from farebox.money import InvalidAmount, parse_usd
from farebox.operator.administer import ActionRefused
from farebox.quoting import quoted
from farebox.storage.sql import Connection

T = TypeVar("T")

TEXT_MAX: Final = 500
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


async def run_action(visit: Visit, job: Callable[[Connection, Operator], T]) -> T:
    """Run `job` as the operator who is signed in, in one transaction; a refusal becomes a Problem."""
    by = visit.operator
    try:
        made = await visit.services.database.write(lambda connection: job(connection, by))
    except ActionRefused as error:
        raise refusal(error) from error
    await visit.services.configuration.notice_own_change()
    return made


def refusal(error: ActionRefused) -> Problem:
    return invalid(error.words[:1].upper() + error.words[1:])


def invalid(message: str) -> Problem:
    return Problem(VALIDATION_FAILED, message)


def amount(form: Fields, name: str = "amount") -> int:
    """The amount in a form's field, in nano-dollars. Raises Problem."""
    given = form.get(name, "").strip()
    if not given:
        raise invalid("Enter an amount in US dollars, such as 12.34")
    try:
        return parse_usd(given)
    except InvalidAmount as error:
        raise invalid(str(error)) from error


def signed_amount(form: Fields) -> int:
    """Nano-dollars to give back; below zero: to charge. Raises Problem."""
    direction = form.get("direction")
    if direction not in ("give", "take"):
        raise invalid("Choose whether to give it back or to charge it")
    return amount(form) if direction == "give" else -amount(form)


def text(form: Fields, name: str) -> str:
    return form.get(name, "").strip()[:TEXT_MAX]


def day(form: Fields, name: str) -> int | None:
    """The start of a day in UTC, in milliseconds; None: the field is empty. Raises Problem."""
    given = text(form, name)
    if not given:
        return None
    try:
        if not _DAY.fullmatch(given):
            raise ValueError(given)
        return int(datetime.fromisoformat(given).replace(tzinfo=UTC).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise invalid(f"{quoted(given)} is not a day: write it as 2027-01-31") from error
