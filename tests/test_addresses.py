"""Webhooks may not reach the operator's own network under any name."""

import asyncio
import datetime
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from farebox.addresses import Address, AddressRefused, Resolver, checked_addresses, is_public, resolve
from farebox.messages import send
from farebox.messages.send import UNREACHABLE, post
from farebox.operator import endpoints, messages
from tests.messages.kit import ANN, ManualClock, Receiver, notify, open_services, receiving, sql

PRIVATE = [
    "127.0.0.1", "127.8.9.10", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1", "192.0.0.8",
    "192.0.0.192", "168.63.129.16", "::", "::1", "fe80::1",
    "fc00::1", "fd12:3456::1", "ff02::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:c0a8:101::",
    "2001:0:7f00:1::", "2001:db8::1", "100::1",
]  # fmt: skip
PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"]


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses(text: str) -> None:
    assert is_public(ip_address(text))


def answering(*texts: str, requested: list[str] | None = None) -> Resolver:
    async def resolver(host: str, port: int) -> list[Address]:
        if requested is not None:
            requested.append(host)
        return [ip_address(text) for text in texts]

    return resolver


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


async def test_a_name_that_resolves_to_loopback_is_refused(receiver: Receiver) -> None:
    port = receiver.url.split(":")[2].split("/")[0]
    for host in (
        "localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::ffff:127.0.0.1]", "[::1]",
        "0", "0.0.0.0", "[::]",
    ):  # fmt: skip
        sent = await post(f"https://{host}:{port}/hook", {}, b"{}", private=False)
        assert not sent.ok, host
        assert sent.error == UNREACHABLE, (host, sent.error)
    for name in ("evil.example", "10.0.0.1.nip.example"):
        sent = await post(f"https://{name}:{port}/", {}, b"{}", private=False, resolver=answering("127.0.0.1"))
        assert sent.error == UNREACHABLE, name
    assert receiver.received == []


async def test_one_private_address_among_public_ones_is_enough() -> None:
    with pytest.raises(AddressRefused):
        await checked_addresses("evil.example", 443, private=False, resolver=answering("93.184.216.34", "10.0.0.1"))


async def test_the_name_is_resolved_once_and_the_checked_address_is_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the name resolves differently the second time."""
    port = receiver.url.split(":")[2].split("/")[0]
    requested: list[str] = []
    looked_up: list[Any] = []
    real: Callable[..., Any] = asyncio.get_running_loop().getaddrinfo

    async def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        looked_up.append(host)
        return await real(host, *rest, **named)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    url = f"http://rebind.example:{port}/hook"
    sent = await post(url, {}, b"{}", private=True, resolver=answering("127.0.0.1", requested=requested))
    assert sent.ok, sent.error
    assert requested == ["rebind.example"]
    assert {str(host) for host in looked_up} <= {"127.0.0.1"}  # not the name
    assert receiver.received[0].headers["host"] == f"rebind.example:{port}"


async def test_the_next_address_is_tried_if_one_does_not_answer(receiver: Receiver) -> None:
    port = receiver.url.split(":")[2].split("/")[0]
    url = f"http://two.example:{port}/hook"
    sent = await post(url, {}, b"{}", private=True, resolver=answering("127.0.0.9", "127.0.0.1"))
    assert sent.ok, sent.error
    sent = await post(url, {}, b"{}", private=True, resolver=answering("127.0.0.9"))
    assert sent.error == UNREACHABLE


async def test_a_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await post(receiver.url, {}, b"{}", private=True)).ok


async def test_a_missing_or_endless_response(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "TIMEOUT_SECONDS", 0.2)
    receiver.hold = asyncio.Event()
    assert (await post(receiver.url, {}, b"{}", private=True)).error == "no response within 0 seconds"

    async def slow(host: str, port: int) -> list[Address]:
        await asyncio.Event().wait()
        return []

    assert (await post(receiver.url, {}, b"{}", private=True, resolver=slow)).error == "no response within 0 seconds"


async def test_an_endless_answer_is_not_read() -> None:
    """The status decides; a body of any length costs nothing."""
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
            while True:
                writer.write(b"x" * 65_536)
                written += 65_536
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        assert (await post(f"http://127.0.0.1:{port}/", {}, b"{}", private=True)).ok
    finally:
        server.close()
        await server.wait_closed()
    assert written < 50_000_000


@pytest.mark.parametrize("response", [b"not http at all\r\n\r\n", b"", b"HTTP/1.1 abc\r\n\r\n"])
async def test_a_non_http_response_is_a_failure(response: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        sent = await post(f"http://127.0.0.1:{port}/", {}, b"{}", private=True)
        assert sent.error == "no answer: RemoteProtocolError"
    finally:
        server.close()
        await server.wait_closed()


async def test_an_invalid_name() -> None:
    for url in ("https://no-such-host.invalid/", f"https://{'a' * 70}.example/", "https://.../"):
        sent = await post(url, {}, b"{}", private=False)
        assert sent.error == UNREACHABLE or sent.error.startswith("no answer"), sent.error
    with pytest.raises(OSError, match="not a host name"):
        await resolve("a" * 70 + ".example", 443)


async def test_a_name_that_becomes_internal_after_it_was_added(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address at the time of sending counts."""
    clock = ManualClock()
    async with open_services(tmp_path, clock) as services:
        port = receiver.url.split(":")[2].split("/")[0]
        await endpoints.create(services, ANN, url=f"https://moves.example:{port}/hook", kinds=())

        def getaddrinfo(host: str, port: int, **named: Any) -> Any:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        await notify(services, "a")
        assert await messages.work(services) == 1
        assert receiver.received == []
        assert await sql(services, "SELECT last_error FROM deliveries") == [(UNREACHABLE,)]


# TLS --------------------------------------------------------------------------------------------------------------


def certificate(path: Path, name: str) -> Path:
    """A self-signed certificate for the name, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = path / f"{name}.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + made.public_bytes(Encoding.PEM))
    return file


async def test_the_certificate_is_checked_for_the_name_though_the_address_is_connected_to(tmp_path: Path) -> None:
    file = certificate(tmp_path, "hooks.example")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    requested: list[str | None] = []
    serving.sni_callback = lambda _, name, __: requested.append(name)
    trusting = ssl.create_default_context(cafile=str(file))
    async with receiving(ssl=serving) as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        resolver = answering("127.0.0.1")
        url = f"https://hooks.example:{port}/hook"
        assert (await post(url, {}, b"{}", private=True, resolver=resolver, tls=trusting)).ok
        assert requested == ["hooks.example"]
        for other in (f"https://other.example:{port}/hook", f"https://127.0.0.1:{port}/hook"):
            sent = await post(other, {}, b"{}", private=True, resolver=resolver, tls=trusting)
            assert sent.error == UNREACHABLE
        assert (await post(url, {}, b"{}", private=True, resolver=resolver)).error == UNREACHABLE
        assert len(receiver.received) == 1


async def test_a_slow_name_server_delays_no_other_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner's name server may be slow; lookups and threads of the loop are not blocked."""
    answered, loop = threading.Event(), asyncio.get_running_loop()
    ask = socket.getaddrinfo

    def slow(host: str, *arguments: Any, **more: Any) -> Any:
        if host.endswith(".slow.example"):
            answered.wait(10)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    waiting = [asyncio.ensure_future(resolve(f"{number}.slow.example", 443)) for number in range(50)]
    try:
        await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 3) == "done"
        assert await asyncio.wait_for(loop.getaddrinfo("127.0.0.1", 443), 3)
    finally:
        answered.set()
        await asyncio.gather(*waiting, return_exceptions=True)
