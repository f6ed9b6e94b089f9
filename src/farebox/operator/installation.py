"""What an operator does to the installation as a whole: taxes, price supplements, alarms, the processor's events.
Plain functions, as in `administer`."""

import hashlib

import msgspec

from farebox.clock import Ids
from farebox.model import Operator
from farebox.operator.administer import ActionRefused, PostingResult, correct
from farebox.storage import config, findings, processor_events, tax
from farebox.storage.findings import Finding
from farebox.storage.operator_actions import ActionName, State, record_action
from farebox.storage.operator_alarms import open_alarms
from farebox.storage.operator_alarms import resolve_alarms as resolve
from farebox.storage.sql import Connection
from farebox.storage.tax import TaxRate


def set_tax(connection: Connection, rate: TaxRate, *, by: Operator) -> None:
    """Set the tax on purchases by customers of a country, from now on."""
    before = tax.list_tax_rates(connection)
    tax.set_tax_rate(connection, rate)
    was = next((_tax(each) for each in before if each.country == rate.country), None)
    record_action(connection, by, "tax.set", rate.updated_at, subject=rate.country, before=was, after=_tax(rate))


def remove_tax(connection: Connection, country: str, *, by: Operator, at: int) -> None:
    """Remove a country's tax rate. Raises ActionRefused if there is none."""
    before = next((each for each in tax.list_tax_rates(connection) if each.country == country), None)
    if before is None:
        raise ActionRefused(
            f"there is no tax rate for {country}: `farebox tax list` shows all",
            words=f"there is no tax rate for {country}",
        )
    tax.remove_tax_rate(connection, country)
    record_action(connection, by, "tax.remove", at, subject=country, before=_tax(before))


def _tax(rate: TaxRate) -> State:
    state: State = msgspec.to_builtins(rate)
    return {name: value for name, value in state.items() if name not in ("country", "updated_at")}


def set_supplement(connection: Connection, text: str, *, by: Operator, at: int) -> None:
    """Replace the loaded price supplement by `text`, which must be valid; an empty text restores the shipped one."""
    before = config.find_supplement(connection)
    config.add_supplement(connection, text, at)
    record_action(connection, by, "supplement.set", at, before=_supplement(before), after=_supplement(text))


def _supplement(text: str) -> State:
    """The supplement as the audit log shows it: the files are long, so it has only their hash; `price_supplements`
    keeps the text."""
    if not text:
        return {"supplement": "the shipped one"}
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "characters": len(text)}


def replay_events(
    connection: Connection, *, by: Operator, at: int, event_id: str | None = None, since: int | None = None
) -> int:
    """Have one of the processor's events, or all created since, processed again. Returns how many there are."""
    count = processor_events.make_due(connection, at=at, event_id=event_id, since=since)
    if count:
        after = {"events": count, "since": since}
        record_action(connection, by, "event.replay", at, subject=event_id or "", after=after)
    return count


def resolve_alarms(
    connection: Connection, *, by: Operator, at: int, kind: str | None = None, about: str | None = None
) -> int:
    """Close the open alarms of this kind and subject, or all of them; returns how many."""
    closed = [
        {"kind": alarm.kind, "about": alarm.about, "times": alarm.times}
        for alarm in open_alarms(connection)
        if kind in (None, alarm.kind) and about in (None, alarm.about)
    ]
    count = resolve(connection, at, kind=kind, about=about)
    if closed:
        record_action(connection, by, "alarm.resolve", at, subject=kind or "all", before={"open": closed})
    return count


# --- what reconciliation found ----------------------------------------------------------------------------------------


def accept_finding(
    connection: Connection, finding_id: str, amount_cents: int, note: str, *, by: Operator, at: int
) -> Finding:
    """Resolve an open finding that is correct: it opens again only if its amount changes. `amount_cents` is the amount
    that the operator saw. Raises ActionRefused."""
    found = _open_finding(connection, finding_id, amount_cents)
    if not note:
        raise ActionRefused("say why it is as it should be: the audit log keeps it")
    findings.accept_finding(connection, found, at)
    _record_finding(connection, "finding.accept", found, {"note": note}, by=by, at=at)
    return found


def correct_finding(
    connection: Connection,
    ids: Ids,
    finding_id: str,
    amount_cents: int,
    amount: int,
    reason: str,
    *,
    by: Operator,
    at: int,
) -> PostingResult:
    """Give `amount` nano-dollars back to the account of a finding, or charge them if below zero, and accept the
    finding. `amount_cents` is the finding's amount that the operator saw. Raises ActionRefused."""
    found = _open_finding(connection, finding_id, amount_cents)
    if found.account_id is None:
        raise ActionRefused("this finding names no account to correct: accept it, or refund the payment")
    account_id, why = found.account_id, reason or found.detail
    posted = correct(connection, ids, by=by, account_id=account_id, amount=amount, reason=why, at=at)
    findings.accept_finding(connection, found, at)
    _record_finding(connection, "finding.correct", found, {"correction": posted.cause_id}, by=by, at=at)
    return posted


def _open_finding(connection: Connection, finding_id: str, amount_cents: int) -> Finding:
    found = next((each for each in findings.open_findings(connection) if each.finding_id == finding_id), None)
    if found is None:
        raise ActionRefused(
            "there is no such open finding: `farebox payments findings` shows them",
            words="this finding is no longer open: reload the page",
        )
    if found.amount_cents != amount_cents:  # reconciliation has run again since then
        raise ActionRefused("the amount of this finding has changed in the meantime: read it again")
    return found


def _record_finding(
    connection: Connection, action: ActionName, found: Finding, after: State, *, by: Operator, at: int
) -> None:
    before = {"kind": found.kind, "amount_cents": found.amount_cents, "detail": found.detail}
    record_action(
        connection,
        by,
        action,
        at,
        account_id=found.account_id or "",
        subject=found.finding_id,
        before=before,
        after=after,
    )
