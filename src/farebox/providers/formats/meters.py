"""Converts a provider's usage object to meters, by table.

A row is a meter and the places where a provider writes it: the first place that has a number is used, and several
rows of one meter are added up. Rows follow the extractors of genai-prices, so that a figure means what its price means.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final, TypeAlias

import msgspec

from farebox.providers.formats.iterations import ONE_PASS, Iterations, iterations
from farebox.providers.formats.stated import ImplausibleCost, StatedCost
from farebox.quoting import quoted
from farebox.usage import AbsurdUsage, Quantity, checked, is_divisible

Row: TypeAlias = tuple[str, ...]
"""Meter, then one or more places such as `prompt_tokens_details.cached_tokens`. A step in brackets, as in
`promptTokensDetails.[AUDIO].tokenCount`, takes the first list entry whose `modality` is that word."""
_Place: TypeAlias = tuple[str, tuple[str, ...]]

_Places: TypeAlias = tuple[str, tuple[_Place, ...], bool]

_PARTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("input_tokens", ("cache_read_tokens", "cache_write_tokens")),
    ("input_tokens", ("input_text_tokens",)),
    ("input_tokens", ("input_audio_tokens",)),
    ("input_tokens", ("input_image_tokens",)),
    ("input_tokens", ("input_video_tokens",)),
    ("input_tokens", ("input_tool_tokens",)),
    ("cache_write_tokens", ("cache_write_5m_tokens", "cache_write_1h_tokens", "cache_write_12h_tokens")),
    ("cache_read_tokens", ("cache_text_read_tokens",)),
    ("cache_read_tokens", ("cache_audio_read_tokens",)),
    ("cache_read_tokens", ("cache_image_read_tokens",)),
    ("cache_read_tokens", ("cache_video_read_tokens",)),
    ("output_tokens", ("output_reasoning_tokens", "output_citation_tokens")),
    ("output_tokens", ("output_text_tokens",)),
    ("output_tokens", ("output_audio_tokens",)),
    ("output_tokens", ("output_image_tokens",)),
    ("output_tokens", ("output_video_tokens",)),
)
"""Which meters contain which. Parts on one line exclude each other, so their sum is compared with the whole."""


_SHAPES_MAX, _SHAPE_FIELDS_MAX = 256, 32
_TOTALS: Final = ("total_tokens", "totalTokenCount")
_DIGITS: Final = re.compile(r"[0-9]{1,12}")
"""A count that a provider writes as text is still a count."""
_SPECIAL = frozenset(part for _, parts in _PARTS for part in parts)


class UsageFigures(msgspec.Struct, frozen=True):
    """The figures in a usage object."""

    usage: dict[str, Quantity]
    """Without zeros."""
    missing: tuple[str, ...] = ()
    """Required meters that the object does not report; `usage` may have parts of them."""
    notes: tuple[str, ...] = ()
    """Doubtful parts and how they were handled."""


class Reading:
    """How to read the usage object of one response format."""

    __slots__ = ("_extra", "_passes", "_required", "_rows", "_shapes", "_stated", "plain", "rows")

    def __init__(
        self,
        *rows: Row,
        required: tuple[str, ...] = (),
        extra: tuple[Row, ...] = (),
        stated: StatedCost | None = None,
        passes: bool = False,
    ) -> None:
        """`required` names meters that count as missing if the first of their rows finds nothing. `extra` are further
        rows of figures that a provider leaves out of the general meter they belong to. If the usage states a
        `total_tokens` that equals the general meters alone, these rows are included in them after all.

        `stated` finds the cost that the provider itself states, if its documentation says that this is what it bills;
        `passes`: whether the usage lists what is billed in addition, pass by pass."""
        self._stated = stated
        self._passes = passes
        self.plain = stated is None and not passes
        """Whether the figures are all that the usage reports."""
        self.rows = (*rows, *extra)
        self._rows = _places(rows)
        self._extra = _places(extra)
        self._required = required
        self._shapes: dict[tuple[str, ...], tuple[_Places, ...]] = {}
        """Fields of earlier usage objects → the rows that may find something in them."""

    def _rows_for(self, usage: Mapping[str, object]) -> tuple[_Places, ...]:
        """The rows for this object: of many rows, one provider's objects match only a few."""
        fields = tuple(usage)
        rows = self._shapes.get(fields)
        if rows is None:
            rows = tuple(row for row in self._rows if any(key in usage for key, _ in row[1]))
            if len(self._shapes) < _SHAPES_MAX and len(fields) <= _SHAPE_FIELDS_MAX:
                self._shapes[fields] = rows
        return rows

    def stated_usd(self, usage: Mapping[str, object]) -> tuple[Decimal | None, tuple[str, ...]]:
        """The cost that the provider states, and notes on a figure that cannot be one."""
        if self._stated is None:
            return None, ()
        try:
            return self._stated(usage), ()
        except ImplausibleCost as wrong:
            return None, (f"the provider's stated cost is ignored: {wrong}",)

    def passes(self, usage: Mapping[str, object]) -> Iterations:
        """What is billed in addition to the figures themselves."""
        return iterations(usage, self._figures) if self._passes else ONE_PASS

    def _figures(self, usage: Mapping[str, object]) -> Mapping[str, Quantity]:
        figures = self.read(usage)
        return {} if figures is None else figures.usage

    def reports_input(self, usage: Mapping[str, object] | None) -> bool:
        """Whether a usage object reports the input so far."""
        try:
            figures = self.read(usage) if usage else None
        except AbsurdUsage:
            return False
        return figures is not None and "input_tokens" in figures.usage and "input_tokens" not in figures.missing

    def read(self, usage: Mapping[str, object]) -> UsageFigures | None:
        """The figures of a usage object; None if it has none. Raises AbsurdUsage if one cannot be right."""
        found: dict[str, Quantity] = {}
        reported = _collect(found, self._rows_for(usage), usage)
        if self._extra and not _adds_up(usage.get("total_tokens"), found):
            _collect(found, self._extra, usage)
        missing: tuple[str, ...] = ()
        if not reported.issuperset(self._required):
            missing = tuple([meter for meter in self._required if meter not in reported])
        if not found:
            return None
        figures = consistent(found, missing)
        return _completed(figures, usage) if len(missing) == 1 else figures


