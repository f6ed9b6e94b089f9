"""The billing page: the sections on what there is, and the order of all of them."""

from itertools import groupby

from farebox.http.pages import labels, layout
from farebox.http.pages.automatic import auto_top_up, spending_limit
from farebox.http.pages.buying import buy, cards, details
from farebox.http.pages.layout import Flash, section
from farebox.http.pages.markup import Child, Html, el, joined
from farebox.http.pages.view import MOVEMENTS, TRANSFERS_READ, View
from farebox.payments.model import Dispute, Refund, TopUp
from farebox.storage.statement import TransferRow


def page(view: View, said: Flash | None = None) -> bytes:
    """The whole billing page."""
    return layout.document(
        f"Billing of {view.account.name}",
        el("h1", "Billing ", el("span", view.account.name, class_="whose")),
        layout.said(said),
        *_attention(view),
        _balance(view),
        el("div", *_controls(view), class_="grid"),
        _top_ups(view),
        _usage(view),
        _transfers(view),
        top=layout.post("/billing/sign-out", view.csrf, layout.button("Sign out", quiet=True)),
        refresh=layout.again() if view.under_way else None,
    )


def _controls(view: View) -> list[Html]:
    if not view.payments_on:
        off = "Payments are switched off on this server. Ask its operator for credit."
        return [section("buy", "Buy credit", layout.empty(off)), spending_limit(view)]
    return [buy(view), cards(view), auto_top_up(view), spending_limit(view), details(view)]


def _attention(view: View) -> list[Html]:
    """What the owner should know or do first."""
    found = [
        layout.notice(
            "warn",
            f"The bank wants you to confirm a payment of {labels.usd(each.charge_cents)}. ",
            el("a", "Confirm the payment", href=f"/billing/top-up?id={each.top_up_id}"),
        )
        for each in view.waiting
    ]
    open_disputes = [dispute for dispute in view.disputes if dispute.state == "open"]
    told = bool(open_disputes) and view.rule is not None and view.rule.reason == "payment_disputed"
    if view.rule is not None and view.rule.state == "suspended" and not told:
        _, sentence = labels.rule_state(view.rule, contested=view.contested)
        found.append(layout.notice("bad", "Auto top-up. ", *sentence))
    found += [
        layout.notice(
            "bad",
            f"A payment of {labels.usd(dispute.amount_cents)} is disputed at the bank. Its credit is taken back until "
            f"the dispute is decided{', and auto top-up waits' if view.rule else ''}.",
        )
        for dispute in open_disputes
    ]
    if view.owed:
        found.append(
            layout.notice(
                "warn",
                f"{labels.exact_usd(view.owed)} USD is owed: credit that was paid back had been spent already. "
                "The next credit pays for it first.",
            )
        )
    return found


def _balance(view: View) -> Html:
    available = max(view.balance.available, 0)
    return el(
        "section",
        el("h2", "Balance", id="balance-title"),
        el(
            "p",
            el("span", "Available", class_="label"),
            el("strong", labels.floor_usd(available), el("small", " USD"), id="available"),
            class_="big",
        ),
        layout.definition(
            ("Posted", [el("span", labels.exact_usd(view.balance.posted), id="posted"), " USD"]),
            ("Held by calls in flight", [el("span", labels.exact_usd(view.balance.held), id="held"), " USD"]),
        ),
        id="balance",
        class_="ticket",
        aria_labelledby="balance-title",
    )


_TOP_UP_HEADINGS = [("When", False), ("Credit", True), ("Charged", True), ("How", False), ("State", False)]


def _top_ups(view: View) -> Html:
    headings = [*_TOP_UP_HEADINGS, ("Documents", False)]
    rows = [_top_up_row(view, top_up) for top_up in view.top_ups]
    shown = layout.table("Purchases of credit", headings, rows) if rows else layout.empty("Nothing was bought yet.")
    return section("top-ups", "Purchases", shown, wide=True)


def _top_up_row(view: View, top_up: TopUp) -> list[Child]:
    tone, label = labels.top_up_state(top_up)
    refunds = [refund for refund in view.refunds if refund.top_up_id == top_up.top_up_id]
    disputes = [dispute for dispute in view.disputes if dispute.top_up_id == top_up.top_up_id]
    why = el("p", top_up.error, class_="hint") if top_up.error and top_up.state in ("failed", "declined") else None
    payer = labels.payer(top_up)
    known = top_up.credit_cents > 0  # the amount of an auto top-up is decided when it begins
    return [
        labels.moment(top_up.paid_at or top_up.created_at),
        labels.usd(top_up.credit_cents) if known else "–",
        labels.usd(top_up.charge_cents) if known else "–",
        joined(labels.KINDS.get(top_up.kind, top_up.kind), el("p", payer, class_="hint") if payer else None),
        joined(
            layout.badge(tone, label),
            why,
            [_refund(refund) for refund in refunds],
            [_dispute(each) for each in disputes],
        ),
        _documents(view, top_up, [refund.refund_id for refund in refunds] + [each.dispute_id for each in disputes]),
    ]


