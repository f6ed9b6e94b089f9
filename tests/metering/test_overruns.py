"""Holds cover the input from a provider's own tools, references and extra passes: tested with all rows of the table
that have `tools`, with much credit and with little, and with many such calls concurrently."""

from collections import Counter

import pytest

from farebox.money import parse_usd
from tests.engines import ON_BOTH_ENGINES
from tests.metering.cases import Case, load
from tests.metering.conftest import Outcomes
from tests.metering.drive import Bench, Outcome

pytestmark = ON_BOTH_ENGINES

HIDDEN = [case for case in load() if case.tools and not case.refused]
"""Kinds of calls with input or passes that the request does not contain."""
LITTLE = "0.10"
SEARCHED_ON_LITTLE = {
    "b_usage-responses-web-search-60k": 40_000_000,
}
"""The most that is written off for a call with searches on LITTLE: searching stays possible because a hold that the
balance does not cover is reduced to one use (ADR 18). No other kind may cost the operator anything."""

CLAMPED_ON_LITTLE = {
    "b_counted-search-declared-and-not-made",
    "b_usage-responses-three-searches",
    "b_usage-google-two-searches",
    "c_beside-fallback-declined-is-not-summed",
    "c_usage-billable-searches-are-told",
    "c_usage-no-billable-search-is-told",
}
"""Kinds that are served with less output, and paid for."""
COVERED_ON_LITTLE = {"b_usage-anthropic-two-searches", "c_beside-fallback-to-a-dearer-model"}
"""All other kinds are refused: a file, a URL, a cache, an ID, a fetching tool or a compaction may fill a context
window."""


def _fate(outcome: Outcome) -> str:
    if not outcome.reached:
        return "refused"
    if outcome.charged + outcome.written_off > outcome.held:
        return "overrun"
    return "clamped" if outcome.limit is not None else "covered"


def test_holds_cover_unseen_input(outcomes: Outcomes) -> None:
    fates = {case.id: {_fate(outcome) for outcome in outcomes(case)} for case in HIDDEN}
    assert {case_id: found for case_id, found in fates.items() if found != {"covered"}} == {}
    assert len(fates) >= 40


def test_little_credit_is_not_overrun(bench: Bench) -> None:
    """With ten cents, a call fits or is refused. Searching stays possible; input that may fill a window does not."""
    found = {case.id: bench.together(case, 1, LITTLE)[0] for case in HIDDEN}
    fates = {case_id: _fate(outcome) for case_id, outcome in found.items()}
    print(Counter(fates.values()), fates)
    written_off = {case_id: outcome.written_off for case_id, outcome in found.items() if outcome.written_off}
    assert written_off == SEARCHED_ON_LITTLE
    by_fate = {fate: {case_id for case_id, found in fates.items() if found == fate} for fate in set(fates.values())}
    assert by_fate["overrun"] == set(SEARCHED_ON_LITTLE)
    assert by_fate["clamped"] == CLAMPED_ON_LITTLE
    assert by_fate["covered"] == COVERED_ON_LITTLE
    served = {*SEARCHED_ON_LITTLE, *CLAMPED_ON_LITTLE, *COVERED_ON_LITTLE}
    assert by_fate["refused"] == {case_id for case_id in fates if case_id not in served}


def _named(name: str) -> Case:
    return next(case for case in load() if case.name == name)


@pytest.mark.parametrize(
    ("name", "times", "usd", "answered"),
    [
        ("responses-previous-300k", 12, "1.00", 0),  # a context window of its model costs 2 USD
        ("responses-previous-300k", 12, "2.50", 1),
        ("gemini-file-of-1m", 50, "0.10", 0),
        ("gemini-file-of-1m", 50, "6", 2),
    ],
)
def test_concurrent_calls_cannot_overspend(bench: Bench, name: str, times: int, usd: str, answered: int) -> None:
    case = _named(name)
    found = bench.together(case, times, usd)
    reached = [outcome for outcome in found if outcome.reached]
    assert [outcome.charged for outcome in reached] == [case.charge] * answered
    assert sum(outcome.written_off for outcome in found) == 0
    assert {outcome.status for outcome in found if not outcome.reached} <= {402, 429}
    assert sum(outcome.charged for outcome in found) <= parse_usd(usd)
