"""The state table of a connection, by itself and under actions of clients, handlers and time in any order."""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any, cast, get_args

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.http.server import lifecycle
from farebox.http.server.lifecycle import BODY, REQUEST, RESPONSE, IllegalEvent, Lifecycle
from tests.http.stepped_connection import ACTIONS, OFTEN, run, walk
from tests.long import times

Move = tuple[str, str, str]
"""Role, state, event."""
TABLES: dict[str, dict[Any, dict[Any, Any]]] = {"request": REQUEST, "response": RESPONSE, "body": BODY}
MOVES: set[Move] = {
    (role, state, event) for role, table in TABLES.items() for state, row in table.items() for event in row
}
ENDS = set(get_args(lifecycle.End))
EVENTS: dict[str, set[str]] = {
    "request": set(get_args(lifecycle.RequestEvent)) | ENDS,
    "response": set(get_args(lifecycle.ResponseEvent)) | ENDS,
    "body": set(get_args(lifecycle.BodyEvent)),
}


# --- the table ---


@pytest.mark.parametrize(
    ("role", "states", "first", "last"),
    [
        ("request", lifecycle.RequestState, "idle", "closed"),
        ("response", lifecycle.ResponseState, "idle", "closed"),
        ("body", lifecycle.BodyState, "expected", "lost"),
    ],
)
def test_every_state_is_reachable_and_leads_to_the_end(role: str, states: Any, first: str, last: str) -> None:
    table = TABLES[role]
    assert set(table) == set(get_args(states))
    assert {event for row in table.values() for event in row} == EVENTS[role]
    reached, new = set[str](), {first}
    while new:
        reached |= new
        new = {after for state in new for after in table[state].values()} - reached
    assert reached == set(table)
    assert all("lose" in row for state, row in table.items() if state != last)
    assert set(table[last].values()) <= {last}


@pytest.mark.parametrize("role", TABLES)
def test_an_event_that_a_state_lacks_raises(role: str) -> None:
    lacking = [(state, event) for state in TABLES[role] for event in EVENTS[role] - set(TABLES[role][state])]
    assert lacking
    for state, event in lacking:
        with pytest.raises(IllegalEvent, match=f"{role} {state}: {event}"):
            TABLES[role][state][event]


@given(st.lists(st.sampled_from(sorted(EVENTS["response"] | EVENTS["request"]))))
def test_every_request_has_exactly_one_response(events: list[str]) -> None:
    life, begun, ended = Lifecycle(), 0, 0
    for event in events:
        before = (life.request, life.response)
        act: Callable[[Any], None] = life.reads if event in get_args(lifecycle.RequestEvent) else life.responds
        try:
            (life.ends if event in ENDS else act)(cast(Any, event))
        except IllegalEvent:
            assert (life.request, life.response) == before, "an illegal event changes nothing"
            continue
        begun += event == "begin"
        ended += event == "next"
        assert ended <= begun <= ended + 1
        assert before[0] != "closed" or life.request == "closed"
        if before[1] in ("lingering", "closing", "closed"):
            assert life.ending
        assert not life.ending or life.request == "closed"


# --- a connection ---


class _Recording(dict[Any, Any]):
    """A row of the table that records which of its events occur, and which occur that it lacks."""

    def __init__(self, role: str, state: str, row: dict[Any, Any], seen: set[Move]) -> None:
        super().__init__(row)
        self.place, self.seen = (role, state), seen

    def __getitem__(self, event: str) -> Any:
        self.seen.add((*self.place, event))
        return super().__getitem__(event)

    def __missing__(self, event: str) -> Any:
        raise IllegalEvent(f"{self.place}: {event}")


@pytest.fixture
def seen() -> Iterator[set[Move]]:
    """The transitions that connections make. Checks that none is missing from the table, even if the exception was
    caught."""
    found = set[Move]()
    kept = [(table, dict(table)) for table in TABLES.values()]
    for role, table in TABLES.items():
        for state, row in table.items():
            table[state] = _Recording(role, state, row, found)
    yield found
    for table, rows in kept:
        table.update(rows)
    assert found <= MOVES


@pytest.fixture(autouse=True)
def complaints() -> Iterator[list[Any]]:
    """Log events of the server, except for exceptions of handlers that are meant to raise."""
    found: list[Any] = []

    def keep(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        found.append(event)
        raise structlog.DropEvent

    before = structlog.get_config()["processors"]
    structlog.configure(processors=[keep])
    yield found
    structlog.configure(processors=before)


WALKS = 1500


def test_random_walks_make_every_transition_of_the_table_and_no_other(seen: set[Move]) -> None:
    async def walks() -> None:
        chance = random.Random(11)
        for number in range(WALKS):
            actions = [chance.choice(OFTEN if chance.random() < 0.5 else ACTIONS) for _ in range(30)]
            await walk(actions, prefaced=number % 5 == 0)

    asyncio.run(walks())
    assert seen == MOVES


@settings(max_examples=times(80, 5000), deadline=None)
@given(st.lists(st.sampled_from(ACTIONS) | st.sampled_from(OFTEN), max_size=30), st.booleans())
def test_any_sequence_of_steps_leaves_nothing_behind(actions: list[str], prefaced: bool) -> None:
    run(actions, prefaced=prefaced)
