"""Explains a receipt in sentences and a sum: how a charge was computed, line by line, so that it can be checked by
hand."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from farebox.http.pages import labels
from farebox.money import format_precise_usd
from farebox.pricing.charge import PER_MILLION
from farebox.pricing.price_version import PriceFacts, facts_of
from farebox.pricing.pricebook import PriceBook
from farebox.pricing.receipt import Receipt, ReceiptAttempt, ReceiptLine

_SOURCES = {
    "provider": "The provider reported the usage in its response.",
    "counted": "The response did not report the usage, so it was counted as the response passed.",
    "estimate": "The usage is unknown, so the estimate of the hold was charged.",
    "none": "Nothing was used.",
}
_OUTCOMES = {
    "charged": "The account was charged.",
    "free": "Free: the provider refused or failed, or nothing was used.",
    "own_key": "Called with the caller’s own key: the provider bills the call, and the account is not charged.",
    "released": "The hold was released without a charge.",
    "refused": "Refused before the provider was called: nothing was charged.",
}


_FROM = {
    "list": "genai-prices {}",
    "supplement": "supplement of {}",
    "own": "the operator",
    "custom": "this account, for its log",
}


@dataclass(frozen=True, slots=True)
class SumLine:
    """One line of the sum. Amounts in US dollars, as text."""

    what: str
    quantity: str
    rate: str
    amount: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ShownReceipt:
    """A receipt as it is shown."""

    outcome: str
    source: str
    lines: list[SumLine]
    charge: str
    hold: str
    given_back: str
    facts: list[tuple[str, str]]
    notes: list[str]
    attempts: list["ProviderAttempt"]
    """The attempts, if there was more than one."""


@dataclass(frozen=True, slots=True)
class ProviderAttempt:
    """A request to a provider, or a step that was refused before it."""

    model: str
    answer: str
    charged: bool
    key: str
    log_id: str


def explain_receipt(receipt: Receipt, prices: PriceBook) -> ShownReceipt:
    """The receipt, explained. `prices` knows since when the operator's own are valid."""
    lines = [
        SumLine(
            labels.meter(line.meter),
            _quantity(line.quantity),
            _usd_per_million(line.nanos_per_unit),
            _usd(line.cost_nanos),
            _note(line),
        )
        for line in receipt.lines
    ]
    if receipt.lines:
        lines.append(SumLine("The provider’s cost", "", "", _usd(receipt.cost_nanos)))
    if receipt.markup_parts_per_million != PER_MILLION:
        lines.append(SumLine("Markup", "", _percent(receipt.markup_parts_per_million), _usd(_markup(receipt))))
    if receipt.rounding_nanos != "0":
        lines.append(SumLine("Rounding up to a billionth of a dollar", "", "", _usd(receipt.rounding_nanos)))
    if receipt.written_off_nanos:
        lines.append(
            SumLine("Not charged because the account had no more credit", "", "", _usd(f"-{receipt.written_off_nanos}"))
        )
    lines += [
        SumLine(
            "Corrected afterwards because the price was wrong",
            "",
            "",
            _usd(str(-each.amount_nanos)),
            each.price_version,
        )
        for each in receipt.corrections
    ]
    facts = [("Price", receipt.price_version or ""), ("Priced as", receipt.priced_model or "")]
    if receipt.price_version:
        facts += _price_facts(receipt, receipt.price_version, prices)
    if receipt.markup_version != "none":
        facts.append(("Markup", _percent(receipt.markup_parts_per_million)))
        facts.append(("Markup ID", receipt.markup_version))
        facts.append(("Markup valid from", _since(prices.valid_from(receipt.markup_version))))
    facts.append(("Rule", receipt.policy or ""))
    facts.append(("Cost reported by the provider", f"{receipt.stated_usd} USD" if receipt.stated_usd else ""))
    facts.append(("Not priced", ", ".join(map(labels.meter, receipt.unpriced_meters))))
    return ShownReceipt(
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


def _price_facts(receipt: Receipt, version: str, prices: PriceBook) -> list[tuple[str, str]]:
    """Where the price is from, since when it is valid, and which tier and hours it is for: what its version says, which
    is stored with the call, and the date of the operator's price."""
    known = facts_of(version)
    since = {
        "list": labels.calendar_day(known.since) if known.since else "the list gives no date",
        "supplement": f"the date of the supplement, {known.release}",
        "own": _since(prices.valid_from(known.release)),
    }.get(known.source, "")
    return [
        ("Price from", _FROM.get(known.source, "").format(known.release)),
        ("Valid from", since),
        ("Tier", _tier(known)),
        ("Input length", _input_tier(receipt)),
    ]


def _tier(known: PriceFacts) -> str:
    """Which tier and hours the price is for; empty: it is one that has no tiers (a custom provider's, a bound)."""
    doubted = list(filter(None, known.doubts.split(", ")))
    tiers = [f"{labels.meter(name)} {value}" for name, value in known.tier.items() if f"{name}={value}" not in doubted]
    for each in doubted:
        name, equals, value = each.partition("=")
        what = f"{labels.meter(name)} {value}" if equals else name
        tiers.append(f"{what} (no price is known: the highest was charged)")
    standard = "standard" if known.source in ("list", "supplement", "own") else ""
    return ", ".join(filter(None, [*tiers, known.hours])) or standard


def _since(at: int | None) -> str:
    if at is None:
        return "not recorded"
    return labels.moment(at) if at else "always"


def _input_tier(receipt: Receipt) -> str:
    """Which tier of input the rates are from; empty: they do not depend on the input's length."""
    above = [line.above_input_tokens for line in receipt.lines if line.above_input_tokens is not None]
    if above:
        return f"tier above {max(above):,} tokens" if max(above) else "lowest tier"
    if receipt.lines and receipt.other_meters is None:
        return "tier not recorded"
    return ""


def _note(line: ReceiptLine) -> str:
    notes = [f"price of {line.model}, {line.price_version}"] if line.model else []
    if line.above_input_tokens:
        notes.append(f"rate for more than {line.above_input_tokens:,} input tokens")
    return "; ".join(notes)


def _attempt(each: ReceiptAttempt) -> ProviderAttempt:
    details = [str(each.status) if each.status is not None else "", each.error.replace("_", " ")]
    answer = ", ".join(filter(None, details)) or "no answer"
    return ProviderAttempt(f"{each.provider}/{each.model}", answer, each.charged, each.key, each.log_id)


def _usd(nanos: str) -> str:
    return format_precise_usd(nanos).replace("-", "−")


def _usd_per_million(nanos_per_unit: str) -> str:
    return f"{_usd(str(Fraction(nanos_per_unit) * 1_000_000))} per million"


def _percent(parts_per_million: int) -> str:
    more = Decimal(parts_per_million - PER_MILLION) / 10_000
    return f"{'+' if more > 0 else '−' if more else ''}{abs(more).normalize():f} %"


def _markup(receipt: Receipt) -> str:
    return str(Fraction(receipt.cost_nanos) * (receipt.markup_parts_per_million - PER_MILLION) / PER_MILLION)


def _quantity(text: str) -> str:
    return f"{int(text):,}" if text.isdigit() else text
