"""Counters in plain memory: integers that a call increments in a fraction of a microsecond and that can be read at any
time.

A sheet has one row for each process that serves the same port; all rows have the same columns. Its memory is an unnamed
file that all of these processes map or, for a single process, private memory. So each process can read the counts of
all; the counts of a killed process remain, and its replacement continues from them.

Each integer is written by one process, eight bytes at an aligned address: a reader sees either the old value or the new
one.
"""

import mmap
import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Combine = Literal["sum", "max"]

OTHER = "other"
"""The label value for anything that is not a known value."""
MICROS = 1_000_000
COUNTING_ERRORS = (LookupError, ValueError, TypeError, ArithmeticError)
"""The exceptions that counting can raise: for an unknown name, or a figure that does not fit into eight bytes. Code
that counts something already committed or charged catches them: only a figure is missing then.
"""
_WIDTH = 8
_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Label:
    """A label and all its possible values; the last one means any other."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric. Its integers are `per_unit` times the exported value, such as microseconds for exported seconds."""

    name: str
    help: str
    kind: Kind = "counter"
    labels: tuple[Label, ...] = ()
    per_unit: int = 1
    bounds: tuple[int, ...] = ()
    """For a histogram: the upper bounds of its buckets, in its own integers."""
    combine: Combine = "sum"
    """For a gauge: how the values of several processes are combined."""

    @property
    def children(self) -> list[tuple[str, ...]]:
        """Every combination of label values, in order."""
        return list(product(*(label.values for label in self.labels)))

    @property
    def width(self) -> int:
        """The number of integers of one child: for a histogram one per bucket, one for values above all bounds, and
        the sum.
        """
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


class Layout:
    """Assigns columns to metrics. The first column is the process ID, 0 if the row is free."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.families = tuple(families)
        self.columns: dict[tuple[str, ...], int] = {}
        at = 1
        for family in self.families:
            for values in family.children:
                self.columns[(family.name, *values)] = at
                at += family.width
        self.width = at

    def column(self, family: Family, values: tuple[str, ...]) -> int:
        """The child's first column; an unknown label value becomes OTHER."""
        found = self.columns.get((family.name, *values))
        if found is None:
            pairs = zip(family.labels, values, strict=True)
            known = (value if value in label.values else label.values[-1] for label, value in pairs)
            found = self.columns[(family.name, *known)]
        return found

    @property
    def digest(self) -> str:
        """Differs if the columns do: two releases must not share a sheet."""
        shape = [(family.name, family.kind, family.bounds, family.children) for family in self.families]
        return sha256(repr(shape).encode()).hexdigest()[:16]


class Counter:
    """A counter; it only increases."""

    __slots__ = ("_at", "_cells")

    def __init__(self, cells: "memoryview[int]", at: int) -> None:
        self._cells = cells
        self._at = at

    def add(self, amount: int = 1) -> None:
        self._cells[self._at] += amount

    @property
    def value(self) -> int:
        return self._cells[self._at]


class Histogram:
    """Counts observations in buckets."""

    __slots__ = ("_at", "_bounds", "_cells", "_sum")

    def __init__(self, cells: "memoryview[int]", at: int, bounds: Sequence[int]) -> None:
        self._cells = cells
        self._at = at
        self._bounds = bounds
        self._sum = at + len(bounds) + 1

    def observe(self, value: int) -> None:
        cells = self._cells
        cells[self._at + bisect_left(self._bounds, value)] += 1
        cells[self._sum] += value

    def observe_seconds(self, seconds: float) -> None:
        """The same for a duration in seconds, counted in microseconds."""
        value = int(seconds * MICROS) if seconds > 0 else 0
        cells = self._cells
        cells[self._at + bisect_left(self._bounds, value)] += 1
        cells[self._sum] += value


class CounterRow:
    """One row: the counters of one process."""

    def __init__(self, layout: Layout, cells: "memoryview[int]") -> None:
        self.layout = layout
        self.cells = cells
        self._seen: dict[tuple[str, ...], int] = {}

    def begin(self, pid: int) -> None:
        """Take over the row for a process: the gauges of the previous process are cleared."""
        self.clear()
        self.cells[0] = pid

    def clear(self) -> None:
        """Free the row: counters stay, gauges are cleared."""
        self.cells[0] = 0
        for family in self.layout.families:
            if family.kind == "gauge":
                for values in family.children:
                    self.cells[self.layout.column(family, values)] = 0

    def counter(self, family: Family, *values: str) -> Counter:
        return Counter(self.cells, self.layout.column(family, values))

    def histogram(self, family: Family, *values: str) -> Histogram:
        return Histogram(self.cells, self.layout.column(family, values), family.bounds)

    def add(self, family: Family, *values: str, amount: int = 1) -> None:
        self.cells[self.layout.column(family, values)] += amount

    def put(self, family: Family, *values: str, value: int) -> None:
        """Set a gauge."""
        self.cells[self.layout.column(family, values)] = max(-_LIMIT, min(value, _LIMIT))

    def follow(self, family: Family, *values: str, total: int) -> None:
        """Add to a counter by how much `total`, which is counted elsewhere in this process, has grown since the last
        call."""
        key = (family.name, *values)
        risen = total - self._seen.get(key, 0)
        self._seen[key] = total
        if risen > 0:
            self.add(family, *values, amount=risen)


class CounterSheet:
    """The memory of all rows."""

    def __init__(self, layout: Layout, places: int, fd: int) -> None:
        """Map the file; it may be closed afterwards. `places` is the number of rows it was made for."""
        self.layout = layout
        self.places = places
        size = places * layout.width * _WIDTH
        self._cells = memoryview(mmap.mmap(fd, size)).cast("q")

    def place(self, number: int) -> CounterRow:
        """The row with this number, from 0."""
        width = self.layout.width
        return CounterRow(self.layout, self._cells[number * width : (number + 1) * width])

    def all(self) -> list[CounterRow]:
        return [self.place(number) for number in range(self.places)]


def new_file(layout: Layout, places: int) -> int:
    """The descriptor of a file for a sheet: all zeros, in memory if the system supports that, deleted with its last
    user.

    Every byte of it is written, so that a disk that fills up later does not affect it.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("farebox-counts", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    rest = memoryview(bytes(places * layout.width * _WIDTH))
    while rest:
        rest = rest[os.write(fd, rest) :]
    return fd


def private(layout: Layout) -> CounterRow:
    """A private row."""
    return CounterRow(layout, memoryview(bytearray(layout.width * _WIDTH)).cast("q"))
