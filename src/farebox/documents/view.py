"""The input of a template: all text of a document, fully formatted. Templates only arrange it."""

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from farebox.documents.content import MOVEMENTS, CreditNote, Invoice, Party, Statement, TaxLine, UsageLine
from farebox.money import NANOS_PER_USD, format_usd
from farebox.payments.purchase import percent

TEXT_MAX = 200
"""Maximum characters of one untrusted text; the rest is cut off."""
ADDRESS_MAX = 8
"""Maximum lines of an address."""
USAGE_MAX = 1000
"""Maximum lines of usage; the rest, the smaller ones, are summed."""

_LONG_WORD = re.compile(r"(\S{40})(?=\S)")
_JOINERS = "\u200c\u200d"
"""Invisible, but Persian, Hindi and Sinhala are spelled with them."""
_OF_CONTROL = ("Cc", "Cf", "Cs", "Co", "Cn")
_HAN = {"TW": "TC", "HK": "HK", "MO": "HK", "JP": "JP", "KR": "KR"}
"""Country → its variant of Chinese characters, as Noto Sans CJK names them; for others that of mainland China, `SC`."""
_is_kana = re.compile("[\u3040-\u30ff]").search
_is_hangul = re.compile("[\u1100-\u11ff\uac00-\ud7af]").search
_NO_NAME = "Farebox"


def invoice_view(content: Invoice) -> dict[str, Any]:
    """The template input of an invoice."""
    return {
        "title": "Invoice",
        "seller": _seller(content.seller),
        "customer": _party(content.customer, content.account_id),
        "facts": [
            ("Invoice number", clean(content.number)),
            ("Invoice date", day(content.issued_at)),
            ("Account", clean(content.account_id)),
        ],
        "lines": [(clean(line.description), cents(line.amount_cents)) for line in content.lines],
        "sums": [("Subtotal", cents(content.subtotal_cents)), *_tax_sums(content.tax)],
        "total": cents(content.total_cents),
        "notes": [
            _paid(content),
            *_reference("Payment reference", content.payment_reference),
            *_tax_note(content.tax),
            "Prepaid credit is used up by calls to AI models as they are made. No further payment is due.",
        ],
    }


def credit_note_view(content: CreditNote) -> dict[str, Any]:
    """The template input of a credit note."""
    to_card = _card(content.card_brand, content.card_last4) or "the card it was paid with"
    return {
        "title": "Credit note",
        "seller": _seller(content.seller),
        "customer": _party(content.customer, content.account_id),
        "facts": [
            ("Credit note number", clean(content.number)),
            ("Date", day(content.issued_at)),
            ("For invoice", f"{clean(content.invoice_number)} of {day(content.invoice_issued_at)}"),
            ("Account", clean(content.account_id)),
        ],
        "lines": [(clean(line.description), cents(line.amount_cents)) for line in content.lines],
        "sums": [("Subtotal", cents(content.subtotal_cents)), *_tax_sums(content.tax)],
        "total": cents(content.total_cents),
        "notes": [
            f"Paid back to {to_card}. USD {cents(content.credit_cents)} of prepaid credit was taken for it.",
            *_reference("Reason", content.reason),
            *_reference("Reference", content.payment_reference),
            *_tax_note(content.tax),
        ],
    }


def statement_view(content: Statement) -> dict[str, Any]:
    """The template input of a usage statement. All its amounts have the same number of decimals: as many as are
    needed.
    """
    usage = sorted(content.usage, key=lambda line: (line.provider, line.model))
    kept = sorted(usage, key=lambda line: -line.charge_nanos)[:USAGE_MAX] if len(usage) > USAGE_MAX else usage
    left_out = len(usage) - len(kept)
    rest = content.usage_nanos - sum(line.charge_nanos for line in kept)
    charged = -sum(item.amount_nanos for item in content.movements if item.kind == "charged")
    amounts = [content.opening_nanos, content.closing_nanos, content.usage_nanos, charged, rest]
    amounts += [content.shifted_nanos, *(item.amount_nanos for item in content.movements)]
    amounts += [line.charge_nanos for line in kept]
    places = decimals_for(amounts)
    sums = [("Usage", usd(content.usage_nanos, places))]
    if left_out:
        sums.insert(0, (f"{left_out} further models", usd(rest, places)))
    if content.shifted_nanos:
        sums.append(("Calls that began in one month and were charged in another", usd(content.shifted_nanos, places)))
    first = datetime.fromtimestamp(content.start / 1000, UTC)
    return {
        "title": "Usage statement",
        "seller": _seller(content.seller),
        "customer": _party(content.customer, content.account_id),
        "facts": [
            ("Month", f"{first:%B %Y} (UTC)"),
            ("Account", clean(content.account_id)),
            *([] if content.final else [("Made on", day(content.made_at))]),
        ],
        "opening": (f"Opening balance, {day(content.start)}", usd(content.opening_nanos, places)),
        "movements": [(MOVEMENTS[item.kind], usd(item.amount_nanos, places)) for item in content.movements],
        "closing": (_closing_text(content), usd(content.closing_nanos, places)),
        "usage": [_usage_row(line, places) for line in kept],
        "sums": sums if usage or charged or len(sums) > 1 else [],
        "charges": ("Charges", usd(charged, places)),
        "notes": [
            "This statement is not an invoice: credit was invoiced when it was bought.",
            *([] if content.final else ["The month's figures are not final yet."]),
        ],
    }


