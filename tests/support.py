"""A real Farebox for tests: served over HTTP by a loop on a separate thread, with the demo provider behind it."""

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import structlog
import uvloop

from farebox.clock import Clock
from farebox.helper_processes import BeginHelper
from farebox.ledger.commands import Grant
from farebox.logs import Direct
from farebox.model import AccessToken, Balance, Permission
from farebox.money import parse_usd
from farebox.settings import Settings
from farebox.storage.accounts import add_account, add_token, read_balance
from farebox.vault import TOKEN_PREFIX
from tests.engines import settings_for
from tests.warm_helpers import warm_helper

if TYPE_CHECKING:
    from farebox.app import Ready

T = TypeVar("T")

RUN_ONLY = (Permission.RUN,)


def quiet_logs() -> None:
    """Discard logs; tests that need them capture them."""
    structlog.reset_defaults()
    Direct.write = None
    # Dropped, not formatted: structlog's default renders an exception with all its variables, which takes seconds.
    structlog.configure(
        processors=[_drop], logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False
    )


def _drop(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent


class Farebox:
    """A running server. Its methods may be called from the test's thread."""

    def __init__(self, ready: "Ready", loop: asyncio.AbstractEventLoop) -> None:
        self.services = ready.services
        self.url = ready.base_url
        self.port = ready.port
        self.demo_url = ready.demo_url or ""
        self.stripe_url = ready.fake_stripe_url or ""
        """The fake Stripe, with /_fake/… to steer it."""
        self._loop = loop
        self._names = 0
        self.stop: Callable[[], None] = lambda: None
        """Stops the server, and returns when it has stopped."""

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 120) -> T:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def create_account(self, name: str = "tester", account_id: str | None = None) -> str:
        services = self.services
        account_id = account_id or services.ids.account_id()
        self.run(services.database.write(lambda c: add_account(c, account_id, name, services.clock.now_ms())))
        return account_id

    def create_token(self, account_id: str, *permissions: Permission, expires_at: int | None = None) -> str:
        """A new token's secret; with every permission if none is named."""
        services = self.services
        secret = TOKEN_PREFIX + services.ids.secret()
        token = AccessToken(
            services.ids.log_id(),
            account_id,
            "test",
            frozenset(permissions or Permission),
            services.clock.now_ms(),
            expires_at,
            None,
        )
        self.run(services.database.write(lambda c: add_token(c, token, services.vault.hash_token(secret))))
        return secret

    def grant(self, account_id: str, usd: str) -> None:
        services = self.services
        verdict = self.run(
            services.ledger.do(
                Grant(
                    account_id=account_id,
                    grant_id=services.ids.log_id(),
                    amount=parse_usd(usd),
                    at=services.clock.now_ms(),
                )
            )
        )
        assert verdict.ok

    def balance(self, account_id: str) -> Balance:
        """The committed balance, read on a connection of the calling thread."""
        found = self.run(self.services.database.scan(lambda c: read_balance(c, account_id)))
        assert found is not None
        return found

    def funded(self, usd: str = "5") -> "Customer":
        """A new account with credit and a token."""
        account_id = self.create_account()
        self.grant(account_id, usd)
        return Customer(self, account_id, self.create_token(account_id))

    def script(self, *directives: str) -> None:
        """Set the demo provider's behavior for the next requests, in turn."""
        response = httpx.post(
            f"{self.demo_url}/_demo/script", json={"answers": [{"directives": text} for text in directives]}
        )
        assert response.status_code < 300, response.text

    def demo_stats(self) -> dict[str, int]:
        stats: dict[str, int] = httpx.get(f"{self.demo_url}/_demo/stats").json()
        return stats

    def demo_journal(self, last: int = 50) -> list[dict[str, Any]]:
        journal: list[dict[str, Any]] = httpx.get(f"{self.demo_url}/_demo/journal", params={"last": last}).json()
        return journal


class Customer:
    """An account with a token, calling the server."""

    def __init__(self, farebox: Farebox, account_id: str, token: str) -> None:
        self.farebox = farebox
        self.account_id = account_id
        self.token = token
        self.gateway_url = f"{farebox.url}/v1/{account_id}/default"
        self.api_url = f"{farebox.url}/client/v4/accounts/{account_id}"
        self.headers = {"authorization": f"Bearer {token}"}

    @property
    def balance(self) -> Balance:
        return self.farebox.balance(self.account_id)

    def chat(self, text: str = "Hello there", *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """A chat completion on the compat path."""
        return httpx.post(
            f"{self.gateway_url}/compat/chat/completions",
            json={"model": "demo/demo-1", "messages": [{"role": "user", "content": text}], **body},
            headers=self.headers | (headers or {}),
        )

    def receipt(self, log_id: str) -> dict[str, Any]:
        response = httpx.get(f"{self.api_url}/farebox/receipts/{log_id}", headers=self.headers)
        assert response.status_code == 200, response.text
        receipt: dict[str, Any] = response.json()["result"]
        return receipt


def running_farebox(data_dir: Path, **settings: object) -> contextlib.AbstractContextManager[Farebox]:
    """Serve on a free port until the block ends."""
    return running_on(uvloop.new_event_loop, None, data_dir, **settings)


def running_on(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], clock: Clock | None, data_dir: Path, **settings: object
) -> contextlib.AbstractContextManager[Farebox]:
    """`running_farebox` on the test's loop, and with its clock if there is one."""
    return running_with(warm_helper, loop_factory, clock, data_dir, **settings)


@contextlib.contextmanager
def running_with(
    begin_helper: BeginHelper,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    clock: Clock | None,
    data_dir: Path,
    **settings: object,
) -> Iterator[Farebox]:
    """`running_on` with the test's helper processes."""
    loaded = settings_for(data_dir, log_level="error", **settings)
    # Port 0 is not offered to operators, as their clients could not find it; tests take a free one.
    values = {name: getattr(loaded, name) for name in Settings.__slots__}
    chosen = Settings(**{**values, "port": settings.get("port", 0)})
    ready = threading.Event()
    box: dict[str, Any] = {}

    from farebox.app import running

    async def serve() -> None:
        stop = asyncio.Event()
        box["stop"] = lambda: box["loop"].call_soon_threadsafe(stop.set)
        box["loop"] = asyncio.get_running_loop()
        async with running(chosen, demo=True, clock=clock, begin_helper=begin_helper) as served:
            box["farebox"] = Farebox(served, box["loop"])
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(serve())
        except BaseException as error:
            box["error"] = error
            ready.set()
            raise

    thread = threading.Thread(target=work, name="farebox-under-test")
    thread.start()
    assert ready.wait(300), "the server did not start"
    if "error" in box:
        thread.join()
        raise box["error"]

    def stop() -> None:
        if thread.is_alive():
            with contextlib.suppress(RuntimeError):  # its loop has just been closed
                box["stop"]()
        thread.join(120)
        assert not thread.is_alive(), "the server did not stop"

    box["farebox"].stop = stop
    try:
        yield box["farebox"]
    finally:
        stop()


def free_port() -> int:
    """A free port below the range of outgoing connections, so that it is still free when a server is restarted."""
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
