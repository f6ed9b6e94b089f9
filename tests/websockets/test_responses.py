"""OpenAI's Responses over a WebSocket on the operator's key, as its SDKs and Codex use it."""

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.server import ServerConnection

from farebox.money import NANOS_PER_USD
from tests.calls.kit import differences, log_rows, set_price, set_provider
from tests.calls.test_token_models import limited
from tests.engines import ON_BOTH_ENGINES
from tests.sdks import openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until
from tests.websockets.kit import SocketProvider, await_close, opened, receive, send
from tests.websockets.realtime import await_event
from tests.websockets.responses import MODEL, TURN, Responses

pytestmark = ON_BOTH_ENGINES


@pytest.fixture(scope="module")
def farebox(engine: str, provider: SocketProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("responses")) as served:
        set_provider(served, "openai", base_url=provider.url)
        set_price(served, "openai", MODEL)
        yield served


@pytest.fixture
def responses(provider: SocketProvider) -> Responses:
    provider.forget()
    provider.script = played = Responses()
    return played


@pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")  # of the SDK's own client
def test_openai_s_sdk_and_each_response_is_charged_once(customer: Customer, responses: Responses) -> None:
    with (
        openai.OpenAI(api_key=customer.token, base_url=f"{customer.gateway_url}/openai") as client,
        client.responses.connect() as connection,
    ):
        for number in range(1, 4):
            before: dict[str, Any] = {} if number == 1 else {"previous_response_id": f"resp_{number - 1}"}
            connection.response.create(model=MODEL, input="Hello", store=False, max_output_tokens=50, **before)
            while connection.recv().type != "response.completed":
                pass
            assert customer.balance.posted == 5 * NANOS_PER_USD - number * TURN
            assert customer.balance.held == 0
    until(lambda: len(log_rows(customer)) == 4)
    assert not differences(customer.farebox)
    turns = [row for row in log_rows(customer) if row["model"]]
    assert {(row["model"], row["tokens_in"], row["tokens_out"]) for row in turns} == {(MODEL, 100, 20)}


def test_an_id_of_another_account_s_is_not_found(customer: Customer, responses: Responses) -> None:
    with opened(customer, "openai/responses") as connection:
        send(connection, type="response.create", model=MODEL, input="Hi", previous_response_id="resp_of_another")
        error = receive(connection)
        assert (error["status"], error["error"]["code"]) == (404, "object_not_found")
        assert await_close(connection)[0] == 4404
    assert responses.events == []


@pytest.mark.parametrize(
    "more",
    [{"type": "response.steer"}, {"stream_id": "s"}, {"background": True}, {"tools": [{"type": "computer_use_x"}]}],
)
def test_what_cannot_be_charged_goes_no_further(customer: Customer, responses: Responses, more: dict[str, Any]) -> None:
    with opened(customer, "openai/responses") as connection:
        send(connection, **{"type": "response.create", "model": MODEL, "input": "Hi", **more})
        assert receive(connection)["type"] == "error"
        send(connection, type="response.create", model=MODEL, input="Hi")
        await_event(connection, "response.completed")
    until(lambda: customer.balance.held == 0)
    assert len(responses.events) == 1
    assert customer.balance.posted == 5 * NANOS_PER_USD - TURN


def test_a_refused_response_gives_its_hold_back(customer: Customer, responses: Responses) -> None:
    responses.fails = True
    with opened(customer, "openai/responses") as connection:
        send(connection, type="response.create", model=MODEL, input="Hi")
        assert receive(connection)["error"]["code"] == "invalid"
        until(lambda: customer.balance.held == 0)
    assert customer.balance.posted == 5 * NANOS_PER_USD


def test_a_provider_without_websockets_is_one_to_be_asked_over_http(
    customer: Customer, provider: SocketProvider, responses: Responses
) -> None:
    provider.refusal = lambda connection, _: connection.respond(405, "GET is not allowed")
    with pytest.raises(Exception, match="HTTP 426"):
        opened(customer, "openai/responses")
    assert log_rows(customer)[0]["status_code"] == 426


def test_codex_is_told_of_credit_as_it_understands_it(farebox: Farebox, responses: Responses) -> None:
    poor = farebox.funded("0.000000001")
    with opened(poor, "openai/responses", poor.headers | {"originator": "codex_exec"}) as connection:
        send(connection, type="response.create", model=MODEL, input="Hi")
        error = receive(connection)
        assert (error["status"], error["error"]["type"]) == (429, "usage_limit_reached")
        assert "x-codex-promo-message" in error["headers"]
        assert await_close(connection)[0] == 4402


def test_one_response_at_a_time(customer: Customer, provider: SocketProvider, responses: Responses) -> None:
    """Of two, an error of the second would end the first, whose output goes on."""
    both = threading.Semaphore(0)

    def script(connection: ServerConnection) -> None:
        responses.events.append(json.loads(connection.recv()))
        response: dict[str, Any] = {"id": "resp_1", "model": MODEL, "store": False, "output": []}
        send(connection, type="response.created", response={**response, "status": "in_progress"})
        assert both.acquire(timeout=60)
        with contextlib.suppress(TimeoutError):
            connection.recv(0)
            send(connection, type="error", status=400, error={"code": "invalid", "message": "no"})
        send(connection, type="response.output_text.delta", item_id="m", delta="Good day " * 100, output_index=0)
        usage = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
        send(connection, type="response.completed", response={**response, "status": "completed", "usage": usage})

    provider.script = script
    with opened(customer, "openai/responses") as connection:
        send(connection, type="response.create", model=MODEL, input="Hi")
        await_event(connection, "response.created")
        send(connection, type="response.create", model=MODEL, input="Hi")
        refused = receive(connection)
        assert refused["type"] == "error", refused
        both.release()
        await_event(connection, "response.completed")
    until(lambda: customer.balance.held == 0)
    assert customer.balance.posted == 5 * NANOS_PER_USD - TURN


@pytest.mark.parametrize("more", ['"stream": "true"', f'"MODEL": "{MODEL}"', f'"model": "{MODEL}"'])
def test_a_token_for_certain_models_asks_for_nothing_that_is_not_read(
    farebox: Farebox, responses: Responses, more: str
) -> None:
    """With a key of its own, too: what cannot be read, or names two models, may be of any."""
    customer = limited(farebox, f"openai/{MODEL}")
    headers = {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "Bearer sk-own-key"}
    with opened(customer, "openai/responses", headers) as connection:
        connection.send(f'{{"type": "response.create", "model": "{MODEL}", "input": "Hi", {more}}}')
        assert receive(connection)["type"] == "error"
        send(connection, type="response.create", model=MODEL, input="Hi")
        await_event(connection, "response.completed")
    assert len(responses.events) == 1
