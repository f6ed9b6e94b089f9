"""Every command that changes something adds a row to the audit log, in the commit of the change."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from farebox.cli.main import app
from farebox.payments.processor import ProcessorEvent
from farebox.settings import load
from farebox.storage.database import opened_for_command
from farebox.storage.notices import add_notice
from farebox.storage.operator_actions import OperatorAction, changed_actions, list_actions, record_action
from farebox.storage.operator_alarms import Alarm, put_alarm
from farebox.storage.processor_events import add_event
from farebox.storage.sql import Connection, rows
from tests.cli.conftest import Cli
from tests.engines import TESTER

EVENT = ProcessorEvent(event_id="evt_1", type="invoice.paid", object_id="in_1", created_at=1, body=b"{}")
KEY = "sk-0123456789abcdef"
SHARED = ("--account", "acme")

ACTS = {
    "account create": ("account.create", ["--name", "Acme", "--id", "acme"]),
    "account set": ("account.set", ["acme", "--time-zone", "Europe/Berlin"]),
    "account freeze": ("account.freeze", ["acme", "--reason", "the card was stolen"]),
    "account unfreeze": ("account.unfreeze", ["acme"]),
    "user create": ("user.create", ["--email", "ana@example.com", *SHARED]),
    "grant": ("credit.grant", [*SHARED, "--amount", "5", "--note", "welcome"]),
    "correct": ("credit.correct", [*SHARED, "--give", "1", "--reason", "wrong price"]),
    "sign-in": ("link.create", SHARED),
    "billing-link": ("link.create", SHARED),
    "token create": ("token.create", [*SHARED, "--permission", "AI Gateway Run"]),
    "token set": ("token.set", ["{token.create}", "--rate-limit", "9"]),
    "token revoke": ("token.revoke", ["{token.create}"]),
    "member set": ("member.set", ["ada@example.com", *SHARED, "--role", "owner"]),
    "member remove": ("member.remove", ["ada@example.com", *SHARED]),
    "payments profile": ("profile.set", [*SHARED, "--name", "Acme GmbH"]),
    "payments replay": ("event.replay", ["evt_1"]),
    "tax set": ("tax.set", ["DE", "19"]),
    "tax remove": ("tax.remove", ["DE"]),
    "webhook add": ("webhook.add", ["https://example.com/hook"]),
    "webhook remove": ("webhook.remove", ["{webhook.add}"]),
    "messages replay": ("message.resend", ["note", *SHARED]),
    "provider set": ("provider.set", ["openai", "--api-key", KEY]),
    "provider key set": ("provider_key.set", ["openai", "second", "--api-key", KEY + "2"]),
    "provider key remove": ("provider_key.remove", ["openai", "second"]),
    "price set": ("price.set", ["openai", "gpt-x", "--input", "1"]),
    "price supplement": ("supplement.set", ["--shipped"]),
    "markup set": ("markup.set", ["20", "--provider", "openai"]),
    "rerate": ("rerate.begin", ["openai", "gpt-x", "--from", "2026-01-01", "--to", "2026-02-01", "--apply"]),
    "bill import": ("bill.import", ["openai", "{bill}"]),
    "bill report": ("alarm.raise", ["openai", "--from", "2026-11-01", "--to", "2026-11-03", "--alarm"]),
    "status": ("alarm.resolve", ["--resolve", "all"]),
}
"""Command → the action, and arguments with which it is performed. Later commands use what earlier ones created."""
OF_PAYMENTS = {"refund", "payments reconcile"}
"""Actions that need a processor: tests/pages/test_operator_pages.py, tests/payments/test_reconcile.py."""
OF_BUCKETS = {"account move"}
"""Actions that need PostgreSQL: tests/calls/test_moved_accounts.py."""
READING = {
    "account list", "account show", "audit", "balance", "check", "invoice", "member list",
    "messages list", "overruns", "payments events", "payments findings", "price audit", "price list", "markup list",
    "provider key list", "provider list", "receipt", "statement", "tax list", "token list", "top-ups", "version",
    "webhook list", "webhook test", "what-if",
}  # fmt: skip
NO_INSTALLATION = {"copy", "fake-stripe", "init", "migrate", "serve"}
"""They create or serve an installation, and change nothing that the operator decides."""


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(command, TyperGroup):
        for name, each in command.commands.items():
            yield from _leaves(each, (*path, name))
    else:
        yield " ".join(path)


def test_every_command_is_known_as_an_act_or_not() -> None:
    assert set(_leaves(get_command(app))) == {*ACTS, *OF_PAYMENTS, *OF_BUCKETS, *READING, *NO_INSTALLATION}


def _furnish() -> None:
    """Add what commands need and no command creates."""
    with opened_for_command(load(), writing=True) as connection:
        add_event(connection, EVENT, via="webhook", at=1)
        add_notice(connection, 0, "acme", "note", "low_balance", {}, 1)
        put_alarm(connection, Alarm(kind="overrun", about="x", content={}, first_at=1, last_at=1))


def _latest() -> OperatorAction:
    with opened_for_command(load()) as connection:
        return list_actions(connection, limit=1)[0]


def test_every_act_is_in_the_audit_log(cli: Cli, tmp_path: Path) -> None:
    bill = tmp_path / "bill.json"
    bucket = {"start_time": 1793491200, "end_time": 1793577600}  # 2026-11-01
    result = {"object": "organization.costs.result", "amount": {"value": 9.0, "currency": "usd"}, "line_item": "gpt-x"}
    bill.write_text(json.dumps({"object": "page", "data": [{"object": "bucket", **bucket, "results": [result]}]}))
    made: dict[str, str] = {"{bill}": str(bill)}
    for number, (command, (action, arguments)) in enumerate(ACTS.items(), start=1):
        if number == 2:
            _furnish()
        ended = cli(*command.split(), *(made.get(each, each) for each in arguments))
        assert ended.status == (1 if command == "bill report" else 0), (command, ended.err)
        latest = _latest()
        assert (latest.number, latest.act, latest.way) == (number, action, "command")
        assert "@" in latest.who
        assert latest.before or latest.after, command
        made.setdefault(f"{{{action}}}", latest.subject)
    assert KEY not in (log := cli("audit", "--last", "1000", "--json").out)
    assert "fbx_" not in log
    assert cli("check", "--json").json["audit_log"] == []
    of_acme: list[dict[str, Any]] = cli("audit", "--account", "acme", "--json").json
    assert {row["account_id"] for row in of_acme} == {"acme"}
    assert "credit.grant" in cli("audit").out


def test_a_command_without_effect_is_no_act(cli: Cli, acme: str) -> None:
    grant = "grant", "--account", acme, "--amount", "5", "--id", "once"
    for _ in range(2):
        assert cli(*grant).status == 0
    assert cli("grant", "--account", "nobody", "--amount", "5").status == 1
    assert cli("tax", "remove", "FR").status == 1
    assert cli("account", "set", acme, "--time-zone", "UTC").status == 0
    assert [row["act"] for row in cli("audit", "--json").json] == ["credit.grant", "account.create"]
    (granted, _) = cli("audit", "--json").json
    assert granted["before"] == {"posted_usd": "0.00"}
    assert (granted["after"]["posted_usd"], granted["after"]["amount_usd"]) == ("5.00", "5.00")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE operator_acts SET who = 'nobody' WHERE number = 2", ["action 2 is not as it was written"]),
        ("DELETE FROM operator_acts WHERE number = 2", ["action 2 is missing"]),
        ("UPDATE operator_acts SET after = NULL WHERE number = 3", ["action 3 is not as it was written"]),
        ("DELETE FROM operator_acts WHERE number = 4", ["action 4 is missing"]),
        ("DELETE FROM operator_acts_head", ["action 4 is not as it was written"]),
        ("UPDATE operator_acts_head SET digest = 'x'", ["action 4 is not as it was written"]),
    ],
)
def test_the_check_finds_a_changed_audit_log(cli: Cli, acme: str, sql: str, said: list[str]) -> None:
    with opened_for_command(load(), writing=True) as connection:
        for name in ("one", "two", "three"):
            record_action(connection, TESTER, "account.set", 1, account_id=acme, after={"name": name})
    assert cli("check").status == 0
    with opened_for_command(load(), writing=True) as connection:
        connection.execute(sql)
        assert len(list_actions(connection, limit=2)) == 2
    ended = cli("check")
    assert ended.status == 1
    assert [line for line in said if line in ended.out] == said
    if "operator_acts_head" not in sql:  # later actions do not hide it
        assert cli("grant", "--account", acme, "--amount", "5").status == 0
        assert [line for line in said if line in cli("check").out] == said


def test_acts_written_during_the_check_are_not_reported(acme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened_for_command(load(), writing=True) as connection:
        record_action(connection, TESTER, "account.set", 1, account_id=acme)

    def write() -> None:
        with opened_for_command(load(), writing=True) as other:
            record_action(other, TESTER, "account.set", 2, account_id=acme)

    def page(connection: Connection, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if values == (0,):
            write()  # written after the head was read
        found = rows(connection, sql, values)
        if not found:
            write()  # written after the last page was read
        return found

    monkeypatch.setattr("farebox.storage.operator_actions.rows", page)
    with opened_for_command(load()) as connection:
        assert list(changed_actions(connection)) == []
    with opened_for_command(load(), writing=True) as connection:
        connection.execute("DELETE FROM operator_acts")
        connection.execute("DELETE FROM operator_acts_head")
    with opened_for_command(load()) as connection:  # the first action of all
        assert list(changed_actions(connection)) == []
        assert len(list_actions(connection, limit=9)) == 2
