"""The targets, and whether the results meet them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import stored


@dataclass(frozen=True, slots=True)
class Target:
    """One target. `figures` are the measured values, each with its minimum or maximum; None: not measured."""

    what: str
    aim: str
    command: str
    figures: tuple[tuple[float | None, float], ...]
    at_least: bool = False
    unit: str = ""
    digits: int = 2

    @property
    def measured(self) -> str:
        said = ("not measured" if figure is None else f"{figure:,.{self.digits}f}" for figure, _ in self.figures)
        return " / ".join(said) + (f" {self.unit}" if self.unit else "")


def reached(target: Target) -> bool | None:
    """Whether every figure meets the target; None if one was not measured."""
    if any(figure is None for figure, _ in target.figures):
        return None
    return all((figure or 0) >= aim if target.at_least else (figure or 0) <= aim for figure, aim in target.figures)


def targets() -> list[Target]:
    lite, post = "calls-sqlite-1", "calls-postgres-1"
    run, both = "python -m bench.run", "python -m bench.run [--engine postgres]"
    ledger = ("python -m bench.ledger", True, "", 0)
    return [
        Target(
            "CPU s per 1,000 billed plain calls, 16 clients, SQLite", "0.12", run,
            ((_case(lite, "ns16", "cpu_s_per_1000"), 0.12),), digits=3,
        ),
        Target(
            "the same on PostgreSQL: gateway / database", "0.12 / 0.06", f"{run} --engine postgres",
            ((_case(post, "ns16", "cpu_s_per_1000"), 0.12), (_case(post, "ns16", "database_cpu_s_per_1000"), 0.06)),
            digits=3,
        ),
        Target(
            "CPU s per 100,000 paced stream events, SQLite / PostgreSQL", "6", both,
            tuple((_case(name, "paced", "cpu_s_per_100k_events"), 6.0) for name in (lite, post)),
        ),
        Target(
            "CPU of a plain call / of a paced stream event, of TensorZero's in the same run (Rust, bills nothing)",
            "1.2 / 1", "python -m bench.peers --names nginx,tensorzero",
            ((_of_peer("tensorzero", "cpu_of_calls"), 1.2), (_of_peer("tensorzero", "cpu_of_paced_events"), 1.0)),
        ),
        Target(
            "durable ledger pairs/s, SQLite, one account", "20,000", ledger[0],
            ((_pairs("sqlite", many=False), 20_000),), *ledger[1:],
        ),
        Target(
            "durable ledger pairs/s, PostgreSQL, 10,000 accounts", "10,000", f"{ledger[0]} --engine postgres",
            ((_pairs("postgres", many=True), 10_000),), *ledger[1:],
        ),
        Target(
            "latency added by a billed call, 1 client, SQLite, p50 / p99", "1.5 / 5 ms", run,
            ((_added(lite, "p50_ms"), 1.5), (_added(lite, "p99_ms"), 5.0)), unit="ms",
        ),
        Target(
            "the same on PostgreSQL", "3 / 8 ms", f"{run} --engine postgres",
            ((_added(post, "p50_ms"), 3.0), (_added(post, "p99_ms"), 8.0)), unit="ms",
        ),
        Target(
            "`credit-balance`, rate relative to a bare handler on Granian (Rust), SQLite / PostgreSQL", "0.5",
            "python -m bench.reads [--engine postgres]",
            tuple((_of_bare(engine, "bare"), 0.5) for engine in ("sqlite", "postgres")), at_least=True,
        ),
        Target(
            "the same, to one on Farebox's own server", "0.5", "python -m bench.reads [--engine postgres]",
            tuple((_of_bare(engine, "bare_own"), 0.5) for engine in ("sqlite", "postgres")), at_least=True,
        ),
        *_of_growth(),
        Target(
            "memory of an idle gateway process, SQLite / PostgreSQL", "120 MB",
            "python -m bench.soak [--engine postgres]",
            tuple((_fact(f"soak-{engine}", "idle_mb"), 120) for engine in ("sqlite", "postgres")), unit="MB", digits=0,
        ),
        Target(
            "own memory under load, last quarter over first, SQLite / PostgreSQL", "1.03",
            "python -m bench.soak [--engine postgres]",
            tuple((_fact(f"soak-{engine}", "growth"), 1.03) for engine in ("sqlite", "postgres")), digits=3,
        ),
        *_of_cluster(),
    ]  # fmt: skip


def _of_growth() -> list[Target]:
    command = "python -m bench.growth [--engine postgres] --accounts 1000,1000000 --calls 100000,10000000"
    engines = ("growth-sqlite", "growth-postgres")
    return [
        Target(
            f"{what}, latency at the largest size over the smallest (p50), SQLite / PostgreSQL", "1.2", command,
            tuple((_grown(name, case), 1.2) for name in engines), unit=_size(*engines),
        )
        for what, case in (("balance", "balance"), ("admission", "admission"))
    ] + [
        Target(
            "`usage-history` of the busy account, 90 days by hour, largest size, SQLite / PostgreSQL",
            "50 ms", command, tuple((_slowest(name, "usage"), 50.0) for name in engines),
            unit=f"ms {_size(*engines)}", digits=1,
        )
    ]  # fmt: skip


def _of_cluster() -> list[Target]:
    by_turns = "python -m bench.ledger --engine postgres,citus,… --buckets 8 --pairs N"
    return [
        Target(
            "Citus, 8 buckets, database CPU of plain PostgreSQL's", "2.5", by_turns,
            ((_of_plain("ledger-citus", "database_cpu_s_per_1000"), 2.5),),
        ),
        Target(
            "the same for `farebox check`, CPU of both ends", "3", by_turns,
            ((_of_plain("ledger-citus-check", "check_cpu_s"), 3.0),),
        ),
        Target(
            "Citus, pairs/s with 3 workers of a part of a core each, of those with 1", "2.7",
            "python -m bench.ledger --engine citus,citus --workers 1,3 --cap 0.1", ((_of_one_worker(), 2.7),),
            at_least=True,
        ),
    ]  # fmt: skip


# Figures from the results -----------------------------------------------------------------------------------------


def _rows(name: str, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    found = stored.read(name)
    return [] if found is None else [row for row in found["rows"] if wanted(row)]


def _fact(name: str, key: str) -> float | None:
    found = stored.read(name)
    return None if found is None else found[key]


def _case(name: str, case: str, key: str) -> float | None:
    rows = _rows(name, lambda row: row["case"]["name"] == case)
    return rows[0][key] if rows else None


def _added(name: str, key: str) -> float | None:
    """The latency that the gateway adds to a direct call of the provider, in milliseconds."""
    whole, direct = _case(name, "ns1", key), _case(name, "ns1", f"direct_{key}")
    return None if whole is None or direct is None else whole - direct


def _of_bare(engine: str, handler: str) -> float | None:
    found = stored.read(f"reads-{engine}")
    return None if found is None else float(found["ratio_to"][handler]["rate"])


def _of_peer(name: str, key: str) -> float | None:
    """Farebox's figure relative to a peer's."""
    found = stored.read("peers")
    ratio = found and found["ratios"].get(name, {}).get(key)
    return 1 / ratio if ratio else None


def _pairs(engine: str, *, many: bool) -> float | None:
    """The best row with one account, or with many."""
    names = [path.stem for path in stored.RESULTS.glob(f"ledger-{engine}*.json")]
    rows = [
        row["pairs_per_second"]
        for name in names
        for found in [stored.read(name) or {}]
        for row in found.get("rows", ())
        if row.get("engine", found.get("engine", "sqlite")) == engine and (row["accounts"] > 1) == many
    ]
    return max(rows, default=None)


def _grown(name: str, case: str) -> float | None:
    rows = _rows(name, lambda row: row["case"] == case and row["of"] == "many")
    return rows[-1]["p50_ms"] / rows[0]["p50_ms"] if len(rows) > 1 else None


def _size(*names: str) -> str:
    """Facts about the largest database."""
    sizes = [found["sizes"][-1] for name in names if (found := stored.read(name))]
    said = dict.fromkeys(f"{size['accounts']:,} accounts, {size['calls']:,} calls" for size in sizes)
    return f"({'; '.join(said)})" if said else ""


def _slowest(name: str, case: str) -> float | None:
    rows = _rows(name, lambda row: row["case"] == case and row["of"] == "busy")
    return rows[-1]["p50_ms"] if rows else None


def _smallest(name: str, engine: str, key: str) -> float | None:
    return min((row[key] for row in _rows(name, lambda row: row["engine"] == engine)), default=None)


def _of_plain(name: str, key: str) -> float | None:
    """The ratio of Citus's smallest turn to plain PostgreSQL's smallest turn."""
    citus, plain = _smallest(name, "citus", key), _smallest(name, "postgres", key)
    return None if citus is None or plain is None else citus / plain


def _of_one_worker() -> float | None:
    """The ratio of the best row with the most workers to the best with one."""
    best: dict[int, float] = {}
    for row in _rows("ledger-citus-workers", lambda row: True):
        best[row["workers"]] = max(best.get(row["workers"], 0), row["pairs_per_second"])
    return best[max(best)] / best[1] if 1 in best and len(best) > 1 else None
