"""What a Messages response bills besides its top-level usage, and at whose prices: the entries of `usage.iterations`.

- `message`: a pass of the model that responded. Inside the top-level figures, unless it names another model: then it is
  an attempt that was declined and handed over to a fallback. Such an attempt is billed at its own model's prices if it
  had begun to respond, and is free if it had not.
- `fallback_message`: the attempt that responded in place of the requested model. The top-level figures repeat it.
- `compaction`, `advisor_message`: not in the top-level figures; billed at the prices of the call's own model, and of
  the model that the entry names.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from farebox.pricing.model import FurtherModel
from farebox.providers.formats.base import FurtherUsage
from farebox.usage import AbsurdUsage, Quantity

Read = Callable[[Mapping[str, object]], Mapping[str, Quantity]]
_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class Iterations(msgspec.Struct, frozen=True):
    """How a response's usage is billed."""

    model: str = ""
    """The model whose prices the top-level figures have; empty for the call's own."""
    further: tuple[FurtherUsage, ...] = ()
    notes: tuple[str, ...] = ()


ONE_PASS = Iterations()

ADVICE_MAX: Final = 5
"""Uses of an advisor to hold for if the request does not say how often it may be asked."""


def further_models(
    advisors: Iterable[FurtherModel], fallbacks: object, output_max: int | None, *, compacted: bool
) -> tuple[FurtherModel, ...]:
    """What a request lets run in addition to its own model: its advisors, the entries of `fallbacks`, and one pass that
    summarizes the conversation."""
    found = list(advisors)
    for entry in fallbacks if isinstance(fallbacks, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("model"), str):
            most = entry.get("max_tokens")
            found.append(FurtherModel(entry["model"], 1, most if isinstance(most, int) else output_max))
    if compacted:
        found.append(FurtherModel(""))
    return tuple(found)


def unnamed_fallback(fallbacks: object) -> str | None:
    """Why the fallbacks cannot be priced; None if each names its model."""
    named = fallbacks is None or (
        isinstance(fallbacks, list) and all(isinstance(one, dict) and one.get("model") for one in fallbacks)
    )
    return None if named else "which model `fallbacks` lets answer is not in the request: name the models in a list"


def compacts_context(context_management: object) -> bool:
    """Whether a long conversation is to be summarized (`compact_20260112`)."""
    edits = context_management.get("edits") if isinstance(context_management, dict) else None
    return isinstance(edits, list) and any(
        isinstance(edit, dict) and str(edit.get("type")).startswith("compact") for edit in edits
    )


def iterations(usage: Mapping[str, object], read: Read) -> Iterations:
    """What the entries bill; `read` reads the figures of one entry."""
    listed = usage.get("iterations")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    if not entries:
        return ONE_PASS
    served = next((entry for entry in reversed(entries) if entry.get("type") == "fallback_message"), None)
    separate = served is not None and _is_separate(usage, served, entries)
    answered = str(served.get("model") or "") if served is not None and not separate else ""
    further: list[FurtherUsage] = []
    notes: list[str] = []
    for entry in entries:
        model = _billed_as(entry, served, answered, separate=separate, inside=_is_total(usage, served, entries))
        if model is None:
            continue
        try:
            figures = read(entry)
        except AbsurdUsage as absurd:
            notes.append(f"an entry of `usage.iterations` is impossible: {absurd}")
            continue
        if figures:
            further.append(FurtherUsage(model, figures))
    return Iterations(answered, tuple(further), tuple(notes))


def _billed_as(
    entry: Mapping[str, Any], served: Mapping[str, Any] | None, answered: str, *, separate: bool, inside: bool
) -> str | None:
    """The model by whose prices the entry is billed in addition to the top-level figures; None if it is not."""
    kind, model = entry.get("type"), str(entry.get("model") or "")
    if kind == "compaction":
        return model
    if kind == "fallback_message":
        return model if separate and entry is served else None
    if kind == "message":
        if served is None or separate or not entry.get("output_tokens"):
            return None  # inside, or declined before it said anything
        if model:
            return model if model != answered else None
        return None if inside else ""
    return model or None  # an advisor, or a type that is newer than this code


def _is_separate(usage: Mapping[str, object], served: Mapping[str, object], entries: list[dict[str, Any]]) -> bool:
    """Whether the top-level figures are those of the other entries alone."""
    passes = [entry for entry in entries if entry.get("type") == "message"]
    same = all(_count(usage, key) == sum(_count(entry, key) for entry in passes) for key in _COUNTS)
    repeated = all(_count(usage, key) == _count(served, key) for key in _COUNTS)
    return bool(passes) and same and not repeated


def _is_total(usage: Mapping[str, object], served: Mapping[str, object] | None, entries: list[dict[str, Any]]) -> bool:
    """Whether the top-level output is that of all passes that name no other model, and of the fallback."""
    if served is None:
        return True
    passes = [entry for entry in entries if entry.get("type") == "message" and not entry.get("model")]
    output = _count(served, "output_tokens") + sum(_count(entry, "output_tokens") for entry in passes)
    return _count(usage, "output_tokens") == output


def _count(figures: Mapping[str, object], key: str) -> int:
    value = figures.get(key)
    return value if isinstance(value, int) else 0
