"""`farebox status`: open alarms, what to do about them, and closing them."""

from farebox.settings import load
from farebox.storage.database import opened_for_command
from farebox.storage.findings import Finding, add_finding
from farebox.storage.operator_alarms import Alarm, put_alarm
from tests.cli.conftest import Cli, acme, cli, data_dir

__all__ = ["acme", "cli", "data_dir"]  # fixtures

AT = 1_795_000_000_000


def test_alarms_are_shown_with_a_remedy_and_closed(cli: Cli, acme: str) -> None:
    assert cli("status").out == "No open alarms.\n"
    with opened_for_command(load(), writing=True) as connection:
        for kind, about in (("provider_key_trouble", "openai"), ("overrun", "openai/acme-1"), ("overrun", "b")):
            content: dict[str, str | int] = {"status": 429, "reason": "insufficient_quota"}
            put_alarm(connection, Alarm(kind=kind, about=about, content=content, times=3, first_at=AT, last_at=AT))
        finding = Finding(finding_id="not_credited:x", kind="not_credited", amount_cents=5, detail="x", found_at=AT)
        add_finding(connection, finding)
    shown = cli("status").out
    for part in ("openai/acme-1", "status=429, reason=insufficient_quota", "farebox provider set", "payments findings"):
        assert part in shown
    found = cli("status", "--json").json
    assert found["findings"] == 1
    assert found["alarms"][-1] | {"remedy": ""} == {
        "kind": "provider_key_trouble", "about": "openai", "times": 3, "first_at": "2026-11-18T11:06:40Z",
        "last_at": "2026-11-18T11:06:40Z", "content": content, "remedy": "",
    }  # fmt: skip

    assert cli("status", "--resolve", "overrun", "--about", "b", "--json").json == {"resolved": 1}
    assert "1 alarm is closed" in cli("status", "--resolve", "overrun").out
    assert [alarm["about"] for alarm in cli("status", "--json").json["alarms"]] == ["openai"]
    assert cli("status", "--resolve", "all", "--json").json == {"resolved": 1}
    assert cli("status", "--json").json["alarms"] == []
    assert (cli("status", "--resolve", "nope").status, cli("status", "--about", "b").status) == (2, 2)
