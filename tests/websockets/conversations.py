"""Both ends of sessions, which a test can stop at any message."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection

from tests.websockets.kinds import Kind
from tests.websockets.kit import SECONDS, SocketProvider

Address: TypeAlias = tuple[str, str]
"""The URL of a gateway, and an access token."""


@dataclass
class Conversation:
    """One session, as seen by both ends."""

    kind: Kind
    at: int
    """The number of messages, in both directions and counted by the provider, after which it is stopped."""
    stop: "Callable[[Conversation], object]" = lambda _: None
    """Called at that point, on the provider's thread."""
    said: int = 0
    """Messages that the client has sent."""
    came: int = 0
    """Messages that the provider has received."""
    went: int = 0
    """Messages that it has sent."""
    heard: int = 0
    """Messages that the client has received."""
    stopped: bool = False
    server: ServerConnection = None  # type: ignore[assignment]  # until the provider has it
    client: ClientConnection = None  # type: ignore[assignment]  # until it is open
    is_open: threading.Event = field(default_factory=threading.Event)
    is_played: threading.Event = field(default_factory=threading.Event)
    """Set once the provider has left."""
    failure: Exception | None = None
    """Errors on the provider's thread, except for the end of its connection."""

    @property
    def delivered(self) -> int:
        """The charge for the messages that the client has received, made before they were relayed."""
        return sum(self.kind.pays[: self.heard])

    @property
    def received(self) -> int:
        """The maximum cost of the messages that the provider has received."""
        return sum(self.kind.takes[: self.came])

    @property
    def asked(self) -> int:
        """The maximum cost of the messages that the client has sent."""
        return sum(self.kind.takes[: self.said])

    def step(self) -> None:
        """Called before the first message and after each one, at the provider."""
        if self.came + self.went == self.at and not self.stopped:
            self.stopped = True
            self.stop(self)

    def talk(self, url: str, token: str, headers: dict[str, str]) -> None:
        """Run the conversation to its end. Raises errors of the provider's thread."""
        self.client = connect(
            url.replace("http", "ws", 1),
            additional_headers={"authorization": f"Bearer {token}", **headers},
            proxy=None,
            open_timeout=SECONDS,
            legacy=True,
        )
        self.is_open.set()
        with contextlib.suppress(
            ConnectionClosed, ValueError
        ):  # a client disconnects if it does not understand a message
            self.kind.talk(_Heard(self))
        self.client.close()
        if self.server is not None:
            assert self.is_played.wait(SECONDS), self.kind.name
        if self.failure:
            raise self.failure

    def check_course(self) -> None:
        """Fails unless it was stopped at the planned point, or ran to its end if it is shorter."""
        if self.at <= len(self.kind.takes) + len(self.kind.pays):
            assert self.stopped, (self.kind.name, self.at, self.came, self.went)
        else:
            assert (self.said, self.heard) == (len(self.kind.takes), len(self.kind.pays)), self.kind.name


class _Heard:
    """The client's end of a conversation."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def send(self, message: Any) -> None:
        self._conversation.said += 1
        self._conversation.client.send(message)

    def recv(self, timeout: float = SECONDS) -> Any:
        message = self._conversation.client.recv(timeout)
        self._conversation.heard += 1
        return message


class _Counted:
    """The provider's end."""

    def __init__(self, connection: ServerConnection, conversation: Conversation) -> None:
        self._connection = connection
        self._conversation = conversation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def recv(self, timeout: float | None = None) -> Any:
        message = self._connection.recv(timeout)
        self._conversation.came += 1
        self._conversation.step()
        return message

    def __iter__(self) -> Iterator[Any]:
        with contextlib.suppress(ConnectionClosedOK):
            while True:
                yield self.recv()

    def send(self, message: Any) -> None:
        self._connection.send(message)
        self._conversation.went += 1
        self._conversation.step()


class Stage:
    """Has one provider play all kinds of conversations."""

    def __init__(self, provider: SocketProvider) -> None:
        self._numbers = itertools.count()
        self._conversations: dict[str, Conversation] = {}
        provider.forget()
        provider.script = self._play

    def talk(self, conversation: Conversation, gateway_url: str, token: str) -> None:
        """Run `Conversation.talk` with a session that the provider can identify."""
        number = f"{next(self._numbers)}"
        self._conversations[number] = conversation
        conversation.talk(f"{gateway_url}/{conversation.kind.path}", token, {"x-conversation": number})

    def _play(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        conversation = self._conversations[connection.request.headers["x-conversation"]]
        conversation.server = connection
        try:
            assert conversation.is_open.wait(SECONDS)
            conversation.step()
            conversation.kind.play()(_Counted(connection, conversation))  # type: ignore[arg-type]  # it is one, and counts
        except ConnectionClosed:
            raise
        except Exception as error:
            conversation.failure = error
            raise
        finally:
            conversation.is_played.set()


class Halt:
    """Stops conversations at a point until all of them have reached it or ended."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._there = threading.Semaphore(0)
        self._go = threading.Event()
        self.conversations: list[Conversation] = []

    def conversation(self, kind: Kind, at: int) -> Conversation:
        made = Conversation(kind, at, self._wait)
        self.conversations.append(made)
        return made

    def _wait(self, _: Conversation) -> None:
        self._there.release()
        assert self._go.wait(SECONDS)

    def talk(self, conversation: Conversation, gateway_url: str, token: str) -> None:
        """Run one of them."""
        try:
            self._stage.talk(conversation, gateway_url, token)
        finally:
            if not conversation.stopped:
                self._there.release()

    def all_there(self) -> None:
        """Wait until each is stopped, or has ended."""
        for _ in self.conversations:
            assert self._there.acquire(timeout=SECONDS)

    def go_on(self) -> None:
        self._go.set()


@contextlib.contextmanager
def halting(stage: Stage, kind: Kind, addresses: Sequence[Address]) -> Iterator[list[Conversation]]:
    """A session for each address, stopped after the first message that is held for, or ended."""
    halt = Halt(stage)
    had = [(address, halt.conversation(kind, kind.held_at)) for address in addresses]
    with at_once([partial(halt.talk, one, *address) for address, one in had]):
        try:
            halt.all_there()
            yield halt.conversations
        finally:
            halt.go_on()


@contextlib.contextmanager
def at_once(work: Sequence[Callable[[], None]]) -> Iterator[None]:
    """Run all of this concurrently with the block, and wait for them at its end."""
    with ThreadPoolExecutor(len(work)) as threads:
        running = [threads.submit(one) for one in work]
        yield
        for one in running:
            one.result(SECONDS)
