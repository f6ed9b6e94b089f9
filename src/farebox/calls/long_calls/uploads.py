"""Files that Google receives in pieces: an upload begun here continues here, by a ticket in its URL.

Google answers the first request with a URL to which its SDKs send the pieces without any credential: anyone who has the
URL may send. So the URL that is passed on leads here, and has a ticket in the place of Google's ID. Only this server
can read the ticket, which is for this account, gateway and size.
"""

import base64
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from farebox.calendar import DAY_MS
from farebox.calls.model import Call
from farebox.errors import UPSTREAM_INVALID, Problem
from farebox.gateway import gateway_path
from farebox.providers.catalogue import provider_of
from farebox.providers.descriptions import GOOGLE
from farebox.runtime.services import Services
from farebox.vault import SecretUnreadable

PATH: Final = "upload/v1beta/files"
URL_HEADER: Final = "x-goog-upload-url"
NOT_PASSED: Final = frozenset({URL_HEADER, "x-goog-upload-control-url", "x-guploader-uploadid"})
"""Response headers with URLs that would bypass this server."""
_ID: Final = "upload_id"
_TICKET_MAX: Final = 4_096


class Upload(msgspec.Struct, frozen=True):
    """An upload that has begun."""

    query: str
    """The query of Google's URL."""
    key_id: str
    """The operator's key that began the upload."""
    size: int
    """Maximum bytes of the file."""
    expires_at: int
    """Unix milliseconds."""


_UPLOAD: Final = msgspec.json.Decoder(Upload)


def upload_url(services: Services, call: Call, key_id: str, size: int, url: str) -> str:
    """The URL here that stands for Google's. Raises Problem (UPSTREAM_INVALID)."""
    query = urlsplit(url).query
    if _ID not in parse_qs(query):
        raise Problem(UPSTREAM_INVALID, "Google did not return the URL for the upload.")
    upload = Upload(query, key_id, size, services.clock.now_ms() + DAY_MS)
    sealed = services.vault.seal(msgspec.json.encode(upload), _place(call.account_id, call.gateway_id))
    ticket = base64.urlsafe_b64encode(sealed).decode().rstrip("=")
    base = f"{services.base_url}{gateway_path(call.account_id, call.gateway_id)}/{call.provider}/{PATH}"
    return f"{base}?{urlencode({_ID: ticket, 'upload_protocol': 'resumable'})}"


def upload_of(services: Services, account_id: str, gateway_id: str, slug: str, path: str, query: str) -> Upload | None:
    """The upload that the ticket in a request's query is for; None if there is no ticket that is valid here."""
    provider = provider_of(slug) if path == PATH else None
    if provider is None or provider.slug != GOOGLE:
        return None
    ticket = parse_qs(query).get(_ID, [""])[0]
    if not ticket or len(ticket) > _TICKET_MAX:
        return None
    try:
        sealed = base64.urlsafe_b64decode(ticket + "=" * (-len(ticket) % 4))
        found = _UPLOAD.decode(services.vault.unseal(sealed, _place(account_id, gateway_id)))
    except (ValueError, SecretUnreadable):
        return None
    return found if found.expires_at > services.clock.now_ms() else None


def _place(account_id: str, gateway_id: str) -> str:
    return f"upload:{account_id}:{gateway_id}"
