"""Writes the counts in the formats that Prometheus reads. The only module that knows prometheus-client.

Money and durations are kept as integers and divided here, once. A floating-point number resolves nano-dollars up to
four million dollars; above that a figure is off by a nano-dollar or two, and the errors do not accumulate.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

import farebox
from farebox.counts import CounterRow, Family
from farebox.metrics import families as of
from farebox.storage.figures import DatabaseFigures


def render(
    places: Sequence[CounterRow], figures: DatabaseFigures | None, *, engine: str, now_ms: int, accept: str | None
) -> tuple[bytes, str]:
    """All metrics, and their content type, chosen by `accept` (the request's header)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_All(places, figures, engine=engine, now_ms=now_ms))
    encode, content_type = choose_encoder(accept or "")
    return encode(registry), content_type


class _All(Collector):
    def __init__(
        self, places: Sequence[CounterRow], figures: DatabaseFigures | None, *, engine: str, now_ms: int
    ) -> None:
        self._places = places
        self._figures = figures
        self._engine = engine
        self._now_ms = now_ms

    def collect(self) -> Iterator[Metric]:
        for family in of.COUNTED:
            yield _counted(family, self._places)
        yield _gauge(of.DATABASE_UP, {(): int(self._figures is not None)})
        if self._figures is not None:
            yield from _in_database(self._figures, self._now_ms)
        running = {str(number): place.cells[0] for number, place in enumerate(self._places, 1) if place.cells[0]}
        yield _gauge(of.WORKERS, {(): len(running)})
        yield from _processes(running)
        build = {"version": farebox.__version__, "database": self._engine, "python": platform.python_version()}
        yield InfoMetricFamily("farebox_build", "The running release.", build)


def _counted(family: Family, places: Sequence[CounterRow]) -> Metric:
    """A family whose counts are in the sheet: the sums over all processes."""
    if family.kind == "gauge":
        places = [place for place in places if place.cells[0]]
    columns = [(values, places[0].layout.column(family, values) if places else 0) for values in family.children]
    if family.kind == "histogram":
        return _histogram(family, places, columns)
    together = max if family.kind == "gauge" and family.combine == "max" else sum
    values = {values: together([place.cells[at] for place in places]) if places else 0 for values, at in columns}
    return _gauge(family, values) if family.kind == "gauge" else _counter(family, values)


def _histogram(family: Family, places: Sequence[CounterRow], columns: Iterable[tuple[tuple[str, ...], int]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=_names(family))
    bounds = [*(str(bound / family.per_unit) for bound in family.bounds), "+Inf"]
    for values, at in columns:
        *counts, total = (sum(place.cells[at + step] for place in places) for step in range(family.width))
        metric.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total / family.per_unit)
    return metric


def _counter(family: Family, values: Mapping[tuple[str, ...], int]) -> Metric:
    metric = CounterMetricFamily(family.name, family.help, labels=_names(family))
    for labels, value in values.items():
        metric.add_metric(labels, _in_units(family, value))
    return metric


def _gauge(family: Family, values: Mapping[tuple[str, ...], int]) -> Metric:
    metric = GaugeMetricFamily(family.name, family.help, labels=_names(family))
    for labels, value in values.items():
        metric.add_metric(labels, _in_units(family, value))
    return metric


def _in_units(family: Family, value: int) -> float:
    return value if family.per_unit == 1 else value / family.per_unit


def _names(family: Family) -> list[str]:
    return [label.name for label in family.labels]


def _in_database(figures: DatabaseFigures, now_ms: int) -> Iterator[Metric]:
    age = 0 if figures.oldest_hold_at is None else max(0, now_ms - figures.oldest_hold_at)
    yield _gauge(of.OPEN_HOLDS, {(): figures.open_holds})
    yield _gauge(of.OPEN_HOLDS_USD, {(): figures.open_holds_nanos})
    yield _gauge(of.OPEN_HOLDS_AGE, {(): age})
    states = of.OPEN_TOP_UPS_NOW.children
    yield _gauge(of.OPEN_TOP_UPS_NOW, {(state,): figures.open_top_ups.get(state, 0) for (state,) in states})
    yield _gauge(of.EVENTS_WAITING, {(): figures.events_waiting})
    yield _gauge(of.DELIVERIES_WAITING, {(): figures.deliveries_waiting})
    yield _gauge(of.INSTANCES, {(): figures.instances})


def _processes(running: Mapping[str, int]) -> Iterator[Metric]:
    """Memory, processor time and files of each gateway process, as prometheus-client reads them from /proc; the
    standard names, with the worker as label.
    """
    found: dict[str, Metric] = {}
    for worker, pid in running.items():
        try:
            metrics = list(ProcessCollector(pid=partial(int, pid), registry=None).collect())
        except (OSError, ValueError):  # the process has just ended; or a limit is `unlimited`, which is not a number
            continue
        for metric in metrics:
            kept = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                kept.add_sample(sample.name, {"worker": worker}, sample.value)
    yield from found.values()
