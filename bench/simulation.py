"""Many gateways on one database, simulated: what bench.scale runs. It needs nothing but bench/results."""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.stored import read

BATCH_MAX = 256
PROVIDER_S = 0.5
"""The latency of a provider; it affects only how many holds are open, which nothing here limits."""
COMMIT_S = 0.001
"""A durable commit with a standby in the same data center; all batches that wait for it share it."""


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds, and bytes."""

    call: float
    """A gateway's CPU for one call."""
    batch: float
    item: float
    """The database's CPU for a batch, and for each hold or charge in it."""
    citus: float
    """How many times as much all nodes of a cluster use together."""
    coordinator: float
    """The coordinator's part of that."""
    stored: float
    """Bytes on disk for one call: log row with both bodies, receipt, transfer."""


def costs() -> Costs:
    """From the stored measurements. Raises LookupError if one has not been made."""
    ledger, calls, citus = (_rows(name) for name in ("ledger-postgres", "calls-postgres-1", "ledger-citus"))
    points = [
        (1 / min(row["tasks"], BATCH_MAX), row["database_cpu_s_per_1000"] / 2000)
        for row in ledger
        if row["accounts"] > 1
    ]
    batch, item = fitted(points)
    many = min((row for row in calls if row.get("cpu_s_per_1000")), key=lambda row: row["cpu_s_per_1000"])
    plain = [row for row in calls if not row["case"]["stream"]]
    grown = (plain[1]["database_mb"] - plain[0]["database_mb"]) * 2**20 / plain[1]["ok"]
    factor = sum(row["database_cpu_s_per_1000"] for row in citus if row["engine"] == "citus") / sum(
        row["database_cpu_s_per_1000"] for row in citus if row["engine"] == "postgres"
    )
    of_citus = [row for row in citus if row["engine"] == "citus"]
    part = sum(row["coordinator_cpu_s_per_1000"] for row in of_citus) / sum(
        row["database_cpu_s_per_1000"] for row in of_citus
    )
    return Costs(many["cpu_s_per_1000"] / 1000, batch, item, factor, part, grown)


