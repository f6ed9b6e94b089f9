"""Azure OpenAI's Realtime API, driven by OpenAI's SDKs: by deployment and in the newer form, priced as the model that
the operator says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.sync.server import ServerConnection

from farebox.money import NANOS_PER_USD
from tests.calls.kit import log_rows, set_gateway, set_provider
from tests.calls.upstream import serving
from tests.engines import ON_BOTH_ENGINES
from tests.sdks import openai
from tests.support import Customer, Farebox
from tests.waiting import until
from tests.websockets.kit import SocketProvider, await_close, opened, receive, send, settled
from tests.websockets.realtime import MODEL, SECOND, Realtime, await_event, cost

pytestmark = ON_BOTH_ENGINES

KEY = "azure-key-of-the-operator-0123"
VERSION = "2025-04-01-preview"
BY_DEPLOYMENT = f"azure-openai/acme-eu/openai/realtime?api-version={VERSION}&deployment="
NEWER = "azure-openai/acme-eu/openai/v1/realtime?model="
TURN = cost(text_in=100, text_out=20, audio_out=40)


@pytest.fixture(autouse=True)
def realtime(farebox: Farebox, provider: SocketProvider) -> Realtime:
    set_key(farebox, provider, api_key=KEY)
    provider.forget()
    provider.script = played = Realtime(session={"turn_detection": None})
    return played


def set_key(farebox: Farebox, provider: SocketProvider, **key: Any) -> None:
    """The operator's key for one resource, at which a deployment has a name of its own."""
    stored = {"resource": "Acme-EU", "deployments": {"voice": MODEL, "ear": "whisper-1"}, **key}
    set_provider(farebox, "azure-openai", base_url=provider.url + "/at/{resource}", api_key=json.dumps(stored))


async def test_the_sdk_for_azure_by_deployment(customer: Customer, provider: SocketProvider) -> None:
    endpoint = f"{customer.gateway_url}/azure-openai/acme-eu"
    client = openai.AsyncAzureOpenAI(
        azure_endpoint=endpoint,
        websocket_base_url=endpoint.replace("http://", "ws://") + "/openai",
        api_key=customer.token,
        api_version=VERSION,
    )
    async with client, client.realtime.connect(model="voice") as connection:
        assert (await connection.recv()).type == "session.created"
        for _ in range(2):
            await connection.response.create()
            while (await connection.recv()).type != "response.done":
                pass
    settled(customer, 2 * TURN)
    assert provider.handshakes[0].path == f"/at/acme-eu/openai/realtime?api-version={VERSION}&deployment=voice"
    assert provider.headers["api-key"] == KEY
    assert "authorization" not in provider.headers
    rows = [row for row in log_rows(customer) if row["model"]]
    assert [(row["provider"], row["model"]) for row in rows] == [("azure-openai", MODEL)] * 2


@pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")  # of the SDK's own client
def test_openai_s_sdk_in_the_newer_form(customer: Customer, provider: SocketProvider) -> None:
    base_url = f"{customer.gateway_url}/azure-openai/acme-eu/openai/v1"
    with (
        openai.OpenAI(api_key=customer.token, base_url=base_url) as client,
        client.realtime.connect(model="voice") as connection,
    ):
        assert connection.recv().type == "session.created"
        connection.response.create()
        while connection.recv().type != "response.done":
            pass
    settled(customer, TURN)
    assert provider.handshakes[0].path == "/at/acme-eu/openai/v1/realtime?model=voice"


def test_a_deployment_that_transcribes_is_priced_as_its_model(customer: Customer, realtime: Realtime) -> None:
    realtime.transcript_usage = {"type": "duration", "seconds": 3.0}
    with opened(customer, NEWER + "voice") as connection:
        heard = {"turn_detection": None, "transcription": {"model": "ear"}}
        send(connection, type="session.update", session={"type": "realtime", "audio": {"input": heard}})
        await_event(connection, "session.updated")
        for _ in range(3):
            send(connection, type="input_audio_buffer.append", audio=SECOND)
        send(connection, type="input_audio_buffer.commit")
        await_event(connection, "conversation.item.input_audio_transcription.completed")
    settled(customer, 300_000)  # 3 seconds of 0.36 USD an hour
    assert {row["model"] for row in log_rows(customer)} - {None, ""} == {"whisper-1"}


