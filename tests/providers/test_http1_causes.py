"""Every failure has a named cause, and always reaches the waiting caller."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
import trustme

from farebox.providers.http1 import opening
from farebox.providers.http1.causes import not_connected
from farebox.providers.http1.connection import HEAD_MAX, SILENT_MAX, UpstreamConnection
from farebox.providers.http1.pool import PooledUpstream
from farebox.providers.http1.response import Http1Response
from farebox.providers.upstream import Cause, UpstreamFailed
from tests.providers.http1_kit import OK, authority, pool, post, serving, whole

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
HAS_IPV6 = Path("/proc/net/if_inet6").exists()
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


async def cause_of(upstream: PooledUpstream, url: str, *, sent: bool) -> str:
    """The cause of a failing call; checks that it was counted once, and that the error names neither address nor
    key."""
    with pytest.raises(UpstreamFailed) as raised:
        await asyncio.wait_for(whole(await asyncio.wait_for(upstream.send(post(url)), 20)), 20)
    failure = raised.value
    assert upstream.failures == {failure.cause: 1}
    assert failure.sent is sent
    assert failure.timeout == failure.cause.startswith("timeout")
    assert not any(word in str(failure) for word in ("127.0.0.1", "invalid", "Bearer", url))
    return failure.cause


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://provider.invalid", "dns"),
        (f"http://{'a' * 64}.example", "dns"),
        ("http://127.0.0.1:9", "refused"),
        ("http://[::1]:9", "refused" if HAS_IPV6 else "unreachable"),
        ("https://127.0.0.1:9", "refused"),
        ("http://localhost:9", "refused"),
        ("ftp://127.0.0.1:9", "unsendable"),
        ("http://127.0.0.1:9/a b", "unsendable"),
    ],
)
async def test_no_connection(url: str, cause: Cause) -> None:
    async with pool() as upstream:
        assert await cause_of(upstream, url, sent=False) == cause


async def test_a_connection_that_is_never_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(3):  # fill the backlog: the next handshake is not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        async with pool(connect_seconds=0.1) as upstream:
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            assert await cause_of(upstream, url, sent=False) == "timeout_connect"


def certified(*names: str, expired: bool = False) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    made = trustme.CA()
    served, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    made.issue_cert(*names, not_after=YESTERDAY if expired else None).configure_cert(served)
    made.configure_trust(trusting)
    return served, trusting


@pytest.mark.parametrize(
    ("tls", "cause"),
    [
        (certified("127.0.0.1", expired=True), "tls_expired"),
        (certified("127.0.0.2"), "tls_name"),
        (certified("127.0.0.1.example"), "tls_name"),
        ((certified("127.0.0.1")[0], ssl.create_default_context()), "tls_unknown_authority"),
    ],
    ids=["expired", "address", "name", "authority"],
)
async def test_no_tls(tls: tuple[ssl.SSLContext | None, ssl.SSLContext | None], cause: Cause) -> None:
    served, trusting = tls
    async with serving(OK, tls=served) as server, pool(tls=trusting) as upstream:
        assert await cause_of(upstream, server.url.replace("http:", "https:"), sent=False) == cause
        assert not server.requests


async def test_a_server_that_does_not_speak_tls() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(handler=plain) as server, pool() as upstream:
        assert await cause_of(upstream, server.url.replace("http:", "https:"), sent=False) == "tls"


async def test_the_names_of_certificates_are_checked_with_the_usual_authorities(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default context."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    opening._default_tls.cache_clear()
    try:
        # OpenSSL has different codes for a wrong IP address and a wrong host name.
        for name, host, cause in (
            ("127.0.0.1", "127.0.0.1", None),
            ("elsewhere.test", "127.0.0.1", "tls_name"),
            ("elsewhere.test", "localhost", "tls_name"),
        ):
            served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            made.issue_cert(name).configure_cert(served)
            async with serving(OK, tls=served) as server, pool() as upstream:
                if cause is None:
                    assert await whole(await upstream.send(post(server.url))) == b"ok"
                else:
                    url = server.url.replace("127.0.0.1", host)
                    assert await cause_of(upstream, url, sent=False) == cause
    finally:
        opening._default_tls.cache_clear()


@pytest.mark.parametrize(
    ("response", "cause"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200 O", "closed"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK, "protocol"),
        (b"HTTP/1.1 000 None\r\n\r\n", "protocol"),
        (b"HTTP/1.1 099 Low\r\n\r\n" + OK, "protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * (HEAD_MAX + 10), "protocol"),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * (HEAD_MAX // 20), "protocol"),
        (CHUNKED + b"0\r\nTrail: " + b"a" * (16 * SILENT_MAX), "protocol"),
        (CHUNKED + b"0\r\n" + b"Trail: a\r\n" * SILENT_MAX, "protocol"),
        (CHUNKED + b"4;ext=" + b"a" * (16 * SILENT_MAX), "protocol"),
        (CHUNKED + b"4\r\nhalf\r\nZZ\r\n", "cut"),
        (CHUNKED + b"4\r\nhalf\r\n", "cut"),
        (HALF, "cut"),
    ],
)
async def test_no_response(response: bytes, cause: Cause) -> None:
    async with serving(response, close=True) as server, pool() as upstream:
        found = await cause_of(upstream, server.url, sent=True)
        assert found == cause or (b"ZZ" in response and found == "protocol")


async def test_a_reset_before_the_response() -> None:
    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with serving(handler=resets) as server, pool() as upstream:
        assert await cause_of(upstream, server.url, sent=True) == "reset"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENETUNREACH, "x"), "unreachable"),
        (OSError(errno.EHOSTUNREACH, "x"), "unreachable"),
        (OSError(errno.EMFILE, "x"), "exhausted"),
        (OSError(errno.ENFILE, "x"), "exhausted"),
        (OSError(errno.ENOBUFS, "x"), "exhausted"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "unreachable"),
        (OSError(errno.ETIMEDOUT, "x"), "timeout_connect"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 101] Connect call failed"), "refused"),
        (OSError("Multiple exceptions: [Errno 99] Connect call failed, [Errno 111] Connect call failed"), "refused"),
        (OSError("Multiple exceptions: [Errno 101] Connect call failed, [Errno 24] Too many open files"), "exhausted"),
        (OSError("something else"), "unreachable"),
        (ConnectionAbortedError("SSL handshake is taking longer than 60.0 seconds"), "reset"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "dns"),
        (socket.gaierror(socket.EAI_SYSTEM, "x"), "exhausted"),
        (TimeoutError(), "timeout_connect"),
        (ssl.SSLError(1, "x"), "tls"),
    ],
)
def test_operating_system_errors(error: OSError, cause: Cause) -> None:
    assert not_connected(error, to_proxy=False).cause == cause


def test_every_cause_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    assert not [word for word in get_args(Cause) if f"`{word}`" not in page]


# --- our own faults ---------------------------------------------------------------------------------------------------


def raising(*_: object, **__: object) -> Any:
    raise RuntimeError("a mistake")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (UpstreamConnection, "_keep_socket"),
        (UpstreamConnection, "on_message_begin"),
        (UpstreamConnection, "on_header"),
        (UpstreamConnection, "on_headers_complete"),
        (UpstreamConnection, "on_body"),
        (UpstreamConnection, "on_message_complete"),
        (UpstreamConnection, "_finish"),
        (UpstreamConnection, "_not_read"),
        (UpstreamConnection, "_end"),
        (Http1Response, "add"),
        (PooledUpstream, "_release"),
    ],
)
@pytest.mark.parametrize(
    "response",
    [OK, b"nonsense", b"", b"HTTP/1.1 200 OK\r\n\r\nto the end"],
    ids=["good", "nonsense", "nothing", "to-the-end"],
)
async def test_an_exception_in_a_callback_reaches_the_waiter(
    owner: type, name: str, response: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each callback of the connection, wherever it is called from: the call ends at once, and no connection is
    left."""
    monkeypatch.setattr(owner, name, raising)
    ends: set[str] = set()
    async with serving(response, close=response is not OK) as server, pool() as upstream:
        try:
            await asyncio.wait_for(whole(await asyncio.wait_for(upstream.send(post(server.url)), 20)), 20)
        except UpstreamFailed as failure:
            ends.add(failure.cause)
        monkeypatch.undo()
        assert ends <= {"internal", "closed", "protocol"}
        assert all(connection.usable for connections in upstream._idle.values() for connection in connections)


