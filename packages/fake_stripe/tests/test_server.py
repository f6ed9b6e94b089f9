"""The server: ports, connections, shutdown; independent of the API."""

import asyncio
import socket
import threading
from pathlib import Path

import httpx2
import pytest

from fake_stripe import AddressInUse, start_fake_stripe
from support import KEY, Fake, running_fake

HEADERS = {"authorization": f"Bearer {KEY}"}


async def test_a_port_that_is_taken() -> None:
    async with await start_fake_stripe() as first:
        with pytest.raises(AddressInUse, match=r"\(Address already in use\): choose another address or port"):
            await start_fake_stripe(port=first.port)
    async with await start_fake_stripe(port=first.port) as again:  # the port is free at once
        assert again.url == first.url


async def test_a_file_that_cannot_be_kept_leaves_the_port_free(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(OSError, match="file"):
        await start_fake_stripe(port=port, state=tmp_path / "file" / "state.jsonl")
    async with await start_fake_stripe(port=port) as fake:
        assert fake.port == port


@pytest.mark.parametrize("kind", ["timeout_before", "delay_ms"])
def test_the_end_waits_for_nobody(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither for requests that would wait for an hour, nor for idle connections."""
    with running_fake() as fake:
        fake.control("POST", "faults", match="POST /v1/*", kind=kind, milliseconds=3_600_000)
        ends: list[int | type[Exception]] = []

        def call() -> None:
            try:
                url = f"{fake.url}/v1/customers"
                ends.append(httpx2.post(url, data={"name": "x"}, headers=HEADERS, timeout=60).status_code)
            except httpx2.RemoteProtocolError as error:
                ends.append(type(error))

        thread = threading.Thread(target=call)
        thread.start()
        while not fake.control("GET", "requests")["requests"]:
            pass
    thread.join()
    assert ends == [200 if kind == "delay_ms" else httpx2.RemoteProtocolError]
    assert caplog.records == []


def test_a_chunked_body_that_is_too_large(fake: Fake) -> None:
    pieces = (b"x" * 100_000 for _ in range(60))
    assert fake.http.post("/v1/customers", content=pieces, headers=HEADERS).status_code == 413
    assert fake.http.get("/v1/customers", headers=HEADERS).json()["data"] == []


async def test_requests_sent_without_waiting_for_answers(fake: Fake) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(fake.url).port)
    head = f"GET /v1/balance HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    writer.write(f"{head}\r\n{head}\r\nHEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    responses = (await reader.read()).split(b"HTTP/1.1 200 OK\r\n")[1:]
    writer.close()
    assert [response.count(b'"object":"balance"') for response in responses] == [1, 1, 0]
    assert responses[2].endswith(b"\r\n\r\n")


def test_ids_in_a_path_are_decoded(fake: Fake) -> None:
    fake.v1.coupons.create({"id": "25%off", "percent_off": 25})
    assert fake.v1.coupons.retrieve("25%off").percent_off == 25
