"""The operator's OpenID provider: where people sign in, and how it identifies them.

The authorization code flow with PKCE, by OpenID Connect Core 1.0 and Discovery 1.0. Its metadata and keys are fetched
when somebody signs in, and cached for an hour. authlib validates the claims of ID tokens, joserfc their signatures;
both libraries are loaded at the first such sign-in.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from farebox.addresses import literal
from farebox.clock import Clock
from farebox.providers.upstream import Upstream
from farebox.quoting import quoted
from farebox.runtime import outgoing
from farebox.settings import Settings, SettingsError

T = TypeVar("T")
KEPT_SECONDS: Final = 3_600
LEEWAY_SECONDS: Final = 60
"""How far its clock may differ from ours."""
SCOPE: Final = "openid email"
ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Algorithms of signatures by the provider's own keys; signatures by the client secret could be made by anyone who
knows that."""
_SHOWN: Final = 200
"""Characters of the provider's words that a log line quotes."""
_FORM: Final = ("content-type", "application/x-www-form-urlencoded")
_JSON: Final = ("accept", "application/json")


class ProviderFailed(Exception):
    """The provider cannot be reached, or does not work as it should; the message says why, for the operator's log."""


class UntrustedIdentity(Exception):
    """The provider's statement about a person proves nothing; the message says why, for the operator's log."""


class SignInAttempt(msgspec.Struct, frozen=True):
    """The secrets of one attempt to sign in."""

    state: str
    nonce: str
    verifier: str
    """The code verifier of PKCE."""


class Identity(msgspec.Struct, frozen=True):
    """A person as the provider identifies them."""

    subject: str
    email: str
    """Empty if the provider does not state it."""
    verified: bool
    """The provider states that the e-mail address is verified."""


