"""How clients reach Farebox: its public URL, and the proxies in front of it."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

from farebox.quoting import quoted

Networks: TypeAlias = tuple[IPv4Network | IPv6Network, ...]

_is_public_url = re.compile(r"https?://[^/?#@\s]+((?:/[A-Za-z0-9._~-]+)*)/?").fullmatch
_OWN_PATHS = frozenset(
    {"billing", "client", "documents", "healthz", "metrics", "openapi.json", "readyz", "ui", "v1", "webhooks"}
)
"""First path segments of Farebox's own routes."""


def path_of(public_url: str) -> str:
    """The path of a public URL, without a trailing slash; empty if it has none, or if there is no URL."""
    found = _is_public_url(public_url)
    return found[1] if found else ""


def networks_of(text: str) -> Networks:
    """The networks in a list of addresses and networks separated by commas. Raises ValueError."""
    return tuple(ip_network(network.strip()) for network in text.split(",") if network.strip())


def check_ingress(public_url: str, trusted_proxies: str, proxy_protocol: str) -> None:
    """Raises ValueError, which names the invalid setting and says what is valid."""
    if public_url and not _is_public_url(public_url):
        raise ValueError(
            f"FAREBOX_PUBLIC_URL is {quoted(public_url)}: write http(s)://HOST, or http(s)://HOST/PATH with plain "
            "letters and digits"
        )
    segments = path_of(public_url).split("/")[1:]
    if {".", ".."} & set(segments) or _OWN_PATHS & set(segments[:1]):
        raise ValueError(
            f"FAREBOX_PUBLIC_URL has a path that begins with {quoted(segments[0])}, like Farebox's own paths: choose "
            "another"
        )
    try:
        networks = networks_of(trusted_proxies)
    except ValueError as error:
        raise ValueError(f"FAREBOX_TRUSTED_PROXIES: {error}; write for example 127.0.0.1,10.0.0.0/8") from error
    if proxy_protocol == "on" and not networks:
        raise ValueError("FAREBOX_PROXY_PROTOCOL is on, and FAREBOX_TRUSTED_PROXIES names no proxy that may use it")
