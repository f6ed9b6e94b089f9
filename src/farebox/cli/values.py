"""How values are written on the command line: money, times, percentages, rates; and options that several commands
share.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, NamedTuple, TypeAlias

import typer

from farebox.model import Balance
from farebox.money import AMOUNT_MAX, NANOS_PER_CENT, InvalidAmount, format_usd, parse_usd, whole_number
from farebox.quoting import quoted

_PERCENT = re.compile(r"-?[0-9]{1,6}(\.[0-9]{1,4})?")
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
PARTS_PER_PERCENT = 10_000


def _usd(text: str) -> int:
    try:
        return parse_usd(text)
    except InvalidAmount as error:
        raise typer.BadParameter(str(error)) from error


def whole_cents(text: str) -> int:
    """US cents; zero is allowed."""
    try:
        cents = whole_number(text)
    except ValueError as error:
        raise typer.BadParameter(f"{quoted(text)} is not a number of cents: write 1250 for 12.50 US dollars") from error
    if not 0 <= cents <= AMOUNT_MAX // NANOS_PER_CENT:
        raise typer.BadParameter(f"{text} is out of range: from 0 to {AMOUNT_MAX // NANOS_PER_CENT} cents")
    return cents


def moment(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{quoted(text)} is not a date: write 2027-01-31 or 2027-01-31T18:00:00Z") from error
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return int(found.timestamp() * 1000)


def parse_usd_or_zero(text: str) -> int:
    """Nano-dollars; zero is allowed."""
    return 0 if text in ("0", "0.00") else _usd(text)


def percent(text: str) -> int:
    if not _PERCENT.fullmatch(text):
        raise typer.BadParameter(f"{quoted(text)} is not a percentage: write 20 or 12.5, with at most four decimals")
    return int(Decimal(text) * PARTS_PER_PERCENT) + 100 * PARTS_PER_PERCENT


class PriceArgument(NamedTuple):
    """One price of a model, as genai-prices names it."""

    key: str
    usd: str


def parse_price(text: str) -> str:
    """A price as it was written: zero is allowed, and any number of decimals."""
    if not _DECIMAL.fullmatch(text):
        raise typer.BadParameter(f"{quoted(text)} is not a price: write US dollars as 0.25")
    return text


def _rate(text: str) -> PriceArgument:
    key, equals, usd = text.partition("=")
    if not (key and equals and usd):
        raise typer.BadParameter(f"{quoted(text)} is not a rate: write it as input_audio_mtok=40")
    return PriceArgument(key, parse_price(usd))


Amount: TypeAlias = Annotated[int, typer.Option(parser=_usd, metavar="USD", help="US dollars, up to nine decimals.")]
SomeAmount: TypeAlias = Annotated[int | None, typer.Option(parser=_usd, metavar="USD", help="US dollars.")]
GivenAmount: TypeAlias = Annotated[int | None, typer.Option(parser=_usd, metavar="USD", help="US dollars to return.")]
TakenAmount: TypeAlias = Annotated[int | None, typer.Option(parser=_usd, metavar="USD", help="US dollars to charge.")]
AccountId: TypeAlias = Annotated[str, typer.Option("--account", metavar="ID", help="ID of the account.")]
OnlyAccount: TypeAlias = Annotated[
    str | None, typer.Option("--account", metavar="ID", help="Only for this account; for all if omitted.")
]
Expires: TypeAlias = Annotated[
    int | None, typer.Option(parser=moment, metavar="DATE", help="Expiry, UTC: 2027-01-31. Never if omitted.")
]
ValidFrom: TypeAlias = Annotated[
    int | None, typer.Option(parser=moment, metavar="DATE", help="Start, UTC: 2027-01-31. Now if omitted.")
]
Since: TypeAlias = Annotated[
    int | None, typer.Option(parser=moment, metavar="DATE", help="From this time on, UTC: 2027-01-31T18:00:00Z.")
]
From: TypeAlias = Annotated[int, typer.Option("--from", parser=moment, metavar="DATE", help="UTC, included.")]
To: TypeAlias = Annotated[int, typer.Option("--to", parser=moment, metavar="DATE", help="UTC, not included.")]
Percent: TypeAlias = Annotated[int, typer.Argument(parser=percent, metavar="PERCENT", help="On top of the cost.")]
Rates: TypeAlias = Annotated[
    list[PriceArgument] | None,
    typer.Option("--rate", parser=_rate, metavar="KEY=USD", help="Any price key; may be repeated."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]


def moment_text(at: int) -> str:
    """The moment in ISO 8601, UTC; with milliseconds where it has any."""
    precision = "milliseconds" if at % 1000 else "seconds"
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def optional_moment_text(at: int | None) -> str | None:
    return None if at is None else moment_text(at)


def percent_text(parts_per_million: int) -> str:
    """The markup in percent: 1_200_000 → `20`."""
    percent = Decimal(parts_per_million - 100 * PARTS_PER_PERCENT) / PARTS_PER_PERCENT
    return f"{percent:f}".rstrip("0").rstrip(".") if percent % 1 else f"{int(percent)}"


def balance_row(balance: Balance) -> dict[str, object]:
    """A balance in JSON: exact integers for programs, US dollars for people."""
    amounts = {"posted": balance.posted, "held": balance.held, "available": balance.available}
    return {f"{word}_nanos": nanos for word, nanos in amounts.items()} | {
        word: format_usd(nanos) for word, nanos in amounts.items()
    }
