"""docs/metrics.md documents every metric correctly, and its examples work."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from farebox.metrics.families import FAMILIES
from tests.repo.reference import ROOT, example

PAGE = (ROOT / "docs" / "metrics.md").read_text()
PROCESS = {
    "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds", "process_max_fds",
    "process_start_time_seconds", "process_cpu_seconds_total",
}  # fmt: skip
NO_FAMILY = PROCESS | {"farebox_build_info"}
ROWS = [
    [cell.strip() for cell in line.split("|")[1:]]
    for line in PAGE.splitlines()
    if re.match(r"\| `(farebox|process)_", line)
]


def test_every_metric_is_documented_correctly() -> None:
    reported = {name: row for row in ROWS for name in re.findall(r"`((?:farebox|process)_\w+)`", row[0])}
    assert reported.keys() == {family.name for family in FAMILIES} | NO_FAMILY
    for family in FAMILIES:
        _, kind, labels, meaning, *_ = reported[family.name]
        assert kind == family.kind, family.name
        assert re.findall(r"`(\w+)`", re.sub(r": [^;`]*", ", ", labels)) == [label.name for label in family.labels]
        assert len(meaning) > 3
        for label in family.labels:
            listed = re.search(rf"`{label.name}`: ([\w, ]+)", labels)
            if listed is not None and "errors.md" not in labels:
                assert sorted(listed[1].split(", ")) == sorted(label.values), family.name


def test_every_metric_name_follows_conventions() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"farebox(_[a-z]+)+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.help.endswith(".")
        assert all(len(label.values) <= 120 for label in family.labels), "bounded"


def test_rules_and_configuration_of_the_page_pass_promtool(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (on Debian: apt-get install prometheus)")
    rules, configuration, token = (tmp_path / name for name in ("rules.yml", "prometheus.yml", "token"))
    rules.write_text(example("metrics.md", "farebox.rules.yml"))
    token.write_text("a token")
    configuration.write_text(
        example("metrics.md", "prometheus.yml").replace("/etc/prometheus/farebox.token", str(token))
    )
    for command in (["check", "rules", str(rules)], ["check", "config", str(configuration)]):
        checked = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=60, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_rules_name_existing_metrics() -> None:
    rules = example("metrics.md", "farebox.rules.yml")
    known = {family.name: family for family in FAMILIES}
    named = set(re.findall(r"\b(farebox_\w+)", rules))
    assert len(named) > 10
    for name in named:
        assert name in known or known[name.removesuffix("_bucket")].kind == "histogram", name
    for name, label, values in re.findall(r"(farebox_\w+)\{(\w+)[!=~]+\"([^\"]*)\"", rules):
        allowed = {label.name: label.values for label in known[name].labels}[label]
        assert set(values.split("|")) <= set(allowed), name
