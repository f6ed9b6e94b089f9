"""`farebox price supplement` and `farebox price audit`."""

import json
from pathlib import Path
from typing import Any

from farebox.clock import SystemClock
from farebox.pricing.supplement import shipped
from farebox.storage.calls import add_usage
from tests.cli.conftest import Cli
from tests.engines import settings_for, write_now

OURS: dict[str, Any] = {
    "date": "2027-01-31",
    "prices": [
        {
            "provider": "openai",
            "models": ["acme-9"],
            "rates": {"input_mtok": "3"},
            "source": "https://example.com/prices",
            "date": "2027-01-30",
        }
    ],
}


def test_the_supplement_is_listed_loaded_and_reset(cli: Cli, tmp_path: Path) -> None:
    cli("init")
    listed = cli("price", "supplement")
    assert (listed.status, "ultrafast: 6 times" in listed.out) == (0, True)
    assert shipped().date in listed.out
    file = tmp_path / "ours.json"
    file.write_text(json.dumps(OURS))
    assert "acme-9" in cli("price", "supplement", "--load", str(file)).out
    assert cli("price", "supplement", "--json").json == OURS
    assert "acme-9" not in cli("price", "supplement", "--shipped").out


def test_an_invalid_supplement_file_is_refused(cli: Cli, tmp_path: Path) -> None:
    cli("init")
    file = tmp_path / "broken.json"
    (entry,) = OURS["prices"]
    wrong: list[dict[str, Any]] = [
        {"rates": {}},
        {"models": []},
        {"models": [""]},
        {"date": "yesterday"},
        {"output_max": -1},
        {"context_window": 0},
        {"rates": {"input_mtok": "1e400"}},
        {"rates": {"input_mtok": "1e-40"}},
        {"rates": {"input_mtok": {"base": "1", "above": {"-5": "2"}}}},
    ]
    files = [json.dumps({"date": "2027-01-31", "prices": [entry | one]}) for one in wrong]
    always = {"provider": "openai", "models": ["*"], "when": {}, "factor": "2", "source": "s", "date": "2027-01-31"}
    files.append(json.dumps({"date": "2027-01-31", "variants": [always]}))
    for text in ("{", '{"date": "x", "prices": [{"provider": "openai"}]}', *files):
        file.write_text(text)
        refused = cli("price", "supplement", "--load", str(file))
        assert (refused.status, refused.out) == (1, "")
    assert cli("price", "supplement", "--load", str(tmp_path / "none.json")).status == 1
    assert cli("price", "supplement", "--load", str(file), "--shipped").status == 2


def test_the_audit_shows_differences(cli: Cli, tmp_path: Path) -> None:
    cli("init")
    cli("price", "set", "openai", "acme-1", "--input", "1", "--output", "2")
    entry = {"litellm_provider": "openai", "mode": "chat", "output_cost_per_token": 2e-06}
    costlier = {**entry, "input_cost_per_token": 1.5e-06, "input_cost_per_token_above_200k_tokens": 3e-06}
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"acme-1": costlier, "gpt-4o-mini": {**entry, "output_cost_per_token": 6e-07}}))
    found = cli("price", "audit", "--litellm", str(file), "--json")
    assert found.status == 0, "it was not called"
    assert [(row["model"], row["price"], row["ours"], row["theirs"], row["percent"]) for row in found.json] == [
        ("acme-1", "input_mtok", "1", "1.5", "+50.0 %")
    ]
    assert found.json[0]["version"].startswith("own/")
    sound = {**entry, "output_cost_per_audio_token": 8e-05, "cache_creation_input_token_cost": 0}
    file.write_text(json.dumps({"acme-1": sound}))
    (row,) = cli("price", "audit", "--litellm", str(file), "--json").json
    assert (row["price"], row["ours"], row["theirs"]) == ("output_audio_mtok", "2", "80"), "charged as any other output"
    odd = {"windows": [7, {"hours_utc": 5}, {"hours_utc": [5]}]}
    file.write_text(json.dumps({"acme-1": {**entry, "input_cost_per_token": -1, "off_peak_pricing": odd}}))
    assert cli("price", "audit", "--litellm", str(file), "--json").json == []
    for text in ("[]", "[" * 100_000):
        file.write_text(text)
        assert cli("price", "audit", "--litellm", str(file)).status == 1


def test_the_audit_fails_if_a_model_in_use_differs(cli: Cli, data_dir: Path, tmp_path: Path) -> None:
    cli("init")
    cli("account", "create", "--name", "Acme", "--id", "acme")
    cli("price", "set", "openai", "acme-1", "--input", "1", "--output", "2")
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"acme-1": {"litellm_provider": "openai", "input_cost_per_token": 1.06e-06}}))
    at = SystemClock().now_ms()
    write_now(settings_for(data_dir), lambda c: add_usage(c, 0, "acme", at, "openai", "acme-1", 5))
    found = cli("price", "audit", "--litellm", str(file), "--json")
    assert (found.status, json.loads(found.out)[0]["in_use"]) == (1, True)
    assert cli("price", "audit", "--litellm", str(file), "--limit", "6").status == 0
