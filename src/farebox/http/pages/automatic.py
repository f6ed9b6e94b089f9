"""Sections on what runs by itself: auto top-up and the spending limit."""

from farebox.billing.auto_top_up import AMOUNT_MIN, THRESHOLD_MAX, THRESHOLD_MIN
from farebox.http.pages import labels, layout
from farebox.http.pages.layout import section
from farebox.http.pages.markup import Html, el
from farebox.http.pages.view import View
from farebox.money import NANOS_PER_CENT
from farebox.payments.guards import CAP_FACTOR
from farebox.payments.model import TopUp

HIGHEST_CENTS = 99_999_999


def auto_top_up(view: View) -> Html:
    """The rule in words, and the form that sets it."""
    rule = view.rule
    parts: list[Html | None] = [_state(view)]
    if view.default_card is None and rule is None:
        parts.append(el("p", "Save a card first: auto top-up charges the default card.", class_="hint"))
    low, high = max(AMOUNT_MIN, view.limits[0]), view.limits[1]
    cap = rule.monthly_cap_cents if rule and rule.monthly_cap_cents else None
    label = "Switch on" if rule is None else "Save" if rule.state == "active" else "Save and switch on again"
    form = layout.post(
        "/billing/auto",
        view.csrf,
        layout.money_field(
            "threshold",
            "When the balance falls below",
            labels.field_usd(rule.threshold_cents if rule else 1_000),
            low=labels.field_usd(THRESHOLD_MIN),
            high=labels.field_usd(THRESHOLD_MAX),
        ),
        layout.money_field(
            "auto-amount",
            "buy credit for",
            labels.field_usd(rule.amount_cents if rule else max(5_000, low)),
            low=labels.field_usd(low),
            high=labels.field_usd(high),
        ),
        layout.money_field(
            "cap",
            "and in a calendar month at most",
            labels.field_usd(cap) if cap else "",
            low=labels.field_usd(low),
            high=labels.field_usd(HIGHEST_CENTS),
            hint=None if rule else f"Left empty: {CAP_FACTOR} times the credit that is bought at once.",
            required=rule is not None,
        ),
        layout.button(label),
    )
    parts.append(form)
    if rule is not None:
        off = layout.post("/billing/auto/off", view.csrf, layout.button("Switch off", danger=True, about="auto top-up"))
        parts.append(layout.sure("Switch off", "auto top-up", off))
    return section("auto", "Auto top-up", *parts)


def _state(view: View) -> Html:
    if view.rule is None:
        return el("p", layout.badge("mute", "Off"), " Nothing is bought by itself.", class_="state")
    tone, sentence = labels.rule_state(view.rule, contested=view.contested)
    label, *rest = sentence
    name, separator, tail = str(label).partition(":")
    parts = [layout.badge(tone, name), tail, *rest] if separator else [label, *rest]
    if view.rule.error and view.rule.state in ("paused", "suspended"):
        parts.append(el("span", f" The bank said: {view.rule.error}", class_="hint"))
    if view.rule.state == "active" and (waiting := view.declined) is not None:
        parts += [" The last charge was declined. ", *_again(waiting)]
    if view.switch != "on":
        parts.append(" The operator has switched automatic purchases off for now.")
    return el("p", *parts, class_="state")


def _again(waiting: TopUp) -> list[str | Html]:
    """What becomes of a declined charge."""
    if waiting.retry_at is None:
        return ["It is tried again later, or at once when another card is the default."]
    return [
        "It is tried again after ",
        labels.moment(waiting.retry_at),
        ", or at once when another card is the default.",
    ]


def spending_limit(view: View) -> Html:
    """What the account may spend in a day, a week or a month; calls beyond it are refused."""
    now = view.spending
    form = layout.post(
        "/billing/limit",
        view.csrf,
        layout.money_field(
            "limit-amount",
            "Spend at most",
            labels.field_usd(now.amount // NANOS_PER_CENT) if now else "",
            low="1",
            high=labels.field_usd(HIGHEST_CENTS),
        ),
        layout.choice(
            "duration",
            "in a",
            labels.DURATIONS.items(),
            now.duration if now else "monthly",
        ),
        layout.choice(
            "strategy",
            "counted",
            labels.STRATEGIES.items(),
            now.strategy if now else "fixed",
        ),
        layout.button("Save limit", quiet=True),
    )
    parts: list[Html] = [_spent(view), form]
    if now is not None:
        off = layout.post("/billing/limit/off", view.csrf, layout.button("Remove limit", danger=True))
        parts.append(layout.sure("Remove limit", "", off))
    return section("limit", "Spending limit", *parts)


def _spent(view: View) -> Html:
    now = view.spending
    if now is None:
        return el("p", layout.badge("mute", "None"), " Calls may spend all the credit there is.", class_="state")
    used = now.spent + now.held
    meter = el(
        "meter",
        min=0,
        max=now.amount,
        high=now.amount * 9 // 10,
        optimum=0,
        value=min(used, now.amount),
        aria_label="Part of the spending limit that is used",
    )
    held = f", of which {labels.exact_usd(now.held)} USD held by calls in flight" if now.held else ""
    limit = labels.exact_usd(now.amount)
    told = f"{labels.exact_usd(used)} of {limit} USD used in this {labels.DURATIONS[now.duration]}{held}."
    return el("p", meter, told, class_="state")
