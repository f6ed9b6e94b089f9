"""WebSockets with the caller's own key: who may open one, what is relayed, how it ends, and what is recorded."""

import http
import socket
import threading
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection

from farebox.operator.administer import set_frozen
from farebox.storage.accounts import revoke_token
from tests.calls.kit import forget, log_rows, set_gateway, set_provider
from tests.calls.test_token_models import limited
from tests.engines import TESTER
from tests.http.support import GATEWAY_FIELDS
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until
from tests.websockets.kit import SECONDS, SocketProvider, await_close, opened

KEY = "sk-own-key-of-the-caller"
LISTEN = "deepgram/v1/listen"
MESSAGE_MAX = 2**20
METRICS = "the-test-reads-the-metrics"


@pytest.fixture(scope="module")
def farebox(provider: SocketProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(
        tmp_path_factory.mktemp("tunnel"),
        websocket_message_bytes=MESSAGE_MAX,
        account_held_bytes_max=2**22,
        metrics_token=METRICS,
    ) as served:
        for slug in ("openai", "deepgram", "google-ai-studio", "elevenlabs", "cartesia"):
            set_provider(served, slug, base_url=provider.url)
        yield served


@pytest.fixture(autouse=True)
def _plain(provider: SocketProvider) -> None:
    provider.forget()


def own(customer: Customer) -> dict[str, str]:
    """Headers with the customer's token and its own provider key."""
    return {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": f"Token {KEY}"}


def tunnel(customer: Customer, path: str = LISTEN) -> ClientConnection:
    return opened(customer, path, own(customer))


def status_of(customer: Customer, path: str, headers: dict[str, str] | None = None) -> int:
    """The status with which the handshake is refused."""
    with pytest.raises(InvalidStatus) as refused:
        opened(customer, path, headers)
    return refused.value.response.status_code


# --- what passes ---


def test_messages_of_both_kinds_and_all_sizes_pass_unchanged(customer: Customer, provider: SocketProvider) -> None:
    with tunnel(customer, f"{LISTEN}?model=nova-3&language=de") as connection:
        for message in ("", "Grüße", b"", b"\x00\xff" * 7, "x" * 200, b"y" * 70_000, "z" * MESSAGE_MAX):
            connection.send(message)
            assert connection.recv(SECONDS) == message
        connection.send([b"in ", b"", b"fragments"])
        assert connection.recv(SECONDS) == b"in fragments"
        assert connection.ping().wait(SECONDS)
    assert provider.handshakes[-1].path == "/v1/listen?model=nova-3&language=de"
    assert provider.headers["authorization"] == f"Token {KEY}"
    assert "cf-aig-authorization" not in provider.headers
    assert "sec-websocket-extensions" not in provider.headers
    assert provider.await_end()[0] == 1000


def test_many_sessions_at_once_do_not_mix(customer: Customer) -> None:
    connections = [tunnel(customer) for _ in range(8)]
    for number, connection in enumerate(connections):
        for part in range(20):
            connection.send(f"{number}/{part}")
    for number, connection in enumerate(connections):
        assert [connection.recv(SECONDS) for _ in range(20)] == [f"{number}/{part}" for part in range(20)]
        connection.close()


def test_a_client_that_does_not_read_holds_the_provider_up_and_loses_nothing(
    customer: Customer, provider: SocketProvider
) -> None:
    sent, most = [0], 400

    def flood(connection: ServerConnection) -> None:
        for number in range(most):
            connection.send(bytes([number % 256]) * 100_000)
            sent[0] += 1

    provider.script = flood
    with tunnel(customer) as connection:
        # 40 MB: much more than systems and the gateway buffer for a client that does not read.
        until(lambda: sent[0] > 10)
        received = [connection.recv(SECONDS) for _ in range(most)]
        assert [message[0] for message in received if isinstance(message, bytes)] == [n % 256 for n in range(most)]
        assert customer.farebox.services.held.by_account.get(customer.account_id, 0) < 2**20


# --- who may ---


def test_a_browser_s_credentials_are_subprotocols(customer: Customer, provider: SocketProvider) -> None:
    provider.subprotocol = "realtime"
    words = ["realtime", f"cf-aig-authorization.{customer.token}", f"openai-insecure-api-key.{KEY}"]
    with opened(customer, "openai/realtime?model=m", {}, subprotocols=words) as connection:
        connection.send("hello")
        assert connection.recv(SECONDS) == "hello"
        assert connection.subprotocol == "realtime"
    assert provider.headers["sec-websocket-protocol"] == "realtime"
    assert provider.headers["authorization"] == f"Bearer {KEY}"


def test_deepgram_s_key_may_be_a_subprotocol(customer: Customer, provider: SocketProvider) -> None:
    words = ["token", KEY, f"cf-aig-authorization.{customer.token}"]
    with opened(customer, LISTEN, {}, subprotocols=words) as connection:
        connection.send("hello")
        assert connection.recv(SECONDS) == "hello"
        assert connection.subprotocol == "token"  # a browser takes none that chooses nothing
    assert provider.headers["authorization"] == f"Token {KEY}"
    assert "sec-websocket-protocol" not in provider.headers


def test_google_s_key_is_in_the_query(customer: Customer, provider: SocketProvider) -> None:
    path = "google-ai-studio/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
    token = {"cf-aig-authorization": f"Bearer {customer.token}"}
    with opened(customer, f"{path}?key=AIza-own", token) as connection:
        connection.send("hello")
        assert connection.recv(SECONDS) == "hello"
    assert provider.handshakes[-1].path.endswith("BidiGenerateContent?key=AIza-own")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (LISTEN, {}, 401),
        (LISTEN, {"authorization": f"Token {KEY}"}, 401),
        (LISTEN, {"cf-aig-authorization": "Bearer fbx_none", "authorization": f"Token {KEY}"}, 401),
        ("nobody/v1/listen", None, 400),
        ("deepgram/v1/projects", None, 426),
        ("anthropic/v1/messages", None, 426),
        ("compat/chat/completions", None, 426),
        ("deepgram/v2/listen", None, 426),  # on the operator's key, where it cannot be metered
    ],
)
def test_what_is_refused(customer: Customer, path: str, headers: dict[str, str] | None, status: int) -> None:
    assert status_of(customer, path, headers) == status


