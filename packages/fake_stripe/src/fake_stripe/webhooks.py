"""Delivers events to endpoints: signed, retried after failures, and held, dropped, doubled or shuffled on request."""

import asyncio
import contextlib
import hashlib
import hmac
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from fake_stripe.errors import Json
from fake_stripe.rendering import snapshot
from fake_stripe.world import World

RETRY_SECONDS = (60, 3600)
"""Seconds by the fake's clock before a second and a third attempt; then the delivery is given up."""
MODES = ("normal", "hold", "drop", "duplicate")

_TIMEOUT_SECONDS = 10.0
_AT_ONCE = 8
_ANSWER_LIMIT = 65_536


@dataclass(slots=True)
class Mode:
    """How events are delivered."""

    mode: str = "normal"
    times: int = 2
    """How often each is sent with `duplicate`."""
    shuffle: int | None = None
    delay_ms: int = 0


class Deliverer:
    """Sends waiting events. `run_due`: does other work that is due by the fake's clock, and returns the time of the
    next."""

    def __init__(self, world: World, run_due: Callable[[], int | None]) -> None:
        self.mode = Mode()
        self._world = world
        self._run_due = run_due
        self._wake = asyncio.Event()
        self.tries = 0
        """How many deliveries have ended, successfully or not."""
        self._waiting: dict[tuple[str, str], None] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        for event in world.store.all("event"):  # from a process that ended before it could send them
            for endpoint_id, send in event["_sends"].items():
                if send["state"] == "waiting":
                    self._waiting[event["id"], endpoint_id] = None

    def take(self, event: Json) -> None:
        """A new event: note the endpoints to notify."""
        for endpoint in self._world.store.all("webhook_endpoint"):
            types = endpoint["enabled_events"]
            if endpoint["status"] == "enabled" and (not types or "*" in types or event["type"] in types):
                state = "dropped" if self.mode.mode == "drop" else "waiting"
                event["_sends"][endpoint["id"]] = {"state": state, "tries": 0, "at": event["created"]}
                event["pending_webhooks"] += 1
                if state == "waiting":
                    self._waiting[event["id"], endpoint["id"]] = None
        self.wake()

    def wake(self) -> None:
        """Look again at what is due."""
        self._wake.set()

    def forget(self) -> None:
        self._waiting.clear()
        self.mode = Mode()
        self.tries = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def run(self) -> None:
        """Send what is due, forever."""
        while True:
            self._wake.clear()
            times = [time for time in (self._run_due(), self._send_due()) if time is not None]
            self._world.store.flush()
            pause = max(0, min(times) - self._world.now()) + 0.05 if times else None
            await self._until_woken(pause)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def flush(self, *, repeat: int = 1, shuffle: int | None = None, dropped: bool = False) -> int:
        """Send everything that waits at once, one after the other. Returns the number of deliveries."""
        batch = list(self._waiting)
        if dropped:
            for event in self._world.store.all("event"):
                batch += [(event["id"], to) for to, send in event["_sends"].items() if send["state"] == "dropped"]
        batch = _shuffled(batch * repeat, shuffle)
        for event_id, endpoint_id in batch:
            self._waiting.pop((event_id, endpoint_id), None)
            await self._send(event_id, endpoint_id)
        self._world.store.flush()
        return len(batch)

    def _send_due(self) -> int | None:
        """Begin to send what is due. Returns the time of the next delivery; None if none is scheduled."""
        if self.mode.mode == "hold":
            return None
        now, next_due = self._world.now(), None
        due = []
        for event_id, endpoint_id in self._waiting:
            event = self._world.store.find("event", event_id)
            at = event["_sends"][endpoint_id]["at"] if event is not None else now
            if at <= now:
                due.append((event_id, endpoint_id))
            else:
                next_due = at if next_due is None else min(next_due, at)
        for pair in due:
            del self._waiting[pair]
        times = self.mode.times if self.mode.mode == "duplicate" else 1
        for event_id, endpoint_id in _shuffled(due * times, self.mode.shuffle):
            task = asyncio.ensure_future(self._send_in_turn(event_id, endpoint_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return next_due

    async def _send_in_turn(self, event_id: str, endpoint_id: str) -> None:
        if self.mode.delay_ms:
            await self._world.clock.real.sleep(self.mode.delay_ms / 1000)
        async with self._slots:
            await self._send(event_id, endpoint_id)
        self.wake()

    async def _send(self, event_id: str, endpoint_id: str) -> None:
        event = self._world.store.find("event", event_id)
        endpoint = self._world.store.find("webhook_endpoint", endpoint_id)
        if event is None or endpoint is None or endpoint_id not in event["_sends"]:
            return
        body = msgspec.json.encode(snapshot(self._world.store, event))
        now = self._world.clock.real_now()  # receivers compare it with their own clock
        signature = sign(endpoint["_secret"], now, body)
        status = await post(endpoint["url"], body, f"t={now},v1={signature}")
        self._note(event_id, endpoint_id, status)

    def _note(self, event_id: str, endpoint_id: str, status: int) -> None:
        self.tries += 1
        event = self._world.store.find("event", event_id)
        send = event["_sends"].get(endpoint_id) if event is not None else None
        if event is None or send is None:
            return
        send.update(tries=send["tries"] + 1, status=status)
        if send["state"] == "done":
            return
        if 200 <= status < 300:
            send["state"] = "done"
            event["pending_webhooks"] = max(0, event["pending_webhooks"] - 1)
        elif send["tries"] <= len(RETRY_SECONDS):
            send.update(state="waiting", at=self._world.now() + RETRY_SECONDS[send["tries"] - 1])
            self._waiting[event_id, endpoint_id] = None
        else:
            send["state"] = "failed"

    async def _until_woken(self, seconds: float | None) -> None:
        woken = asyncio.ensure_future(self._wake.wait())
        timer = asyncio.ensure_future(self._world.clock.real.sleep(seconds)) if seconds is not None else None
        try:
            await asyncio.wait([woken] if timer is None else [woken, timer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            if timer is not None:
                timer.cancel()


def sign(secret: str, moment: int, body: bytes) -> str:
    """The signature that goes into `Stripe-Signature` as v1."""
    return hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()


def _shuffled(batch: list[tuple[str, str]], seed: int | None) -> list[tuple[str, str]]:
    """Shuffle: the same order for the same seed and number of deliveries."""
    if seed is None:
        return batch
    places = sorted(range(len(batch)), key=lambda place: hashlib.sha256(f"{seed}:{place}".encode()).digest())
    return [batch[place] for place in places]


async def post(url: str, body: bytes, signature: str) -> int:
    """POST an event. Returns the status of the response; 0 if there was none."""
    try:
        return await asyncio.wait_for(_post(url, body, signature), _TIMEOUT_SECONDS)
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        return 0


async def _post(url: str, body: bytes, signature: str) -> int:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    context = ssl.create_default_context() if secure else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        head = (
            f"POST {target} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\nConnection: close\r\n"
            "User-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\nAccept: */*; q=0.5, application/xml\r\n"
            f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
            f"Stripe-Signature: {signature}\r\n\r\n"
        )
        writer.write(head.encode("latin-1") + body)
        await writer.drain()
        line = await reader.readline()
        words = line.split()
        await reader.read(_ANSWER_LIMIT)
        return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") else 0
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
