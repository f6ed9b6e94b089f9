"""The life of a connection as one table: role, state, event → state. An event that a state lacks is an error of ours.

Clients may send requests ahead, so a connection plays two roles at once: what the client sends (`request`) and what the
server sends (`response`). Each request has a third one, its `body`: several of them may wait.

    request    preface → idle → head → body → idle → … → (switched →) closed
    response   idle → handling → (streaming →) responded → idle → … → (switched →) lingering or closing → closed
    body       expected → awaited → arrived

Not states, since they come and go in any of them, are whether the client reads (`stalled`) and whether it is read.
"""

from typing import Final, Literal, NoReturn, TypeVar

RequestState = Literal["preface", "idle", "head", "body", "switched", "closed"]
"""preface: the header of the PROXY protocol has not come in full.
idle: the next byte begins a request.
head: a head has begun.
body: the body of the latest request is on its way.
switched: what comes is of another protocol.
closed: whatever else comes is discarded."""

ResponseState = Literal[
    "idle", "handling", "streaming", "responded", "cut", "broken", "switched", "lingering", "closing", "closed"
]
"""idle: no request is being handled.
handling: the handler has a request, and has not responded.
streaming: its response has begun.
responded: its response is whole; the handler has not returned, or the client has too much of it to take.
cut: its request cannot be read to the end: the client is sent the reason instead of its response.
broken: its response cannot be finished.
switched: the connection speaks another protocol until it ends.
lingering: the last response has been written; what comes is discarded for a while, so that the client can read it.
closing: the last response has been written; the connection ends when it has been taken.
closed: nothing can be sent: the client has gone, or has been disconnected."""

BodyState = Literal["expected", "awaited", "arrived", "lost"]
"""expected: it is on its way, and the handler has not asked for it.
awaited: the handler waits for it.
arrived: it is there.
lost: the client has gone, or what it sends cannot be read any further, or the request is over."""

RequestEvent = Literal[
    "prefaced", "preface_read", "head_begun", "head_read", "body_read", "last_read", "refuse", "switch"
]
"""prefaced: the connection begins with a header of the PROXY protocol.
last_read: the body of a request after which the client, as it says, sends none.
refuse: what the client sends is no request; a response says so in its turn.
switch: its request for another protocol is granted."""

ResponseEvent = Literal["begin", "respond", "start", "end", "cut", "break", "next", "switch"]
"""begin: the handler is given a request.
respond: it responds at once.
start, end: it begins to stream a response, and has ended it.
cut: its request cannot be read to the end.
break: it has failed.
next: it has returned, and the client has taken most of the response.
switch: its request for another protocol is granted."""

End = Literal["linger", "close", "lose"]
"""Of both roles.
linger, close: the server has written its last response.
lose: the client has gone, or is disconnected."""

BodyEvent = Literal["ask", "arrive", "lose"]

_State = TypeVar("_State", bound=str)
_Event = TypeVar("_Event", bound=str)


class IllegalEvent(RuntimeError):
    """An event that the state does not know: a mistake in the server."""


class _Row(dict[_Event, _State]):
    """What each event makes of one state."""

    def __init__(self, place: str, row: dict[_Event, _State]) -> None:
        super().__init__(row)
        self._place = place

    def __missing__(self, event: _Event) -> NoReturn:
        raise IllegalEvent(f"{self._place}: {event}")


def _table(role: str, rows: dict[_State, dict[_Event, _State]]) -> dict[_State, dict[_Event, _State]]:
    return {state: _Row(f"{role} {state}", row) for state, row in rows.items()}


REQUEST: Final[dict[RequestState, dict[RequestEvent | End, RequestState]]] = _table(
    "request",
    {
        "idle": {
            "prefaced": "preface",
            "head_begun": "head",
            "head_read": "body",
            "switch": "switched",
            "linger": "closed",
            "close": "closed",
            "lose": "closed",
        },
        "preface": {"preface_read": "idle", "close": "closed", "lose": "closed"},
        "head": {
            "head_begun": "head",
            "head_read": "body",
            "refuse": "closed",
            "linger": "closed",
            "close": "closed",
            "lose": "closed",
        },
        "body": {
            "body_read": "idle",
            "last_read": "closed",
            "refuse": "closed",
            "linger": "closed",
            "close": "closed",
            "lose": "closed",
        },
        "switched": {"linger": "closed", "lose": "closed"},
        "closed": {"linger": "closed", "close": "closed", "lose": "closed"},
    },
)

RESPONSE: Final[dict[ResponseState, dict[ResponseEvent | End, ResponseState]]] = _table(
    "response",
    {
        "idle": {"begin": "handling", "linger": "lingering", "close": "closing", "lose": "closed"},
        "handling": {
            "respond": "responded",
            "start": "streaming",
            "cut": "cut",
            "break": "broken",
            "switch": "switched",
            "linger": "lingering",
            "lose": "closed",
        },
        "streaming": {"end": "responded", "cut": "broken", "break": "broken", "lose": "closed"},
        "responded": {
            "next": "idle",
            "cut": "responded",
            "break": "broken",
            "linger": "lingering",
            "close": "closing",
            "lose": "closed",
        },
        "cut": {"break": "cut", "linger": "lingering", "lose": "closed"},
        "broken": {"break": "broken", "cut": "broken", "close": "closing", "lose": "closed"},
        "switched": {"break": "broken", "linger": "lingering", "lose": "closed"},
        "lingering": {"lose": "closed"},
        "closing": {"lose": "closed"},
        "closed": {},
    },
)

BODY: Final[dict[BodyState, dict[BodyEvent, BodyState]]] = _table(
    "body",
    {
        "expected": {"ask": "awaited", "arrive": "arrived", "lose": "lost"},
        "awaited": {"ask": "awaited", "arrive": "arrived", "lose": "lost"},
        "arrived": {"ask": "arrived", "lose": "lost"},
        "lost": {"ask": "lost", "lose": "lost"},
    },
)


class Life:
    """The two roles of a connection. Only events change them; one that is not in the table raises IllegalEvent."""

    __slots__ = ("request", "response")

    def __init__(self) -> None:
        self.request: RequestState = "idle"
        self.response: ResponseState = "idle"

    def reads(self, event: RequestEvent) -> None:
        """Something has come of the client."""
        self.request = REQUEST[self.request][event]

    def responds(self, event: ResponseEvent) -> None:
        """Something has happened to the response."""
        self.response = RESPONSE[self.response][event]

    def ends(self, event: End) -> None:
        """Nothing is read any more, and no response follows."""
        self.request, self.response = REQUEST[self.request][event], RESPONSE[self.response][event]

    def switches(self) -> None:
        """From now on the connection speaks another protocol."""
        self.request, self.response = REQUEST[self.request]["switch"], RESPONSE[self.response]["switch"]

    @property
    def ending(self) -> bool:
        """Whether the last response has been written, or none can be."""
        return self.response in ("lingering", "closing", "closed")
