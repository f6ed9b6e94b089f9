"""Single sign-on with an OpenID provider that can lie."""

import html
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import RSAKey

from farebox.identity import membership, sessions
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from farebox.runtime.identity_provider import identity_provider_of, is_safe
from farebox.settings import SettingsError, load
from tests.pages.openid_provider import CLIENT_ID, OpenIdProvider, secret_key, unsigned
from tests.pages.people import Person
from tests.pages.sign_in_server import SignInServer
from tests.support import Farebox

_NAMES = iter(f"sso{number}@example.com" for number in range(1000))


@pytest.fixture
def farebox(sign_in_server: SignInServer) -> Farebox:
    sign_in_server.farebox.services.rates._windows.clear()  # all tests use one client address
    return sign_in_server.farebox


@pytest.fixture
def email(farebox: Farebox) -> str:
    """The e-mail address of a new member of a new account."""
    name = next(_NAMES)
    farebox.run(membership.add(farebox.services, farebox.create_account("Acme"), name, Role.BILLING))
    return name


@pytest.fixture
def provider(sign_in_server: SignInServer, farebox: Farebox, email: str) -> OpenIdProvider:
    """The provider, at which the member is signed in."""
    sign_in_server.provider.reset(email)
    _forget(farebox)
    return sign_in_server.provider


def _forget(farebox: Farebox) -> None:
    """Expire the cached data of the provider."""
    known = farebox.services.identity_provider
    assert known is not None
    known._until = 0.0


class Browser:
    def __init__(self, farebox: Farebox) -> None:
        self.farebox = farebox
        self.http = httpx.Client(base_url=farebox.url)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def sent_to(self, response: httpx.Response) -> str:
        """The URL of the redirect."""
        assert response.status_code == 200, response.text
        found = re.search(r'http-equiv="refresh" content="0;url=([^"]*)"', response.text)
        assert found is not None
        return html.unescape(found[1])

    def begin(self, **fields: str) -> str:
        return self.sent_to(self.http.post("/ui/sign-in/oidc", data={"next": "", **fields}))

    def back(self, url: str) -> str:
        """The URL to which the provider redirects the browser, without the host."""
        answer = httpx.get(url)
        assert answer.status_code == 302, answer.text
        where = answer.headers["location"]
        assert where.startswith(self.farebox.services.base_url + "/ui/sign-in/oidc/done?")
        return str(where.removeprefix(self.farebox.services.base_url))

    def sign_in(self, **fields: str) -> httpx.Response:
        return self.http.get(self.back(self.begin(**fields)))

    def is_refused(self, says: str) -> None:
        refused = self.sign_in()
        assert (refused.status_code, says in html.unescape(refused.text)) == (403, True), refused.text
        assert self.http.cookies.get("farebox_sid") is None
        assert "Back to the sign-in page" in refused.text


@pytest.fixture
def browser(farebox: Farebox) -> Any:
    with Browser(farebox) as opened:
        yield opened


def test_a_member_signs_in(farebox: Farebox, provider: OpenIdProvider, browser: Browser, email: str) -> None:
    assert "Continue with Acme ID" in browser.http.get("/ui/sign-in").text
    signed_in = browser.sign_in(next="/billing")
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/billing")
    session = farebox.run(sessions.session(farebox.services, browser.http.cookies["farebox_sid"]))
    assert session is not None
    assert (session.sign_in.email, session.sign_in.method) == (email, "oidc")
    assert session.roles == {Role.BILLING}
    assert "Single sign-on" in browser.http.get("/ui/sessions").text
    [asked] = provider.asked
    assert (asked["client_id"], asked["response_type"], asked["scope"]) == (CLIENT_ID, "code", "openid email")
    assert (asked["code_challenge_method"], len(asked["nonce"]), len(asked["state"])) == ("S256", 43, 43)
    assert asked["redirect_uri"] == f"{farebox.services.base_url}/ui/sign-in/oidc/done"


def test_the_address_may_come_from_userinfo(provider: OpenIdProvider, browser: Browser, email: str) -> None:
    provider.userinfo = {"sub": "ada", "email": email.upper(), "email_verified": True}
    assert browser.sign_in().status_code == 303