def test_a_token_for_certain_models_opens_nothing_that_is_not_read(farebox: Farebox) -> None:
    customer = limited(farebox, "deepgram/nova-3")
    assert status_of(customer, "deepgram/v2/listen", own(customer)) == 426


SCREENING = {"enabled": True, "action": "BLOCK", "profiles": ["payment_cards"]}
LIVE = "google-ai-studio/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"


def test_no_session_is_opened_or_goes_on_where_the_gateway_screens_what_is_said(
    customer: Customer, provider: SocketProvider
) -> None:
    set_gateway(customer)
    with tunnel(customer) as connection:
        connection.send("4111 1111 1111 1111")
        assert connection.recv(SECONDS) == "4111 1111 1111 1111"
        set_gateway(customer, dlp=SCREENING)
        forget(customer.farebox)
        connection.send("4111 1111 1111 1111")
        code, reason = await_close(connection)
    assert (code, "cannot be screened" in reason) == (4426, True)
    provider.await_end()
    handshakes = len(provider.handshakes)
    for path in (LISTEN, "openai/realtime?model=gpt-realtime", "openai/responses", LIVE):
        for headers in (own(customer), customer.headers):
            assert status_of(customer, path, headers) == 426, path
    assert len(provider.handshakes) == handshakes


def test_a_session_ends_once_its_token_is_revoked(customer: Customer, provider: SocketProvider) -> None:
    with tunnel(customer) as connection:
        connection.send("one")
        assert connection.recv(SECONDS) == "one"
        tokens = httpx.get(f"{customer.api_url}/farebox/tokens", headers=customer.headers).json()["result"]
        farebox = customer.farebox
        farebox.run(farebox.services.database.write(lambda c: revoke_token(c, tokens[0]["id"], 1)))
        forget(farebox)
        connection.send("two")
        assert await_close(connection)[0] == 4401
    provider.await_end()


