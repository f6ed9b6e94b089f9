"""What the log keeps of a call's bodies: within its limits, and without the caller's own key."""

import msgspec

from farebox.calls.model import Call
from farebox.limits import logged_bytes
from farebox.memory_files import whole
from farebox.providers.scrubbing import Scrubber
from farebox.runtime.services import Services


class LoggedBody(msgspec.Struct):
    """The body of the response so far, for the log."""

    most: int
    """Maximum size in bytes of a body that the log keeps; -1 if it keeps none for this call."""
    response_type: str = ""
    """Its content type, once its headers have been passed on."""
    kept: list[bytes] = []
    """The chunks so far; emptied once the body is larger than the log keeps."""
    size: int = 0
    withheld: bool = False
    """Nothing is kept for the log, because the body contains something that is only the operator's, or because there
    was no memory for it."""

    def keep(self, chunk: bytes) -> None:
        """Add a chunk of the response."""
        self.size += len(chunk)
        if self.size <= self.most and not self.withheld:
            self.kept.append(chunk)
        elif self.kept:
            self.kept.clear()

    @property
    def kept_bytes(self) -> int:
        return self.size if self.kept else 0

    def withhold(self) -> None:
        """Keep nothing of the response for the log."""
        self.withheld = True
        self.kept.clear()


def logged_response(services: Services, call: Call, body: LoggedBody) -> bytes | None:
    """The response for the log. The caller's own key, which may pass to the caller, is removed here."""
    if not body.kept or body.withheld or not _log_takes(services, call, body.size):
        return None
    kept = body.kept[0] if len(body.kept) == 1 else b"".join(body.kept)
    if call.own_key:
        for key in call.callers_keys:
            kept = Scrubber(key).clean(kept)
    return kept


def logged_request(services: Services, call: Call) -> bytes | None:
    """The request's body; None if the log does not keep it."""
    body = call.body
    kept = call.logged and call.log_bodies and len(body) <= services.settings.log_body_limit_bytes
    if not (kept and _log_takes(services, call, len(body))):
        return None
    return body if isinstance(body, bytes) else whole(body)


def _log_takes(services: Services, call: Call, size: int) -> bool:
    if size <= logged_bytes.LARGE_BYTES:  # needs no look at the clock
        return True
    return services.logged_bytes.takes(call.account_id, size, services.clock.monotonic())