def test_the_client_authenticates_as_the_provider_requires(
    farebox: Farebox, provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or not at all if it has no secret: then by PKCE alone."""
    for methods in (["private_key_jwt", "client_secret_basic"], ["client_secret_post"], ["client_secret_post"]):
        provider.metadata = {"token_endpoint_auth_methods_supported": methods}
        _forget(farebox)
        if len(provider.proofs) == 2:
            monkeypatch.setattr(farebox.services.identity_provider, "_secret", "")
        with Browser(farebox) as browser:
            assert browser.sign_in().status_code == 303
    assert provider.proofs == ["basic", "post", "none"]


def test_new_keys_are_fetched(provider: OpenIdProvider, browser: Browser) -> None:
    assert browser.sign_in().status_code == 303
    provider.rotate()
    with Browser(browser.farebox) as other:
        assert other.sign_in().status_code == 303


# --- who cannot sign in -----------------------------------------------------------------------------------------------


def test_a_user_without_a_membership_gets_an_error(provider: OpenIdProvider, browser: Browser) -> None:
    provider.email = "stranger@example.com"
    browser.is_refused("stranger@example.com is not a member of any account here")


@pytest.mark.parametrize("claims", [{"email_verified": False}, {"email_verified": None}, {"email_verified": "true"}])
def test_an_address_that_is_not_verified_does_not_count(
    provider: OpenIdProvider, browser: Browser, claims: dict[str, Any]
) -> None:
    provider.claims = claims
    browser.is_refused("has not verified that")


def test_an_address_of_another_domain_does_not_count(
    farebox: Farebox, provider: OpenIdProvider, browser: Browser
) -> None:
    for outside in ("ada@evil.example", "ada@sub.example.com", "ada@example.com.evil.example"):
        farebox.run(membership.add(farebox.services, farebox.create_account(), outside, Role.OWNER))
        provider.email = outside
        browser.is_refused("use an address of example.com or example.org")


@pytest.mark.parametrize("claims", [{}, {"email": ""}, {"email": 7}, {"email": "nobody"}])
def test_a_user_without_an_address_gets_an_error(
    provider: OpenIdProvider, browser: Browser, claims: dict[str, Any]
) -> None:
    provider.userinfo = {"sub": "ada", "email_verified": True, **claims}
    browser.is_refused("did not say what your e-mail address is")
    provider.userinfo, provider.claims = None, claims or {"email": " "}
    browser.is_refused("did not say what your e-mail address is")


def test_letters_that_normalize_to_an_address_do_not_count(
    farebox: Farebox, provider: OpenIdProvider, browser: Browser
) -> None:
    """The lowercase form of the Kelvin sign (U+212A) is the ASCII letter k."""
    farebox.run(membership.add(farebox.services, farebox.create_account(), "kate@example.com", Role.OWNER))
    provider.email = "\N{KELVIN SIGN}ate@example.com"
    browser.is_refused("did not say what your e-mail address is")


def test_a_user_who_declines_gets_an_error(provider: OpenIdProvider, browser: Browser) -> None:
    provider.answer = {"code": None, "error": "access_denied", "error_description": "<b>pwned</b>"}
    browser.is_refused("You did not sign in at Acme ID")
    assert "pwned" not in browser.sign_in().text


# --- what is not trusted ----------------------------------------------------------------------------------------------

_NOW = int(time.time())
LIES: dict[str, dict[str, Any]] = {
    "of another issuer": {"claims": {"iss": "https://evil.example"}},
    "of no issuer": {"claims": {"iss": None}},
    "for another client": {"claims": {"aud": "other"}},
    "for another client, given to us": {"claims": {"aud": "other", "azp": CLIENT_ID}},
    "for others, too": {"claims": {"aud": [CLIENT_ID, "other"]}},
    "given to another client": {"claims": {"aud": [CLIENT_ID, "other"], "azp": "other"}},
    "expired": {"claims": {"exp": _NOW - 3600}},
    "without an end": {"claims": {"exp": None}},
    "of the future": {"claims": {"iat": _NOW + 36_000}},
    "not valid yet": {"claims": {"nbf": _NOW + 36_000}},
    "of another attempt": {"claims": {"nonce": "other"}},
    "of no attempt": {"claims": {"nonce": None}},
    "of nobody": {"claims": {"sub": None}},
    "of a sub that is no text": {"claims": {"sub": 7}},
    "of another access token": {"claims": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
    "signed by another key of the same name": {"signed_by": RSAKey.generate_key(2048, {"kid": "first"})},
    "signed by a key that it does not have": {"signed_by": RSAKey.generate_key(2048, {"kid": "unknown"})},
    "signed by the client's secret": {"signed_by": secret_key(), "header": {"kid": None}},
    "not a token": {"token": "a.b.c"},
    "empty": {"token": "."},
    "about somebody else in userinfo": {"userinfo": {"sub": "eve", "email": "x@example.com", "email_verified": True}},
}


@pytest.mark.parametrize("lie", [pytest.param(fields, id=name) for name, fields in LIES.items()])
def test_false_claims_are_not_trusted(provider: OpenIdProvider, browser: Browser, lie: dict[str, Any]) -> None:
    provider.__dict__.update(lie)
    browser.is_refused("could not be verified")
    provider.reset(provider.email)
    assert browser.sign_in().status_code == 303  # only that was wrong


def test_a_token_without_a_signature_is_not_trusted(provider: OpenIdProvider, browser: Browser) -> None:
    url = browser.begin()
    nonce = httpx.URL(url).params["nonce"]
    claims = {"iss": provider.issuer, "sub": "ada", "aud": CLIENT_ID, "iat": _NOW, "exp": _NOW + 3600, "nonce": nonce}
    provider.token = unsigned(claims | {"email": provider.email, "email_verified": True})
    assert browser.http.get(browser.back(url)).status_code == 403


@pytest.mark.parametrize(
    "answer", [{"iss": "https://evil.example"}, {"iss": None}, {"iss": ""}], ids=["other", "none", "empty"]
)
def test_an_answer_of_another_provider_is_refused(
    provider: OpenIdProvider, browser: Browser, answer: dict[str, Any]
) -> None:
    """Mix-up attack: no code is sent anywhere then."""
    provider.answer = answer
    browser.is_refused("could not be verified")
    assert len(provider.codes) == 1


def test_a_state_is_valid_once_and_in_one_browser(farebox: Farebox, provider: OpenIdProvider, browser: Browser) -> None:
    back = browser.back(browser.begin())
    with Browser(farebox) as other:
        other.begin()
        for path in (back, back):  # another user's, in a browser that has started its own
            refused = other.http.get(path)
            assert (refused.status_code, "in another browser" in refused.text) == (403, True)
    assert browser.http.get(back).status_code == 303
    browser.http.cookies.delete("farebox_sid")
    replayed = browser.http.get(back)
    assert (replayed.status_code, "took too long" in replayed.text) == (403, True)


@pytest.mark.parametrize("answer", [{"state": "other"}, {"state": None}, {"state": "é"}], ids=["other", "none", "é"])
def test_a_wrong_state_is_refused(provider: OpenIdProvider, browser: Browser, answer: dict[str, Any]) -> None:
    provider.answer = answer
    browser.is_refused("in another browser")


def test_an_unknown_code_is_refused(provider: OpenIdProvider, browser: Browser) -> None:
    provider.answer = {"code": "guessed"}
    browser.is_refused("could not be verified")


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/token"},
        {"jwks_uri": "ftp://127.0.0.1/jwks"},
        {"authorization_endpoint": 7},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
    ids=lambda metadata: next(iter(metadata)),
)
def test_a_misconfigured_provider_is_not_used(
    provider: OpenIdProvider, browser: Browser, metadata: dict[str, Any]
) -> None:
    provider.metadata = metadata
    refused = browser.http.post("/ui/sign-in/oidc", data={"next": ""})
    assert (refused.status_code, "cannot be reached at the moment" in refused.text) == (403, True)


def test_an_unreachable_provider(farebox: Farebox, provider: OpenIdProvider, browser: Browser) -> None:
    url = browser.begin()
    back = browser.back(url)
    provider.away = True
    for response in (browser.http.get(back), browser.http.get("/ui/sign-in")):
        text = {403: "cannot be reached at the moment", 200: "Send me a link"}[response.status_code]
        assert text in response.text


# --- proofs, sessions -------------------------------------------------------------------------------------------------


def _aged(farebox: Farebox, email: str) -> Person:
    """A browser that signed in more than an hour ago."""
    [account_id] = farebox.run(membership.accounts_of(farebox.services, email))
    who = Person(farebox, LinkHolder(account_id=account_id, email=email))
    farebox.run(
        farebox.services.database.write(
            lambda connection: connection.execute(
                "UPDATE sessions SET confirmed_at = confirmed_at - ?", (sessions.CONFIRMED_MS,)
            )
        )
    )
    return who


def test_signing_in_at_the_provider_is_a_proof(
    farebox: Farebox, provider: OpenIdProvider, browser: Browser, email: str
) -> None:
    who = _aged(farebox, email)
    assert "Continue with Acme ID" in who.get("/ui/confirm", next="/billing").text
    before = who.secret
    url = browser.sent_to(who.send("/ui/confirm/oidc", next="/billing"))
    assert (httpx.URL(url).params["prompt"], httpx.URL(url).params["max_age"]) == ("login", "0")
    done = who.get(browser.back(url))
    assert (done.status_code, done.headers["location"]) == (303, "/billing")
    assert who.secret != before
    assert farebox.run(sessions.session(farebox.services, before)) is None
    assert who.get("/ui/confirm", next="/billing").headers["location"] == "/billing"


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"auth_time": _NOW - 7200}, "could not be verified"),
        ({"auth_time": None}, "could not be verified"),
        ({"email": "eve@example.com"}, "says that you are eve@example.com"),
    ],
    ids=["not again", "not said when", "somebody else"],
)
def test_an_invalid_proof_does_not_count(
    farebox: Farebox, provider: OpenIdProvider, browser: Browser, email: str, claims: dict[str, Any], says: str
) -> None:
    who = _aged(farebox, email)
    provider.claims = claims
    refused = who.get(browser.back(browser.sent_to(who.send("/ui/confirm/oidc", next="/billing"))))
    assert (refused.status_code, says in refused.text) == (403, True)
    assert who.get("/ui/confirm", next="/billing").status_code == 200


def test_a_session_that_was_there_before_ends(farebox: Farebox, provider: OpenIdProvider, browser: Browser) -> None:
    """Session fixation."""
    planted = Person(farebox, LinkHolder(account_id=farebox.create_account("Evil"), role=Role.OWNER))
    browser.http.cookies.set("farebox_sid", planted.secret)
    answer = browser.sign_in()
    assert planted.secret not in answer.headers["set-cookie"]
    assert planted.session is None


def test_signing_out_offers_signing_out_at_the_provider(
    farebox: Farebox, provider: OpenIdProvider, browser: Browser
) -> None:
    browser.sign_in()
    session = farebox.run(sessions.session(farebox.services, browser.http.cookies["farebox_sid"]))
    assert session is not None
    csrf = sessions.seal(farebox.services, session, "form")
    out = browser.http.post("/ui/sign-out", data={"csrf": csrf})
    assert out.headers["location"] == "/ui/signed-out?at=provider"
    assert "Sign out there too" in browser.http.get(out.headers["location"]).text
    assert "Sign out there too" not in browser.http.get("/ui/signed-out").text
    url = browser.sent_to(browser.http.post("/ui/signed-out/provider"))
    back = f"{farebox.services.base_url}/ui/signed-out"
    assert dict(httpx.URL(url).params) == {"client_id": CLIENT_ID, "post_logout_redirect_uri": back}
    assert httpx.get(url).headers["location"] == back
    provider.metadata = {"end_session_endpoint": ""}
    _forget(farebox)
    assert browser.http.post("/ui/signed-out/provider").headers["location"] == "/ui/signed-out"


def test_other_sites_cannot_start_single_sign_on(provider: OpenIdProvider, browser: Browser) -> None:
    browser.http.headers["sec-fetch-site"] = "cross-site"
    for path in ("/ui/sign-in/oidc", "/ui/signed-out/provider"):
        assert browser.http.post(path).status_code == 400


@pytest.mark.parametrize("path", ["https://evil.example/", "//evil.example", "/\\evil.example", "/client/v4"])
def test_single_sign_on_leads_back_only_to_our_own_pages(provider: OpenIdProvider, browser: Browser, path: str) -> None:
    assert browser.sign_in(next=path).headers["location"] == "/ui/overview"


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"oidc_issuer": "https://id.example"}, "need each other"),
        ({"oidc_client_id": "farebox"}, "need each other"),
        ({"oidc_issuer": "id.example", "oidc_client_id": "farebox"}, "must begin with https://"),
        (
            {"oidc_issuer": "https://id.example", "oidc_client_id": "x", "oidc_client_secret": "y"}
            | {"oidc_client_secret_file": "z"},
            "are both set",
        ),
        ({"oidc_email": "maybe"}, "must be one of verified, any"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load({}, **settings)


def test_the_secret_may_be_in_a_file(farebox: Farebox, tmp_path: Path) -> None:
    known = farebox.services.identity_provider
    assert known is not None
    file = tmp_path / "secret"
    settings = replace(farebox.services.settings, oidc_client_secret="", oidc_client_secret_file=str(file))
    with pytest.raises(SettingsError, match="FAREBOX_OIDC_CLIENT_SECRET_FILE cannot be read"):
        identity_provider_of(settings, known._upstream, farebox.services.clock)
    file.write_text("from the file\n")
    assert identity_provider_of(settings, known._upstream, farebox.services.clock)._secret == "from the file"
    unsafe = replace(settings, oidc_issuer="http://id.example")
    with pytest.raises(SettingsError, match="http:// only on this machine"):
        identity_provider_of(unsafe, known._upstream, farebox.services.clock)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://id.example/tenant", True),
        ("http://127.0.0.1:9", True),
        ("http://localhost:9", True),
        ("http://[::1]:9", True),
        ("http://id.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("ftp://127.0.0.1", False),
        ("https://", False),
    ],
)
def test_safe_urls_of_providers(url: str, safe: bool) -> None:
    assert is_safe(url) is safe