class ProviderMetadata(msgspec.Struct, frozen=True):
    """The fields of the provider's metadata that are used."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    id_token_signing_alg_values_supported: Sequence[str] = ("RS256",)
    token_endpoint_auth_methods_supported: Sequence[str] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str = ""


class IdentityProvider:
    def __init__(self, settings: Settings, secret: str, upstream: Upstream, clock: Clock) -> None:
        self.issuer = settings.oidc_issuer
        self.name = settings.oidc_name
        self._client_id = settings.oidc_client_id
        self._secret = secret
        self._upstream = upstream
        self._clock = clock
        self._metadata: ProviderMetadata | None = None
        self._keys: dict[str, Any] = {}
        self._until = 0.0

    async def metadata(self) -> ProviderMetadata:
        """The provider's metadata, at most an hour old. Raises ProviderFailed."""
        if self._metadata is None or self._clock.monotonic() >= self._until:
            url = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
            found = _decoded(await self._get(url), ProviderMetadata)
            if found.issuer != self.issuer:
                raise ProviderFailed(f"it says that it is {quoted(found.issuer, _SHOWN)}, not FAREBOX_OIDC_ISSUER")
            for endpoint in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):
                _require_safe(endpoint)
            for endpoint in filter(None, (found.userinfo_endpoint, found.end_session_endpoint)):
                _require_safe(endpoint)
            self._metadata, self._keys, self._until = found, {}, self._clock.monotonic() + KEPT_SECONDS
        return self._metadata

    async def sign_in_url(self, begun: SignInAttempt, return_to: str, *, again: bool) -> str:
        """The URL at which the provider authenticates a person. `again`: even one who is already signed in there.
        Raises ProviderFailed."""
        metadata = await self.metadata()
        await _ready()
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        return str(
            prepare_grant_uri(
                metadata.authorization_endpoint,
                self._client_id,
                "code",
                redirect_uri=return_to,
                scope=SCOPE,
                state=begun.state,
                nonce=begun.nonce,
                code_challenge=create_s256_code_challenge(begun.verifier),
                code_challenge_method="S256",
                **({"prompt": "login", "max_age": "0"} if again else {}),
            )
        )

    async def sign_out_url(self, return_to: str) -> str | None:
        """The URL at which people sign out of the provider; None if it has none. Raises ProviderFailed."""
        endpoint = (await self.metadata()).end_session_endpoint
        if not endpoint:
            return None
        joint = "&" if "?" in endpoint else "?"
        return (
            f"{endpoint}{joint}{urlencode({'client_id': self._client_id, 'post_logout_redirect_uri': return_to})}"
        )  # fmt: skip

    async def identity(self, begun: SignInAttempt, return_to: str, code: str, *, since: int | None) -> Identity:
        """The person that the code stands for. `since`: they must have authenticated after that time. Raises
        ProviderFailed, Untrusted."""
        tokens = await self._redeemed(begun, return_to, code)
        claims = await self._claims(tokens, begun.nonce)
        if since is not None:
            proved_at = claims.get("auth_time")
            if not isinstance(proved_at, int) or proved_at * 1000 < since - LEEWAY_SECONDS * 1000:
                raise UntrustedIdentity("it did not authenticate the person again")
        profile = claims if "email" in claims else await self._userinfo(claims, tokens.access_token)
        email = profile.get("email")
        return Identity(
            subject=str(claims["sub"]),
            email=email if isinstance(email, str) else "",
            verified=profile.get("email_verified") is True,
        )

    async def _redeemed(self, begun: SignInAttempt, return_to: str, code: str) -> _Tokens:
        metadata = await self.metadata()
        await _ready()
        from authlib.oauth2.auth import ClientAuth

        method = "none"
        if self._secret:
            known = metadata.token_endpoint_auth_methods_supported
            basic = "client_secret_basic" in known or "client_secret_post" not in known
            method = "client_secret_basic" if basic else "client_secret_post"
        named, secret = (
            (quote(text, safe="") for text in (self._client_id, self._secret))  # RFC 6749, 2.3.1
            if method == "client_secret_basic"
            else (self._client_id, self._secret)
        )
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": return_to}
        body = urlencode(form | {"code_verifier": begun.verifier})
        url, headers, body = ClientAuth(named, secret, method).prepare("POST", metadata.token_endpoint, {}, body)
        sent = await outgoing.send(
            self._upstream, self._clock, "POST", url, [_FORM, _JSON, *headers.items()], body.encode()
        )
        if not sent.ok:
            failed = UntrustedIdentity if sent.status == 400 else ProviderFailed  # 400: the code is invalid
            raise failed(f"its token endpoint {sent.error}: {quoted(sent.body.decode(errors='replace'), _SHOWN)}")
        return _decoded(sent.body, _Tokens)

    async def _claims(self, tokens: _Tokens, nonce: str) -> dict[str, Any]:
        """The verified claims of the ID token. Raises Untrusted, ProviderFailed."""
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import InvalidKeyIdError, JoseError
        from joserfc.jws import JWSRegistry

        metadata = await self.metadata()
        allowed = ALGORITHMS & set(metadata.id_token_signing_alg_values_supported)
        registry = JWSRegistry(algorithms=sorted(allowed), strict_check_header=False)
        try:
            try:
                token = jwt.decode(tokens.id_token, await self._key_set(), registry=registry)
            except InvalidKeyIdError:  # the provider has new keys
                token = jwt.decode(tokens.id_token, await self._key_set(again=True), registry=registry)
            claims = CodeIDToken(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self._client_id},
                },
                {"nonce": nonce, "client_id": self._client_id, "access_token": tokens.access_token},
            )
            claims.validate(now=self._clock.now_ms() // 1000, leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise UntrustedIdentity(f"its ID token: {type(error).__name__}: {error}") from error
        return dict(claims)

    async def _key_set(self, *, again: bool = False) -> Any:
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        if again or not self._keys:
            self._keys = _decoded(await self._get((await self.metadata()).jwks_uri), dict[str, Any])
        try:
            return KeySet.import_key_set(self._keys)  # type: ignore[arg-type]  # invalid keys raise, see below
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._keys = {}
            raise ProviderFailed(f"its keys cannot be parsed: {error}") from error

    async def _userinfo(self, claims: Mapping[str, Any], access_token: str) -> Mapping[str, Any]:
        """The userinfo endpoint's statements about the same person: many providers return the e-mail address only
        there. Raises ProviderFailed, Untrusted."""
        endpoint = (await self.metadata()).userinfo_endpoint
        if not endpoint or not access_token:
            return {}
        profile = _decoded(await self._get(endpoint, ("authorization", f"Bearer {access_token}")), dict[str, Any])
        if profile.get("sub") != claims["sub"]:
            raise UntrustedIdentity("its userinfo endpoint describes another person")
        return profile

    async def _get(self, url: str, *headers: tuple[str, str]) -> bytes:
        """Fetch a URL of the provider. Raises ProviderFailed."""
        sent = await outgoing.send(self._upstream, self._clock, "GET", url, [_JSON, *headers], b"")
        if not sent.ok:
            raise ProviderFailed(f"{urlsplit(url).path} {sent.error}")
        return sent.body


def _decoded(body: bytes, kind: type[T]) -> T:
    """Decode a JSON response. Raises ProviderFailed."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProviderFailed(f"its answer cannot be parsed: {error}") from error


def _require_safe(url: str) -> None:
    """Raises ProviderFailed for a URL whose traffic others could read."""
    if not is_safe(url):
        raise ProviderFailed(f"{quoted(url, _SHOWN)} in its metadata is not an https URL")


def is_safe(url: str) -> bool:
    """Whether nobody on the way can read the traffic: https, or this machine."""
    parts = urlsplit(url)
    address = literal(parts.hostname or "")
    local = parts.hostname == "localhost" or (address is not None and address.is_loopback)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and local))


async def _ready() -> None:
    """Load the libraries; the first time on a thread, as it takes a fifth of a second that would delay calls."""
    if "authlib.oidc.core" not in sys.modules:
        await asyncio.to_thread(__import__, "authlib.oidc.core")


def identity_provider_of(settings: Settings, upstream: Upstream, clock: Clock) -> IdentityProvider:
    """The provider that the settings configure. Raises SettingsError."""
    if not is_safe(settings.oidc_issuer):
        raise SettingsError("FAREBOX_OIDC_ISSUER must begin with https:// (http:// only on this machine)")
    return IdentityProvider(settings, _secret(settings), upstream, clock)


def _secret(settings: Settings) -> str:
    if not settings.oidc_client_secret_file:
        return settings.oidc_client_secret
    try:
        return Path(settings.oidc_client_secret_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"FAREBOX_OIDC_CLIENT_SECRET_FILE cannot be read: {error}") from error
