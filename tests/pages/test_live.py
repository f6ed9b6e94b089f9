"""Live updates reach users who may see them, as long as they may; and the number of open streams is bounded."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from farebox.http.pages import live
from farebox.identity import sessions
from farebox.limits.live_pages import PERSON_MAX
from farebox.model import Role
from farebox.storage.sql import Connection
from tests.pages.people import Person, person
from tests.support import Customer, Farebox


@pytest.fixture
def owner(farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch) -> Person:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.02)
    return person(farebox, Role.OWNER, customer.account_id)


class Events:
    """The events of an open page."""

    def __init__(self, response: httpx.Response) -> None:
        self.headers = response.headers
        self._lines = response.iter_lines()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Kind and data of each event, until the server ends the stream."""
        kind = ""
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif line.startswith("data:"):
                yield kind, value

    @property
    def next(self) -> str:
        """The data of the next change."""
        kind, data = next(iter(self))
        assert kind == "change"
        return data


def watching(stack: ExitStack, who: Person, of: str, **query: str) -> Events:
    headers = {"accept": "text/event-stream"}
    request = who.http.stream("GET", "/ui/events", params={"of": of, **query}, headers=headers)
    response = stack.enter_context(request)
    assert response.status_code == 200
    return Events(response)


def test_changed_figures_are_sent(owner: Person, customer: Customer) -> None:
    with ExitStack() as stack:
        events = watching(stack, owner, "overview")
        assert events.headers["content-type"] == "text/event-stream"
        before = json.loads(events.next)
        customer.chat("one")
        after = json.loads(events.next)
        while after["today"] == before["today"] or after["held"] != before["held"]:  # a hold is an update too
            after = json.loads(events.next)
        assert after["posted"] < before["posted"]
        page = owner.get("/ui/overview").text
        for name, text in after.items():
            assert f'data-figure="{name}">{text}<' in page


def test_changes_of_lists_are_announced(owner: Person, customer: Customer) -> None:
    with ExitStack() as stack:
        every, refused = watching(stack, owner, "calls"), watching(stack, owner, "calls", outcome="refused")
        nothing = every.next
        assert nothing == refused.next
        assert f'data-seen="{nothing}"' in owner.get("/ui/calls").text
        customer.chat("one")
        assert every.next != nothing
        customer.chat("two", model="demo/none")
        assert refused.next != nothing


def test_a_stream_ends_with_the_session_and_with_the_role(farebox: Farebox, owner: Person, customer: Customer) -> None:
    with ExitStack() as stack:
        events = watching(stack, owner, "overview")
        assert events.next
        session = owner.session
        assert session is not None
        farebox.run(sessions.end(farebox.services, session))
        assert list(events) == []
    assert owner.get("/ui/events", of="overview").status_code == 303
    operator = person(farebox, Role.OPERATOR, "")
    assert operator.get("/ui/events", of="overview").status_code == 403
    owner.sign_in()
    assert owner.get("/ui/events", of="secrets").status_code == 204
    still = {"user": "ann"}, {"to": "2026-01-01"}, {"before": "0" * 36}
    for named in still:
        with owner.http.stream("GET", "/ui/events", params={"of": "calls", **named}) as response:
            assert response.status_code == 204, named


def test_watching_does_not_keep_a_session_open(farebox: Farebox, owner: Person) -> None:
    services, ago = farebox.services, 90 * 60_000

    def move(connection: Connection) -> None:
        connection.execute("UPDATE sessions SET seen_at = seen_at - ?", (ago,))

    def idle() -> bool:
        session = owner.session_as_it_is
        return session is not None and session.sign_in.seen_at < services.clock.now_ms() - ago // 2

    farebox.run(services.database.write(move))
    with ExitStack() as stack:
        assert watching(stack, owner, "overview").next
    owner.http.get("/ui/calls", headers={"farebox-refresh": "1"})
    assert idle()
    owner.get("/ui/calls")
    assert not idle()


def test_the_number_of_streams_of_a_person_is_limited(farebox: Farebox, owner: Person) -> None:
    with ExitStack() as stack:
        opened = [watching(stack, owner, "overview") for _ in range(PERSON_MAX)]
        assert [bool(events.next) for events in opened] == [True] * PERSON_MAX
        assert list(watching(stack, owner, "overview")) == [("full", "")]
        farebox.services.live_pages.stop()
        assert [list(events) for events in opened] == [[]] * PERSON_MAX, (
            "a stopping server does not wait for open streams"
        )
    with ExitStack() as stack:
        assert watching(stack, owner, "overview").next
