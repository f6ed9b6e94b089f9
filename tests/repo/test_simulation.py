"""The simulation behind docs/scale.md: its constants are measured, and it slows down where it should."""

from dataclasses import replace

import pytest
from bench.simulation import PROVIDER_S, Costs, Plan, Simulation, costs, fitted

SECONDS = PROVIDER_S + 0.5


def _run(plan: Plan, known: Costs) -> dict[str, float]:
    return Simulation(plan, known, SECONDS, seed=1).run()


def test_costs_are_those_of_the_stored_measurements() -> None:
    known = costs()
    assert 0 < known.item < known.batch < known.call * 10
    assert known.citus > 1 > known.coordinator > 0


def test_a_line_goes_through_its_points() -> None:
    assert fitted([(0, 1), (1, 3), (2, 5)]) == pytest.approx((2, 1))


def test_load_below_capacity_is_served_and_above_is_not() -> None:
    known, plan = costs(), Plan(400, 2, 0, 4, 1)
    easy = _run(plan, known)
    assert easy["served_per_second"] == pytest.approx(plan.calls, rel=0.2)
    dear = _run(plan, replace(known, batch=0.05))
    assert dear["added_p50_ms"] > 5 * easy["added_p50_ms"]
    cluster = _run(replace(plan, nodes=2, cores=1, buckets=8), replace(known, batch=0.01, coordinator=0.9))
    assert cluster["coordinator_busy"] == 1
    assert cluster["served_per_second"] < plan.calls / 2


def test_a_gateway_far_away_pays_for_hold_and_settle() -> None:
    near = _run(plan := Plan(200, 1, 0, 4, 1), costs())
    far = _run(replace(plan, away_s=0.05), costs())
    assert far["added_p50_ms"] - near["added_p50_ms"] >= 2 * 49
