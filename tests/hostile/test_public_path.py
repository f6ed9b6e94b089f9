"""Farebox under a path of a larger site: every URL that it returns leads back to it."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from farebox import http
from farebox.http.envelope import HTML, Response
from farebox.http.public_path import at_root
from farebox.identity import sessions
from farebox.ingress import path_of
from farebox.settings import SettingsError, load
from tests.hostile.proxies import PROXIES
from tests.sdks import cloudflare
from tests.support import Farebox, free_port, running_farebox

NGINX = PROXIES[0]


@contextlib.contextmanager
def below_a_path(folder: Path, *, taken_off: bool) -> Iterator[Farebox]:
    """A server whose public URL has the path `/ai`, behind an nginx that serves only this path, and strips it or passes
    it on."""
    if NGINX.path is None:
        pytest.skip("nginx is not installed (Debian: nginx)")

    def edit(block: str) -> str:
        block = block.replace("location / {", "location /ai/ {")
        return block.replace("proxy_pass http://farebox;", "proxy_pass http://farebox/;") if taken_off else block

    port = free_port()
    with (
        running_farebox(folder / "served", public_url=f"http://127.0.0.1:{port}/ai/") as served,
        NGINX.running(f"http://127.0.0.1:{served.port}", folder / "nginx", port=port, edit=edit),
    ):
        yield served


@pytest.fixture(scope="module", params=[False, True], ids=["passed on", "taken off"])
def below(request: pytest.FixtureRequest, engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with below_a_path(tmp_path_factory.mktemp("below"), taken_off=request.param) as served:
        yield served


def _addresses(page: str) -> set[str]:
    return set(re.findall(r'(?:href|action|src)="([^"]*)"', page))


def _csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]*)"', page)
    assert found is not None
    return found[1]


def test_every_link_of_the_pages_keeps_the_public_path(below: Farebox) -> None:
    assert (
        httpx.get(below.url.removesuffix("/ai") + "/billing").headers["server"].startswith("nginx")
    )  # not one of our links
    account = below.create_account("Acme")
    link = below.run(sessions.billing_link(below.services, account))
    assert link.startswith(f"{below.url}/billing/open?link=")
    with httpx.Client(base_url=below.url.removesuffix("/ai"), follow_redirects=True) as browser:
        pages = [browser.get(link)]
        opened = browser.post("/ai/billing/open", data={"link": link.partition("link=")[2]})
        pages.append(opened)
        assert str(opened.url) == f"{below.url}/billing"
        assert "Path=/ai/;" in opened.history[0].headers["set-cookie"]
        csrf = _csrf(opened.text)
        changed = browser.post("/ai/billing/details", data={"csrf": csrf, "name": 'Acme " href="/x', "country": "DE"})
        assert changed.status_code == 200
        pages += [changed, browser.post("/ai/billing/details", data={"csrf": "wrong"})]  # an error page
        pages += [browser.get("/ai/billing/buy?amount=20"), browser.get("/ai/billing/top-up?id=none")]
        seen = set().union(*(_addresses(page.text) for page in pages))
        assert {"/ai/ui/overview", "/ai/billing/buy", "/ai/billing/details", "/ai/billing"} <= seen
        assert [
            each for each in seen if not each.startswith(("/ai/billing", "/ai/ui/", "#", f"{below.url}/documents/"))
        ] == []
        for address in seen - {"#content"}:
            assert browser.get(address.replace("&amp;", "&")).status_code in (200, 400, 403, 404, 405), address
        pages.append(browser.post("/ai/ui/sign-out", data={"csrf": csrf}))
        assert str(pages[-1].url) == f"{below.url}/ui/signed-out"
        assert not browser.cookies


def test_calls_and_the_control_plane_work_under_the_public_path(below: Farebox) -> None:
    customer = below.funded("5")
    assert customer.chat().status_code == 200
    with cloudflare.Cloudflare(api_token=customer.token, base_url=f"{below.url}/client/v4", max_retries=0) as client:
        assert [gateway.id for gateway in client.ai_gateway.list(account_id=customer.account_id)] == ["default"]
    url = httpx.get(f"{customer.api_url}/ai-gateway/gateways/default/url/openai", headers=customer.headers)
    assert url.json()["result"] == f"{below.url}/v1/{customer.account_id}/default/openai"
    for base in (f"http://127.0.0.1:{below.port}", f"http://127.0.0.1:{below.port}/ai"):
        assert httpx.get(f"{base}/readyz").status_code == 200  # a check need not go through the proxy
        assert httpx.get(f"{base}/v1/x/default/openai/models").status_code == 401
    for path in ("/aix/readyz", "/ai/ai/readyz", "/a/i/readyz"):
        assert httpx.get(f"http://127.0.0.1:{below.port}{path}").status_code == 404


def test_every_address_in_a_template_is_moved() -> None:
    templates = list((Path(http.__file__).parent / "pages" / "templates").rglob("*.html"))
    assert templates
    for template in templates:
        moved = at_root(Response(template.read_bytes(), content_type=HTML), "/ai").body
        assert re.findall(rb' (?:href|action|formaction|src|srcset|poster|cite)="/(?!ai/)[^"]*', moved) == [], template


@pytest.mark.parametrize(
    "url",
    [
        "https://x.example/v1",
        "https://x.example/billing/ai",
        "https://x.example/a//b",
        "https://x.example/a/../b",
        "https://x.example/a%20b",
        "https://x.example/?a=b",
        "https://x.example/#a",
        "https://user@x.example/ai",
        "x.example/ai",
    ],
)
def test_an_invalid_public_url_is_refused_at_startup(url: str) -> None:
    with pytest.raises(SettingsError, match="FAREBOX_PUBLIC_URL"):
        load({"FAREBOX_PUBLIC_URL": url})


@pytest.mark.parametrize(
    "url", ["", "https://x.example", "https://x.example/", "http://[::1]:8787/ai", "http://x/a/b.c/"]
)
def test_a_valid_public_url_is_accepted(url: str) -> None:
    assert path_of(load({"FAREBOX_PUBLIC_URL": url}).public_url) in ("", "/ai", "/a/b.c")
