"""The e-mail text of each kind of notice."""

from collections.abc import Mapping
from datetime import UTC, datetime

from farebox.money import NANOS_PER_CENT, format_usd
from farebox.storage.notices import ALARM_KINDS

SUBJECTS: dict[str, str] = {
    "low_balance": "Your balance is low",
    "top_up_paid": "Credit was bought",
    "top_up_failed": "Credit could not be bought",
    "top_up_action_required": "Your bank wants you to confirm a payment",
    "auto_top_up_suspended": "Auto top-up was suspended",
    "auto_top_up_paused": "Auto top-up is paused",
    "card_expiring": "Your card expires soon",
    "limit_reached": "Your spending limit is reached",
    "spend_alert": "A part of a limit is spent",
    "dispute_opened": "A payment is disputed",
    "dispute_closed": "A dispute was decided",
    "refunded": "A payment was refunded to your card",
    "charges_corrected": "Charges were corrected",
    "export_failing": "A gateway's calls cannot be delivered",
    "provider_key_trouble": "A provider rejects your key",
    "usage_disbelieved": "A provider reported impossible usage",
    "cost_differs": "A provider's stated cost differs from your prices",
    "bill_differs": "A provider's bill differs from what was metered",
    "tier_unknown": "A service tier has no price",
    "overrun": "A call cost more than was held for it",
    "database_trouble": "The database cannot be written",
    "journal_unwritable": "The journal cannot be written",
}
"""Kind of notice → subject. Every kind of storage.notices has one (a test checks it)."""

TEXTS: dict[str, str] = {
    "low_balance": (
        "The balance of your account fell below its low-balance threshold. Calls are refused once it is used up."
    ),
    "top_up_paid": "Credit was bought for your account and is available now.",
    "top_up_failed": "A charge for credit failed. Nothing was charged.",
    "top_up_action_required": (
        "Your bank wants you to confirm a payment for credit, at the URL below. Nothing is charged until you do."
    ),
    "auto_top_up_suspended": (
        "Auto top-up was suspended and does not resume by itself. Save another card, or save its settings again."
    ),
    "auto_top_up_paused": (
        "Auto top-up is paused until the time below, and then resumes by itself. In the meantime you can buy credit by "
        "hand, or raise the monthly cap."
    ),
    "card_expiring": "The card that pays for your credit expires soon. Save another one in time.",
    "limit_reached": "A call was refused because the spending limit of your account is reached.",
    "spend_alert": (
        "Spending has reached the stated percentage of a limit. At 100 %, further calls are refused until the limit's "
        "window ends, or the limit is raised."
    ),
    "dispute_opened": (
        "A payment for credit is disputed at the bank. Its credit is taken back until the dispute is decided."
    ),
    "dispute_closed": "The dispute about a payment for credit was decided.",
    "refunded": "Money was returned to the card it came from, and its credit was taken back.",
    "charges_corrected": (
        "A price was wrong. What calls of your account were charged by it has been corrected; the receipts of "
        "the calls show by how much."
    ),
    "export_failing": (
        "A gateway of your account cannot deliver data about its calls (its logs, events for a Stripe meter, or "
        "questions to the classifier). Nothing is lost as long as the logs are kept: delivery is retried. Check the "
        "destination, or the key."
    ),
    "provider_key_trouble": (
        "A provider rejected your key, or your account there has no credit. Calls to it with your key receive 503 "
        "until that is fixed: check the key and the credit at the provider, and set a new key "
        "(Operator's provider keys page, or `farebox provider set`)."
    ),
    "usage_disbelieved": (
        "A provider reported usage that no such call can have. The call was charged by a rule instead: check its "
        "receipt with `farebox receipt`, and the provider's own bill."
    ),
    "cost_differs": (
        "The cost that a provider stated differs from the price list. Check the receipt with `farebox receipt`, and "
        "set the price if the list is wrong (Prices page, or `farebox price set`)."
    ),
    "bill_differs": (
        "A provider bills another amount for a day than its calls cost by your prices. `farebox bill report` shows by "
        "which models; a wrong price is corrected as docs/rerating.md describes."
    ),
    "tier_unknown": (
        "A provider applied a service tier, or another variant, that no price list knows, and the call was charged at "
        "the highest multiplier known for that provider. Find out what it costs, and add it to the supplement with "
        "`farebox price supplement --load`."
    ),
    "overrun": (
        "Calls cost more than was held for them, and their accounts could not pay the rest: what was written off today "
        "is your loss. `farebox overruns` shows what caused it; set a rule for that in FAREBOX_UNSEEN_INPUT."
    ),
    "database_trouble": (
        "The database refused reads or writes, and calls received 503 in the meantime: its disk was full, failing or "
        "read-only, or the database itself is damaged or was replaced. `remedy` says what to do; `GET /readyz` shows "
        "whether it is over."
    ),
    "journal_unwritable": (
        "The journal cannot be written. Calls are served, but if the database failed now, the charges of those in "
        "flight could not be kept: free space on the disk of FAREBOX_DATA_DIR, and let Farebox's user write there."
    ),
}
"""The first sentences of each e-mail. `farebox status` also shows those of alarms."""

OPERATOR_KINDS = frozenset({"auto_top_up_suspended", "dispute_opened", "dispute_closed", *ALARM_KINDS})
"""The kinds sent to the seller's e-mail address: the alarms, and some of the owners' notices."""

_VALUE_MAX = 500


def subject(kind: str, account_id: str) -> str:
    return f"{SUBJECTS[kind]} (account {account_id})" if account_id else SUBJECTS[kind]


def body(kind: str, account_id: str, content: Mapping[str, object], seller: str) -> str:
    """Plain text: what happened, then the notice's content line by line."""
    facts = [f"Account: {account_id}"] if account_id else []
    facts += [_fact(name, value) for name, value in content.items() if value is not None]
    signature = f"\n-- \n{_flat(seller)}\n" if seller else ""
    return f"{TEXTS[kind]}\n\n" + "\n".join(facts) + "\n" + signature


def _fact(name: str, value: object) -> str:
    """One field as text: money in US dollars, times as dates, the name without its unit."""
    if isinstance(value, int) and not isinstance(value, bool):
        if name.endswith("_nanos"):
            return f"{_label(name.removesuffix('_nanos'))}: {format_usd(value)} USD"
        if name.endswith("_cents"):
            return f"{_label(name.removesuffix('_cents'))}: {format_usd(value * NANOS_PER_CENT)} USD"
        if name.endswith(("_at", "_end")):
            return f"{_label(name)}: {datetime.fromtimestamp(value // 1000, UTC):%Y-%m-%d %H:%M} UTC"
    return f"{_label(name)}: {_flat(str(value))}"


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _flat(text: str) -> str:
    return " ".join(text.split())[:_VALUE_MAX]
