"""One gateway under load: rates, times, CPU of all its processes, memory, and when it billed the calls."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine
from bench.peers.peer import Served
from bench.run import CASES, CHAT, EVENTS, PLAIN_NANOS, SETTLE_SECONDS, STREAM_NANOS, STREAMED, Case
from bench.served import Broken, Mock

USUAL = ("ns1", "ns16", "ns64", "paced")
WARM = (CASES["ns16"], CASES["st16"])
GATEWAY = "gateway"
EVENTS_OF_STREAM = EVENTS + 2
"""Events of a stream, including the stop and the usage."""
CHAT_WITHOUT_MODEL = {key: value for key, value in CHAT.items() if key != "model"}
BILLING_SECONDS = 20.0
"""The longest wait for a gateway that bills afterwards; LiteLLM writes its spend every ten seconds."""
BILLING_POLL_SECONDS = 0.5
IDLE_SECONDS = 1.0


class Measurement:
    """A gateway, the provider behind it, and the amount that it should have billed so far."""

    def __init__(self, load_program: Path, folder: Path, mock: Mock, served: Served) -> None:
        self._load_program = load_program
        self._folder = folder
        self._mock = mock
        self._served = served
        self._due_nanos = 0
        self._idle_cores: dict[str, float] = {}
        for name, more in (("plain", {}), ("stream", STREAMED)):
            model = {} if served.model is None else {"model": served.model}
            body = {**CHAT_WITHOUT_MODEL, **model, **more}
            (folder / f"{name}.json").write_text(json.dumps(body, separators=(",", ":")))

    def rows(self, cases: list[Case], *, seconds: float, warm: float) -> Iterator[dict[str, Any]]:
        """One row per case, after two warm-ups. Raises Broken if the gateway fails even those."""
        for case in WARM:
            came = self._load(case, warm)
            if not came["statuses"].get("200"):
                raise Broken(f"it answered no {'stream' if case.stream else 'call'}: {came['statuses'] or 'silence'}")
        if self._await_billing().get("lag_s"):
            before = self._cpu()
            time.sleep(IDLE_SECONDS)
            self._idle_cores = _differences(self._cpu(), before, IDLE_SECONDS)
        for case in cases:
            yield self._measure(case, seconds)

    def _measure(self, case: Case, seconds: float) -> dict[str, Any]:
        before = self._cpu()
        came = self._load(case, seconds)
        billing = self._await_billing()
        waited = billing.get("lag_s", 0.0)
        time.sleep(SETTLE_SECONDS)
        # While we wait for a gateway that bills late, only its CPU beyond that of an idle gateway counts for the calls.
        used = {
            name: max(cpu - waited * self._idle_cores.get(name, 0.0), 0.0)
            for name, cpu in _differences(self._cpu(), before).items()
        }
        responses, events = max(came["ok"], 1), came["events"]
        return {
            "case": asdict(case),
            **came,
            "cpu_s": {name: round(cpu, 2) for name, cpu in used.items()},
            "cpu_s_per_1000": {name: round(cpu / responses * 1000, 4) for name, cpu in used.items()},
            "cpu_s_per_100k_events": {name: round(cpu / events * 100_000, 3) for name, cpu in used.items()}
            if events
            else None,
            "pss_mb": self._memory(),
            **billing,
            "pace_ms": machine.pace_ms(),
            "load_average": os.getloadavg()[0],
        }

    def _load(self, case: Case, seconds: float) -> dict[str, Any]:
        self._mock.get(f"/control?latency=0&gap={case.gap_ms}&events={EVENTS}")
        served = self._served
        body = self._folder / ("stream.json" if case.stream else "plain.json")
        command: list[str | Path] = [self._load_program, "-p", str(served.port), "-b", body]
        if served.targets is not None:
            command += ["-f", served.targets]
        else:
            command += ["-u", served.path, *(word for header in served.headers for word in ("-H", header))]
        command += ["-c", str(case.connections), "-t", str(seconds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout:
            raise Broken(f"the load client failed with {done.returncode}")
        came: dict[str, Any] = json.loads(done.stdout)
        self._due_nanos += came["ok"] * (STREAM_NANOS if case.stream else PLAIN_NANOS)
        return came if served.says_done or not case.stream else _without_done(came)

    def _await_billing(self) -> dict[str, Any]:
        """Wait until all answered calls are billed, at most BILLING_SECONDS. None if the gateway does not bill."""
        billed = self._served.billed
        if billed is None:
            return {}
        start = time.monotonic()
        missing_at_end = missing = self._due_nanos - billed()
        while missing and time.monotonic() - start < BILLING_SECONDS:
            time.sleep(BILLING_POLL_SECONDS)
            missing = self._due_nanos - billed()
        lag = time.monotonic() - start if missing_at_end else 0.0
        self._due_nanos -= missing  # so that the next case is charged only with its own calls
        return {"unbilled_at_end_nanos": missing_at_end, "unbilled_nanos": missing, "lag_s": round(lag, 1)}

    def _cpu(self) -> dict[str, float]:
        apart = {name: machine.cpu_seconds(pid) for name, pid in self._served.apart.items()}
        return {GATEWAY: machine.cpu_seconds(self._served.pid) - sum(self._inside(apart)), **apart}

    def _memory(self) -> dict[str, float]:
        apart = {name: machine.memory_mb(pid)["pss"] for name, pid in self._served.apart.items()}
        whole = machine.memory_mb(self._served.pid)["pss"]
        return {GATEWAY: round(whole - sum(self._inside(apart)), 1), **apart}

    def _inside(self, apart: dict[str, float]) -> list[float]:
        """The figures of processes that are listed separately although they are children of the gateway's process."""
        tree = machine.tree(self._served.pid)
        return [figure for name, figure in apart.items() if self._served.apart[name] in tree]


def _differences(now: dict[str, float], before: dict[str, float], divisor: float = 1) -> dict[str, float]:
    return {name: (cpu - before[name]) / divisor for name, cpu in now.items()}


def _without_done(came: dict[str, Any]) -> dict[str, Any]:
    """Corrects the result for a gateway that omits `[DONE]`, whose streams the load client takes for broken: those with
    status 200 that came to their end count. The client has no times for them, and the events are those of the
    provider."""
    streams = came["statuses"].get("200", 0)
    return {
        **came,
        "ok": streams,
        "bad": came["bad"] - streams,
        "broken": came["broken"] - streams,
        "per_second": round(streams / came["seconds"], 1),
        "events": streams * EVENTS_OF_STREAM,
        **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "first_p50_ms", "first_p99_ms"), None),
    }