async def test_an_internal_error_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Http1Response, "add", raising)
    async with serving(OK) as server, pool() as upstream:
        assert await cause_of(upstream, server.url, sent=True) == "internal"


# --- descriptors ------------------------------------------------------------------------------------------------------


async def test_if_descriptors_run_out_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(OK) as one, serving(OK) as other, pool() as upstream:
        await whole(await upstream.send(post(one.url)))
        tries = without_descriptors(monkeypatch, times=1)
        assert await whole(await upstream.send(post(other.url))) == b"ok"
        assert len(tries) == 2
        assert not upstream.failures
        await asyncio.wait_for(one.closed.wait(), 20)


async def test_without_idle_connections_to_close_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(OK) as server, pool() as upstream:
        tries = without_descriptors(monkeypatch, times=9)
        assert await cause_of(upstream, server.url, sent=False) == "exhausted"
        assert len(tries) == 1


async def test_tls_works_without_a_spare_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    served, trusting = authority("127.0.0.1")
    monkeypatch.setattr("farebox.providers.http1.connection.os.dup", none_left)
    async with serving(OK, OK, tls=served) as server, pool(tls=trusting) as upstream:
        for _ in range(2):
            assert await whole(await upstream.send(post(server.url))) == b"ok"
        assert server.connections == 1


def without_descriptors(monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[int]:
    """The loop fails to open a connection this many times; the list grows with each attempt."""
    loop, tries = asyncio.get_running_loop(), list[int]()
    really: Callable[..., Any] = loop.create_connection

    async def connect(*arguments: Any, **more: Any) -> Any:
        tries.append(1)
        if len(tries) <= times:
            raise OSError(errno.EMFILE, "Too many open files")
        return await really(*arguments, **more)

    monkeypatch.setattr(loop, "create_connection", connect)
    return tries
