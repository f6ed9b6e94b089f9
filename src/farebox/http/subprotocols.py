"""The subprotocols in a WebSocket's handshake, which may contain credentials: browsers can set no other header."""

from typing import Final

import msgspec

from farebox.http.credentials import GATEWAY_TOKEN_HEADER, is_ours
from farebox.http.exchange import RequestHeaders

HEADER: Final = "sec-websocket-protocol"
_TOKEN: Final = GATEWAY_TOKEN_HEADER + "."
_OPENAI_KEY: Final = "openai-insecure-api-key."
_OPENAI_ACCOUNT: Final = (("openai-organization.", "openai-organization"), ("openai-project.", "openai-project"))
_SCHEMES: Final = {"token": "Token", "bearer": "Bearer"}
"""Deepgram accepts one of these and the key as two subprotocols."""
_MOST: Final = 20


class OfferedProtocols(msgspec.Struct, frozen=True):
    """The handshake as a request, with its credentials as headers, as in any other request."""

    headers: dict[str, str]
    query: str
    subprotocols: tuple[str, ...]
    """The subprotocols without those that are credentials."""
    credentials: tuple[str, ...]
    """The subprotocols that are credentials, as they were offered."""

    def chosen(self, by_provider: str) -> str:
        """The subprotocol reported to the client; empty if it offered none. A browser that has offered some rejects a
        WebSocket without one, so at least one of those it offered is reported."""
        if by_provider:
            return by_provider
        return (*self.subprotocols, *self.credentials, "")[0]


def offered(headers: RequestHeaders, query: str) -> OfferedProtocols:
    """The client's handshake."""
    found = dict(headers.items())
    words = [word.strip() for word in found.pop(HEADER, "").split(",", _MOST)[:_MOST] if word.strip()]
    plain, credentials = list[str](), list[str]()
    previous = ""
    for word in words:
        if word.startswith(_TOKEN):
            found[GATEWAY_TOKEN_HEADER] = f"Bearer {word.removeprefix(_TOKEN)}"
        elif word.startswith(_OPENAI_KEY):
            found["authorization"] = f"Bearer {word.removeprefix(_OPENAI_KEY)}"
        elif previous in _SCHEMES and plain and plain[-1] == previous:
            credentials.append(plain.pop())
            found["authorization"] = f"{'Bearer' if is_ours(word) else _SCHEMES[previous]} {word}"
        elif name := next((name for prefix, name in _OPENAI_ACCOUNT if word.startswith(prefix)), ""):
            found[name] = word.partition(".")[2]
        else:
            plain.append(word)
            previous = word
            continue
        previous = ""
        credentials.append(word)
    return OfferedProtocols(found, query, tuple(plain), tuple(credentials))
