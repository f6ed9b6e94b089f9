"""Proxy variables in a server's environment: which requests use a proxy, and what is refused at start."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest
import stripe

from farebox.messages.send import post
from farebox.payments.processor import ProcessorRefused, ProcessorUnavailable
from farebox.runtime.opening import open_processor
from farebox.settings import Settings, load
from tests import processes
from tests.calls.kit import set_price, set_provider
from tests.engines import settings_for
from tests.payments.stripe_kit import KEY
from tests.providers.http1_kit import serving
from tests.support import running_farebox

NOBODY = "http://127.0.0.1:9"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def test_a_demo_needs_no_exemption_from_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Demo provider and fake Stripe are on this machine. Other targets go to a proxy that does not exist."""
    for variable in VARIABLES[:3]:
        monkeypatch.setenv(variable, NOBODY)
    monkeypatch.setenv("NO_PROXY", "")
    with running_farebox(tmp_path) as farebox:
        monkeypatch.undo()  # does not apply to this test's own clients
        customer = farebox.funded()
        assert customer.chat().status_code == 200
        page = httpx.post(
            f"{customer.api_url}/farebox/checkout",
            json={
                "mode": "setup",
                "success_url": "https://a.example",
                "cancel_url": "https://a.example",
            },
            headers=customer.headers,
        )
        assert page.status_code == 200, page.text
        set_provider(farebox, "cerebras", base_url="http://provider.example")
        set_price(farebox, "cerebras", "demo-1")
        response = customer.chat(model="cerebras/demo-1")
        assert response.status_code == 502
        assert "(proxy_unreachable)" in response.text
        assert customer.balance.held == 0


@pytest.mark.both_engines
def test_a_proxy_that_cannot_be_used_is_refused_at_start(tmp_path: Path, engine: str) -> None:
    settings = settings_for(tmp_path)
    workers = ["--workers", "2"] if engine == "postgres" else []
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    ran = processes.run(
        ["--data-dir", str(tmp_path), "serve", "--demo", *workers],
        env=inherited | {"FAREBOX_DATABASE_URL": settings.database_url, "ALL_PROXY": "socks5://me:word@127.0.0.1:1080"},
    )
    assert ran.returncode == 1
    (line,) = ran.stderr.strip().splitlines()
    assert "ALL_PROXY begins with socks5://" in line
    assert "HTTPS_PROXY" in line
    assert "word" not in ran.stderr
    assert not ran.stdout
    assert not (tmp_path / "serving.json").exists()


def with_stripe(api_base: str) -> Settings:
    return load({}, stripe_secret_key=KEY, stripe_webhook_secret="whsec_x", stripe_api_base=api_base)


async def test_stripe_is_called_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    heads: list[bytes] = []

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(refusal)

    async with serving(handler=refuses) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:word@"))
        monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")  # for neither of the two, so it is ignored
        monkeypatch.setenv("HTTP_PROXY", NOBODY)
        processor = open_processor(with_stripe("https://api.stripe.test"), "i")
        assert processor is not None
        with pytest.raises(ProcessorUnavailable):
            await processor.cards("cus_1")
        await processor.close()
    assert heads[0].startswith(b"CONNECT api.stripe.test:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic bWU6d29yZA==" in heads[0]
    assert KEY.encode() not in b"".join(heads)


async def test_a_stripe_on_this_machine_is_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = b'{"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such customer"}}'
    response = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(missing)
    async with serving(response + missing) as fake:
        monkeypatch.setenv("HTTP_PROXY", NOBODY)
        processor = open_processor(with_stripe(fake.url), "i")
        assert processor is not None
        with pytest.raises(ProcessorRefused):
            await processor.cards("cus_1")
        await processor.close()
    assert fake.requests[0].startswith(b"GET /v1/customers/cus_1 HTTP/1.1\r\n")
    assert f"Stripe/v1 PythonBindings/{stripe.VERSION}".encode() in fake.requests[0]


async def test_webhooks_go_to_the_address_that_was_checked_and_to_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name itself, and could reach an address that Farebox refuses."""
    for variable in VARIABLES[:3]:
        monkeypatch.setenv(variable, NOBODY)
    async with serving(b"HTTP/1.1 204 No Content\r\n\r\n") as receiver:
        sent = await post(receiver.url + "/hook", {}, b"{}", private=True)
    assert sent.ok, sent.error
    assert receiver.requests[0].startswith(b"POST /hook HTTP/1.1\r\n")
