"""The state that every call works on: the objects, the clock, the events that report changes, and jobs that are due
later."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fake_stripe.clock import Clock, random_bytes
from fake_stripe.errors import Json
from fake_stripe.rendering import snapshot
from fake_stripe.store import Store

API_VERSION = "2026-10-28.endive"
ACCOUNT = "acct_1FakeStripeServer"

_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_EVENT_DAYS = 30
_WITH_URLS = {
    "charge": ("receipt_url",),
    "checkout.session": ("url",),
    "credit_note": ("pdf",),
    "invoice": ("hosted_invoice_url", "invoice_pdf"),
}


class FakeClock:
    """The machine's time plus an offset that the tester can change."""

    def __init__(self, clock: Clock, offset: int = 0) -> None:
        self.real = clock
        self.offset = offset

    def now(self) -> int:
        """Seconds since the Unix epoch, as the fake sees them."""
        return self.real.now_ms() // 1000 + self.offset

    def real_now(self) -> int:
        return self.real.now_ms() // 1000


@dataclass(slots=True)
class Cause:
    """The request that is being served; events name it."""

    request_id: str | None = None
    idempotency_key: str | None = None
    api_version: str = API_VERSION


class World:
    """The fake's whole state."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.public_url = ""
        """The URL under which a browser reaches the hosted pages."""
        self.cause = Cause()
        self.on_event: Callable[[Json], None] = lambda event: None
        self.on_payment: Callable[[World, Json], None] = lambda world, intent: None
        """Called for every PaymentIntent whose status has changed, so that its invoice follows."""
        self.clock = FakeClock(clock, self._settings()["offset"])

    def now(self) -> int:
        return self.clock.now()

    def move_clock(self, offset: int) -> None:
        """Set the offset, which is kept with the state."""
        self.clock.offset = offset
        self._settings()["offset"] = offset

    def set_public_url(self, url: str) -> None:
        """Set the URL at which browsers find the pages. Objects stored by an earlier run get the new address."""
        settings = self._settings()
        earlier, self.public_url = settings["public_url"], url
        settings["public_url"] = url
        if earlier in ("", url):
            return
        for kind, fields in _WITH_URLS.items():
            for known in self.store.all(kind):
                resource = self.store.find(kind, known["id"]) or known
                for name in fields:
                    if resource.get(name):
                        resource[name] = resource[name].replace(earlier, url, 1)

    def _settings(self) -> Json:
        known = self.store.find("_settings", "settings")
        return known or self.store.add({"object": "_settings", "id": "settings", "offset": 0, "public_url": ""})

    def new_id(self, prefix: str, length: int = 24) -> str:
        return f"{prefix}_{random_text(length)}"

    def emit(self, kind: str, resource: Json, before: Json | None = None) -> None:
        """Create an event with the object as it is now. `before`: its snapshot before an update."""
        now, shown = self.now(), snapshot(self.store, resource)
        data: Json = {"object": shown}
        if before is not None:
            data["previous_attributes"] = {name: before.get(name) for name in shown if shown[name] != before.get(name)}
        event: Json = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": now,
            "data": data,
            "livemode": False,
            "pending_webhooks": 0,
            "request": {"id": self.cause.request_id, "idempotency_key": self.cause.idempotency_key},
            "type": kind,
            "_sends": {},
        }
        self.store.add(event)
        self.on_event(event)

    def forget_old_events(self) -> None:
        """Delete events older than 30 days."""
        oldest = self.now() - _EVENT_DAYS * 86400
        for event in self.store.all("event"):
            if event["created"] >= oldest:
                return
            self.store.remove(event)

    def later(self, seconds: int, job: str, object_id: str) -> None:
        """Schedule a job for an object after `seconds`; `jobs` defines the jobs by name."""
        due = self.now() + seconds
        self.store.add({"object": "_job", "id": self.new_id("_job"), "at": due, "act": job, "of": object_id})

    def snapshot(self, resource: Json) -> Json:
        """The object as the API would show it now, for comparison after a change."""
        return snapshot(self.store, resource)


def random_text(length: int) -> str:
    """Random letters and digits."""
    return "".join(_LETTERS[byte % 62] for byte in random_bytes(length))


def address(values: Any) -> Json | None:
    """An address with all its fields, None if none was given."""
    if not isinstance(values, dict) or not values:
        return None
    return {name: values.get(name) or None for name in ("city", "country", "line1", "line2", "postal_code", "state")}