def test_an_application_of_entra_has_its_token_in_the_handshake_and_in_no_message(
    customer: Customer, farebox: Farebox, provider: SocketProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_key(farebox, provider, tenant_id="t.example.com", client_id="app-1", client_secret="s3cret~of~the~app")
    provider.script = Realtime(session={"turn_detection": None, "instructions": "eyJ0.entra.of.the.operator"})
    with serving() as entra:
        monkeypatch.setattr(farebox.services.tokens, "entra_url", entra.url)
        entra.response = {"error": "invalid_client", "error_description": "The secret has expired."}
        entra.status = 401
        with pytest.raises(Exception, match="HTTP 503"):
            opened(customer, NEWER + "voice")
        entra.response, entra.status = {"access_token": "eyJ0.entra.of.the.operator", "expires_in": 3599}, 200
        provider.refusal = lambda connection, _: connection.respond(401, "the token has ended")
        with pytest.raises(Exception, match="HTTP 503"):
            opened(customer, NEWER + "voice")
        provider.refusal = lambda _, __: None
        connection = opened(customer, NEWER + "voice")
        assert len(entra.sent) == 3  # a token that is not accepted is not used again
    with connection:
        assert "eyJ0.entra" not in str(receive(connection))
        send(connection, type="response.create")
        await_event(connection, "response.done")
    assert provider.headers["authorization"] == "Bearer eyJ0.entra.of.the.operator"
    assert "api-key" not in provider.headers
    settled(customer, TURN)


@pytest.mark.parametrize(
    "path",
    [
        f"{BY_DEPLOYMENT}voice&model=gpt-4o-mini-realtime-preview",
        f"{BY_DEPLOYMENT}voice&deployment=voice",
        f"{BY_DEPLOYMENT}voice&Deployment=another",
        f"{BY_DEPLOYMENT}nobody-knows-which",
        f"{BY_DEPLOYMENT}gpt-4o",
        f"{NEWER}voice&call_id=rtc_of_another",
        f"azure-openai/another-resource/openai/v1/realtime?model={MODEL}",
    ],
)
def test_what_is_not_one_known_deployment_of_the_key_s_resource_is_not_opened(
    customer: Customer, provider: SocketProvider, path: str
) -> None:
    with pytest.raises(Exception, match="HTTP 400"):
        opened(customer, path)
    assert provider.handshakes == []
    settled(customer, 0)


def test_a_gateway_that_screens_opens_none(customer: Customer, provider: SocketProvider) -> None:
    set_gateway(customer, dlp={"enabled": True, "action": "BLOCK", "profiles": ["payment_cards"]})
    with pytest.raises(Exception, match="HTTP 426"):
        opened(customer, NEWER + "voice")
    assert provider.handshakes == []


def test_credit_that_ends_closes_after_the_turn_that_was_paid_for(farebox: Farebox, realtime: Realtime) -> None:
    customer, granted = farebox.funded("0.30"), int(0.30 * NANOS_PER_USD)
    realtime.used = {"text_in": 100, "audio_out": 3_000}
    delivered = 0
    with opened(customer, BY_DEPLOYMENT + "voice") as connection:
        while True:
            send(connection, type="response.create")
            while (event := receive(connection))["type"] not in ("response.done", "error"):
                pass
            if event["type"] == "error":
                break
            delivered += cost(text_in=100, audio_out=event["response"]["usage"]["output_tokens"])
        assert event["error"]["code"] == "insufficient_quota"
        assert await_close(connection)[0] == 4402
    assert delivered > 0
    settled(customer, delivered, granted=granted)


@pytest.mark.parametrize("side", ["provider", "client"])
def test_a_turn_that_either_side_cuts_is_charged_for_what_was_delivered(
    customer: Customer, provider: SocketProvider, realtime: Realtime, side: str
) -> None:
    def cut(connection: ServerConnection) -> None:
        if side == "provider":
            connection.close_socket()
        else:
            client[0].close_socket()

    client: list[Any] = []
    realtime.before_done = cut
    with opened(customer, NEWER + "voice") as connection:
        client.append(connection)
        send(connection, type="response.create", response={"max_output_tokens": 100})
        await_close(connection)
    until(lambda: customer.balance.held == 0 and any(row["model"] for row in log_rows(customer)))
    (row,) = [row for row in log_rows(customer) if row["model"]]
    charged = 5 * NANOS_PER_USD - customer.balance.posted
    assert 0 < charged == round(row["cost"] * NANOS_PER_USD)
    settled(customer, charged)
