"""What recorded calls say of the bounds that holds rely on: the template of a chat, and output that is in its text."""

from collections.abc import Iterable
from typing import Any

from bench.recordings import Exchange
from farebox.pricing.ceilings import shows_output
from farebox.pricing.chat_template import count_chat
from farebox.providers.formats.base import Observed
from farebox.providers.formats.length_end import length_end_of


def observed(exchange: Exchange) -> Observed:
    """What Farebox reads of the recorded response."""
    events = exchange.response_type.startswith("text/event-stream")
    reader = exchange.wire.reader(exchange.parsed, streaming=events, hide_usage=False)
    reader.feed(exchange.response)
    return reader.close()[1]


def rows(recorded: Iterable[Exchange]) -> list[dict[str, Any]]:
    """By model: by how much the count of a chat missed what was reported; and how many more tokens than bytes of text a
    response of those billed whose output is said to be in its text."""
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
