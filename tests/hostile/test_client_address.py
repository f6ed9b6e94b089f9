"""The client's address behind trusted proxies; what untrusted peers state is ignored."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from farebox.http.client_address import Clients
from farebox.http.quotas import ANONYMOUS_CLIENT
from farebox.http.server.preface import PREFACE_MAX, read_preface
from farebox.identity import sessions
from farebox.settings import SettingsError, load
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import start_of_window

TRUSTED = "127.0.0.1,10.0.0.0/8,2001:db8::/32"


def _client(peer: str, header: str = "x-forwarded-for", **headers: str) -> str:
    settings = load({}, trusted_proxies=TRUSTED, forwarded_header=header)
    return Clients(settings).address(peer, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("reported", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.1", "192.0.2.1"),  # the client wrote the left entry itself
        ("203.0.113.9, 192.0.2.1, 10.1.2.3", "192.0.2.1"),
        ("192.0.2.1, 10.1.2.3, 2001:db8::5", "192.0.2.1"),
        ("10.1.1.1,10.2.2.2", "10.1.1.1"),  # a client in our own network
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db9::1]:4711", "2001:db9::1"),
        ("2001:db9::1", "2001:db9::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, unknown", "127.0.0.1"),
        ("192.0.2.1, unknown, 10.1.2.3", "10.1.2.3"),
        ("192.0.2.1,", "127.0.0.1"),
        ("192.0.2.256", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("203.0.113.9, " + "10.0.0.1, " * 40 + "10.0.0.2", "10.0.0.1"),
    ],
)
def test_the_client_is_the_first_address_from_the_right_that_is_not_our_proxy(reported: str, client: str) -> None:
    assert _client("127.0.0.1", x_forwarded_for=reported) == client
    assert _client("198.51.100.7", x_forwarded_for=reported) == "198.51.100.7"
    assert _client("127.0.0.1", "forwarded", x_forwarded_for=reported) == "127.0.0.1"


@pytest.mark.parametrize(
    ("reported", "client"),
    [
        ("for=192.0.2.1", "192.0.2.1"),
        ("for=203.0.113.9, for=192.0.2.1;proto=https;by=203.0.113.43", "192.0.2.1"),
        ('For="[2001:db9::1]:4711"', "2001:db9::1"),
        ("for=192.0.2.1, proto=https;For=10.1.2.3", "192.0.2.1"),
        ("for=192.0.2.1, for=_hidden", "127.0.0.1"),
        ("for=192.0.2.1, proto=https", "127.0.0.1"),
        ("xfor=192.0.2.1", "127.0.0.1"),
    ],
)
def test_the_standard_header_if_the_operator_names_it(reported: str, client: str) -> None:
    assert _client("127.0.0.1", "forwarded", forwarded=reported) == client
    assert _client("127.0.0.1", forwarded=reported) == "127.0.0.1"


@pytest.mark.parametrize("value", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33"])
def test_invalid_networks_are_refused_at_start(value: str) -> None:
    with pytest.raises(SettingsError, match="FAREBOX_TRUSTED_PROXIES"):
        load({"FAREBOX_TRUSTED_PROXIES": value})
    with pytest.raises(SettingsError, match="names no proxy"):
        load({"FAREBOX_PROXY_PROTOCOL": "on"})


# --- the PROXY protocol -----------------------------------------------------------------------------------------------

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def _v2(source: str, *, command: int = 1, extra: bytes = b"") -> bytes:
    address = ip_address(source)
    family, other = (1, "198.51.100.1") if address.version == 4 else (2, "2001:db8::1")
    block = address.packed + ip_address(other).packed + struct.pack("!HH", 4711, 443) + extra
    return SIGNATURE + bytes([0x20 | command, family << 4 | 1]) + struct.pack("!H", len(block)) + block


WHOLE = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", "192.0.2.1"),
    (b"PROXY TCP6 2001:db9::1 2001:db8::1 4711 443\r\n", "2001:db9::1"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 65535 0\r\n", "192.0.2.1"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ""),
    (_v2("192.0.2.1"), "192.0.2.1"),
    (_v2("2001:db9::1", extra=b"\x01\x00\x02h2"), "2001:db9::1"),
    (_v2("192.0.2.1", command=0), ""),
    (SIGNATURE + b"\x21\x00\x00\x00", ""),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 4711 443\r\n", "192.0.2.1"),
    (_v2("::ffff:192.0.2.1"), "192.0.2.1"),
]


@pytest.mark.parametrize(("header", "address"), WHOLE)
def test_a_header_of_the_proxy_protocol_is_read_in_any_pieces(header: bytes, address: str) -> None:
    for size in range(1, len(header)):
        assert read_preface(header[:size]) is None
    assert read_preface(header) == read_preface(header + b"GET / HTTP/1.1\r\n") == (len(header), address)


MALFORMED = [
    b"GET / HTTP/1.1\r\n",
    b"proxy TCP4 192.0.2.1 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n",
    b"PROXY TCP4 2001:db9::1 2001:db8::1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1  198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n" + b"x" * 107,
    b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 99999\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.1 4711 443\r\n",
    b"PROXY " + b"x" * 200,
    SIGNATURE + b"\x11\x11\x00\x0c" + b"\0" * 12,
    SIGNATURE + b"\x22\x11\x00\x0c" + b"\0" * 12,
    SIGNATURE + b"\x21\x11\x00\x04" + b"\0" * 4,
    SIGNATURE + b"\x21\x11" + struct.pack("!H", PREFACE_MAX) + b"\0" * 12,
]


@pytest.mark.parametrize("header", MALFORMED)
def test_an_invalid_proxy_protocol_header_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match="header"):
        read_preface(header)


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trusting(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("trusting"), trusted_proxies="127.0.0.1") as served:
        yield served


@pytest.fixture(scope="module")
def prefaced(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    folder = tmp_path_factory.mktemp("prefaced")
    with running_farebox(folder, trusted_proxies="127.0.0.0/8", proxy_protocol="on") as served:
        yield served


def _lines(event: str, logs: list[Any]) -> list[str]:
    return [line["client"] for line in logs if line["event"] == event]


def test_the_log_line_has_the_client(trusting: Farebox, farebox: Farebox) -> None:
    """Headers count if they come from a trusted proxy, and from nobody else."""
    reported = {"x-forwarded-for": "203.0.113.9, 192.0.2.1"}
    for served, client in ((trusting, "192.0.2.1"), (farebox, "127.0.0.1")):
        with structlog.testing.capture_logs() as logs:
            assert served.funded("1").chat(headers=reported).status_code == 200
            refused = Customer(served, "nobody", "fbx_nothing").chat(headers=reported)
        assert refused.status_code == 401
        assert (_lines("call", logs), _lines("refused", logs)) == ([client], [client])


def test_one_anonymous_client_cannot_use_up_the_shared_limit(trusting: Farebox) -> None:
    def visit(client: str) -> str:
        url = f"{trusting.url}/billing/done?checkout=cs_test_unknown0"
        return httpx.get(url, headers={"x-forwarded-for": client}).text

    start_of_window(ANONYMOUS_CLIENT.seconds)
    assert all(
        "cannot be checked at the moment" not in visit(f"192.0.2.1, 2001:db9::{number}") for number in range(1, 21)
    )
    assert "cannot be checked at the moment" in visit("2001:db9::99")  # a client in the same network
    assert "cannot be checked at the moment" not in visit("2001:db9:1::1")


def test_the_cookie_is_secure_if_a_trusted_proxy_reports_https(trusting: Farebox, farebox: Farebox) -> None:
    for served, proto, secure in ((trusting, "https", True), (trusting, "http", False), (farebox, "https", False)):
        link = served.run(sessions.billing_link(served.services, served.create_account()))
        response = httpx.post(
            f"{served.url}/billing/open",
            data={"link": link.partition("link=")[2]},
            headers={"x-forwarded-proto": f"{'http' if secure else 'https'}, {proto}"},
        )
        assert response.status_code == 303
        assert ("; Secure" in response.headers["set-cookie"]) is secure


def _raw(served: Farebox, *pieces: bytes) -> bytes:
    url = httpx.URL(served.url)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        got = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while chunk := connection.recv(65536):
                got += chunk
        except ConnectionError:
            pass
        return got


REQUEST = b"GET /v1/a/default/nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(("header", "address"), WHOLE[:6])
def test_the_proxy_protocol_gives_the_clients_address(prefaced: Farebox, header: bytes, address: str) -> None:
    with structlog.testing.capture_logs() as logs:
        assert _raw(prefaced, header[:5], header[5:] + REQUEST[:9], REQUEST[9:]).startswith(b"HTTP/1.1 401")
    assert _lines("refused", logs) == [address or "127.0.0.1"]


@pytest.mark.parametrize("first", [b"", *MALFORMED[1:]])
def test_a_connection_without_the_proxy_header_is_closed(prefaced: Farebox, first: bytes) -> None:
    assert _raw(prefaced, first + REQUEST) == b""


def test_a_proxy_header_from_an_untrusted_peer_is_not_http(trusting: Farebox, tmp_path: Path) -> None:
    """If the option is off or the peer is not trusted."""
    assert _raw(trusting, WHOLE[0][0] + REQUEST)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 501")
    with running_farebox(tmp_path, trusted_proxies="10.0.0.0/8", proxy_protocol="on") as served:
        assert _raw(served, REQUEST).startswith(b"HTTP/1.1 401")
        assert _raw(served, WHOLE[0][0] + REQUEST)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 501")
