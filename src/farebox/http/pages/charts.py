"""Charts as geometry: rectangles on an area 100 units high, which templates draw and browsers stretch to fit."""

from collections.abc import Sequence
from dataclasses import dataclass

STEP = 10
"""Width of the area for each bar."""
_GAP = 2


@dataclass(frozen=True, slots=True)
class Value:
    """The value that a bar shows."""

    label: str
    amount: int
    text: str
    """The formatted amount."""
    path: str = ""
    """Path of the page with what it sums; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, measured from the top left of the area."""

    label: str
    text: str
    x: float
    y: float
    width: float
    height: float
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """A chart of one series of bars, or of two to compare."""

    name: str
    """The name of the chart's anchor."""
    caption: str
    of: str
    """The unit of a bar: `Hour`."""
    names: tuple[str, str]
    """Names of the two series; the second is empty if there is only one."""
    now: list[Bar]
    then: list[Bar]
    top: str
    """What the full height stands for."""
    summary: str
    """A description for people who cannot see the chart."""

    @property
    def step(self) -> int:
        return STEP

    @property
    def width(self) -> int:
        return max(1, len(self.now)) * STEP

    @property
    def axis(self) -> list[str]:
        """The labels below the chart: the first, one in the middle, and the last."""
        labels = [bar.label for bar in self.now]
        return labels if len(labels) < 3 else [labels[0], labels[len(labels) // 2], labels[-1]]


def bars(
    name: str,
    caption: str,
    of: str,
    now: Sequence[Value],
    *,
    what: str,
    then: Sequence[Value] = (),
    what_then: str = "",
) -> Bars:
    """A chart of the values; `then` has one for each of `now`."""
    highest = max(now, key=lambda value: value.amount, default=Value("", 0, "0"))
    most = max((value.amount for value in (*now, *then)), default=0)
    tallest = max((*now, *then), key=lambda value: value.amount, default=highest)
    summary = (
        f"{caption}. {len(now)} bar{'' if len(now) == 1 else 's'}; the highest is {highest.text} at {highest.label}."
        if now
        else caption
    )
    row = STEP - _GAP
    width, offset = (row / 2, row / 2) if then else (row, 0)
    return Bars(
        name=name,
        caption=caption,
        of=of,
        names=(what, what_then),
        now=[_bar(value, number, most, width, offset) for number, value in enumerate(now)],
        then=[_bar(value, number, most, width, 0) for number, value in enumerate(then)],
        top=tallest.text if most else "",
        summary=summary,
    )


def _bar(value: Value, number: int, most: int, width: float, offset: float) -> Bar:
    """A bar; one that is not zero is at least a line."""
    height = 0.0 if not value.amount or not most else max(1.0, round(value.amount * 100 / most, 2))
    x = number * STEP + _GAP / 2 + offset
    return Bar(value.label, value.text, x, round(100 - height, 2), width, height, value.path)