def _usage_row(line: UsageLine, places: int) -> tuple[str, ...]:
    figures = (count(line.calls), count(line.tokens_in), count(line.tokens_out), usd(line.charge_nanos, places))
    return (clean(line.provider), clean(line.model), *figures)


def _closing_text(content: Statement) -> str:
    return f"Closing balance, {day(content.end - 1)}" if content.final else "Balance so far"


# Words and figures ------------------------------------------------------------------------------------------------


def clean(text: str, limit: int = TEXT_MAX) -> str:
    """One line of untrusted text: no control or direction characters, not too long, long words may be broken.
    Right-to-left text is isolated, so that it is displayed correctly whatever surrounds it."""
    flat = " ".join(text.split())
    shown = "".join(mark for mark in flat if mark in _JOINERS or unicodedata.category(mark) not in _OF_CONTROL)
    broken = _LONG_WORD.sub("\\1\u200b", shown if len(shown) <= limit else shown[: limit - 1] + "…")
    turned = any(unicodedata.bidirectional(mark) in ("R", "AL") for mark in broken)
    return f"\u2068{broken}\u2069" if turned else broken


def cents(amount: int) -> str:
    """1234567 → `12,345.67`."""
    sign = "−" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100:,}.{abs(amount) % 100:02d}"


def usd(nanos: int, places: int) -> str:
    """Nano-dollars with exactly this many decimals, which must be enough."""
    whole, rest = divmod(abs(nanos), NANOS_PER_USD)
    return f"{'−' if nanos < 0 else ''}{whole:,}.{f'{rest:09d}'[:places]}"


def decimals_for(amounts: Sequence[int]) -> int:
    """The number of decimals needed to write all of these exactly: two to nine."""
    return max((len(format_usd(amount).partition(".")[2]) for amount in amounts), default=2)


def count(number: int) -> str:
    return f"{number:,}"


def day(at: int) -> str:
    """`22 November 2026`, in UTC."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return f"{moment.day} {moment:%B %Y}"


# Parts ------------------------------------------------------------------------------------------------------------


def _party(party: Party, name: str) -> dict[str, Any]:
    lines = [clean(line) for line in party.address[:ADDRESS_MAX]]
    lines.append(clean(party.country))
    if party.tax_id:
        lines.append(f"Tax id: {clean(party.tax_id)}")
    lines.append(clean(party.email))
    shown = {"name": clean(party.name) or clean(name), "lines": [line for line in lines if line]}
    return {**shown, "han": _han(party.country, " ".join([party.name, *party.address]))}


def _han(country: str, text: str) -> str:
    """The country's variant of Chinese characters that fits a person with this name and address: the variants share
    their code points, but a Japanese name in Chinese shapes looks misspelled."""
    if known := _HAN.get(country.upper()):
        return known
    return "JP" if _is_kana(text) else "KR" if _is_hangul(text) else "SC"


def _seller(party: Party) -> dict[str, Any]:
    shown = _party(party, _NO_NAME)
    return {**shown, "footer": " · ".join([shown["name"], *shown["lines"]])[:300]}


def _card(brand: str, last4: str) -> str:
    names = {"amex": "American Express", "jcb": "JCB", "unionpay": "UnionPay", "diners": "Diners Club"}
    name = names.get(brand, brand.replace("_", " ").title())
    return f"{clean(name)} •• {clean(last4)}" if last4 else ""


def _paid(content: Invoice) -> str:
    card = _card(content.card_brand, content.card_last4)
    return f"Paid{f' by {card}' if card else ''} on {day(content.paid_at)}."


def _reference(word: str, value: str) -> list[str]:
    return [f"{word}: {clean(value)}"] if value else []


def _tax_sums(tax: TaxLine | None) -> list[tuple[str, str]]:
    if tax is None:
        return []
    if tax.reverse_charge:
        return [(f"{clean(tax.name)} 0 % (reverse charge)", cents(0))]
    return [(f"{clean(tax.name)} {percent(tax.parts_per_million)}", cents(tax.amount_cents))]


def _tax_note(tax: TaxLine | None) -> list[str]:
    if tax is None or not tax.reverse_charge:
        return []
    return [f"Reverse charge: {clean(tax.name)} is to be accounted for by the customer."]
