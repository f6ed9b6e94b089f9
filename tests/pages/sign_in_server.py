"""A server with every way to sign in."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TypeVar

from tests.messages.test_email import Mailbox, mailbox
from tests.pages.openid_provider import CLIENT_ID, SECRET, OpenIdProvider, openid_provider
from tests.support import Farebox, free_port, running_farebox
from tests.waiting import pauses

T = TypeVar("T")


@dataclass
class SignInServer:
    """The server, the inbox of all its members, and the OpenID provider."""

    farebox: Farebox
    box: Mailbox
    provider: OpenIdProvider

    def email_to(self, recipient: str, number: int = 1) -> EmailMessage:
        """The newest message to a recipient; waits until there are this many."""
        for pause in pauses(f"message {number} to {recipient}"):
            found = [each for each in self.box.messages if each["To"] == recipient]
            if len(found) >= number:
                return found[number - 1]
            time.sleep(pause)
        raise AssertionError


@contextlib.contextmanager
def _looping() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop on a separate thread, for the servers that Farebox talks to."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="outside-world")
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_end_others(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end_others() -> None:
    """Cancel the tasks of connections that are still open."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def running_sign_in_server(folder: Path) -> Iterator[SignInServer]:
    """A server whose public URL is one at which browsers allow passkeys without TLS."""
    with _looping() as loop, contextlib.ExitStack() as stack:
        outside = contextlib.AsyncExitStack()

        def run(work: Coroutine[Any, Any, T]) -> T:
            return asyncio.run_coroutine_threadsafe(work, loop).result(30)

        box = run(outside.enter_async_context(mailbox()))
        stack.callback(lambda: run(outside.aclose()))
        provider = run(outside.enter_async_context(openid_provider()))
        port = free_port()
        served = stack.enter_context(
            running_farebox(
                folder,
                port=port,
                public_url=f"http://localhost:{port}",
                smtp_url=f"smtp://127.0.0.1:{box.port}",
                smtp_from="Farebox <sign-in@farebox.example>",
                seller_name="Acme & Sons",
                oidc_issuer=provider.issuer,
                oidc_client_id=CLIENT_ID,
                oidc_client_secret=SECRET,
                oidc_name="Acme ID",
                oidc_domains="example.com, Example.ORG",
            )
        )
        yield SignInServer(served, box, provider)
