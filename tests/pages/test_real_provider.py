"""Single sign-on at a real OpenID provider, node-oidc-provider, with its development pages."""

import html
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from farebox.identity import membership, sessions
from farebox.model import Role
from farebox.runtime.identity_provider import identity_provider_of
from tests.node.programs import NODE, installed_node
from tests.pages.openid_provider import SECRET
from tests.pages.sign_in_server import SignInServer
from tests.support import Farebox


@pytest.fixture(scope="module")
def issuer(sign_in_server: SignInServer) -> Iterator[str]:
    """The provider as a separate program; it ends when its input is closed."""
    base = sign_in_server.farebox.services.base_url
    command = [installed_node(), "openid_provider.mjs", "farebox", SECRET]
    command += [f"{base}/ui/sign-in/oidc/done", f"{base}/ui/signed-out"]
    with subprocess.Popen(
        command, cwd=NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        assert program.stdout is not None
        url = program.stdout.readline().strip()
        if not url:
            pytest.skip("node-oidc-provider does not start here: it needs Node 20 or later")
        yield url
        program.communicate(timeout=60)


@pytest.fixture
def farebox(sign_in_server: SignInServer, issuer: str) -> Iterator[Farebox]:
    """A server with this provider."""
    services = sign_in_server.farebox.services
    services.rates._windows.clear()
    usual = services.identity_provider
    assert usual is not None
    settings = replace(services.settings, oidc_issuer=issuer)
    real = identity_provider_of(settings, usual._upstream, services.clock)
    object.__setattr__(services, "identity_provider", real)
    yield sign_in_server.farebox
    object.__setattr__(services, "identity_provider", usual)


def _sent_to(left: httpx.Response) -> str:
    """The URL of the redirect."""
    found = re.search(r'content="0;url=([^"]*)"', left.text)
    assert found is not None, left.text
    return html.unescape(found[1])


def _back(farebox: Farebox, name: str, url: str, there: httpx.Client) -> str:
    """The URL to which a user is sent back after pressing every button."""
    base = farebox.services.base_url
    answer = there.get(url)
    for fields in ({"prompt": "login", "login": name, "password": "any"}, {"prompt": "consent"}):
        shown = re.search(r'action="([^"]*)"', answer.text)
        assert shown is not None, answer.text
        answer = there.post(shown[1], data=fields, follow_redirects=False)
        while answer.is_redirect and not answer.headers["location"].startswith(base):
            answer = there.get(answer.headers["location"], follow_redirects=False)
        if answer.is_redirect:  # the provider remembers the consent
            break
    return str(answer.headers["location"].removeprefix(base))


def _sign_in(farebox: Farebox, name: str, http: httpx.Client, there: httpx.Client) -> httpx.Response:
    url = _sent_to(http.post("/ui/sign-in/oidc", data={"next": "/billing"}))
    return http.get(_back(farebox, name, url, there))


def _age(farebox: Farebox) -> None:
    """Let all proofs expire."""
    farebox.run(
        farebox.services.database.write(
            lambda connection: connection.execute(
                "UPDATE sessions SET confirmed_at = confirmed_at - ?", (sessions.CONFIRMED_MS,)
            )
        )
    )


def test_a_member_signs_in_and_out(farebox: Farebox, issuer: str) -> None:
    farebox.run(membership.add(farebox.services, farebox.create_account("Acme"), "grace@example.com", Role.OWNER))
    with (
        httpx.Client(base_url=farebox.url) as http,
        httpx.Client(base_url=issuer, follow_redirects=True) as there,
    ):
        done = _sign_in(farebox, "grace", http, there)
        assert (done.status_code, done.headers.get("location")) == (303, "/billing"), done.text
        session = farebox.run(sessions.session(farebox.services, http.cookies["farebox_sid"]))
        assert session is not None
        assert (session.sign_in.email, session.sign_in.method) == ("grace@example.com", "oidc")
        _age(farebox)
        assert http.get("/ui/confirm?next=/billing").status_code == 200
        form = {"csrf": sessions.seal(farebox.services, session, "form"), "next": "/billing"}
        url = _sent_to(http.post("/ui/confirm/oidc", data=form))
        confirmed = http.get(_back(farebox, "grace", url, there))  # the provider asks again, and reports the time
        assert (confirmed.status_code, confirmed.headers.get("location")) == (303, "/billing"), confirmed.text
        assert http.get("/ui/confirm?next=/billing").headers["location"] == "/billing"

        asked = there.get(_sent_to(http.post("/ui/signed-out/provider")))
        xsrf = re.search(r'name="xsrf" value="([^"]*)"', asked.text)
        assert xsrf is not None, asked.text
        ended = there.post("/session/end/confirm", data={"xsrf": xsrf[1], "logout": "yes"}, follow_redirects=False)
        assert ended.headers["location"].startswith(f"{farebox.services.base_url}/ui/signed-out")


def test_an_unverified_user_does_not_sign_in(farebox: Farebox, issuer: str) -> None:
    farebox.run(membership.add(farebox.services, farebox.create_account("Acme"), "unverified@example.com", Role.OWNER))
    with (
        httpx.Client(base_url=farebox.url) as http,
        httpx.Client(base_url=issuer, follow_redirects=True) as there,
    ):
        refused = _sign_in(farebox, "unverified", http, there)
        assert (refused.status_code, "has not verified that" in refused.text) == (403, True)
