"""What a purchase of credit costs: the credit, the operator's fee, taxes. Pure arithmetic on US cents."""

import msgspec

from farebox.money import ceil_div
from farebox.payments.processor import ProcessorLine

MILLION = 1_000_000


class Tax(msgspec.Struct, frozen=True):
    """The tax of one purchase: a rate, or a reverse charge (the customer owes it themselves)."""

    name: str
    parts_per_million: int
    reverse_charge: bool = False


class Purchase(msgspec.Struct, frozen=True, kw_only=True):
    """A purchase as it was priced, in US cents. It is stored with the top-up, so later rates do not affect it."""

    credit_cents: int
    fee_cents: int = 0
    tax_cents: int = 0
    tax: Tax | None = None

    @property
    def charge_cents(self) -> int:
        """What the card is charged."""
        return self.credit_cents + self.fee_cents + self.tax_cents

    def lines(self) -> list[ProcessorLine]:
        """The lines of the invoice. A reverse charge is a line of zero, as tax law requires it to be stated."""
        lines = [ProcessorLine("Prepaid credit", self.credit_cents)]
        if self.fee_cents:
            lines.append(ProcessorLine("Service fee", self.fee_cents))
        if self.tax is not None and not self.tax.reverse_charge and self.tax_cents:
            lines.append(ProcessorLine(f"{self.tax.name} {percent(self.tax.parts_per_million)}", self.tax_cents))
        if self.tax is not None and self.tax.reverse_charge:
            lines.append(ProcessorLine(f"{self.tax.name} 0 %: reverse charge", 0))
        return lines


def price_purchase(credit_cents: int, *, fee_ppm: int, fee_fixed_cents: int, tax: Tax | None) -> Purchase:
    """The fee is added to the credit, and the tax to both; each is rounded up to a cent, once."""
    fee = ceil_div(credit_cents * fee_ppm, MILLION) + fee_fixed_cents
    rate = 0 if tax is None or tax.reverse_charge else tax.parts_per_million
    return Purchase(
        credit_cents=credit_cents,
        fee_cents=fee,
        tax_cents=ceil_div((credit_cents + fee) * rate, MILLION),
        tax=tax,
    )


def percent(parts_per_million: int) -> str:
    """190000 → `19 %`, 77000 → `7.7 %`."""
    whole, rest = divmod(parts_per_million, 10_000)
    decimals = f"{rest:04d}".rstrip("0")
    return f"{whole}.{decimals} %" if decimals else f"{whole} %"
