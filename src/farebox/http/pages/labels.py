"""How amounts, times and states are shown to people. Amounts are US cents or nano-dollars, times are in UTC."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from farebox.http.pages.view import Movement
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import Card, TopUp, TopUpRule
from farebox.storage.calls import CallRow
from farebox.storage.operator_actions import OperatorAction
from farebox.storage.sessions import SignInMethod
from farebox.storage.spending import Duration, Strategy

TOP_UPS: dict[str, tuple[str, str]] = {
    "requested": ("wait", "In progress"),
    "submitting": ("wait", "In progress"),
    "processing": ("wait", "In progress"),
    "unknown": ("wait", "Being checked"),
    "action_required": ("warn", "Needs your confirmation"),
    "declined": ("warn", "Declined, will be retried"),
    "paid": ("good", "Paid"),
    "failed": ("bad", "Failed"),
    "canceled": ("mute", "Canceled"),
}
"""State of a top-up → the tone and the text of its label."""

REFUNDS: dict[str, tuple[str, str]] = {
    "requested": ("wait", "In progress"),
    "pending": ("wait", "In progress"),
    "succeeded": ("good", "Refunded"),
    "failed": ("bad", "Failed, credit restored"),
}

DISPUTES: dict[str, tuple[str, str]] = {
    "inquiry": ("warn", "Bank inquiry"),
    "open": ("bad", "Open"),
    "won": ("good", "Won, credit restored"),
    "lost": ("bad", "Lost"),
}

BROWSERS: dict[str, str] = {
    "Edg": "Edge",
    "OPR/": "Opera",
    "Firefox/": "Firefox",
    "FxiOS/": "Firefox",
    "Chrome/": "Chrome",
    "CriOS/": "Chrome",
    "Safari/": "Safari",
}
"""Names of browsers in User-Agent headers. Browsers further up also name those further down, with which they are
compatible."""

SYSTEMS: dict[str, str] = {
    "Android": "Android",
    "iPhone": "iOS",
    "iPad": "iPadOS",
    "Windows": "Windows",
    "Macintosh": "macOS",
    "CrOS": "ChromeOS",
    "Linux": "Linux",
}
"""The same for operating systems."""

KINDS: dict[str, str] = {"manual": "By hand", "auto": "Automatic", "checkout": "Payment page"}

STOPPED: dict[str, str] = {
    "card_declined": "the card was declined. Save another card, or save this form again to try the same card.",
    "authentication_required": "the bank wants you to confirm each payment. Confirm the open one, save another card, "
    "or save this form again.",
    "no_payment_method": "there is no card to charge. Save one.",
    "monthly_cap_reached": "this month’s top-ups have reached your monthly cap.",
    "too_many_top_ups": "credit was bought unusually often in a short time.",
    "too_many_attempts": "charges were attempted unusually often, or this card was declined recently.",
    "processor_refused": "the payment processor rejected the request. Nothing was charged.",
    "under_review": "a payment does not match the books. Ask the operator, then save this form again.",
    "payment_disputed": "a payment is disputed. It resumes when the dispute is won, or when you save this form again.",
    "switched_off": "the operator has switched auto top-up off for all accounts. It resumes when they switch it on.",
    "account_frozen": "the operator has frozen the account. It resumes when the account is unfrozen.",
}
"""Why an auto top-up is stopped → the rest of a sentence that begins with its state and a colon."""

UNTIL_OPERATOR = frozenset({"switched_off", "account_frozen"})
"""Pauses that the operator ends: their `until` is only when they are looked at again."""

TRANSFERS: dict[str, str] = {
    "top_up": "Credit bought",
    "grant": "Credit granted",
    "charge": "Model call",
    "write_off": "Written off",
    "expiry": "Credit expired",
    "correction": "Correction",
    "refund": "Refund",
    "refund_failed": "Refund failed",
    "dispute": "Dispute",
    "dispute_won": "Dispute won",
    "collection": "Debt paid",
}
"""Kind of transfer → its label; a kind that is not here is shown as it is."""

SIGN_IN_METHODS: dict[SignInMethod, str] = {
    "link": "Link",
    "email": "E-mail",
    "passkey": "Passkey",
    "oidc": "Single sign-on",
}
"""How a person signed in."""
DURATIONS: dict[Duration, str] = {"daily": "day", "weekly": "week", "monthly": "month"}
SPANS: dict[Strategy, dict[Duration, str]] = {
    "fixed": {"daily": "today", "weekly": "this week", "monthly": "this month"},
    "sliding": {
        "daily": "for the last 24 hours",
        "weekly": "for the last 7 days",
        "monthly": "for the last 30 days",
    },
}
"""The time that a spending limit is about, as the end of a sentence: `5.00 of 20.00 USD left today`."""
STRATEGIES: dict[Strategy, str] = {
    "fixed": "by the calendar",
    "sliding": "over a sliding window",
}


def top_up_state(top_up: TopUp) -> tuple[str, str]:
    """The tone and the label of a top-up's state. A payment page that waits for its buyer is not a warning."""
    if (top_up.kind, top_up.state) == ("checkout", "action_required"):
        return "mute", "Payment page open"
    return TOP_UPS[top_up.state]


