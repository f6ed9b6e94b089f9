"""The subset of SVG that the plots need: axes, bars and lines, in light and dark colors by the reader's preference."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
_CHARACTER = 6.3
"""Upper bound of a letter's width, in pixels: no font can be queried."""

_STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328;
paint-order: stroke; stroke: #ffffff; stroke-width: 3px }
.title { font-size: 15px; font-weight: 600 } .quiet { fill: #59636e }
.end { text-anchor: end } .mid { text-anchor: middle }
.back { fill: #ffffff } .grid { stroke: #d8dee4; stroke-width: 1 } .axis { stroke: #8c959f; stroke-width: 1 }
.fa { fill: #0969da } .fb { fill: #bc4c00 } .fc { fill: #8250df } .fd { fill: #57606a }
.la { stroke: #0969da } .lb { stroke: #bc4c00 } .lc { stroke: #8250df } .ld { stroke: #57606a }
.line { fill: none; stroke-width: 2 } .thin { fill: none; stroke-width: 1.5; stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; stroke: #0d1117 } .quiet { fill: #9198a1 } .back { fill: #0d1117 }
.grid { stroke: #30363d } .axis { stroke: #6e7681 }
.fa { fill: #4493f8 } .fb { fill: #f0883e } .fc { fill: #a371f7 } .fd { fill: #9198a1 }
.la { stroke: #4493f8 } .lb { stroke: #f0883e } .lc { stroke: #a371f7 } .ld { stroke: #9198a1 }
}
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """From figures to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = True

    def at(self, figure: float) -> float:
        place = self._place(max(figure, self.low) if self.logarithmic else figure)
        return self.start + (self.end - self.start) * place

    def _place(self, figure: float) -> float:
        if self.logarithmic:
            return math.log(figure / self.low) / math.log(self.high / self.low)
        return (figure - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if not self.logarithmic:
            step = _round_step((self.high - self.low) / 5)
            return [step * number for number in range(math.ceil(self.low / step), int(self.high / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [10.0**power for power in decades if self.low * 0.999 <= 10.0**power <= self.high * 1.001]


def logarithmic(figures: Sequence[float], start: float, end: float) -> Scale:
    """A logarithmic scale of whole decades around the figures."""
    return Scale(10.0 ** math.floor(math.log10(min(figures))), 10.0 ** math.ceil(math.log10(max(figures))), start, end)


def linear(figures: Sequence[float], start: float, end: float) -> Scale:
    """A scale from zero to a little above the largest figure."""
    return Scale(0, max(figures) * 1.08, start, end, logarithmic=False)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * part for part in (1, 2, 5, 10) if power * part >= rough)


def number(figure: float) -> str:
    """The figure with three significant digits."""
    if figure >= 100 or figure == int(figure):
        return f"{figure:,.0f}"
    return f"{figure:.3g}"


# Pieces -----------------------------------------------------------------------------------------------------------


def text(x: float, y: float, said: str, classes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}">{escape(said)}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>'


def rectangle(x: float, y: float, width: float, height: float, classes: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" class="{classes}"/>'


def curve(points: Sequence[tuple[float, float]], color: str, *, dashed: bool = False) -> str:
    """A line through the points, with a dot on each."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" class="f{color}"/>' for x, y in points)
    return f'<polyline points="{path}" class="{"thin" if dashed else "line"} l{color}"/>{dots}'


def document(title: str, said: str, height: float, parts: Sequence[str]) -> str:
    """The whole picture; `said` is the line below the title."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img">'
    return "\n".join(
        [
            head,
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            rectangle(0, 0, WIDTH, height, "back"),
            text(16, 28, title, "title"),
            text(16, 47, said, "quiet"),
            *parts,
            "</svg>\n",
        ]
    )


# Plots ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    figure: float
    color: str = "d"
    said: str = ""
    """The label next to the bar; the figure if empty."""


def bars(title: str, said: str, entries: Sequence[Bar], scale: Callable[..., Scale] = logarithmic) -> str:
    """One bar per entry, one below the other."""
    left = 24 + max(len(bar.name) for bar in entries) * _CHARACTER
    right = WIDTH - 24 - max(len(bar.said or number(bar.figure)) for bar in entries) * _CHARACTER
    along = scale([bar.figure for bar in entries], left, right)
    top, each = 64, 27
    bottom = top + each * len(entries)
    parts = [
        rule(along.at(tick), top, along.at(tick), bottom, "grid")
        + text(along.at(tick), bottom + 17, number(tick), "quiet mid")
        for tick in along.ticks()
    ]
    for place, bar in enumerate(entries):
        y = top + each * place + 4
        parts.append(text(left - 10, y + 14, bar.name, "end"))
        parts.append(rectangle(left, y, max(along.at(bar.figure) - left, 2), each - 8, f"f{bar.color}"))
        parts.append(text(along.at(bar.figure) + 7, y + 14, bar.said or number(bar.figure)))
    parts.append(rule(left, top, left, bottom, "axis"))
    return document(title, said, bottom + 30, parts)


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: Sequence[tuple[str, float]]
    """Labels on the axis, and figures."""
    color: str
    dashed: bool = False


def lines(title: str, said: str, entries: Sequence[Line], below: str, scale: Callable[..., Scale] = logarithmic) -> str:
    """Lines over the same steps; lines of one color share an entry in the legend, with their names at the right end."""
    top, bottom, left = 68.0, 330.0, 64.0
    right = WIDTH - 24 - max(len(line.name) for line in entries) * _CHARACTER
    steps = list(dict.fromkeys(step for line in entries for step, _ in line.points))
    up = scale([figure for line in entries for _, figure in line.points], bottom, top)
    across = {
        step: left + 30 + (right - left - 60) * place / max(len(steps) - 1, 1) for place, step in enumerate(steps)
    }
    parts = [
        rule(left, up.at(tick), right, up.at(tick), "grid") + text(left - 8, up.at(tick) + 4, number(tick), "quiet end")
        for tick in up.ticks()
    ]
    parts += [text(x, bottom + 18, step, "mid") for step, x in across.items()]
    parts.append(text((left + right) / 2, bottom + 38, below, "quiet mid"))
    parts.append(rule(left, bottom, right, bottom, "axis"))
    for line in entries:
        parts.append(
            curve([(across[step], up.at(figure)) for step, figure in line.points], line.color, dashed=line.dashed)
        )
    ends = spread([(up.at(line.points[-1][1]), line) for line in entries])
    parts += [text(across[line.points[-1][0]] + 12, y + 4, line.name) for y, line in ends]
    return document(title, said, bottom + 52, parts)


def spread(ends: list[tuple[float, Line]], apart: float = 14.0) -> list[tuple[float, Line]]:
    """Heights for the names, so that none covers another."""
    found: list[tuple[float, Line]] = []
    for y, line in sorted(ends, key=lambda end: end[0]):
        found.append((max(y, found[-1][0] + apart) if found else y, line))
    return found
