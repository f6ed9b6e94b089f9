"""What an operator does to the installation as a whole: taxes, price supplements, alarms, the processor's events.
Plain functions, as in `administer`."""

import hashlib

import msgspec

from farebox.model import Operator
from farebox.operator.administer import Refused
from farebox.storage import config, processor_events, tax
from farebox.storage.operator_acts import State, record_act
from farebox.storage.operator_alarms import open_alarms
from farebox.storage.operator_alarms import resolve_alarms as resolve
from farebox.storage.sql import Connection
from farebox.storage.tax import TaxRate


def set_tax(connection: Connection, rate: TaxRate, *, by: Operator) -> None:
    """Set the tax on purchases by customers of a country, from now on."""
    before = tax.list_tax_rates(connection)
    tax.set_tax_rate(connection, rate)
    was = next((_tax(each) for each in before if each.country == rate.country), None)
    record_act(connection, by, "tax.set", rate.updated_at, subject=rate.country, before=was, after=_tax(rate))


def remove_tax(connection: Connection, country: str, *, by: Operator, at: int) -> None:
    """Raises Refused if there is none."""
    before = next((each for each in tax.list_tax_rates(connection) if each.country == country), None)
    if before is None:
        raise Refused(f"there is no tax rate for {country}: `farebox tax list` shows all")
    tax.remove_tax_rate(connection, country)
    record_act(connection, by, "tax.remove", at, subject=country, before=_tax(before))


def _tax(rate: TaxRate) -> State:
    state: State = msgspec.to_builtins(rate)
    return {name: value for name, value in state.items() if name not in ("country", "updated_at")}


def set_supplement(connection: Connection, text: str, *, by: Operator, at: int) -> None:
    """Replace the loaded price supplement by this valid one; an empty text restores the shipped one."""
    before = config.find_supplement(connection)
    config.add_supplement(connection, text, at)
    record_act(connection, by, "supplement.set", at, before=_supplement(before), after=_supplement(text))


def _supplement(text: str) -> State:
    """The files are long: the audit log tells them apart by their hash, and `price_supplements` keeps them."""
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
        record_act(connection, by, "event.replay", at, subject=event_id or "", after=after)
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
        record_act(connection, by, "alarm.resolve", at, subject=kind or "all", before={"open": closed})
    return count
