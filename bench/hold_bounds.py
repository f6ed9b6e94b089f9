"""Checks the bounds that holds rely on against recorded calls: the chat template, and the output counted from its
text."""

from collections.abc import Iterable
from typing import Any

from bench.recordings import Exchange
from farebox.pricing.ceilings import shows_output
from farebox.pricing.chat_template import count_chat
from farebox.providers.formats.base import Observed
from farebox.providers.formats.length_end import length_end_of


def observed(exchange: Exchange) -> Observed:
    """What Farebox reads from the recorded response."""
    events = exchange.response_type.startswith("text/event-stream")
    reader = exchange.wire.reader(exchange.parsed, streaming=events, hide_usage=False)
    reader.feed(exchange.response)
    return reader.close()[1]


def rows(recorded: Iterable[Exchange]) -> list[dict[str, Any]]:
    """By model: the difference between the counted and the reported input of a chat; and, for responses whose output is
    said to be in its text, how many more tokens were billed than the text has bytes."""
    missed: dict[str, list[int]] = {}
    beyond: dict[str, list[int]] = {}
    for exchange in recorded:
        demand, seen = exchange.parsed.demand, observed(exchange)
        if not seen.usage or seen.missing or seen.failed:
            continue
        name = f"{exchange.provider}/{demand.model}"
        counted = (
            count_chat(exchange.provider, demand.model, exchange.request) if exchange.place.path == _CHAT else None
        )
        if counted is not None:
            missed.setdefault(name, []).append(int(seen.usage.get("input_tokens", 0)) - counted)
        hidden = demand.hides_reasoning or demand.unseen or demand.allowed or demand.fixed or demand.no_output
        seen_as_billed = shows_output(exchange.provider, demand.model) and not hidden
        if seen_as_billed and length_end_of(exchange.wire.name, usage_requested=False) is not None:
            beyond.setdefault(name, []).append(int(seen.usage.get("output_tokens", 0)) - seen.delivered_bytes)
    return [
        {"case": "bounds", "of": of, "model": name, "calls": len(found), "least": min(found), "most": max(found)}
        for of, by_model in (("template", missed), ("output", beyond))
        for name, found in sorted(by_model.items())
    ]


_CHAT = "chat/completions"
