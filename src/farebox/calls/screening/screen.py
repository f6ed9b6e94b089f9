"""Screening a call by the rules of its gateway: the request before anything is held, the response before it is passed
on. What cannot be screened does not pass if a rule blocks; if all rules only flag, it passes and the log says so.
"""

from typing import Final

import structlog

from farebox.calls.model import Call, Sink
from farebox.calls.screening.findings import Findings
from farebox.calls.screening.scoring import hazards_of
from farebox.calls.watch import Watch
from farebox.detection.body_text import Unreadable
from farebox.detection.reading import (
    INLINE_CANDIDATES,
    RAISES,
    ScanResult,
    is_light,
    read_request,
    read_response,
    scan_text,
)
from farebox.detection.request_text import request_text
from farebox.detection.response_text import response_text
from farebox.detection.rules import ScreeningRules, Side
from farebox.detection.scan import Match, TooManyCandidates, scan
from farebox.errors import (
    DLP_REQUEST_BLOCKED,
    DLP_RESPONSE_BLOCKED,
    PROMPT_BLOCKED,
    READERS_BUSY,
    REQUEST_UNSCREENED,
    RESPONSE_BLOCKED,
    RESPONSE_UNSCORED,
    RESPONSE_UNSCREENED,
    SCORER_UNAVAILABLE,
    Problem,
)
from farebox.gateway import Check
from farebox.helper_processes import HelperDied, PoolBusy, TooMuchWork
from farebox.metrics.families import SCREENED
from farebox.providers.formats.base import framed_reader
from farebox.runtime.observers import best_effort
from farebox.runtime.scorer import ScorerFailed, ScoringRequest
from farebox.runtime.services import Services

HEADER: Final = "cf-aig-dlp"
PROMPT_BYTES: Final = 2_000
"""Bytes of the end of the prompt that the scorer receives when it judges a response."""

log = structlog.get_logger("farebox.screening")


async def screening_of(services: Services, call: Call, sink: Sink, watch: Watch) -> "Screening | None":
    """The screening of a call; None if its gateway has no rules. Raises DatabaseUnavailable."""
    if not call.gateway.screens:
        return None
    rules = await services.configuration.screening_rules(call.account_id, call.gateway_id, call.gateway)
    return Screening(services, call, sink, watch, rules)


