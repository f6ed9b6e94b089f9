"""What a gateway's rules would find in a text, for the person who sets them. Nothing is called, counted or stored."""

from dataclasses import dataclass, field

from farebox.calls.screening.findings import Findings
from farebox.calls.screening.scoring import hazards_of
from farebox.detection.rules import Side
from farebox.detection.scan import Match, scan
from farebox.gateway import Check, GatewayConfig
from farebox.helper_processes import HelperDied, PoolBusy, TooMuchWork
from farebox.runtime.scorer import ScorerFailed, ScoringRequest
from farebox.runtime.services import Services
from farebox.screened import Screened


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a trial."""

    blocked: bool
    screened: Screened
    matches: list[Match] = field(default_factory=list)
    """Positions in bytes of the text."""


async def try_text(
    services: Services, account_id: str, gateway_id: str, config: GatewayConfig, check: Check, text: bytes
) -> Trial:
    """Screen the text as if it were all the text of a request or a response."""
    rules = await services.configuration.screening_rules(account_id, gateway_id, config)
    side, findings = rules.request if check == "REQUEST" else rules.response, Findings()
    matches: list[Match] = []
    try:
        matches = await _matches(services, account_id, side, text)
    except (PoolBusy, HelperDied, TooMuchWork):
        findings.unscreened(check, "it could not be checked now")
    blocked = findings.matched(check, side, matches)
    request = ScoringRequest(account=account_id, gateway=gateway_id, check=check, provider="", model="")
    try:
        if side.hazards and text.strip():
            blocked = findings.hazardous(check, side, await hazards_of(services, request, side, text)) or blocked
    except ScorerFailed as failure:
        findings.unscreened(check, f"the scorer failed: {failure}")
    return Trial(blocked, findings.screened() or Screened(), matches)


async def _matches(services: Services, account_id: str, side: Side, text: bytes) -> list[Match]:
    """Raises Busy, Died, TooMuch."""
    if side.scanner is None:
        return []
    return await services.helpers.run(account_id, scan, text, side.scanner.profiles)
