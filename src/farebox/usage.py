"""Usage: how much of each meter a call consumed."""

from collections.abc import Mapping
from decimal import Decimal
from typing import TypeAlias

from farebox.quoting import quoted

Quantity: TypeAlias = int | Decimal
"""A count, or a Decimal where the unit is divisible (seconds of audio)."""

Usage: TypeAlias = Mapping[str, Quantity]
"""Quantity per meter. Meter names are the usage keys of genai-prices (`input_tokens`, `cache_read_tokens`,
`output_reasoning_tokens`, `audio_seconds`, `web_searches`, …), and follow its rule: a general meter contains its
special ones, so `input_tokens` counts cached tokens too. A meter that is absent is zero."""

METER_MAX = 10**9
"""No single call uses more than this of any meter; a larger figure from the provider is implausible and rejected."""


def is_divisible(meter: str) -> bool:
    """Whether fractions of the meter's unit are counted."""
    return meter.endswith(("_seconds", "_hours")) or meter == "billed_units"


def quantity_of(text: str) -> Quantity:
    """A quantity from its text in receipts."""
    return int(text) if text.isdecimal() else Decimal(text)


class AbsurdUsage(ValueError):
    """The provider reported an impossible figure: negative, not a number, above METER_MAX, or a part above its
    whole."""


def checked(usage: Mapping[str, object]) -> dict[str, Quantity]:
    """The usage without zeros, after the sanity check on each figure.

    Raises AbsurdUsage, which names the first impossible meter.
    """
    result: dict[str, Quantity] = {}
    for meter, value in usage.items():
        if type(value) is int and 0 < value <= METER_MAX:  # nearly every figure
            result[meter] = value
            continue
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise AbsurdUsage(f"{meter} is {quoted(str(value))}, not a count")
        if (isinstance(value, Decimal) and not value.is_finite()) or not 0 <= value <= METER_MAX:
            raise AbsurdUsage(f"{meter} is {value}, outside 0 … {METER_MAX}")
        if value:
            result[meter] = value
    return result
