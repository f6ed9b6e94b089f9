"""Access tokens for clouds, which are requested with a long-lived key: they are kept, and renewed before they expire.

Only one request per key is in progress at a time. While a token is still valid, its renewal delays no caller.
"""

import asyncio
from collections import OrderedDict
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from farebox.clock import Clock
from farebox.providers.credential import EntraApp, GoogleAccount, IbmKey, TokenSource
from farebox.providers.upstream import Upstream, UpstreamFailed, UpstreamRequest

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
GOOGLE_URL: Final = "https://oauth2.googleapis.com/token"
ENTRA_URL: Final = "https://login.microsoftonline.com"
IBM_URL: Final = "https://iam.cloud.ibm.com/identity/token"
_ENTRA_SCOPE: Final = "https://cognitiveservices.azure.com/.default"
_LIFE_SECONDS: Final = 3_600
_AHEAD_MS: Final = 10 * 60_000
"""How long before its expiry a token is renewed."""
_LEAST_MS: Final = 60_000
"""A token that is valid for less is not used: a request may take that long to arrive."""
_TOKENS_MAX: Final = 1_024
_SAID: Final = ("error", "error_description", "errorCode", "errorMessage")
"""Fields that say why there is no token."""
_ANSWER_MAX: Final = 64 * 2**10
_SECONDS: Final = 10.0


class TokenRefused(Exception):
    """There is no token. The message says why, and contains nothing of the key."""


class _Token(msgspec.Struct, frozen=True):
    text: str
    ends_ms: int


class Tokens:
    """The tokens of this process."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock
        self._kept: OrderedDict[TokenSource, _Token] = OrderedDict()
        self._asking: dict[TokenSource, asyncio.Task[_Token]] = {}
        self.google_url = GOOGLE_URL
        self.entra_url = ENTRA_URL
        self.ibm_url = IBM_URL

    async def of(self, source: TokenSource) -> str:
        """A valid token. Raises TokenRefused, UpstreamFailed."""
        kept, now = self._kept.get(source), self._clock.now_ms()
        if kept is not None and now < kept.ends_ms - _LEAST_MS:
            self._kept.move_to_end(source)
            if now >= kept.ends_ms - _AHEAD_MS:
                self._renew(source)
            return kept.text
        return (await asyncio.shield(self._renew(source))).text

    def forget(self, source: TokenSource, text: str) -> None:
        """Forget a token that was not accepted."""
        kept = self._kept.get(source)
        if kept is not None and kept.text == text:
            del self._kept[source]

    def _renew(self, source: TokenSource) -> "asyncio.Task[_Token]":
        task = self._asking.get(source)
        if task is None:
            task = self._asking[source] = asyncio.create_task(self._ask(source))
            task.add_done_callback(lambda done: self._asked(source, done))
        return task

    def _asked(self, source: TokenSource, done: "asyncio.Task[_Token]") -> None:
        del self._asking[source]
        if done.cancelled() or done.exception() is not None:
            return  # waiting callers get the error; a renewal before expiry is tried again
        self._kept[source] = done.result()
        while len(self._kept) > _TOKENS_MAX:
            self._kept.popitem(last=False)

    async def _ask(self, source: TokenSource) -> _Token:
        """Request a token. Raises TokenRefused, UpstreamFailed."""
        url, form = await self._request(source)
        headers = [("content-type", "application/x-www-form-urlencoded"), ("accept-encoding", "identity")]
        try:
            async with asyncio.timeout(_SECONDS):
                body = urlencode(form).encode()
                response = await self._upstream.send(UpstreamRequest("POST", url, headers, body))
                try:
                    data = bytearray()
                    while len(data) <= _ANSWER_MAX and (piece := await response.chunk()) is not None:
                        data += piece
                finally:
                    await response.close()
        except TimeoutError as error:
            raise UpstreamFailed("the token server did not respond", sent=False, cause="timeout_connect") from error
        return self._read(response.status, bytes(data))

    def _read(self, status: int, data: bytes) -> _Token:
        try:
            found = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, ValueError, RecursionError):
            found = {}
        text, seconds = found.get("access_token"), found.get("expires_in", _LIFE_SECONDS)
        usable = isinstance(text, str) and text.isascii() and text.isprintable() and " " not in text
        if status != 200 or not usable or not isinstance(text, str):
            reason = ": ".join(str(found[name])[:300] for name in _SAID if found.get(name))
            raise TokenRefused(reason or f"the token server responded with {status}")
        life = seconds if isinstance(seconds, int) and 0 < seconds <= 24 * 3_600 else _LIFE_SECONDS
        return _Token(text, self._clock.now_ms() + life * 1000)

    async def _request(self, source: TokenSource) -> tuple[str, dict[str, str]]:
        """URL and form of the request for a token. Raises TokenRefused."""
        if isinstance(source, EntraApp):
            url = f"{self.entra_url}/{quote(source.tenant_id, safe='')}/oauth2/v2.0/token"
            form = {"grant_type": "client_credentials", "client_id": source.client_id, "scope": _ENTRA_SCOPE}
            return url, {**form, "client_secret": source.client_secret}
        if isinstance(source, IbmKey):
            return self.ibm_url, {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": source.api_key}
        now = self._clock.now_ms() // 1000
        claims = {"iss": source.email, "scope": SCOPE, "aud": self.google_url, "iat": now, "exp": now + _LIFE_SECONDS}
        try:
            assertion = await asyncio.to_thread(_asserted, source, claims)
        except ValueError as error:
            raise TokenRefused("the private key cannot be read") from error
        return self.google_url, {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}


def _asserted(account: GoogleAccount, claims: dict[str, object]) -> str:
    """The assertion that a service account signs, made with google-auth. Raises ValueError."""
    from google.auth import crypt, jwt  # imported on this thread, because it takes a while

    signer = crypt.RSASigner.from_string(account.private_key, account.key_id or None)  # type: ignore[no-untyped-call]
    encoded: bytes = jwt.encode(signer, claims)  # type: ignore[no-untyped-call]
    return encoded.decode()
