"""A receipt in sentences and a sum: how a charge came about, line by line, so that it can be checked by hand."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from farebox.http.pages import labels
from farebox.pricing.charge import PER_MILLION
from farebox.pricing.receipt import Receipt, ReceiptAttempt

_SOURCES = {
    "provider": "The provider’s response states the usage.",
    "counted": "The response did not state the usage: it was counted as it passed.",
    "estimate": "The usage is unknown: the estimate of the hold was charged.",
    "none": "Nothing was used.",
}
_OUTCOMES = {
    "charged": "The account was charged.",
    "free": "Free: the provider refused or failed, or nothing was used.",
    "own_key": "Called with the caller’s own key: the provider bills it, and the account is not charged.",
    "released": "The hold was released without a charge.",
    "refused": "Refused before the provider was called: nothing was charged.",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the sum. Amounts in US dollars, as text."""

    what: str
    quantity: str
    rate: str
    amount: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Explained:
    """A receipt as it is shown."""

    outcome: str
    source: str
    lines: list[Line]
    charge: str
    hold: str
    given_back: str
    facts: list[tuple[str, str]]
    notes: list[str]
    attempts: list["Attempt"]
    """Where there was more than one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request to a provider, or a step that did not come so far."""

    model: str
    answer: str
    charged: bool
    key: str
    log_id: str


def explained(receipt: Receipt) -> Explained:
    """The receipt, explained."""
    lines = [
        Line(
            labels.meter(line.meter),
            _quantity(line.quantity),
            _usd_per_million(line.nanos_per_unit),
            _usd(line.cost_nanos),
            f"price of {line.model}" if line.model else "",
        )
        for line in receipt.lines
    ]
    if receipt.lines:
        lines.append(Line("The provider’s cost", "", "", _usd(receipt.cost_nanos)))
    if receipt.markup_parts_per_million != PER_MILLION:
        lines.append(Line("Markup", "", _percent(receipt.markup_parts_per_million), _usd(_markup(receipt))))
    if receipt.rounding_nanos != "0":
        lines.append(Line("Rounded up to a billionth of a dollar", "", "", _usd(receipt.rounding_nanos)))
    if receipt.written_off_nanos:
        lines.append(Line("Not charged: the account had no more", "", "", _usd(f"-{receipt.written_off_nanos}")))
    lines += [
        Line(
            "Corrected afterwards because the price was wrong",
            "",
            "",
            _usd(str(-each.amount_nanos)),
            each.price_version,
        )
        for each in receipt.corrections
    ]
    facts = [("Price", receipt.price_version or ""), ("Priced as", receipt.priced_model or "")]
    facts.append(("Markup", receipt.markup_version if receipt.markup_version != "none" else ""))
    facts.append(("Rule", receipt.policy or ""))
    facts.append(("Cost that the provider stated", f"{receipt.stated_usd} USD" if receipt.stated_usd else ""))
    facts.append(("Not priced", ", ".join(map(labels.meter, receipt.unpriced_meters))))
    return Explained(
        outcome=_OUTCOMES.get(receipt.outcome, receipt.outcome),
        source=_SOURCES[receipt.usage_source],
        lines=lines,
        charge=labels.exact_usd(receipt.charge_nanos),
        hold=labels.exact_usd(receipt.hold_nanos),
        given_back=labels.exact_usd(max(0, receipt.hold_nanos - receipt.charge_nanos)),
        facts=[(name, value) for name, value in facts if value],
        notes=list(receipt.notes),
        attempts=[_attempt(each) for each in receipt.attempts],
    )


def _attempt(each: ReceiptAttempt) -> Attempt:
    said = [str(each.status) if each.status is not None else "", each.error.replace("_", " ")]
    answer = ", ".join(filter(None, said)) or "no answer"
    return Attempt(f"{each.provider}/{each.model}", answer, each.charged, each.key, each.log_id)


def _usd(nanos: str) -> str:
    """An exact amount of nano-dollars, a plain decimal or a fraction, in US dollars: to twelve decimals at most."""
    value = Fraction(nanos) / 10**9
    text = f"{Decimal(value.numerator) / Decimal(value.denominator):,.12f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"{whole.replace('-', '−')}.{decimals.ljust(2, '0')}"


def _usd_per_million(nanos_per_unit: str) -> str:
    return f"{_usd(str(Fraction(nanos_per_unit) * 1_000_000))} per million"


def _percent(parts_per_million: int) -> str:
    more = Decimal(parts_per_million - PER_MILLION) / 10_000
    return f"{'+' if more > 0 else '−'}{abs(more).normalize():f} %"


def _markup(receipt: Receipt) -> str:
    return str(Fraction(receipt.cost_nanos) * (receipt.markup_parts_per_million - PER_MILLION) / PER_MILLION)


def _quantity(text: str) -> str:
    return f"{int(text):,}" if text.isdigit() else text