def _plain(value: Decimal) -> bool:
    """Whether it is a number that can be computed with."""
    return value.is_finite() and -30 < value.adjusted() < 30


def _whole(value: Decimal) -> bool:
    return value == value.to_integral_value()


def _completed(figures: UsageFigures, usage: Mapping[str, object]) -> UsageFigures:
    """The figures with the missing one, if the stated total reveals it."""
    other = {"input_tokens": "output_tokens", "output_tokens": "input_tokens"}.get(figures.missing[0])
    total = next((value for key in _TOTALS if type(value := usage.get(key)) is int), None)
    if other is None or total is None:
        return figures
    (meter,) = figures.missing
    left = total - int(figures.usage.get(other, 0))
    if left <= 0 or left < figures.usage.get(meter, 0):
        return figures
    note = f"{meter} is missing: computed from the total"
    return UsageFigures(checked({**figures.usage, meter: left}), (), (*figures.notes, note))


def _places(rows: tuple[Row, ...]) -> tuple[_Places, ...]:
    """The rows, and of each whether it is the first of its meter."""
    firsts = {row[0]: row for row in reversed(rows)}
    return tuple((row[0], tuple(_steps(place) for place in row[1:]), firsts[row[0]] is row) for row in rows)


def _collect(found: dict[str, Quantity], rows: tuple[_Places, ...], usage: Mapping[str, object]) -> set[str]:
    """Add up what the rows find. Returns the meters of which the first row found something."""
    first_rows: set[str] = set()
    for meter, places, is_first in rows:
        for key, further in places:
            reported = usage.get(key)
            if reported is None:
                continue
            value: Quantity | None
            if type(reported) is int and reported >= 0 and not further:
                value = reported
            else:
                value = _number(meter, reported, further)
            if value is not None:
                found[meter] = found[meter] + value if meter in found else value
                if is_first:
                    first_rows.add(meter)
                break
    return first_rows


def _adds_up(total: object, found: Mapping[str, Quantity]) -> bool:
    """Whether input and output are all that the total counts."""
    return type(total) is int and total > 0 and total <= found.get("input_tokens", 0) + found.get("output_tokens", 0)


def consistent(figures: Mapping[str, object], missing: tuple[str, ...] = ()) -> UsageFigures:
    """The figures without zeros, after the sanity check of each.

    A part above its whole makes the part doubtful, not the whole: it is cut to what the whole leaves it, with a note.
    If the whole is missing, it is at least the sum of its parts.

    Raises AbsurdUsage if a figure cannot be right.
    """
    usage = checked(figures)
    if _SPECIAL.isdisjoint(usage):
        return UsageFigures(usage, missing)
    notes: list[str] = []
    for whole, parts in _PARTS:
        total = sum(usage.get(part, 0) for part in parts)
        if not total or total <= usage.get(whole, 0):
            continue
        if whole in missing:
            usage[whole] = total
            continue
        notes.append(f"{' + '.join(parts)} was {total}, above {whole} {usage.get(whole, 0)}: cut to it")
        left = usage.get(whole, 0)
        for part in parts:
            kept = min(usage.pop(part, 0), left)
            left -= kept
            if kept:
                usage[part] = kept
    return UsageFigures(usage, missing, tuple(notes))


def _number(meter: str, reported: object, further: tuple[str, ...]) -> Quantity | None:
    """The number at this place; None if there is none. Raises AbsurdUsage."""
    if further:
        reported = _at(reported, further)
    value = reported if type(reported) is int else _quantity(meter, reported)
    if value is not None and value < 0:  # a sum must not hide it
        raise AbsurdUsage(f"{meter} is {value}, below zero")
    return value


def _steps(place: str) -> _Place:
    first, *further = place.split(".")
    return first, tuple(further)


def _at(value: object, steps: tuple[str, ...]) -> object:
    for step in steps:
        if step.startswith("["):
            value = _entry(value, step[1:-1])
        elif isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value


def _entry(value: object, modality: str) -> object:
    entries = value if isinstance(value, list) else []
    return next((entry for entry in entries if isinstance(entry, dict) and entry.get("modality") == modality), None)


def _quantity(meter: str, value: object) -> Quantity | None:
    """None if there is no figure; containers count as none, because some providers send `{}` for "nothing"."""
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Decimal) and not (_plain(value) and (is_divisible(meter) or _whole(value))):
        raise AbsurdUsage(f"{meter} is {quoted(str(value))}, not a count")
    if isinstance(value, Decimal) and _whole(value):
        return int(value)
    if isinstance(value, float) and is_divisible(meter) and math.isfinite(value):
        return Decimal(repr(value))
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    raise AbsurdUsage(f"{meter} is {quoted(str(value))}, not a count")