@pytest.mark.parametrize("path", [LISTEN, "openai/realtime?model=gpt-realtime"])
def test_a_session_ends_at_the_next_message_once_its_token_does_not_reach_the_gateway(
    customer: Customer, provider: SocketProvider, path: str
) -> None:
    set_gateway(customer)
    farebox, accounts = customer.farebox, f"{customer.api_url}/farebox/tokens"
    made = httpx.post(
        f"{customer.api_url}/ai-gateway/gateways", json={**GATEWAY_FIELDS, "id": "other"}, headers=customer.headers
    )
    assert made.status_code == 200, made.text
    token_id = httpx.get(accounts, headers=customer.headers).json()["result"][0]["id"]
    with tunnel(customer, path) as connection:
        connection.send('{"type": "one"}')
        assert connection.recv(SECONDS) == '{"type": "one"}'
        set_to = httpx.put(f"{accounts}/{token_id}", json={"gateways": ["other"]}, headers=customer.headers)
        assert set_to.status_code == 200, set_to.text
        forget(farebox)
        connection.send('{"type": "two"}')
        code, reason = await_close(connection)
    assert (code, "“default” is not one of them" in reason) == (4403, True)
    provider.await_end()


def test_a_session_ends_once_its_account_is_frozen(customer: Customer, provider: SocketProvider) -> None:
    farebox = customer.farebox
    freeze = partial(set_frozen, by=TESTER, account_id=customer.account_id, frozen=True, reason="stolen", at=1)
    with tunnel(customer) as connection:
        connection.send("one")
        assert connection.recv(SECONDS) == "one"
        assert farebox.run(farebox.services.database.write(freeze))
        forget(farebox)
        connection.send("two")
        code, reason = await_close(connection)
    assert (code, "frozen" in reason) == (4403, True)
    provider.await_end()
    assert status_of(customer, LISTEN, own(customer)) == 403


def test_another_account_s_token_opens_nothing(customer: Customer, farebox: Farebox) -> None:
    other = farebox.funded()
    assert status_of(customer, LISTEN, own(other)) == 401


def test_a_malformed_handshake_is_a_bad_request(customer: Customer) -> None:
    headers = own(customer) | {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    for key in ("", "short"):
        response = httpx.get(f"{customer.gateway_url}/{LISTEN}", headers=headers | {"sec-websocket-key": key})
        assert response.status_code == 400
        assert "malformed" in response.json()["message"]


# --- how it ends ---


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "off"), (3001, "own"), (4999, "much of a reason")])
def test_the_client_s_close_is_the_provider_s(
    customer: Customer, provider: SocketProvider, code: int, reason: str
) -> None:
    connection = tunnel(customer)
    connection.close(code, reason)
    assert provider.await_end() == (code, reason)
    until(lambda: len(log_rows(customer)) == 1)


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (1008, "key"), (1011, "broken"), (4000, "own")])
def test_the_provider_s_close_is_the_client_s_after_what_it_sent_before(
    customer: Customer, provider: SocketProvider, code: int, reason: str
) -> None:
    def script(connection: ServerConnection) -> None:
        for number in range(50):
            connection.send(str(number))
        connection.close(code, reason)

    provider.script = script
    with tunnel(customer) as connection:
        assert [connection.recv(SECONDS) for _ in range(50)] == [str(number) for number in range(50)]
        assert await_close(connection) == (code, reason)
    until(lambda: len(log_rows(customer)) == 1)
    assert log_rows(customer)[0]["success"] is (code == 1000)


def test_a_provider_that_vanishes_is_a_bad_gateway(customer: Customer, provider: SocketProvider) -> None:
    def script(connection: ServerConnection) -> None:
        connection.send("last words")
        connection.socket.shutdown(socket.SHUT_RDWR)

    provider.script = script
    with tunnel(customer) as connection:
        assert connection.recv(SECONDS) == "last words"
        assert await_close(connection) == (1014, "the provider's connection failed")