def fitted(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line through the points."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return slope, mean_y - slope * mean_x


def _rows(name: str) -> list[dict[str, Any]]:
    found = read(name)
    if found is None:
        raise LookupError(f"bench/results/{name}.json is missing")
    rows: list[dict[str, Any]] = found["rows"]
    return rows


@dataclass(frozen=True, slots=True)
class Plan:
    """One cell: a database with its gateways."""

    calls: float
    """A second."""
    gateways: int
    """Processes, each on a core of its own."""
    nodes: int
    """Nodes of a cluster, without its coordinator; 0: one PostgreSQL."""
    cores: int
    """Cores of each machine of the database."""
    buckets: int
    away_s: float = 0.0005
    """A round trip between gateway and database."""
    sticky: bool = False
    """Whether all calls of a bucket go to one gateway."""
    hot: float = 0.0
    """The part of all calls that one account makes."""


class Cores:
    """The cores of one machine: each job takes the first that is free."""

    def __init__(self, count: int) -> None:
        self._free = [0.0] * count
        self.used = 0.0
        self.count = count

    def work(self, at: float, seconds: float) -> float:
        """The time at which the job is done."""
        begins = max(at, heapq.heappop(self._free))
        heapq.heappush(self._free, begins + seconds)
        self.used += seconds
        return begins + seconds


@dataclass(slots=True)
class Lane:
    pending: deque[tuple[float, Callable[[float], None]]] = field(default_factory=deque)
    busy: bool = False


class Simulation:
    def __init__(self, plan: Plan, costs: Costs, seconds: float, seed: int) -> None:
        self._plan, self._costs, self._chance = plan, costs, random.Random(seed)
        self._seconds = seconds
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self.gateways = [Cores(1) for _ in range(plan.gateways)]
        self.nodes = [Cores(plan.cores) for _ in range(max(plan.nodes, 1))]
        self.coordinator = Cores(plan.cores) if plan.nodes else None
        self._lanes: dict[tuple[int, int], Lane] = {}
        self.added: list[float] = []
        self.batches = self.items = 0

    def run(self) -> dict[str, Any]:
        self._at(self._chance.expovariate(self._plan.calls), self._arrive)
        while self._events:
            at, _, event = heapq.heappop(self._events)
            if at > self._seconds:
                break
            event(at)
        return self._said()

    def _at(self, at: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at, next(self._order), event))

    def _arrive(self, at: float) -> None:
        self._at(at + self._chance.expovariate(self._plan.calls), self._arrive)
        plan = self._plan
        bucket = 0 if self._chance.random() < plan.hot else self._chance.randrange(plan.buckets)
        gateway = bucket % plan.gateways if plan.sticky else self._chance.randrange(plan.gateways)
        half = self._costs.call / 2

        def held(done: float) -> None:
            self._at(done + PROVIDER_S, lambda came: self._settle(came, gateway, bucket, at))

        self._at(self.gateways[gateway].work(at, half), lambda ready: self._put(ready, gateway, bucket, held))

    def _settle(self, at: float, gateway: int, bucket: int, began: float) -> None:
        def settled(done: float) -> None:
            self.added.append(done - began - PROVIDER_S)

        ready = self.gateways[gateway].work(at, self._costs.call / 2)
        self._at(ready, lambda now: self._put(now, gateway, bucket, settled))

    def _put(self, at: float, gateway: int, bucket: int, done: Callable[[float], None]) -> None:
        lane = self._lanes.setdefault((gateway, bucket), Lane())
        lane.pending.append((at, done))
        if not lane.busy:
            self._send(at, lane, bucket)

    def _send(self, at: float, lane: Lane, bucket: int) -> None:
        lane.busy = bool(lane.pending)
        batch = [lane.pending.popleft() for _ in range(min(len(lane.pending), BATCH_MAX))]
        if not batch:
            return
        self.batches, self.items = self.batches + 1, self.items + len(batch)
        cpu = self._costs.batch + self._costs.item * len(batch)
        arrives = at + self._plan.away_s / 2
        if self.coordinator is None:
            self._at(arrives, lambda now: self._node(now, cpu, lane, bucket, batch))
            return
        cpu *= self._costs.citus
        own = cpu * self._costs.coordinator
        coordinator = self.coordinator

        def passed(now: float) -> None:
            self._at(coordinator.work(now, own), lambda there: self._node(there, cpu - own, lane, bucket, batch))

        self._at(arrives, passed)

    def _node(
        self, at: float, cpu: float, lane: Lane, bucket: int, batch: list[tuple[float, Callable[[float], None]]]
    ) -> None:
        node = self.nodes[bucket % len(self.nodes)]
        back = node.work(at, cpu) + COMMIT_S + self._plan.away_s / 2

        def answered(now: float) -> None:
            for _, done in batch:
                done(now)
            self._send(now, lane, bucket)

        self._at(back, answered)

    def _said(self) -> dict[str, Any]:
        added = sorted(self.added) or [float("inf")]
        plan, seconds = self._plan, self._seconds
        return {
            "calls": plan.calls,
            "gateways": plan.gateways,
            "nodes": plan.nodes,
            "cores": plan.cores,
            "buckets": plan.buckets,
            "sticky": plan.sticky,
            "hot": plan.hot,
            "away_ms": plan.away_s * 1000,
            "served_per_second": round(len(self.added) / (seconds - PROVIDER_S)),
            "items_in_a_batch": round(self.items / max(self.batches, 1), 1),
            "gateway_busy": _part(self.gateways, seconds),
            "coordinator_busy": _part([self.coordinator], seconds) if self.coordinator else None,
            "node_busy": _part(self.nodes, seconds),
            "added_p50_ms": round(added[len(added) // 2] * 1000, 1),
            "added_p99_ms": round(added[len(added) * 99 // 100] * 1000, 1),
        }


def _part(cores: list[Cores], seconds: float) -> float:
    """Utilization of the busiest."""
    return round(max(min(each.used / each.count / seconds, 1.0) for each in cores), 2)
