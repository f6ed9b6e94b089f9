"""The life of a connection as one table: role, state, event → state. An event that is not in the table is a bug of
ours.

Clients may send requests ahead, so a connection has two roles at once: what the client sends (`request`) and what the
server sends (`response`). Each request has a third one, its `body`: several of them may wait.

    request    preface → idle → head → body → idle → … → (switched →) closed
    response   idle → handling → (streaming →) responded → idle → … → (switched →) lingering or closing → closed
    body       expected → awaited → arrived

Whether the client reads (`stalled`) and whether it is read are not states, since they change independently in any
state.
"""

from typing import Final, Literal, NoReturn, TypeVar

RequestState = Literal["preface", "idle", "head", "body", "switched", "closed"]
"""preface: the header of the PROXY protocol is incomplete.
idle: the next byte begins a request.
head: a head has begun.
body: the body of the latest request is arriving.
switched: the data belongs to another protocol.
closed: any further data is discarded."""

ResponseState = Literal[
    "idle", "handling", "streaming", "responded", "cut", "broken", "switched", "lingering", "closing", "closed"
]
"""idle: no request is being handled.
handling: the handler has a request, and has not responded.
streaming: its response has begun.
responded: its response is complete; the handler has not returned, or the client still has too much of it to read.
cut: its request cannot be read to the end: the client gets the reason instead of a response.
broken: its response cannot be finished.
switched: the connection speaks another protocol until it ends.
lingering: the last response has been written; received data is discarded for a while, so that the client can read it.
closing: the last response has been written; the connection ends when everything is sent.
closed: nothing can be sent: the client has gone, or has been disconnected."""

BodyState = Literal["expected", "awaited", "arrived", "lost"]
"""expected: the body is arriving, and the handler has not asked for it.
awaited: the handler is waiting for it.
arrived: it has arrived completely.
lost: the client has gone, or its data can no longer be parsed, or the request is over."""

RequestEvent = Literal[
    "prefaced", "preface_read", "head_begun", "head_read", "body_read", "last_read", "refuse", "switch"
]
"""prefaced: the connection begins with a header of the PROXY protocol.
last_read: the body has been read of a request that the client declares to be its last.
refuse: the client's data is not a valid request; a response says so when its turn comes.
switch: the client's request for another protocol is accepted."""

ResponseEvent = Literal["begin", "respond", "start", "end", "cut", "break", "next", "switch"]
"""begin: the handler gets a request.
respond: it responds in one piece.
start, end: it begins to stream a response, and has finished it.
cut: its request cannot be read to the end.
break: it has failed.
next: it has returned, and the client has read most of the response.
switch: the client's request for another protocol is accepted."""

End = Literal["linger", "close", "lose"]
"""Events that end both roles.
linger, close: the server has written its last response.
lose: the client has gone, or is disconnected."""

BodyEvent = Literal["ask", "arrive", "lose"]

_State = TypeVar("_State", bound=str)
_Event = TypeVar("_Event", bound=str)


class IllegalEvent(RuntimeError):
    """An event that is not allowed in the state: a bug in the server."""


class _Row(dict[_Event, _State]):
    """The next state for each event in one state."""

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


class Lifecycle:
    """The two roles of a connection. Only events change them; one that is not in the table raises IllegalEvent."""

    __slots__ = ("request", "response")

    def __init__(self) -> None:
        self.request: RequestState = "idle"
        self.response: ResponseState = "idle"

    def reads(self, event: RequestEvent) -> None:
        """The client has sent something."""
        self.request = REQUEST[self.request][event]

    def responds(self, event: ResponseEvent) -> None:
        """The response has changed."""
        self.response = RESPONSE[self.response][event]

    def ends(self, event: End) -> None:
        """Nothing more is read, and no response follows."""
        self.request, self.response = REQUEST[self.request][event], RESPONSE[self.response][event]

    def switches(self) -> None:
        """From now on the connection carries another protocol."""
        self.request, self.response = REQUEST[self.request]["switch"], RESPONSE[self.response]["switch"]

    @property
    def ending(self) -> bool:
        """Whether the last response has been written, or none can be."""
        return self.response in ("lingering", "closing", "closed")
