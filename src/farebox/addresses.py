"""Which network addresses accounts may have Farebox connect to: public ones, unless the operator allows others.

The URL of a webhook or of a custom provider comes from an account's owner, and the server is inside the operator's
network: without this check, it could reach internal services.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import SplitResult

from farebox.quoting import quoted

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Resolver: TypeAlias = Callable[[str, int], Awaitable[list[Address]]]

_SPECIAL = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"))
"""Formally public, but internal: one cloud's metadata service in the range for protocol assignments, and another
cloud's host address."""
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))


_THREADS = ThreadPoolExecutor(max_workers=8, thread_name_prefix="farebox-addresses")
"""Separate from the event loop's own threads, which resolve the providers: an owner's name server may be slow."""


class AddressRefused(ValueError):
    """The address may not be called; the exception's text says why."""


_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_is_name = re.compile(rf"(?=.{{1,253}}\.?$){_LABEL}(?:\.{_LABEL})*\.?", re.IGNORECASE).fullmatch
_is_number = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE).fullmatch
_is_path = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*").fullmatch


def is_base(parts: SplitResult) -> bool:
    """Whether a URL can be a base URL: a host that can be called, a port, and a path. A host that looks like an address
    but is not one, such as `127.1`, is rejected."""
    host = parts.hostname or ""
    try:
        port = parts.port
    except ValueError:
        return False
    if not is_host(host) or port == 0 or parts.netloc.endswith(":"):
        return False
    return _is_path(parts.path) is not None


def is_host(host: str) -> bool:
    """Whether this is a host as `urlsplit` gives it: an address, or a name that can be looked up."""
    if literal(host) is not None:
        return True
    return _is_name(host) is not None and not _is_number(host.rstrip(".").rpartition(".")[2])


async def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a host. Raises OSError if it has none."""
    try:
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(_THREADS, ask)
    except UnicodeError as error:
        raise OSError(f"{quoted(host)} is not a host name") from error
    return list(dict.fromkeys(ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found))


def is_public(address: Address) -> bool:
    """Whether the address, and any address embedded in it, belongs to the public internet."""
    if isinstance(address, IPv6Address):
        if any(address in network for network in _NAT64):
            return False
        teredo = address.teredo
        inner = [address.ipv4_mapped, address.sixtofour, *(teredo or ())]
        if any(item is not None and not is_public(item) for item in inner):
            return False
        if address.ipv4_mapped is not None:
            return True
        if address.is_site_local:
            return False
    elif any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


async def checked_addresses(host: str, port: int, *, private: bool, resolver: Resolver) -> list[Address]:
    """The host's addresses, to connect to without resolving again: the result could be different then.

    Raises AddressRefused if even one of them is not public, unless `private` allows it; OSError if there is none.
    """
    addresses = await resolver(host, port)
    if not addresses:
        raise OSError(f"{host} has no address")
    if not private and not all(is_public(address) for address in addresses):
        raise AddressRefused(f"{host} is an address of a private network")
    return addresses


def networks(text: str) -> tuple[Network, ...]:
    """The networks of a list such as `10.1.0.0/16,fd00:1::/64`. Raises ValueError, which says what is wrong."""
    return tuple(ip_network(part) for part in (part.strip() for part in text.split(",")) if part)


def is_in(address: Address, allowed: tuple[Network, ...]) -> bool:
    """Whether one of the networks has the address."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any((mapped or address) in network for network in allowed)


def literal(host: str) -> Address | None:
    """The host as an address; None if it is a name."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None
