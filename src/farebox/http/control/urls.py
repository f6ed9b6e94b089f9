"""URLs that accounts have Farebox call: only URLs that may be called from here are stored."""

import re
from urllib.parse import SplitResult, urlsplit

from farebox.addresses import is_host, is_in, is_public, literal, networks
from farebox.http.validation import invalid
from farebox.settings import Settings

_PRINTABLE = re.compile(r"[!-~]+")


def checked_url(settings: Settings, text: str, *path: str | int) -> SplitResult:
    """The parts of an http or https URL. The addresses of its host are also checked at each connection. Raises
    InvalidInput, with this path."""
    allowed = networks(settings.custom_networks)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise invalid("Invalid url", *path) from error
    host = parts.hostname or ""
    if not _PRINTABLE.fullmatch(text) or not is_host(host) or port == 0 or parts.scheme not in ("https", "http"):
        raise invalid("Invalid url: write it as https://api.example.com", *path)
    if parts.scheme == "http" and not allowed:
        raise invalid("Must start with https://", *path)
    address = literal(host)
    if address is not None and not (is_public(address) or is_in(address, allowed)):
        raise invalid(
            "This address may not be called: the operator allows networks with FAREBOX_CUSTOM_NETWORKS",
            *path,
            words="This address is not public, so it may not be called: ask the operator to allow its network",
        )
    return parts