def _refund(refund: Refund) -> Html:
    tone, label = labels.REFUNDS.get(refund.state, ("mute", refund.state))
    return el("p", layout.badge(tone, f"Refund {labels.usd(refund.amount_cents)}: {label}"))


def _dispute(dispute: Dispute) -> Html:
    tone, label = labels.DISPUTES.get(dispute.state, ("mute", dispute.state))
    return el("p", layout.badge(tone, f"Dispute: {label}"))


def _documents(view: View, top_up: TopUp, causes: list[str]) -> Child:
    """The invoice, the credit notes of refunds and lost disputes, and what the owner can still do."""
    about = f" of {labels.usd(top_up.charge_cents)}"
    found: list[Child] = []
    if top_up.payment_id and (link := view.links.get(top_up.payment_id)):
        found.append(el("a", "Invoice", el("span", f"{about}, PDF", class_="unseen"), href=link))
    notes = (view.links[cause] for cause in causes if cause in view.links)
    found += [el("a", "Credit note", el("span", f"{about}, PDF", class_="unseen"), href=link) for link in notes]
    if top_up.state == "action_required":
        what = "Continue" if top_up.kind == "checkout" else "Confirm"
        found.append(el("a", what, href=f"/billing/top-up?id={top_up.top_up_id}"))
    return el("ul", *(el("li", item) for item in found), class_="plain") if found else "–"


def _usage(view: View) -> Html:
    month = labels.month_name(view.usage.start)
    lines = sorted(view.usage.lines, key=lambda line: -line.charge)
    rows: list[list[Child]] = [
        [f"{line.provider}/{line.model}", f"{line.calls:,}", labels.exact_usd(line.charge)] for line in lines
    ]
    total = ("Total", f"{sum(line.calls for line in lines):,}", labels.exact_usd(view.usage.charge))
    rows.append([el("strong", cell) for cell in total])
    headings = [("Model", False), ("Calls", True), ("USD", True)]
    shown = layout.table(f"Usage in {month}, by model", headings, rows) if lines else layout.empty("No calls yet.")
    link = el("a", "Statement of the month (PDF)", href=view.statement) if view.statement else None
    return section("usage", f"Usage in {month}", shown, el("p", link) if link else None, wide=True)


def _transfers(view: View) -> Html:
    rows: list[list[Child]] = [
        [
            labels.moment(first.at),
            joined(labels.TRANSFERS.get(first.kind, first.kind), _note(first)),
            _signed(parts),
        ]
        for parts in _acts(view.transfers)[:MOVEMENTS]
        for first in parts[:1]
    ]
    headings = [("When", False), ("What", False), ("USD", True)]
    shown = layout.table("Recent movements of money", headings, rows) if rows else layout.empty("No movements yet.")
    return section("transfers", "Recent movements", shown, wide=True)


def _acts(transfers: list[TransferRow]) -> list[list[TransferRow]]:
    """Transfers, newest first, by what moved the money: a call that empties one lot and goes on to the next is several
    (`…`, `…/2`, `…/3`). The oldest act is left out where some of it may be missing."""
    acts = [
        list(parts) for _, parts in groupby(transfers, lambda each: (each.transfer_id.partition("/")[0], each.kind))
    ]
    return acts[:-1] if len(transfers) == TRANSFERS_READ and len(acts) > 1 else acts


def _note(transfer: TransferRow) -> Html | None:
    explained = transfer.note and transfer.kind in _EXPLAINED
    return el("p", transfer.note, class_="hint") if explained else None


_EXPLAINED = ("grant", "correction")
"""Kinds of transfer whose notes were written by people."""

_OWN = ("granted", "credit")


def _signed(parts: list[TransferRow]) -> str:
    """What the movement did to the balance; one between books of the house did nothing."""
    change = sum(((each.to_book in _OWN) - (each.from_book in _OWN)) * each.amount for each in parts)
    if not change:
        return f"({labels.exact_usd(sum(each.amount for each in parts))})"
    return f"+{labels.exact_usd(change)}" if change > 0 else labels.exact_usd(change)