class Screening:
    """The screening of one call."""

    def __init__(self, services: Services, call: Call, sink: Sink, watch: Watch, rules: ScreeningRules) -> None:
        self.services = services
        self.call = call
        self._sink = sink
        self._watch = watch
        self._rules = rules
        self._prompt = ""
        self.findings = Findings()

    @property
    def response_rules(self) -> Side | None:
        """What is looked for in the response; None if nothing is."""
        side = self._rules.response
        return side if side.scanner is not None or side.hazards else None

    async def request(self) -> None:
        """Screen the request. Raises Problem if it does not pass; Interrupted if the client disconnects meanwhile."""
        side, call = self._rules.request, self.call
        self._check_readable()
        conversation = bool(side.hazards or self._rules.response.hazards)
        if not len(call.body) or not (side.scanner is not None or conversation):
            return
        with self._watch.waiting(self.services.settings.call_timeout_ms / 1000):
            try:
                result = await self._scan_of_request(side, conversation)
            except (PoolBusy, HelperDied, TooMuchWork, Unreadable) as error:
                self._unscreened_request(side, error)
                return
            if self.matched("REQUEST", side, result.matches):
                raise dlp_problem("REQUEST")
            self._prompt = result.conversation[-PROMPT_BYTES:].decode("utf-8", "ignore")
            problem = await self.hazards("REQUEST", side, result.conversation)
        if problem is not None:
            raise problem
        self.passed("REQUEST")

    def _check_readable(self) -> None:
        """Raises Problem, before anything is paid for, if the response will be a stream that is not screened: one in
        the background on the operator's key or, if a rule blocks, one in binary framing."""
        call = self.call
        if call.parsed is None or call.format is None or self.response_rules is None:
            return
        if call.parsed.background and call.parsed.stream and not call.own_key:
            raise Problem(
                RESPONSE_UNSCREENED,
                "The gateway's rules on responses do not allow a stream in the background: leave out `stream`, and "
                "fetch the response when it is complete.",
            )
        if self._rules.response.blocks and framed_reader(call.parsed, call.format) is not None:
            raise Problem(
                RESPONSE_UNSCREENED,
                "Amazon's event streams are not screened, and a rule of the gateway blocks: ask for a whole response.",
            )

    async def response(self, body: bytes, content_type: str) -> Problem | None:
        """Screen a complete response. Returns the error to send in its place if it does not pass."""
        side = self.response_rules
        if side is None:
            return None
        try:
            result = await self._scan_of_response(side, body, content_type)
        except (PoolBusy, HelperDied, TooMuchWork, Unreadable) as error:
            return self.unscreened_response(_why(error))
        if self.matched("RESPONSE", side, result.matches):
            return dlp_problem("RESPONSE")
        problem = await self.hazards("RESPONSE", side, result.conversation)
        if problem is None:
            self.passed("RESPONSE")
        return problem

    async def hit(self, body: bytes, content_type: str) -> Problem | None:
        """Screen a call that is answered with a stored response, by the rules as they are now. Raises Interrupted."""
        try:
            await self.request()
        except Problem as problem:
            return problem
        return await self.response(body, content_type)

    def matched(self, check: Check, side: Side, matches: list[Match], offset: int = 0) -> bool:
        """Record matches in a text that begins at `offset`. Returns whether a policy blocks it."""
        if not matches:
            return False
        blocked = self.findings.matched(check, side, matches, offset)
        self._sink.note(HEADER, self.findings.header())
        if blocked:
            self._count(check, "blocked")
        return blocked

    async def hazards(self, check: Check, side: Side, text: bytes) -> Problem | None:
        """Ask the scorer about a text. Returns the error that ends the call, if it does not pass."""
        if not side.hazards or not text.strip():
            return None
        try:
            found = await hazards_of(self.services, self._scoring_request(check), side, text)
        except ScorerFailed as failure:
            return self._unscored(check, side, failure)
        if not self.findings.hazardous(check, side, found):
            return None
        self._count(check, "blocked")
        if check == "REQUEST":
            return Problem(PROMPT_BLOCKED, "Prompt blocked due to security configurations")
        return Problem(RESPONSE_BLOCKED, "Response blocked due to security configurations")

    def _scoring_request(self, check: Check) -> ScoringRequest:
        call = self.call
        return ScoringRequest(
            account=call.account_id,
            gateway=call.gateway_id,
            check=check,
            provider=call.provider,
            model=call.model,
            prompt=self._prompt,
        )

    def unscreened_response(self, why: str) -> Problem | None:
        """A response cannot be screened: the error to send in its place, if a rule blocks."""
        self.findings.unscreened("RESPONSE", why)
        self._count("RESPONSE", "unscreened")
        if not self._rules.response.blocks:
            return None
        return Problem(
            RESPONSE_UNSCREENED, f"The response cannot be screened, and a rule of the gateway blocks: {why}."
        )

    async def find(self, side: Side, text: bytes) -> list[Match]:
        """The matches in a text, however long that takes. Raises Busy, Died, TooMuch."""
        scanner = side.scanner
        if scanner is None:
            return []
        if not side.in_helper and is_light(text):
            try:
                return scanner.find(text, INLINE_CANDIDATES)
            except TooManyCandidates:
                pass
        return await self.services.helpers.run(self.call.account_id, scan, text, scanner.profiles, must=True)

    async def _scan_of_request(self, side: Side, conversation: bool) -> ScanResult:
        """Read and scan the request. Raises Unreadable, Busy, Died, TooMuch."""
        body, call, scanner = self.call.body, self.call, side.scanner
        if isinstance(body, bytes) and not side.in_helper and is_light(body):
            try:
                return scan_text(request_text(body, call.content_type), scanner, conversation, INLINE_CANDIDATES)
            except TooManyCandidates:
                pass
        profiles = () if scanner is None else scanner.profiles
        run = self.services.helpers.run
        return await run(
            call.account_id, read_request, body, call.content_type, profiles, conversation, raises=RAISES, early=True
        )

    async def _scan_of_response(self, side: Side, body: bytes, content_type: str) -> ScanResult:
        """Read and scan a response. Raises Unreadable, Busy, Died, TooMuch."""
        scanner, needed = side.scanner, bool(side.hazards)
        if not side.in_helper and is_light(body):
            text = response_text(body, content_type)
            try:
                return ScanResult([], b"") if text is None else scan_text(text, scanner, needed, INLINE_CANDIDATES)
            except TooManyCandidates:
                pass
        profiles = () if scanner is None else scanner.profiles
        run = self.services.helpers.run
        return await run(
            self.call.account_id, read_response, body, content_type, profiles, needed, raises=RAISES, must=True
        )

    def _unscreened_request(self, side: Side, error: Exception) -> None:
        """The request cannot be screened. Raises Problem if a rule blocks."""
        if side.scanner is None and not side.hazards:  # its text is only needed when the response is scored
            return
        why = _why(error)
        self.findings.unscreened("REQUEST", why)
        self._count("REQUEST", "unscreened")
        if not side.blocks:
            return
        if isinstance(error, PoolBusy | HelperDied):
            raise Problem(READERS_BUSY, f"The request cannot be screened now: {why}.", retry_after=1) from error
        message = f"The request cannot be screened, and a rule of the gateway blocks: {why}."
        raise Problem(REQUEST_UNSCREENED, message) from error

    def _unscored(self, check: Check, side: Side, failure: ScorerFailed) -> Problem | None:
        with best_effort("the log"):
            log.warning("the scorer failed", why=str(failure), log_id=self.call.log_id)
        self.findings.unscreened(check, f"the scorer failed: {failure}")
        self._count(check, "unscreened")
        if not side.hazard_blocks:
            return None
        message = f"The scorer of the gateway's guardrails is unavailable: {failure}."
        if check == "REQUEST":
            return Problem(SCORER_UNAVAILABLE, message, retry_after=1)
        return Problem(RESPONSE_UNSCORED, message)

    def passed(self, check: Check) -> None:
        """Count that this side was screened without a blocking finding."""
        self._count(check, "flagged" if self.findings.has(check) else "passed")

    def _count(self, check: Check, result: str) -> None:
        self.services.metrics.count(SCREENED, check.lower(), result)


def dlp_problem(check: Check) -> Problem:
    """The error for content that a policy blocks."""
    if check == "REQUEST":
        return Problem(DLP_REQUEST_BLOCKED, "Request content blocked due to DLP policy violations")
    return Problem(DLP_RESPONSE_BLOCKED, "Response content blocked due to DLP policy violations")


def _why(error: Exception) -> str:
    if isinstance(error, TooMuchWork):
        return f"it takes too much {error}"
    return str(error) if isinstance(error, Unreadable) else "no helper process was free"
