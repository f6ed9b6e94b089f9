"""A local OpenID provider, with joserfc's signatures; its fields set its mistakes.

tests/node has a real provider; this one can lie.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

CLIENT_ID, SECRET = "farebox", "a secret with %, + and :"


@dataclass
class OpenIdProvider:
    issuer: str = ""
    email: str = ""
    """The e-mail address of the user who is signed in at the provider."""
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims that replace the right ones; None: omitted."""
    userinfo: dict[str, Any] | None = None
    """The response of userinfo; the ID token then has no e-mail address."""
    metadata: dict[str, Any] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)
    """Parameters of its redirect that replace the right ones; None: omitted."""
    token: str | None = None
    """An ID token to return instead of the right one."""
    signed_by: Any = None
    """A key to sign with instead of its own."""
    header: dict[str, Any] = field(default_factory=dict)
    away: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)
    """The received authorization requests."""
    proofs: list[str] = field(default_factory=list)
    """How the client authenticated: basic, post, none."""
    key: Any = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "first"}))
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def reset(self, email: str = "") -> None:
        """Undo all mistakes."""
        fresh = OpenIdProvider(self.issuer, email, key=self.key)
        self.__dict__.update(fresh.__dict__)

    def rotate(self) -> None:
        """Replace its keys."""
        self.key = ECKey.generate_key("P-256", {"kid": os.urandom(4).hex(), "alg": "ES256"})

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                status, more, text = self._answered(first.split(" ")[1], headers, body.decode())
                head = "".join(f"{name}: {value}\r\n" for name, value in more.items())
                length = len(text.encode())
                writer.write(f"HTTP/1.1 {status} Whatever\r\n{head}content-length: {length}\r\n\r\n{text}".encode())
                await writer.drain()
        writer.close()

    def _answered(self, target: str, headers: dict[str, str], body: str) -> tuple[int, dict[str, str], str]:
        parts = urlsplit(target)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if self.away:
            return 503, {}, "away"
        match parts.path:
            case "/.well-known/openid-configuration":
                return _json(self._metadata())
            case "/jwks":
                return _json(dict(KeySet([self.key]).as_dict(private=False)))
            case "/authorize":
                return self._authorized(given)
            case "/token":
                form = {name: values[0] for name, values in parse_qs(body).items()}
                return self._redeemed(form, headers.get("authorization", ""))
            case "/userinfo":
                return _json(self.userinfo or {})
            case "/logout":
                return 302, {"location": given["post_logout_redirect_uri"]}, ""
        return 404, {}, ""

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "end_session_endpoint": f"{self.issuer}/logout",
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
            "authorization_response_iss_parameter_supported": True,
        } | self.metadata

    def _authorized(self, given: dict[str, str]) -> tuple[int, dict[str, str], str]:
        self.asked.append(given)
        code = os.urandom(8).hex()
        self.codes[code] = given
        answer = {"code": code, "state": given["state"], "iss": self.issuer} | self.answer
        query = urlencode({name: value for name, value in answer.items() if value is not None})
        return 302, {"location": f"{given['redirect_uri']}?{query}"}, ""

    def _redeemed(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, str], str]:
        asked = self.codes.pop(form["code"], None)
        self.proofs.append("basic" if authorization else "post" if "client_secret" in form else "none")
        client, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        proof = (unquote(client), unquote(secret)) if authorization else (form["client_id"], form.get("client_secret"))
        if proof not in ((CLIENT_ID, SECRET), (CLIENT_ID, None)):
            return 401, {}, '{"error": "invalid_client"}'
        challenge = (
            base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        )
        if asked is None or form["redirect_uri"] != asked["redirect_uri"] or challenge != asked["code_challenge"]:
            return 400, {}, '{"error": "invalid_grant"}'
        return _json({"access_token": "at", "token_type": "Bearer", "id_token": self.token or self._id_token(asked)})

    def _id_token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": "ada", "aud": CLIENT_ID, "iat": now, "exp": now + 300, "auth_time": now}
        claims["nonce"] = asked["nonce"]
        if self.userinfo is None:
            claims |= {"email": self.email, "email_verified": True}
        claims = {name: value for name, value in (claims | self.claims).items() if value is not None}
        key = self.signed_by or self.key
        algorithm = {"RSA": "RS256", "EC": "ES256", "oct": "HS256"}[key.key_type]
        header = {"alg": algorithm, "kid": key.kid} | self.header
        return jwt.encode({name: value for name, value in header.items() if value is not None}, claims, key)


def unsigned(claims: dict[str, Any]) -> str:
    """A token whose algorithm is `none`."""
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), ""])


def secret_key() -> OctKey:
    """The client's secret as a signing key."""
    return OctKey.import_key(SECRET)


def _json(content: dict[str, Any]) -> tuple[int, dict[str, str], str]:
    return 200, {"content-type": "application/json"}, json.dumps(content)


@contextlib.asynccontextmanager
async def openid_provider() -> AsyncIterator[OpenIdProvider]:
    provider = OpenIdProvider()
    server = await asyncio.start_server(provider.handle, "127.0.0.1", 0)
    provider.issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
        await server.wait_closed()
