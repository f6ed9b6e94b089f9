"""Requests in odd forms, by RFC 9110 and 9112: ambiguous ones are refused."""

import asyncio

import httpx
import pytest

from farebox.calls.relaying.relay import WHOLE_BODY_MAX
from farebox.http.application import METHODS
from tests.calls.kit import set_provider
from tests.calls.upstream import serving as provider
from tests.http.serving import Recorder, serving
from tests.support import Farebox

HOST = b"Host: h\r\n\r\n"


LINES = [
    b"GET  / HTTP/1.1",
    b"GET /  HTTP/1.1",
    b"GET   /   HTTP/1.1",
    b"GET\t/ HTTP/1.1",
    b" GET / HTTP/1.1",
    b"GET / HTTP/1.1 ",
]


@pytest.mark.parametrize("line", LINES)
async def test_a_request_line_has_two_spaces(line: bytes) -> None:
    raw = line + b"\r\n" + HOST
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        for size in (1, 3, 7, len(raw)):
            peer = await served.open(*(raw[at : at + size] for at in range(0, len(raw), size)))
            assert (await peer.response()).status in (400, 501)
        behind = await served.open(b"GET /a HTTP/1.1\r\n" + HOST + raw)
        assert (await behind.response()).status == 200
        assert (await behind.response()).status in (400, 501)
    assert len(recorder.exchanges) == 1


@pytest.mark.parametrize("before", [b"", b"\r\n", b"GET /a HTTP/1.1\r\n" + HOST])
async def test_a_header_does_not_stand_for_the_request_line(before: bytes) -> None:
    raw = before + b"GET  /b HTTP/1.1\r\nX-Request: GET /b HTTP/1.1\r\n" + HOST
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open(raw)
        if before.strip():
            assert (await peer.response()).status == 200
        assert (await peer.response()).status == 400
        reported = await served.ask(b"GET /b HTTP/1.1\r\nX-Request: GET /b HTTP/1.1\r\n" + HOST)
        assert reported.status == 200, "a header may contain it in addition to the line"
    assert [exchange.path for exchange in recorder.exchanges] == ["/a", "/b"][not before.strip() :]


FIRST = [
    b"GET /a HTTP/1.1\r\n" + HOST,
    b"GET / HTTP/1.1\r\n" + HOST,
    b"POST /a HTTP/1.1\r\nContent-Length: 18\r\n" + HOST + b"\nGET / HTTP/1.1\r\n\n",
    b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"11\r\n\nGET / HTTP/1.1\r\n\r\n0\r\n\r\n",
]
"""Requests whose line or body contains what the next request should have as its line."""


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", [b"GET  / HTTP/1.1\r\n", b"GET /  HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n"])
async def test_a_request_line_has_two_spaces_after_another_request_too(first: bytes, second: bytes) -> None:
    raw, recorder = first + second + HOST, Recorder()
    status = 400 if b"  " in second else 200
    async with serving(recorder.echo) as served:
        for cut in range(len(first) + 1, len(raw)):
            peer = await served.open(raw[:cut])
            assert (await peer.response()).status == 200, "the first has arrived, with a part of the second"
            peer.send(raw[cut : cut + 4])
            for _ in range(3):
                await asyncio.sleep(0)
            peer.send(raw[cut + 4 :])
            assert (await peer.response()).status == status, raw[:cut]


async def test_a_valid_request_in_any_pieces_is_read() -> None:
    """Also after empty lines, and after other requests."""
    one = b"\r\n\r\nPOST /a%20b?x=y%20z HTTP/1.1\r\nContent-Length: 13\r\n" + HOST + b"GET  / HTTP/1"
    raw = one + one.replace(b"/a", b"/b") + b"GET /c HTTP/1.0\r\n" + HOST
    async with serving(Recorder().echo) as served:
        for size in (*range(1, 40), len(raw)):
            peer = await served.open()
            for at in range(0, len(raw), size):
                peer.send(raw[at : at + size])
                await peer.writer.drain()
            paths = [(await peer.response()).json()["path"] for _ in range(3)]
            assert paths == ["/a%20b", "/b%20b", "/c"]


@pytest.mark.parametrize("trailer", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
async def test_a_trailer_does_not_affect_framing(trailer: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST
    async with serving(Recorder().echo) as served:
        assert (await served.ask(head + b"1\r\na\r\n0\r\n" + trailer + b"\r\n\r\n")).status == 400
        kept = await served.ask(head + b"1\r\na\r\n0\r\nX-Sum: 1\r\nAuthorization: y\r\n\r\n")
        assert kept.json()["headers"].keys() == {"transfer-encoding", "host"}


def test_head_is_answered_on_every_get_route(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    urls = [f"{farebox.url}{path}" for path in ("/healthz", "/readyz", "/openapi.json", "/billing", "/nowhere")]
    urls += [f"{customer.gateway_url}/{path}/models" for path in ("compat", "nobody")]
    urls += [f"{customer.api_url}/ai-gateway/gateways", f"{customer.api_url}/ai/v1/models"]
    for url in urls:
        got, head = (httpx.request(method, url, headers=customer.headers) for method in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (got.status_code, b""), url
        if "date" not in got.text:
            assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("size", [2, WHOLE_BODY_MAX + 1])
def test_head_of_a_providers_path_is_the_head_of_its_response(farebox: Farebox, size: int) -> None:
    """Also for a body that would be relayed as it arrives. Nothing is charged or held, and the connections stay in
    sync."""
    customer = farebox.funded("5")
    own = {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "Bearer sk-callers-own"}
    with provider() as upstream, httpx.Client() as client:
        upstream.response = b"x" * size
        set_provider(farebox, "cerebras", base_url=upstream.url)
        recorder = [("models", customer.headers), ("models", own), ("chat/completions", own), ("anything", own)]
        for path, headers in recorder:
            response = client.head(f"{customer.gateway_url}/cerebras/{path}", headers=headers)
            assert (response.status_code, response.content) == (200, b"")
            assert response.headers["content-length"] == str(size)
            assert (upstream.sent[-1].method, upstream.sent[-1].path) == ("HEAD", f"/{path}")
            assert client.get(f"{farebox.url}/healthz").status_code == 200, "on the same connection"
        for path in ("chat/completions", "anything"):
            assert client.head(f"{customer.gateway_url}/cerebras/{path}", headers=customer.headers).status_code == 400
        assert client.head(customer.gateway_url, headers=customer.headers).status_code == 404
    assert len(upstream.sent) == len(recorder), "a path that may cost money is not called with the operator's key"
    assert (customer.balance.posted, customer.balance.held) == (5 * 10**9, 0)
    assert not farebox.services.calls.by_account


def test_options_lists_the_servers_methods(farebox: Farebox) -> None:
    url = httpx.URL(farebox.url)
    with httpx.Client() as client:
        response = client.send(httpx.Request("OPTIONS", url, extensions={"target": b"*"}))
    assert (response.status_code, response.headers["allow"]) == (204, METHODS)
