"""`python -m bench.scale`: the load of many gateways and accounts on one database, by simulation.

Nothing is measured here. The constants come from bench/results: the cost for PostgreSQL of a batch and of each item in
it is fitted to `ledger-postgres`; the cost of a call for a gateway, and of its row on disk, is that of
`calls-postgres-1` with many clients; the overhead of Citus is that of `ledger-citus`. Calls arrive at random, wait for
their gateway's processor, and then, in the lane of their account's bucket, for the previous batch, which travels, waits
for a core of the database, and commits. The same happens again to settle. docs/scale.md has the results and what the
simulation leaves out.
"""

import argparse
import sys

from bench.record import write
from bench.simulation import Costs, Plan, Simulation, costs

AWAY_MS = (0.5, 20, 80, 150)
"""A gateway next to the database; on the same continent; across an ocean; on the other side of the world."""
BUSY = 0.7
"""The planned utilization of a core."""


def gateways_for(calls: float, costs: Costs) -> int:
    return max(1, round(calls * costs.call / BUSY + 0.5))


def plans(costs: Costs) -> list[Plan]:
    """The plans that docs/scale.md shows."""
    one = [(calls, 0, 16, 1, False) for calls in (1_000, 3_000, 6_000, 12_500, 25_000, 50_000)]
    many = [
        (calls, nodes, cores, buckets, sticky)
        for calls, nodes, cores, buckets in ((12_500, 4, 16, 32), (50_000, 8, 16, 64), (100_000, 16, 32, 128))
        for sticky in (False, True)
    ]
    found = [
        Plan(calls, gateways_for(calls, costs), nodes, cores, buckets, sticky=sticky)
        for calls, nodes, cores, buckets, sticky in one + many
    ]
    found.append(Plan(12_500, gateways_for(12_500, costs), 4, 16, 32, hot=0.5))
    away = [Plan(1_000, gateways_for(1_000, costs), 0, 16, 1, away_s=ms / 1000) for ms in AWAY_MS]
    return found + away


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds to simulate (default 1.5)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    known = costs()
    print(known)
    rows = []
    for plan in plans(known):
        seconds = arguments.seconds + 20 * plan.away_s  # until the first calls are finished
        rows.append(Simulation(plan, known, seconds, arguments.seed).run())
        print(rows[-1], flush=True)
    write("scale", rows, costs={name: getattr(known, name) for name in Costs.__slots__})
    return 0


if __name__ == "__main__":
    sys.exit(main())
