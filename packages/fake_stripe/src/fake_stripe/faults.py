"""Faults that the tester queues: lost, broken and failed responses, before or after the work is done."""

import re
from dataclasses import dataclass

from fake_stripe.errors import Json

KINDS = (
    "timeout_before",
    "timeout_after_commit",
    "error_500_before",
    "error_500_after_commit",
    "reset_before",
    "reset_after_commit",
    "rate_limit_429",
    "delay_ms",
)


class BadFault(ValueError):
    """The tester asked for an invalid fault."""


@dataclass(slots=True)
class Fault:
    """One kind of fault for the next matching requests."""

    match: str
    kind: str
    times: int = 1
    milliseconds: int = 0
    saved: bool = True
    """Whether the idempotency key of a failed request stores the 500; not if it fails on the way to the API."""

    def fits(self, method: str, path: str) -> bool:
        """Whether the fault applies to a request; `*` stands for one part of the path, `**` for any number."""
        pattern = re.escape(self.match).replace(r"\*\*", ".*").replace(r"\*", "[^/ ]+").replace("\\ ", " ")
        return re.fullmatch(pattern, f"{method} {path}") is not None

    def shown(self) -> Json:
        return {
            "match": self.match,
            "kind": self.kind,
            "times": self.times,
            "milliseconds": self.milliseconds,
            "saved": self.saved,
        }


class Faults:
    """The queue: a request gets the first fault that matches it."""

    def __init__(self) -> None:
        self.queue: list[Fault] = []

    def add(self, values: Json) -> None:
        """Queue a fault. Raises BadFault."""
        kind = values.get("kind")
        if kind not in KINDS:
            raise BadFault(f"kind must be one of {', '.join(KINDS)}")
        times, milliseconds = values.get("times", 1), values.get("milliseconds", values.get("delay_ms", 0))
        if not isinstance(times, int) or not isinstance(milliseconds, int) or times < 1 or milliseconds < 0:
            raise BadFault("times and milliseconds must be whole numbers, times at least 1")
        match = str(values.get("match") or "**")
        self.queue.append(Fault(match, kind, times, milliseconds, values.get("saved") is not False))

    def take(self, method: str, path: str) -> Fault | None:
        for fault in self.queue:
            if fault.fits(method, path):
                fault.times -= 1
                if fault.times == 0:
                    self.queue.remove(fault)
                return fault
        return None
