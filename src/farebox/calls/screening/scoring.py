"""Asking the scorer about a text of any length, part by part."""

import asyncio
from typing import Final

from msgspec.structs import replace

from farebox.detection.rules import Side
from farebox.metrics.families import SCORER_ASKED
from farebox.runtime.scorer import TEXT_BYTES_MAX, Scorer, ScorerFailed, ScoringRequest
from farebox.runtime.services import Services

AT_ONCE: Final = 4
"""Maximum number of parts of one text that the scorer is asked about at the same time."""
OVERLAP: Final = 200
"""Bytes that a part shares with the previous one, so that a sentence is complete in one of them."""


async def hazards_of(services: Services, request: ScoringRequest, side: Side, text: bytes) -> set[str]:
    """The categories that the scorer finds in the text; once one is found that the gateway blocks, perhaps not all of
    them. `request`: about each part. Raises ScorerFailed."""
    scorer = services.scorer
    if scorer is None:
        raise ScorerFailed("the operator has set none")
    wanted = {name for name, action in side.hazards.items() if action == "BLOCK" or not side.hazard_blocks}
    if not wanted <= scorer.hazards:
        raise ScorerFailed(f"it does not judge {', '.join(sorted(wanted - scorer.hazards))}")
    found: set[str] = set()
    parts = _parts(text)
    for at in range(0, len(parts), AT_ONCE):
        requests = [replace(request, text=part.decode("utf-8", "ignore")) for part in parts[at : at + AT_ONCE]]
        for categories in await _all(services, scorer, requests):
            found |= categories
        if any(side.hazards.get(name) == "BLOCK" for name in found):
            break
    return found


async def _all(services: Services, scorer: Scorer, requests: list[ScoringRequest]) -> list[frozenset[str]]:
    """Ask all questions. Raises ScorerFailed, but only after none is under way any more."""
    if len(requests) == 1:
        return [await _one(services, scorer, requests[0])]
    answers = await asyncio.gather(*(_one(services, scorer, request) for request in requests), return_exceptions=True)
    found: list[frozenset[str]] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        found.append(answer)
    return found


async def _one(services: Services, scorer: Scorer, request: ScoringRequest) -> frozenset[str]:
    began = services.clock.monotonic()
    try:
        categories = await scorer.judge(request)
    except ScorerFailed:
        services.metrics.count(SCORER_ASKED, "failed")
        raise
    services.metrics.count(SCORER_ASKED, "answered")
    services.metrics.observe_scorer(services.clock.monotonic() - began)
    return categories


def _parts(text: bytes) -> list[bytes]:
    step = TEXT_BYTES_MAX - OVERLAP
    return [text[at : at + TEXT_BYTES_MAX] for at in range(0, max(1, len(text) - OVERLAP), step)]
