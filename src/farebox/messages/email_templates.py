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
    "auto_top_up_suspended": "Auto top-up was stopped",
    "auto_top_up_paused": "Auto top-up rests for a while",
    "card_expiring": "Your card expires soon",
    "limit_reached": "Your spending limit is reached",
    "dispute_opened": "A payment is disputed",
    "dispute_closed": "A dispute was decided",
    "refunded": "Money was paid back to your card",
    "provider_key_trouble": "A provider refuses your key",
    "usage_disbelieved": "A provider stated an impossible usage",
    "cost_differs": "A provider's cost is not what your prices come to",
    "tier_unknown": "A service tier has no price",
    "overrun": "A call cost more than was held for it",
    "database_trouble": "The database cannot be written",
    "journal_unwritable": "The journal cannot be written",
}
"""Kind of notice → subject. Every kind of storage.notices has one (a test checks it)."""

TEXTS: dict[str, str] = {
    "low_balance": "The balance of your account fell below its low-balance mark. Calls are refused when it is used up.",
    "top_up_paid": "Credit was bought for your account; it is there now.",
    "top_up_failed": "A charge for credit failed. Nothing was charged.",
    "top_up_action_required": (
        "Your bank wants you to confirm a payment for credit. Nothing is charged before you have, at the URL below."
    ),
    "auto_top_up_suspended": (
        "Auto top-up was stopped and does not go on by itself. Save another card, or save its settings again."
    ),
    "auto_top_up_paused": (
        "Auto top-up rests until the time below, and then goes on by itself. You can buy credit by hand meanwhile, or "
        "raise the monthly cap."
    ),
    "card_expiring": "The card that pays for your credit expires soon. Save another one in time.",
    "limit_reached": "A call was refused because the spending limit of your account is reached.",
    "dispute_opened": "A payment for credit is disputed at the bank. Its credit was taken back for the time being.",
    "dispute_closed": "The dispute about a payment for credit was decided.",
    "refunded": "Money was paid back to the card that it came from, and its credit was taken back.",
    "provider_key_trouble": (
        "A provider refused your key, or your account there has no credit. Calls to it on your key are answered 503 "
        "until that is mended: look at the key and the credit at the provider, and set a new key with `farebox "
        "provider set`."
    ),
    "usage_disbelieved": (
        "A provider stated a usage that no such call can have. The call was charged by a rule instead: look at its "
        "receipt with `farebox receipt`, and at the provider's own bill."
    ),
    "cost_differs": (
        "A provider stated another cost than the price list comes to. Look at the receipt with `farebox receipt`, and "
        "set the price with `farebox price set` where the list is wrong."
    ),
    "tier_unknown": (
        "A provider applied a service tier, or another variant, that no price list knows, and the call was charged at "
        "the dearest factor known of that provider. Find out what it costs, and add it to the supplement with `farebox "
        "price supplement --load`."
    ),
    "overrun": (
        "Calls cost more than was held for them, and their accounts did not have the rest: what was written off today "
        "is your loss. See with `farebox overruns` what brought it in, and set a rule for it in FAREBOX_UNSEEN_INPUT."
    ),
    "database_trouble": (
        "The database refused reads or writes, and calls were answered 503 meanwhile: its disk was full, failing or "
        "read-only, or the database itself is damaged or was replaced. What to do is its `remedy`; `GET /readyz` tells "
        "whether it is over."
    ),
    "journal_unwritable": (
        "The journal takes no lines. Calls are served, but if the database went away, the charges of those under way "
        "could not be kept: make room on the disk of FAREBOX_DATA_DIR, and let Farebox's user write there."
    ),
}
"""What it says first. `farebox status` says it of an alarm, too."""

OPERATOR_KINDS = frozenset({"auto_top_up_suspended", "dispute_opened", "dispute_closed", *ALARM_KINDS})
"""What is told to the seller's e-mail address: the alarms, and of what the owners are told, this."""

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
    """One field for people: money in US dollars, times as dates, the name without its unit."""
    if isinstance(value, int) and not isinstance(value, bool):
        if name.endswith("_nanos"):
            return f"{_words(name.removesuffix('_nanos'))}: {format_usd(value)} USD"
        if name.endswith("_cents"):
            return f"{_words(name.removesuffix('_cents'))}: {format_usd(value * NANOS_PER_CENT)} USD"
        if name.endswith(("_at", "_end")):
            return f"{_words(name)}: {datetime.fromtimestamp(value // 1000, UTC):%Y-%m-%d %H:%M} UTC"
    return f"{_words(name)}: {_flat(str(value))}"


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _flat(text: str) -> str:
    return " ".join(text.split())[:_VALUE_MAX]
