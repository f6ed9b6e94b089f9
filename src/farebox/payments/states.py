"""The states of payments, as tables: state → the states it may go to. README.md next to this file has the reasons."""

TOP_UP_STATES: dict[str, frozenset[str]] = {
    "requested": frozenset({"submitting", "canceled"}),
    "submitting": frozenset(
        {"submitting", "unknown", "processing", "action_required", "declined", "paid", "failed", "canceled"}
    ),
    "unknown": frozenset({"submitting", "processing", "action_required", "declined", "paid", "failed", "canceled"}),
    "processing": frozenset({"action_required", "declined", "paid", "failed", "canceled"}),
    "action_required": frozenset({"processing", "declined", "paid", "failed", "canceled"}),
    "declined": frozenset({"submitting", "processing", "action_required", "paid", "failed", "canceled"}),
    "paid": frozenset(),
    "failed": frozenset({"paid"}),  # the processor may report a payment later: captured money is always credited
    "canceled": frozenset({"paid"}),
}
"""requested: to be processed · submitting: claimed by a worker · unknown: the processor's response did not arrive ·
processing: in progress at the processor · action_required: the owner must confirm on a hosted page · declined: to be
retried.
"""

OPEN_TOP_UPS = ("requested", "submitting", "unknown", "processing", "action_required", "declined")
"""An account has at most one auto top-up in these states (the index top_ups_one_auto)."""

PENDING_TOP_UPS = ("requested", "submitting", "unknown", "processing")
"""In these states credit may arrive at any moment: a call without credit is asked to retry."""

RULE_STATES: dict[str, frozenset[str]] = {
    "active": frozenset({"paused", "action_required", "suspended"}),
    "paused": frozenset({"active", "action_required", "suspended"}),  # a guard requires a wait; resumes by itself
    "action_required": frozenset({"active", "paused", "suspended"}),
    "suspended": frozenset({"active"}),  # by another card, by the owner, or when a dispute is won
}
"""If auto top-up is off, there is no rule."""

DISABLED_REASONS: dict[str, str] = {
    "card_declined": "The card was declined permanently, or too often. Save another card, or save the rule again.",
    "authentication_required": "The bank wants the cardholder to confirm the payment on the hosted page.",
    "no_payment_method": "There is no card to charge. Save one.",
    "monthly_cap_reached": "This month's auto top-ups have reached the owner's cap. It resumes next month.",
    "too_many_top_ups": "Credit was bought unusually often in a short time. It resumes automatically later.",
    "too_many_attempts": "Charges were attempted unusually often in a short time. It resumes automatically later.",
    "payment_disputed": "A payment is disputed. It resumes when the dispute is won, or the owner saves the rule again.",
    "processor_refused": "The payment processor rejected the request itself. It is retried automatically later.",
    "under_review": "A payment does not match the books. It resumes when the owner saves the rule again.",
    "switched_off": "The operator has switched auto top-up off for all accounts.",
    "account_frozen": "The operator has frozen the account. It resumes once the account is unfrozen.",
}
"""Values of `disabledReason` in the API, with their meaning; they are stable and documented in docs/api.md."""

REFUND_STATES: dict[str, frozenset[str]] = {
    # the credit is taken; the refund is still to be requested from the processor
    "requested": frozenset({"pending", "succeeded", "failed"}),
    "pending": frozenset({"succeeded", "failed"}),
    "succeeded": frozenset({"failed"}),  # a bank may send it back weeks later
    "failed": frozenset(),  # the credit was given back
}

DISPUTE_STATES: dict[str, frozenset[str]] = {
    "inquiry": frozenset({"open", "won", "lost"}),  # an inquiry by the bank: no money has moved
    "open": frozenset({"won", "lost"}),  # the money is gone for now, and so is the credit
    "won": frozenset(),
    "lost": frozenset(),
}