def shortened(text: str, most: int = 60) -> str:
    """The text; of a longer one, its beginning and end, because names often differ there: `user-0000…0042@example`."""
    end = most // 3
    return text if len(text) <= most else f"{text[: most - end - 1]}…{text[-end:]}"


def any_of(values: Sequence[str], shown: int) -> str:
    """`a or b`; of many values, the first ones: `a or b or 40 others`."""
    rest = len(values) - shown
    names = [shortened(value) for value in (values[:shown] if rest > 1 else values)]
    return " or ".join((*names, f"{rest} others") if rest > 1 else names)


def usd(cents: int) -> str:
    """5000 → `50.00 USD`."""
    return f"{plain_usd(cents)} USD"


def plain_usd(cents: int) -> str:
    """1234567 → `12,345.67`."""
    sign = "−" if cents < 0 else ""
    dollars, rest = divmod(abs(cents), 100)
    return f"{sign}{dollars:,}.{rest:02d}"


def field_usd(cents: int) -> str:
    """The value of a form's number field: 5000 → `50`, 5050 → `50.50`."""
    dollars, rest = divmod(cents, 100)
    return f"{dollars}.{rest:02d}" if rest else str(dollars)


def exact_usd(nanos: int) -> str:
    """Nano-dollars with two decimals if they are whole cents, else with as many as needed: `0.0000175`."""
    whole, rest = divmod(abs(nanos), NANOS_PER_CENT)
    decimals = f"{rest:07d}".rstrip("0") if rest else ""
    return ("−" if nanos < 0 else "") + plain_usd(whole) + decimals


