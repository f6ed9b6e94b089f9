"""The cost of a call at prices that the caller states, for the log: for example, those of the caller's own contract."""

from decimal import ROUND_CEILING, Decimal
from typing import Final

import msgspec

from farebox.money import NANOS_PER_USD
from farebox.usage import Usage

_MOST: Final = 1_000
"""US dollars per token."""
_FIELDS: Final = "per_token_in, per_token_out, per_cache_read_token and per_cache_write_token"


class InvalidCustomCost(ValueError):
    """The message says what is wrong."""


class _Stated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    per_token_in: Decimal
    per_token_out: Decimal
    per_cache_read_token: Decimal | None = None
    per_cache_write_token: Decimal | None = None


class CustomCost(msgspec.Struct, frozen=True):
    """US dollars per token."""

    per_token_in: Decimal
    per_token_out: Decimal
    per_cache_read_token: Decimal
    per_cache_write_token: Decimal

    def nanos(self, usage: Usage) -> int:
        """The cost of this usage in nano-dollars, rounded up once."""
        read, write = usage.get("cache_read_tokens", 0), usage.get("cache_write_tokens", 0)
        plain = max(Decimal(usage.get("input_tokens", 0)) - read - write, Decimal(0))
        cost = plain * self.per_token_in + Decimal(usage.get("output_tokens", 0)) * self.per_token_out
        cost += Decimal(read) * self.per_cache_read_token + Decimal(write) * self.per_cache_write_token
        return int((cost * NANOS_PER_USD).to_integral_value(ROUND_CEILING))


def custom_cost(text: str) -> CustomCost:
    """The prices in a JSON object. If the price of cached tokens is omitted, it is that of input. Raises
    InvalidCustomCost."""
    try:
        stated = _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidCustomCost(f"expected a JSON object of {_FIELDS}, in US dollars per token ({error})") from error
    for value in msgspec.structs.astuple(stated):
        if value is not None and not (value.is_finite() and 0 <= value <= _MOST):
            raise InvalidCustomCost(f"a price is a number from 0 to {_MOST} US dollars per token")
    read, write = stated.per_cache_read_token, stated.per_cache_write_token
    return CustomCost(
        stated.per_token_in,
        stated.per_token_out,
        stated.per_token_in if read is None else read,
        stated.per_token_in if write is None else write,
    )


_decoder: Final = msgspec.json.Decoder(_Stated, float_hook=Decimal)
