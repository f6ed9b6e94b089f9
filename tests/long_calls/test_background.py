"""A background response is held for when it starts, and settled once by the first process to see its end, whatever
happens to the processes meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.calls.long_calls import long_calls
from farebox.calls.long_calls.work import as_responded
from farebox.ledger.recovery import left_open
from farebox.storage.long_calls import claim_long_call, postpone_long_call
from farebox.storage.sql import DatabaseUnavailable, rows
from tests.calls.kit import differences, log_rows, set_gateway, set_provider
from tests.engines import ON_BOTH_ENGINES, looking
from tests.long_calls.kit import MODEL, TEXT, begin, look, make_due, running, settled, spent
from tests.long_calls.openai_objects import COST, OpenAIObjects
from tests.process_death import crash_at_each_point
from tests.sdks import openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES


@pytest.fixture
def client(customer: Customer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{customer.gateway_url}/openai", api_key=customer.token, max_retries=0) as made:
        yield made


def test_a_background_response_is_settled_by_the_accounts_own_poll(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    begun = client.responses.with_raw_response.create(
        model="gpt-4o-mini",
        input="Hello",
        max_output_tokens=200,
        background=True,
        extra_headers={"farebox-end-user": "ada"},
    )
    response = begun.parse()
    assert response.status == "queued"
    held = customer.balance.held
    assert begun.headers["farebox-hold-usd"]
    assert held > 0
    assert client.responses.retrieve(response.id).status == "queued"
    assert (customer.balance.held, spent(customer)) == (held, 0)
    [long] = running(customer)
    assert farebox.run(as_responded(farebox.services, long, 200, b"")).context.call.end_user == "ada"
    provider.finish(response.id)
    assert client.responses.retrieve(response.id).status == "completed"
    assert (customer.balance.held, spent(customer)) == (0, COST)
    assert client.responses.retrieve(response.id).status == "completed"
    assert spent(customer) == COST
    assert not running(customer)
    receipt = customer.receipt(begun.headers["cf-aig-log-id"])
    assert (receipt["charge_nanos"], receipt["hold_nanos"], receipt["outcome"]) == (COST, held, "charged")
    assert [row["model"] for row in log_rows(customer)].count("gpt-4o-mini") == 1
    assert differences(farebox) == []


def test_a_background_response_is_settled_by_the_worker(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    response = begin(client)
    look(customer.farebox)
    assert customer.balance.held > 0
    assert running(customer)
    provider.finish(response.id)
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, COST)
    asked = [sent for sent in provider.upstream.sent if sent.method == "GET"]
    assert {sent.headers["authorization"] for sent in asked} == {"Bearer key-of-the-operator"}
    assert client.responses.retrieve(response.id).status == "completed"
    assert spent(customer) == COST
    assert differences(customer.farebox) == []


def test_a_background_response_can_be_continued(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    response = begin(client)
    provider.finish(response.id, output=[{"type": "message", "id": "msg_late", "role": "assistant", "content": []}])
    settled(customer)
    client.responses.create(model="gpt-4o-mini", input=[{"type": "item_reference", "id": "msg_late"}])


@pytest.mark.parametrize(
    ("status", "more", "cost"),
    [
        ("incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, COST),
        ("failed", {"usage": None, "error": {"code": "server_error", "message": "It broke."}}, 0),
        ("cancelled", {}, COST),
    ],
)
def test_ends_of_background_responses(
    customer: Customer,
    client: openai.OpenAI,
    provider: OpenAIObjects,
    status: str,
    more: dict[str, Any],
    cost: int,
) -> None:
    response = begin(client)
    provider.finish(response.id, status, **more)
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, cost)
    assert differences(customer.farebox) == []


def test_a_canceled_background_response_costs_its_input(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    """OpenAI reports no usage then, so the input is counted, up to the hold."""
    response = begin(client)
    held = customer.balance.held
    assert client.responses.cancel(response.id).status == "cancelled"
    assert customer.balance.held == 0
    assert 0 < spent(customer) <= held
    assert not running(customer)
    row = next(row for row in log_rows(customer) if row["model"])
    assert customer.receipt(row["id"])["policy"].startswith("it was canceled")


def test_a_background_response_is_not_deleted_before_it_is_paid_for(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    response = begin(client)
    with pytest.raises(openai.ConflictError) as busy:
        client.responses.delete(response.id)
    assert busy.value.code == "object_busy"
    provider.finish(response.id)
    settled(customer)
    client.responses.delete(response.id)
    assert spent(customer) == COST


def test_a_refused_background_response_is_free(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    def answer(_: Any) -> Any:
        provider.upstream.status = 400
        return {"error": {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}}

    provider.upstream.response = answer
    with pytest.raises(openai.BadRequestError):
        begin(client)
    assert (customer.balance.held, spent(customer)) == (0, 0)
    until(lambda: not running(customer), "the end of its row")


def test_a_refused_step_in_the_background_leaves_no_row(customer: Customer, provider: OpenAIObjects) -> None:
    def answer(_: Any) -> Any:
        provider.upstream.status = 500
        return {"error": {"message": "No.", "type": "server_error", "param": None, "code": None}}

    provider.upstream.response = answer
    body = {"model": MODEL, "input": TEXT, "max_output_tokens": 200, "background": True}
    chat = {"model": "demo-1", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20}
    steps = [
        {"provider": "openai", "endpoint": "responses", "headers": {}, "query": body},
        {"provider": "demo", "endpoint": "v1/chat/completions", "headers": {}, "query": chat},
    ]
    served = httpx.post(customer.gateway_url, json=steps, headers=customer.headers)
    assert (served.status_code, served.headers["cf-aig-step"]) == (200, "1")
    assert (customer.balance.held, running(customer)) == (0, [])


def test_without_its_hold_no_work_begins(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was declared dead after the hold, and another one has ended it."""
    monkeypatch.setattr(long_calls, "adopt_hold", lambda *_: False)
    with pytest.raises(openai.InternalServerError) as caught:
        begin(client)
    assert caught.value.status_code == 503
    assert (provider.upstream.sent, customer.balance.held, running(customer)) == ([], 0, [])


