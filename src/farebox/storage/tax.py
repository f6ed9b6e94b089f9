"""The store of tax rates, and the tax of a purchase. Times are milliseconds since the Unix epoch."""

import msgspec

from farebox.payments.purchase import Tax
from farebox.storage.sql import Connection, row, rows

EVERYWHERE = "*"


class TaxRate(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's rate for customers of a country."""

    country: str
    """ISO 3166-1 alpha-2, upper case; `*`: every other country."""
    name: str
    """As shown on the invoice: VAT, GST…"""
    parts_per_million: int
    reverse_charge: bool = False
    """A customer with a tax ID there owes the tax themselves."""
    updated_at: int = 0


_FIELDS = TaxRate.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)


def set_tax_rate(connection: Connection, rate: TaxRate) -> None:
    connection.execute(
        f"INSERT INTO tax_rates ({_COLUMNS}) VALUES (?, ?, ?, ?, ?) ON CONFLICT (country) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in _FIELDS[1:]),
        (rate.country, rate.name, rate.parts_per_million, int(rate.reverse_charge), rate.updated_at),
    )


def remove_tax_rate(connection: Connection, country: str) -> bool:
    """Delete the rate; returns whether there was one."""
    connection.execute("DELETE FROM tax_rates WHERE country = ?", (country,))
    return connection.changes() == 1


def find_tax_rate(connection: Connection, country: str) -> TaxRate | None:
    found = row(connection, f"SELECT {_COLUMNS} FROM tax_rates WHERE country = ?", (country,))
    return None if found is None else _from_row(found)


def list_tax_rates(connection: Connection) -> list[TaxRate]:
    return [_from_row(found) for found in rows(connection, f"SELECT {_COLUMNS} FROM tax_rates ORDER BY country")]


def tax_of_purchase(connection: Connection, *, country: str, tax_id: str, seller_country: str) -> Tax | None:
    """The tax on a purchase by a customer of `country` (empty: not known); None if no rate applies.

    Reverse charge applies if the rate allows it and the customer has a tax ID and is not in the seller's own country.
    """
    country = country.upper()
    rate = (find_tax_rate(connection, country) if country else None) or find_tax_rate(connection, EVERYWHERE)
    if rate is None:
        return None
    reverse = rate.reverse_charge and bool(tax_id.strip()) and bool(country) and country != seller_country.upper()
    return Tax(rate.name, rate.parts_per_million, reverse_charge=reverse)


def _from_row(fields: tuple[object, ...]) -> TaxRate:
    values = dict(zip(_FIELDS, fields, strict=True))
    return TaxRate(**{**values, "reverse_charge": bool(values["reverse_charge"])})  # type: ignore[arg-type] # by columns