def test_a_client_that_vanishes_is_one_that_went_away(customer: Customer, provider: SocketProvider) -> None:
    connection = tunnel(customer)
    connection.send("hello")
    assert connection.recv(SECONDS) == "hello"
    connection.socket.shutdown(socket.SHUT_RDWR)
    assert provider.await_end()[0] == 1001
    until(lambda: len(log_rows(customer)) == 1)
    row = log_rows(customer)[0]
    assert (row["success"], row["status_code"]) == (False, 499)


def test_a_message_that_is_too_large_ends_it_on_both_sides(customer: Customer, provider: SocketProvider) -> None:
    with tunnel(customer) as connection:
        connection.send(b"x" * (MESSAGE_MAX + 1))
        assert await_close(connection)[0] == 1009
    assert provider.await_end()[0] == 1001
    provider.script = lambda connection: connection.send(b"x" * (MESSAGE_MAX + 1))
    with tunnel(customer) as connection:
        assert await_close(connection)[0] == 1009
    assert provider.await_end()[0] == 1009


def test_a_text_that_is_no_text_ends_it(customer: Customer, provider: SocketProvider) -> None:
    with tunnel(customer) as connection:
        connection.send(b"\xff\xfe", text=True)
        assert await_close(connection)[0] == 1007
    assert provider.await_end()[0] == 1001


# --- the handshake at the provider ---


def test_a_refused_handshake_is_the_provider_s_response(customer: Customer, provider: SocketProvider) -> None:
    def refuse(_: ServerConnection, __: Request) -> Response:
        body = b'{"err_code":"INVALID_AUTH","err_msg":"bad key"}'
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "dg-error": "key"})
        return Response(401, "Unauthorized", headers, body)

    provider.refusal = refuse
    with pytest.raises(InvalidStatus) as refused:
        tunnel(customer)
    response = refused.value.response
    assert response.status_code == http.HTTPStatus.UNAUTHORIZED
    assert b"bad key" in bytes(response.body)
    assert response.headers["dg-error"] == "key"
    assert [row["status_code"] for row in log_rows(customer)] == [401]


def test_a_provider_that_is_away_is_a_bad_gateway(customer: Customer, farebox: Farebox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        away = f"http://127.0.0.1:{taken.getsockname()[1]}"
    set_provider(farebox, "cartesia", base_url=away)
    assert status_of(customer, "cartesia/tts/websocket", own(customer)) == 502


def test_sessions_are_calls_in_flight_and_leave_a_row_and_metrics(customer: Customer, farebox: Farebox) -> None:
    calls = farebox.services.calls
    with tunnel(customer) as connection:
        connection.send("hello")
        assert connection.recv(SECONDS) == "hello"
        assert calls.by_account.get(customer.account_id, 0) == 1
    until(lambda: calls.by_account.get(customer.account_id, 0) == 0)
    row = log_rows(customer)[0]
    assert (row["provider"], row["success"], row["status_code"]) == ("deepgram", True, 101)
    assert row["path"] == "v1/listen"
    assert customer.balance.posted == 5_000_000_000
    text = httpx.get(f"{farebox.url}/metrics", headers={"authorization": f"Bearer {METRICS}"}).text
    assert 'farebox_websockets_ended_total{how="client"}' in text
    assert 'farebox_websocket_messages_total{direction="in"}' in text


def test_a_stop_closes_sessions_with_going_away(
    tmp_path_factory: pytest.TempPathFactory, provider: SocketProvider
) -> None:
    with running_farebox(tmp_path_factory.mktemp("stopping")) as served:
        set_provider(served, "deepgram", base_url=provider.url)
        customer = served.funded()
        connection = tunnel(customer)
        connection.send("hello")
        assert connection.recv(SECONDS) == "hello"
        stopping = threading.Thread(target=served.stop)
        stopping.start()
        assert await_close(connection) == (1001, "the server stops")
        stopping.join(SECONDS)
        assert provider.await_end()[0] == 1001
