"""Trying a limit on past calls before it is set."""

from functools import partial

import msgspec

from farebox.calendar import DAY_MS, day_text
from farebox.calls.usage_report import STEPS_MAX
from farebox.calls.what_if import what_if_run
from farebox.calls.what_if.replay import Scenario
from farebox.calls.what_if.report import Figures, Report
from farebox.errors import NOT_FOUND, Problem
from farebox.gateway import DEFAULT_GATEWAY, Selector, SpendRule
from farebox.http.envelope import Response
from farebox.http.pages import charts, labels
from farebox.http.pages.limits import WINDOWS, check_tokens, rule_of, rule_text, technique_of, tokens_in
from farebox.http.pages.table import BUILD, Fields, Shown
from farebox.http.pages.visit import Visit, see_other
from farebox.http.quotas import WHAT_IFS, spend
from farebox.storage.accounts import token_labels

TRIED_DAYS = 30
_UNKNOWN = {
    "refused_then": "that were refused at the time (left out because their cost is unknown)",
    "cached": "that were free cache hits (they do not count towards limits)",
    "user": "without an end user",
    "token": "without a known access token",
}


async def try_first(visit: Visit, form: Fields) -> Response:
    """Replay the calls of the last days under this rule alone; the next page shows what would have happened."""
    rule = msgspec.structs.replace(rule_of(form), id="tried")
    await check_tokens(visit, rule)
    spend(visit.services, WHAT_IFS, visit.account_id)
    now = visit.services.clock.now_ms()
    scenario = Scenario(
        start=now - TRIED_DAYS * DAY_MS, end=now, gateway_id=form.get("gateway", DEFAULT_GATEWAY), rules=(rule,), at=now
    )
    await what_if_run.begin(visit.services, visit.account_id, scenario)
    return see_other("/ui/limits/try")


async def tried(visit: Visit) -> Shown | Response:
    """The latest what-if; if there is none, the page with the form."""
    services, account_id = visit.services, visit.account_id
    try:
        row = await what_if_run.latest(services, account_id)
    except Problem as problem:
        if problem.kind is not NOT_FOUND:
            raise
        return see_other("/ui/limits")
    scenario = msgspec.json.decode(row.scenario, type=Scenario)
    token_ids = tokens_in(scenario.rules)
    names = await services.database.scan(partial(token_labels, account_id=account_id, token_ids=token_ids))
    report = None if row.report is None else msgspec.json.decode(row.report, type=Report)
    return {
        "row": row,
        "gateway": scenario.gateway_id,
        "rules": [rule_text(rule, names) for rule in scenario.rules],
        "fields": _fields(scenario.rules[0]) if len(scenario.rules) == 1 else None,
        "report": report,
        "chart": None if report is None else _picture(report, scenario),
        "unknown": [] if report is None else _unknown(report),
        "start": scenario.start,
        "end": scenario.end,
        "refresh": "2" if row.state == "running" else None,
        "builds": visit.may(BUILD),
    }


def _fields(rule: SpendRule) -> dict[str, str] | None:
    """The fields of the form that describe the rule; None if the form cannot express it."""
    window = next((name for name, seconds in WINDOWS.items() if seconds == rule.window), None)
    if window is None or rule.metadata is not msgspec.UNSET or isinstance(rule.provider, Selector):
        return None
    fields = {"limit": f"{rule.limit:.9f}".rstrip("0").rstrip("."), "window": window, "technique": technique_of(rule)}
    for name, field in (("model", "models"), ("token", "only_token"), ("user", "")):
        selector = getattr(rule, name)
        if isinstance(selector, Selector) and selector.mode == "partition":
            fields["partition"] = name
        elif isinstance(selector, Selector):
            fields[field] = " ".join(selector.values)
    return fields


def _unknown(report: Report) -> list[str]:
    """What remains unknown in a replay with only a limit, in which nothing is priced again."""
    lines = [f"Calls {words}: {report.unknown[name]:,}." for name, words in _UNKNOWN.items() if name in report.unknown]
    if outside := report.unknown.get("charged_without_call_nanos"):
        lines.append(f"Charged without a call in the log: {labels.exact_usd(outside)} USD.")
    return lines


def _picture(report: Report, scenario: Scenario) -> charts.Bars:
    of, none = {day.name: day for day in report.days}, Figures()
    earliest = max(scenario.start, scenario.end - STEPS_MAX["day"] * DAY_MS)
    now, then = [], []
    for at in range(earliest - earliest % DAY_MS, scenario.end, DAY_MS):
        day, label = of.get(day_text(at), none), labels.day(at)
        now.append(charts.Value(label, day.charged_nanos, _day_text(day.charged_nanos, day.refused)))
        then.append(charts.Value(label, day.charged_then_nanos, f"{labels.exact_usd(day.charged_then_nanos)} USD"))
    return charts.bars(
        "tried", "Charged by day, in UTC", "Day", now, what="With this limit", then=then, what_then="Actual"
    )


def _day_text(charged: int, refused: int) -> str:
    return f"{labels.exact_usd(charged)} USD" + (f", {refused:,} refused" if refused else "")