def floor_usd(nanos: int) -> str:
    """A balance rounded down to the cent."""
    return plain_usd(nanos // NANOS_PER_CENT)


def signed(movement: Movement) -> str:
    """The effect of a movement on the balance, with its sign; a movement between the operator's own books has none,
    and is in parentheses.
    """
    if not movement.change:
        return f"({exact_usd(movement.amount)})"
    return f"+{exact_usd(movement.change)}" if movement.change > 0 else exact_usd(movement.change)


def browser(agent: str) -> str:
    """Browser and system in a User-Agent header, such as `Firefox on Windows`; the header itself if one is unknown."""
    program = next((name for sign, name in BROWSERS.items() if sign in agent), None)
    system = next((name for sign, name in SYSTEMS.items() if sign in agent), None)
    return f"{program} on {system}" if program and system else agent


def moment(at: int) -> str:
    """A time to the minute: `22 Nov 2026, 09:04 UTC`."""
    when = _utc(at)
    return f"{when.day} {when:%b %Y, %H:%M} UTC"


def calendar_day(day: date) -> str:
    """`22 Nov 2026`."""
    return f"{day.day} {day:%b %Y}"


def iso(at: int) -> str:
    """`2026-11-22T09:04:05Z`."""
    return f"{_utc(at):%Y-%m-%dT%H:%M:%SZ}"


def of_iso(text: str) -> str:
    """A time in the API's format, formatted as by `moment`."""
    return moment(round(datetime.fromisoformat(text).timestamp() * 1000))


def per_million(usd: float) -> str:
    """The price of a million, given US dollars for one: 0.0000005 → `0.50`."""
    return exact_usd(round(usd * 10**15))


def month_name(at: int) -> str:
    """`November 2026`."""
    return f"{_utc(at):%B %Y}"


def month_key(at: int) -> str:
    """`2026-11`."""
    return f"{_utc(at):%Y-%m}"


def _utc(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)


def card_name(card: Card) -> str:
    """`Visa ending in 4242`."""
    return _card(card.brand, card.last4)


def payer(top_up: TopUp) -> str | None:
    """The card of a top-up, if known."""
    return _card(top_up.brand, top_up.last4) if top_up.brand and top_up.last4 else None


_BRANDS = {"amex": "American Express", "diners": "Diners Club", "jcb": "JCB", "unionpay": "UnionPay"}


def _card(brand: str, last4: str) -> str:
    return f"{_BRANDS.get(brand, brand[:1].upper() + brand[1:])} ending in {last4}"


def expired(card: Card, at: int) -> bool:
    """Whether the card has expired."""
    when = _utc(at)
    return (card.exp_year, card.exp_month) < (when.year, when.month)


@dataclass(frozen=True, slots=True)
class RuleState:
    """The state of an auto top-up as the page shows it: `Paused`, and the rest of the sentence."""

    tone: str
    name: str
    text: str
    until: int | None = None
    """When it resumes, in milliseconds since the epoch (UTC)."""


def rule_state(rule: TopUpRule, *, contested: bool) -> RuleState:
    """The state of a rule; `contested`: a dispute is still open."""
    why = STOPPED.get(rule.reason or "", f"{rule.error or rule.reason or 'unknown reason'}.")
    if rule.reason == "payment_disputed" and not contested:
        why = "a dispute was lost. Save this form again to resume."
    bought = f"{usd(rule.amount_cents)} when the balance falls below {usd(rule.threshold_cents)}"
    if rule.state == "active":
        cap = f", at most {usd(rule.monthly_cap_cents)} in a calendar month" if rule.monthly_cap_cents else ""
        return RuleState("good", "Active", f"buys {bought}{cap}.")
    if rule.state == "paused":
        return RuleState("warn", "Paused", why, None if rule.reason in UNTIL_OPERATOR else rule.until)
    if rule.state == "action_required":
        return RuleState("warn", "Waiting for you", "the bank wants you to confirm a payment.")
    return RuleState("bad", "Suspended", why)


def hour(at: int) -> str:
    """`09:00`."""
    return f"{_utc(at):%H:%M}"


def day(at: int) -> str:
    """`22 Nov`."""
    when = _utc(at)
    return f"{when.day} {when:%b}"


def round_usd(nanos: int) -> str:
    """An approximate amount: to the cent, or to two significant digits if it is less than ten cents: `0.00042`."""
    amount = abs(nanos)
    if amount >= 10 * NANOS_PER_CENT or not amount:
        return ("−" if nanos < 0 else "") + plain_usd((amount + NANOS_PER_CENT // 2) // NANOS_PER_CENT)
    unit = 10 ** max(0, len(str(amount)) - 2)
    return exact_usd((nanos + unit // 2) // unit * unit)


def change(now: int, before: int) -> str:
    """The relative change: `+12 %`; empty if there was nothing before."""
    if not before:
        return ""
    percent = round((now - before) * 100 / before)
    return f"{'+' if percent > 0 else '−' if percent < 0 else '±'}{abs(percent):,} %"


def second(at: int) -> str:
    """A time to the second: `22 Nov 2026, 09:04:05 UTC`."""
    when = _utc(at)
    return f"{when.day} {when:%b %Y, %H:%M:%S} UTC"


def counted(count: int, one: str, several: str, *, most: int) -> str:
    """`1 finding is`, `3 findings are`; `More than 100 findings are` where no more than `most` were counted."""
    if count > most:
        return f"More than {most:,} {several}"
    return f"{count:,} {one if count == 1 else several}"


def duration(ms: float) -> str:
    """`0.4 ms`, `154 ms`, `1.2 s`, `3 min 4 s`."""
    if ms < 999.5:
        return f"{ms:.1f} ms" if ms < 10 and ms % 1 else f"{ms:.0f} ms"
    if ms < 59_950:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds} s"


def meter(name: str) -> str:
    """A meter in words: `cache_read_tokens` → `cache read tokens`."""
    return name.replace("_", " ")


def markup_percent(parts_per_million: int) -> str:
    """What is charged on top of the cost: 1_200_000 → `+20 %`."""
    percent = Decimal(parts_per_million - 1_000_000) / 10_000
    sign = "+" if percent > 0 else "−" if percent < 0 else "±"
    return f"{sign}{abs(percent).normalize():f} %"


_TIMES = 10**12
"""Larger numbers are milliseconds since 1970."""


def changes(action: OperatorAction) -> list[tuple[str, str, str]]:
    """What an action has changed: name, before, after; unchanged fields are left out."""
    was, now = (json.loads(text) if text else {} for text in (action.before, action.after))
    names = [name for name in {**was, **now} if (was.get(name) or "") != (now.get(name) or "")]
    return [
        (
            name.replace("_", " ").replace("usd", "USD"),
            _state_text(name, was.get(name)),
            _state_text(name, now.get(name)),
        )
        for name in names
    ]


def _state_text(name: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, int) and value > _TIMES and name.endswith(("_at", "_from", "start", "end", "since")):
        return second(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_state_text(key, each) or '–'}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(_state_text(name, each) for each in value)
    return str(value) if not isinstance(value, bool) else "yes" if value else "no"


def with_all(first: Mapping[str, str], others: Iterable[str] | Mapping[str, str]) -> dict[str, str]:
    """The choices of a field: `first`, and one for each of the others."""
    return {**first, **(others if isinstance(others, Mapping) else {each: each for each in others})}


def call_state(call: CallRow) -> tuple[str, str]:
    """Tone and text of a call's outcome."""
    if call.success:
        return ("mute", "from the cache") if call.detail.cached else ("good", "answered")
    return ("warn", "refused") if call.detail.outcome == "refused" else ("bad", "failed")
