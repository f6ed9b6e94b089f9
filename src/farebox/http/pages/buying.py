"""Sections and steps of buying credit by hand: cards, the amount, what it will cost, who the invoice is for."""

from farebox.http.pages import labels, layout
from farebox.http.pages.layout import Flash, section
from farebox.http.pages.markup import Child, Html, el, joined
from farebox.http.pages.view import View
from farebox.payments.model import Card, TopUp
from farebox.payments.purchase import Purchase

ANOTHER = "another"
"""Chosen instead of a saved card: the payment page, where a card is typed."""


def buy(view: View) -> Html:
    """The amount; what it costs with fee and tax is the next step, before anything is paid."""
    low, high = view.limits
    start = min(max(5_000, low), high)
    amount = layout.money_field(
        "amount",
        "Amount of credit",
        labels.field_usd(start),
        low=labels.field_usd(low),
        high=labels.field_usd(high),
        hint=f"From {labels.usd(low)} to {labels.usd(high)}. The next page shows what it costs.",
    )
    form = el("form", amount, layout.button("Continue"), method="get", action="/billing/buy")
    return section("buy", "Buy credit", form)


def quote(view: View, purchase: Purchase, request_key: str, said: Flash | None = None) -> bytes:
    """What a purchase costs and what pays for it: the step before anything is paid."""
    card = view.default_card
    lines = purchase.lines()
    rows: list[list[Child]] = [[line.description, labels.plain_usd(line.amount_cents)] for line in lines]
    rows.append([el("strong", "To pay"), el("strong", labels.plain_usd(purchase.charge_cents), id="total")])
    total = labels.usd(purchase.charge_cents)
    label = f"Pay {total}" if card else "Continue to the payment page"
    form = layout.post(
        "/billing/buy",
        view.csrf,
        layout.hidden("amount", labels.field_usd(purchase.credit_cents)),
        layout.hidden("request_key", request_key),
        _payer(view) if card else el("p", "You pay on the payment page, and the card is saved there.", class_="hint"),
        layout.button(label),
        el("a", "Cancel", href="/billing", class_="cancel"),
    )
    return layout.document(
        "Buy credit",
        el("h1", "Buy credit"),
        layout.said(said),
        el(
            "div", section("quote", f"{labels.usd(purchase.credit_cents)} of credit", _costs(rows), form), class_="step"
        ),
    )


def _costs(rows: list[list[Child]]) -> Html:
    return layout.table("What it costs", [("What", False), ("USD", True)], rows)


def _payer(view: View) -> Html:
    options = [
        el(
            "label",
            el("input", type="radio", name="card", value=card.card_id, checked=card.is_default),
            f" {labels.card_name(card)}",
        )
        for card in view.cards
    ]
    other = el("label", el("input", type="radio", name="card", value=ANOTHER), " Another card, on the payment page")
    return el("fieldset", el("legend", "Pay with"), *options, other)


def under_way(top_up: TopUp) -> bytes:
    """One purchase that is not done yet. The page looks again by itself; there is no form on it to disturb."""
    _, label = labels.top_up_state(top_up)
    if top_up.kind == "checkout" and top_up.state == "action_required":
        what: Child = joined(
            el("p", "Nothing is charged until you pay there."),
            el("p", el("a", "Continue on the payment page", href=top_up.action_url or "/billing", class_="button")),
        )
    elif top_up.state == "action_required":
        what = joined(
            el("p", "Your bank wants you to confirm this payment. Nothing is charged until you do."),
            el("p", _confirm(top_up)),
            el("p", "Come back here afterwards: this page looks again by itself.", class_="hint"),
        )
    elif top_up.state == "unknown":
        what = el(
            "p",
            "The payment processor did not answer. It is being asked what became of the payment; it is never charged "
            "twice. You need not wait here.",
        )
    else:
        what = el("p", "The payment is under way. This page looks again by itself.")
    amount = labels.usd(top_up.charge_cents)
    return layout.document(
        "Payment",
        el("h1", f"Payment of {amount}"),
        el("div", section("payment", label, what, el("p", el("a", "Back to billing", href="/billing"))), class_="step"),
        refresh=layout.again(),
    )


def _confirm(top_up: TopUp) -> Html:
    if not top_up.action_url:
        return joined("The confirmation page is being made.")
    new_tab = el("span", " (opens in a new tab)", class_="unseen")
    return el(
        "a", "Confirm the payment", new_tab, href=top_up.action_url, target="_blank", rel="noopener", class_="button"
    )


def cards(view: View) -> Html:
    """The saved cards, and the way to save another."""
    rows = [_card(view, card) for card in view.cards]
    shown = el("ul", *rows, class_="cards") if rows else layout.empty("No card is saved yet.")
    save = layout.post(
        "/billing/cards",
        view.csrf,
        layout.button("Save another card" if rows else "Save a card", quiet=bool(rows)),
        el(
            "p",
            "On a page of the payment processor; card numbers never come here. A new card becomes the default.",
            class_="hint",
        ),
    )
    return section("cards", "Cards", shown, save)


def _card(view: View, card: Card) -> Html:
    name = labels.card_name(card)
    past = labels.expired(card, view.now)
    until = f"{'Expired' if past else 'Expires'} {card.exp_month:02d}/{card.exp_year}"
    chosen = layout.badge("good", "Default") if card.is_default else _make_default(view, card)
    remove = layout.post(
        "/billing/cards/remove",
        view.csrf,
        layout.hidden("card", card.card_id),
        el("p", "Auto top-up has no card then.") if len(view.cards) == 1 and view.rule else None,
        layout.button("Remove for good", danger=True, about=name),
    )
    return el(
        "li",
        el("div", el("strong", name), el("span", until, class_="hint bad" if past else "hint"), class_="card"),
        el("div", chosen, layout.sure("Remove", name, remove), class_="acts"),
    )


def _make_default(view: View, card: Card) -> Html:
    return layout.post(
        "/billing/cards/default",
        view.csrf,
        layout.hidden("card", card.card_id),
        layout.button("Make default", quiet=True, about=labels.card_name(card)),
    )


def details(view: View) -> Html:
    """Who the invoices are made out to; the country decides the tax."""
    who = view.details
    lines = el(
        "div",
        el("label", "Address", for_="address"),
        el("textarea", who.address, id="address", name="address", rows=3, maxlength=500, autocomplete="street-address"),
        class_="field",
    )
    form = layout.post(
        "/billing/details",
        view.csrf,
        layout.text_field("name", "Name or company", who.name, autocomplete="organization"),
        layout.text_field("email", "E-mail", who.email, kind="email", autocomplete="email"),
        lines,
        layout.text_field("country", "Country, two letters", who.country, autocomplete="country", size=2),
        layout.text_field("tax_id", "Tax id (VAT number)", who.tax_id, autocomplete="off", size=40),
        layout.button("Save details", quiet=True),
        class_="columns",
    )
    summary = el("summary", "Change" if who.name else "Fill in")
    shown = who.name or "Invoices carry the account’s name until you fill this in."
    return section("details", "Invoice details", el("p", shown), el("details", summary, form), wide=True)
