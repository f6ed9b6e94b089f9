"""The state of one call under way, shared by the steps that serve it."""

from collections.abc import Mapping

import msgspec

from farebox.calls.admit import Held
from farebox.calls.model import Call, Sink
from farebox.calls.unlisted import OPENROUTER, plain_model, price_without_list, with_variant
from farebox.calls.watch import Watch
from farebox.memfile import whole
from farebox.pricing.model import Estimate, Markup, ModelPrice
from farebox.providers.scrubbing import Scrubber
from farebox.runtime.services import Services

CLIENT_GONE = "the client went away"
SERVER_STOPPED = "the server stopped"
REASONS = {
    "client_gone": CLIENT_GONE,
    "silence": "the provider fell silent",
    "too_long": "the call took longer than allowed",
}
"""watch.Reason in the words of receipts and logs."""
OWN_TIME = "no response began in the time that the caller allows"
OPERATORS_TIME = "no response began in the time that the operator allows"
BY_CALLER = (CLIENT_GONE, OWN_TIME)
"""Ends of a call that its caller brought about."""


class CallState(msgspec.Struct):
    """Filled in from top to bottom as the call proceeds."""

    services: Services
    call: Call
    sink: Sink
    watch: Watch
    started: float
    price: ModelPrice | None = None
    markup: Markup | None = None
    hold_asked: bool = False
    """A hold may exist although `held` is None: the wait for its verdict was interrupted."""
    held: Held | None = None
    given_up: str = ""
    """Why the wait for the response was broken off after all of the request was sent: the provider may be at work."""
    status: int = 0
    response_type: str = ""
    first_byte_ms: int | None = None
    kept: list[bytes] = []
    """The response so far, for the log; None of it once it is larger than a log keeps."""
    size: int = 0
    body_withheld: bool = False
    """Of the response, nothing is kept for the log: it says what is the operator's own, or there was no memory for
    it."""

    @property
    def bound(self) -> Estimate | None:
        return None if self.held is None else self.held.estimate

    def price_for(self, context: Mapping[str, str], model: str = "") -> ModelPrice | None:
        """The price of the call's model, or of another, where the provider applies `context` (a service tier…)."""
        assert self.call.parsed is not None
        call, prices = self.call, self.services.configuration.prices
        model = model or self.call.parsed.model
        found = prices.find(call.account_id, call.provider, model, call.started_at, context or None)
        if found is not None or call.provider != OPENROUTER:
            return found
        plain = plain_model(model)
        if plain != model:
            found = prices.find(call.account_id, call.provider, plain, call.started_at, context or None)
        if found is not None:
            return with_variant(found, model)
        return price_without_list(model, call.small_body, self.services.settings)

    def elapsed_ms(self) -> int:
        return round((self.services.clock.monotonic() - self.started) * 1000)

    def keep(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.body_withheld or not (self.call.logged and self.call.log_bodies):
            return
        if self.size <= self.services.settings.log_body_limit_bytes:
            self.kept.append(chunk)
        else:
            self.kept.clear()

    @property
    def kept_bytes(self) -> int:
        """Of the response, for the log."""
        return self.size if self.kept else 0

    def withhold(self) -> None:
        """Keep nothing of the response for the log."""
        self.body_withheld = True
        self.kept.clear()

    def kept_body(self) -> bytes | None:
        """The response for the log. A key of the caller's own passes as it is, but is not kept."""
        if not self.kept or self.body_withheld or not self._log_takes(self.size):
            return None
        body = b"".join(self.kept)
        for key in self.call.callers_keys:
            body = Scrubber(key).clean(body)
        return body

    def kept_request(self) -> bytes | None:
        """The request's body, where the log keeps it."""
        call = self.call
        kept = call.logged and call.log_bodies and len(call.body) <= self.services.settings.log_body_limit_bytes
        return whole(call.body) if kept and self._log_takes(len(call.body)) else None

    def _log_takes(self, size: int) -> bool:
        services = self.services
        return services.logged.takes(self.call.account_id, size, services.clock.monotonic())