def test_the_hold_of_a_background_response_outlives_the_process(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    """A restart or another process ends what a dead process left open, but not this."""
    begin(client)
    (long,) = running(customer)
    sql = "SELECT owner, expires_at FROM holds WHERE bucket = 0 AND account_id = ? AND hold_id = ?"
    with looking(farebox.services.settings) as connection:
        ((owner, expires_at),) = rows(connection, sql, (customer.account_id, long.log_id))
        assert not [hold for hold in left_open(connection, "another") if hold.account_id == customer.account_id]
    assert owner == ""
    assert expires_at > long.ends_at > long.created_at


def test_one_worker_polls_at_a_time(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    """A claim invalidates the previous one, and later writes of its holder."""
    begin(client)
    make_due(farebox)
    (long,) = running(customer)
    write, far = farebox.services.database.write, long.ends_at

    async def claims() -> list[Any]:
        first, second = [await write(partial(claim_long_call, call=long, until=far)) for _ in range(2)]
        assert first is not None
        third = await write(partial(claim_long_call, call=first, until=far + 1))
        await write(partial(postpone_long_call, claimed=first, next_at=1))
        return [second, third]

    second, third = farebox.run(claims())
    assert second is None
    assert third is not None
    assert [found.next_at for found in running(customer)] == [far + 1]


def begun_or_refused(client: openai.OpenAI) -> Any:
    """The response, or None if the credit is too small."""
    try:
        return begin(client)
    except openai.APIStatusError as refused:
        if refused.status_code not in (402, 429):
            raise
        return None


def test_running_work_holds_its_credit(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    """While it runs, nothing is started that the rest does not cover; in the end everything is paid for."""
    begin(client)
    poor, begun = farebox.funded(f"{customer.balance.held * 2 / 10**9:.9f}"), list[Any]()
    whole = poor.balance.posted
    with openai.OpenAI(base_url=f"{poor.gateway_url}/openai", api_key=poor.token, max_retries=0) as other:
        sent = len(provider.upstream.sent)
        while (response := begun_or_refused(other)) is not None:
            begun.append(response)
        assert [sent.method for sent in provider.upstream.sent[sent:]].count("POST") == len(begun) >= 2
        assert poor.balance.held <= whole
    for response in begun:
        provider.finish(response.id)
    settled(poor)
    assert (poor.balance.held, poor.balance.posted) == (0, whole - len(begun) * COST)


def stream_of(response: dict[str, Any]) -> bytes:
    def event(kind: str, number: int, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": number, **fields}
        return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()

    ended = {**response, "status": "completed"}
    return (
        event("response.created", 0, response=response)
        + event("response.output_text.delta", 1, delta="Good day.", item_id="m", output_index=0, content_index=0)
        + event("response.completed", 2, response=ended)
    )


def test_a_background_stream_is_resumed(customer: Customer, client: openai.OpenAI, provider: OpenAIObjects) -> None:
    answer = provider.answer

    def streamed(sent: Any) -> Any:
        described = answer(sent)
        asked = "stream=true" in sent.path or (sent.method == "POST" and sent.json().get("stream"))
        return stream_of(described) if asked else described

    provider.upstream.response = streamed
    with begin(client, stream=True) as stream:
        first = next(iter(stream))
    response_id = first.response.id
    assert customer.balance.held > 0
    assert [long.object_id for long in running(customer)] == [response_id]
    again = client.responses.retrieve(response_id, stream=True, starting_after=0)
    assert [event.type for event in again][-1] == "response.completed"
    assert "starting_after=0" in provider.upstream.sent[-1].path or any(
        "starting_after=0" in sent.path for sent in provider.upstream.sent
    )
    provider.finish(response_id)
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, COST)


def test_a_background_stream_is_held_for_completely(farebox: Farebox, provider: OpenAIObjects) -> None:
    """Its output is not observed, so it could not be stopped at the end of the balance; its output is limited
    instead."""
    poor, answer = farebox.funded("0.004"), provider.answer
    provider.upstream.response = lambda sent: stream_of(answer(sent))
    with openai.OpenAI(base_url=f"{poor.gateway_url}/openai", api_key=poor.token, max_retries=0) as client:
        with begin(client, stream=True, max_output_tokens=10_000) as stream:
            next(iter(stream))
        (asked,) = (sent for sent in provider.upstream.sent if sent.method == "POST")  # a worker may have polled since
        limit = asked.json()["max_output_tokens"]
    assert 16 <= limit < 10_000
    assert poor.balance.held >= limit * 600


def test_a_background_stream_whose_text_is_to_be_screened_is_refused_before_it_begins(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    flag = {"id": "cards", "enabled": True, "action": "FLAG", "check": ["RESPONSE"], "profiles": ["payment_cards"]}
    set_gateway(customer, dlp={"enabled": True, "policies": [flag]})
    with pytest.raises(openai.InternalServerError) as refused:
        begin(client.with_options(max_retries=2), stream=True)
    assert refused.value.body["internalCode"] == 2981  # type: ignore[index]
    assert not provider.upstream.sent
    assert customer.balance.held == 0
    response = begin(client)
    provider.finish(response.id)
    assert client.responses.retrieve(response.id).status == "completed"


@pytest.mark.parametrize("policy", ["release", "charge"])
def test_a_background_response_lost_by_the_provider_ends_by_policy(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects, policy: str
) -> None:
    response = begin(client)
    held = customer.balance.held
    del provider.objects[response.id]
    look(farebox)
    assert customer.balance.held == held, "it may just not be visible yet"
    in_doubt = farebox.services.settings.in_doubt
    object.__setattr__(farebox.services.settings, "in_doubt", policy)
    try:
        make_due(farebox, created_at=1)
        settled(customer)
    finally:
        object.__setattr__(farebox.services.settings, "in_doubt", in_doubt)
    assert (customer.balance.held, spent(customer)) == (0, held if policy == "charge" else 0)
    assert differences(farebox) == []


def test_an_endless_background_response_is_canceled_and_costs_its_input(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    begin(client)
    held = customer.balance.held
    make_due(farebox, ends_at=1)
    settled(customer)
    assert any(sent.path.endswith("/cancel") for sent in provider.upstream.sent)
    assert customer.balance.held == 0
    assert 0 < spent(customer) <= held


def test_work_that_cannot_be_canceled_because_it_has_ended_is_settled(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    provider.refuses_cancel = True
    provider.finish(begin(client).id)
    make_due(farebox, ends_at=1)
    settled(customer)
    assert any(sent.path.endswith("/cancel") for sent in provider.upstream.sent)
    assert (customer.balance.held, spent(customer)) == (0, COST)


def test_the_worker_may_die_anywhere(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    """Dying before or after any commit or request of a poll leads to the same books."""
    services = farebox.services
    for crash in crash_at_each_point(
        (services.ledger, "do"), (services.upstream, "send"), (long_calls, "end"), at_least=6
    ):
        before = spent(customer)
        response = begin(client)
        provider.finish(response.id)
        (long,) = running(customer)
        with crash:
            farebox.run(long_calls.poll(services, long))
        settled(customer)
        assert spent(customer) - before == COST, crash.point
        assert customer.balance.held == 0
    assert differences(farebox) == []


def test_concurrent_observers_of_the_end_charge_once(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    response = begin(client)
    provider.finish(response.id)
    (long,) = running(customer)

    async def twice() -> None:
        await long_calls.poll(farebox.services, long)
        await long_calls.poll(farebox.services, long)

    farebox.run(twice())
    client.responses.retrieve(response.id)
    assert (customer.balance.held, spent(customer)) == (0, COST)
    assert differences(farebox) == []


def test_an_unanswered_start_ends_by_policy(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    """The process dies between the request and recording the response: whether the provider is working is unknown."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farebox.calls.long_calls.relay.record_accepted", _lost)
        with pytest.raises(openai.InternalServerError):
            begin(client)
    assert customer.balance.held > 0
    assert [long.state for long in running(customer)] == ["asked"]
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, 0)
    assert differences(farebox) == []


def test_a_restart_continues_where_the_process_ended(
    engine: str, tmp_path: Path, upstream: Any, provider: OpenAIObjects
) -> None:
    """One was accepted, the response of one was lost, and one only had its hold: each ends by its row."""
    with running_farebox(tmp_path) as first:
        set_provider(first, "openai", base_url=upstream.url + "/v1", api_key="key-of-the-operator")
        customer = first.funded("5")
        with openai.OpenAI(base_url=f"{customer.gateway_url}/openai", api_key=customer.token, max_retries=0) as client:
            response = begin(client)
            for lost in ("long_calls.relay.record_accepted", "serve.begin"):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(f"farebox.calls.{lost}", _lost)
                    with pytest.raises(openai.InternalServerError):
                        begin(client)
        assert [long.state for long in running(customer)].count("asked") == 1
    provider.finish(response.id)
    with running_farebox(tmp_path) as second:
        customer = Customer(second, customer.account_id, customer.token)
        settled(customer)
        assert (customer.balance.held, spent(customer)) == (0, COST)
        assert differences(second) == []


async def _lost(*_: Any) -> Any:
    raise DatabaseUnavailable("as if the process had ended here")


def test_a_client_that_hangs_up_has_started_the_response(customer: Customer, provider: OpenAIObjects) -> None:
    """Its ID is still recorded, and it is paid for."""
    reached, gate, answer = threading.Event(), threading.Event(), provider.answer

    def late(sent: Any) -> Any:
        reached.set()
        assert gate.wait(60)
        return answer(sent)

    provider.upstream.response = late
    body = {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 200, "background": True}
    with httpx.Client(headers=customer.headers) as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{customer.gateway_url}/openai/responses", json=body, timeout=httpx.Timeout(60, read=0.5))
    assert reached.wait(60)
    gate.set()
    until(lambda: [long.state for long in running(customer)] == ["running"], "its ID")
    provider.upstream.response = answer
    provider.finish(running(customer)[0].object_id)
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, COST)
