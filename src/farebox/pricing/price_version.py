"""What the version of a price says: where the price is from, since when it is valid, and for which tier and hours.

A version names one exact price for good (`ModelPrice.version`), and is stored with each call that was charged by it.
"""

import re
from dataclasses import dataclass
from datetime import date
from typing import Literal, TypeAlias

from farebox.pricing.custom_provider_costs import CUSTOM_COST, UNPRICED
from farebox.pricing.model import OWN
from farebox.pricing.reprice import context_of

Source: TypeAlias = Literal["list", "supplement", "own", "custom", "other"]
"""genai-prices, our supplement, a price of the operator's, what an account says that its own provider costs; a bound,
or nothing."""

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_HOURS = re.compile(r"(\d\d:\d\d)-(\d\d:\d\d)Z(,Mon-Fri)?")


@dataclass(frozen=True, slots=True)
class PriceFacts:
    """What is known of a price by its version alone."""

    source: Source
    release: str
    """Of the list; the date of the supplement; the ID of an own price."""
    since: date | None
    """The first day that it is valid, in UTC. None: the version states none."""
    hours: str
    """The hours of the day that it is for: `16:30–00:30 UTC`; empty: all."""
    tier: dict[str, str]
    """What it is for besides: `{"service_tier": "flex"}`; empty: it is the standard price."""
    doubts: str
    """What has no known price, so that the highest that the provider may take was charged: `service_tier=turbo`,
    `12-hour caching`; empty: all has one."""


def facts_of(version: str) -> PriceFacts:
    """Read a version, as `compiler`, `pricebook`, `custom_costs` and `bill` write it."""
    days: list[date] = []
    hours, before = "", ""
    first, *steps = version.replace("+supplement/", "/supplement/").split("/")
    for step in steps:
        found = _HOURS.fullmatch(step)
        if found:
            hours = f"{found[1]}–{found[2]} UTC" + (", Monday to Friday" if found[3] else "")
        elif before != "supplement" and (day := _day(step)):
            days.append(day)
        before = step
    source, release = _source(version, first, steps)
    since = max(days) if days and source == "list" else None
    return PriceFacts(source, release, since, hours, context_of(version), version.partition("/unknown:")[2])


def _day(text: str) -> date | None:
    if not _DAY.fullmatch(text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _source(version: str, first: str, steps: list[str]) -> tuple[Source, str]:
    release = steps[0] if steps else ""
    if version.startswith(OWN):
        return "own", release
    if version.startswith(CUSTOM_COST) or version == UNPRICED:
        return "custom", release
    if first in ("genai-prices", "supplement"):
        return "list" if first == "genai-prices" else "supplement", release
    return "other", ""
