"""How a top-up ends without a payment, and what follows for the account's rule and its owner.

All of it runs inside the caller's transaction; `at` is milliseconds since the Unix epoch.
"""

from typing import Final

from farebox.calendar import HOUR_MS
from farebox.payments.declines import public_code
from farebox.payments.model import TopUp
from farebox.storage.accounts import account_of
from farebox.storage.findings import Finding, add_finding
from farebox.storage.notices import add_notice
from farebox.storage.sql import Connection
from farebox.storage.top_up_attempts import end_attempt
from farebox.storage.top_up_rules import change_rule, rearm, rule_of
from farebox.storage.top_ups import move

REFUSED: Final = "processor_refused"
"""Used in place of a decline code if the processor rejected the request itself, and no bank was involved."""
UNDER_REVIEW: Final = "under_review"
"""Used in the same way if a payment does not match our row."""
REFUSED_PAUSE_MS: Final = HOUR_MS


def close(connection: Connection, top_up: TopUp, state: str, at: int, *, code: str | None, text: str | None) -> TopUp:
    """End a top-up without payment. If it has an invoice, the lease is kept until the invoice is void."""
    end_attempt(connection, top_up, "closed", at)
    to_void = top_up.payment_id is not None or top_up.checkout_id is not None
    closed = move(
        connection,
        top_up,
        state,
        at,
        next_at=at if to_void else None,
        keep=to_void and top_up.lease_owner is not None,
        decline_code=code,
        error=text,
        client_secret=None,
        action_url=None,
        first_unknown_at=None,
        retry_at=None,
    )
    set_mark(connection, top_up.account_id)
    return closed


def close_refused(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    """The processor refused the request itself: no bank was asked. Auto top-up waits an hour."""
    text = "The payment processor rejected the request. Nothing was charged."
    closed = close(connection, top_up, "failed", at, code=REFUSED, text=text)
    pause(connection, top_up, text, at)
    return closed


# --- the rule ---------------------------------------------------------------------------------------------------------


def set_mark(connection: Connection, account_id: str) -> None:
    """Set the balance's threshold mark according to the rule's current state."""
    rearm(connection, account_of(connection, account_id).bucket, account_id)


def pause(connection: Connection, top_up: TopUp, text: str, at: int) -> None:
    """Pause the rule of an auto top-up for an hour; the sweep resumes it."""
    rule = rule_of(connection, top_up.account_id)
    if top_up.kind != "auto" or rule is None or rule.state not in ("active", "action_required"):
        return
    until = at + REFUSED_PAUSE_MS
    change_rule(connection, rule, "paused", at, reason=REFUSED, error=text, until=until, last_failed_at=at)
    set_mark(connection, top_up.account_id)


def suspend(connection: Connection, top_up: TopUp, reason: str, text: str, at: int) -> None:
    """Suspend an account's auto top-up because of this one, and notify the owner once. It does not resume by itself."""
    rule = rule_of(connection, top_up.account_id)
    if top_up.kind != "auto" or rule is None or rule.state == "suspended":
        return
    change_rule(
        connection,
        rule,
        "suspended",
        at,
        reason=reason,
        error=text,
        until=None,
        last_failed_at=at,
        fingerprint=top_up.fingerprint,
    )
    set_mark(connection, top_up.account_id)
    notify(connection, top_up, "auto_top_up_suspended", at, reason=reason, error=text)


def end_confirmation(connection: Connection, top_up: TopUp, at: int) -> None:
    """An auto top-up ended without a charge: a rule that waited for its confirmation resumes."""
    rule = rule_of(connection, top_up.account_id)
    if top_up.kind == "auto" and rule is not None and rule.state == "action_required":
        change_rule(connection, rule, "active", at)
        set_mark(connection, top_up.account_id)


# --- notices and findings ---------------------------------------------------------------------------------------------


def notify(connection: Connection, top_up: TopUp, kind: str, at: int, **more: object) -> None:
    """Write the notice of a top-up, once for each kind."""
    account = account_of(connection, top_up.account_id)
    content: dict[str, object] = {
        "top_up_id": top_up.top_up_id,
        "payment_id": top_up.payment_id,
        "top_up_kind": top_up.kind,
        "credit_cents": top_up.credit_cents,
        "charge_cents": top_up.charge_cents,
        "brand": top_up.brand,
        "last4": top_up.last4,
    }
    add_notice(
        connection,
        account.bucket,
        account.account_id,
        f"{kind}:{top_up.top_up_id}",
        kind,
        {name: value for name, value in (content | more).items() if value is not None},
        at,
    )


def report(connection: Connection, kind: str, top_up: TopUp, invoice_id: str, cents: int, detail: str, at: int) -> None:
    """Write a finding, for the operator to look at."""
    finding = Finding(
        finding_id=f"{kind}:{invoice_id}",
        kind=kind,
        account_id=top_up.account_id,
        payment_id=invoice_id,
        amount_cents=cents,
        detail=f"{top_up.top_up_id}: {detail}",
        found_at=at,
    )
    add_finding(connection, finding)


def public_decline_code(top_up: TopUp) -> str | None:
    """Why it was declined, as far as the buyer may know: one of our own codes, or the code that the bank allows to be
    disclosed.
    """
    code = top_up.decline_code
    return code if code in (REFUSED, UNDER_REVIEW) else public_code(code)
