"""Money: 64-bit integers of nano-dollars (10⁻⁹ USD) everywhere inside; other units only at the edges."""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from farebox.quoting import quoted

NANOS_PER_USD = 1_000_000_000
NANOS_PER_CENT = NANOS_PER_USD // 100
AMOUNT_MAX = 10**9 * NANOS_PER_USD
"""Largest single amount accepted from outside: one billion dollars. A sum of nine such amounts still fits in 64
bits."""

_USD = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


_WHOLE = re.compile(r"-?[0-9]{1,19}")


def whole_number(text: str) -> int:
    """A whole number in ASCII digits. Raises ValueError for anything else. `int` would also accept digits of other
    scripts, underscores, a plus sign and spaces, which people and other programs may read differently or reject.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not a whole number")
    return int(text)


class InvalidAmount(ValueError):
    """The text is not an amount of US dollars: digits, then at most nine decimals, above zero and at most 10⁹."""


def parse_usd(text: str) -> int:
    """Nano-dollars from text such as `12.34`.

    Raises InvalidAmount for anything else, including zero and signs: the direction of an amount follows from its use.
    """
    if not _USD.fullmatch(text):
        raise InvalidAmount(f"{quoted(text)} is not an amount: write US dollars as 12.34, with at most nine decimals")
    try:
        nanos = int(Decimal(text) * NANOS_PER_USD)
    except InvalidOperation as error:  # pragma: no cover - the pattern leaves nothing for Decimal to refuse
        raise InvalidAmount(f"{quoted(text)} is not an amount") from error
    if not 0 < nanos <= AMOUNT_MAX:
        raise InvalidAmount(
            f"{quoted(text)} is out of range: above 0 and at most {AMOUNT_MAX // NANOS_PER_USD:,} US dollars"
        )
    return nanos


def format_usd(nanos: int) -> str:
    """US dollars with two to nine decimals, exact: 5000000000 → `5.00`, 17500 → `0.0000175`."""
    if nanos < 0:
        return f"-{format_usd(-nanos)}"
    dollars, rest = divmod(nanos, NANOS_PER_USD)
    return f"{dollars}.{str(NANOS_PER_USD + rest)[1:].rstrip('0').ljust(2, '0')}"


def format_precise_usd(nanos: str) -> str:
    """US dollars with two to twelve decimals, from nano-dollars as receipts state them: a plain decimal or a
    fraction."""
    value = Fraction(nanos) / NANOS_PER_USD
    text = f"{Decimal(value.numerator) / Decimal(value.denominator):,.12f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.ljust(2, '0')}"


def nanos_to_cents(nanos: int) -> int | float:
    """Cents for the billing API: an integer if the amount is a whole number of cents, otherwise a JSON number with a
    fraction."""
    whole, rest = divmod(nanos, NANOS_PER_CENT)
    return whole if rest == 0 else nanos / NANOS_PER_CENT


def nanos_to_usd(nanos: int) -> float:
    """US dollars as a JSON number, for wire fields in dollars (a log's `cost`)."""
    return nanos / NANOS_PER_USD


def ceil_div(numerator: int, denominator: int) -> int:
    """Division that rounds up, exact on integers."""
    return -(-numerator // denominator)
