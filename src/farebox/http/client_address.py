"""The client's address, through proxies that are trusted to report it.

Each proxy appends the address of its peer to the right of what it received. So from the right, the first address that
is not a trusted proxy is the client's. Anyone may have written what is to the left of it. Of the two headers, only the
one that the operator configured is read: a proxy that does not know the other one passes it on.
"""

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from farebox.http.exchange import Exchange, RequestHeaders
from farebox.ingress import networks_of
from farebox.settings import Settings

HOPS_MAX = 16
"""Maximum number of chained proxies: more than anyone has."""
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("[^"]*"|[^";,\s]+)', re.IGNORECASE)
_HOST = re.compile(r'(?:^|;)\s*host\s*=\s*("[^"]*"|[^";,\s]+)', re.IGNORECASE)
_PROTO = re.compile(r'(?:^|;)\s*proto\s*=\s*"?(\w+)', re.IGNORECASE)
_WITH_PORT = re.compile(r"\[([^\]]+)\](?::\d+)?|([0-9.]+)(?::\d+)?")


class Clients:
    """Distinguishes clients from the proxies in front of them, by the settings."""

    def __init__(self, settings: Settings) -> None:
        self._trusted = networks_of(settings.trusted_proxies)
        self._standard = settings.forwarded_header == "forwarded"
        self._header = settings.forwarded_header

    @property
    def behind_proxies(self) -> bool:
        """Whether any proxies are configured."""
        return bool(self._trusted)

    def resolve(self, exchange: Exchange) -> None:
        """Set the exchange's client address if the connection is from a trusted proxy."""
        peer = exchange.client
        exchange.client = self.address(peer, exchange.headers)
        exchange.encrypted = exchange.encrypted or self.encrypted(peer, exchange.headers)

    def trusts(self, address: str) -> bool:
        """Whether the address belongs to a trusted proxy."""
        found = _address(address) if self._trusted else None
        return found is not None and any(found in network for network in self._trusted)

    def address(self, peer: str, headers: RequestHeaders) -> str:
        """The client's address, as far as it can be known; `peer` is the connection's."""
        if not self._trusted or not self.trusts(peer):
            return peer
        nearest = peer
        for hop in self._hops(headers):
            found = _address(hop)
            if found is None:  # `unknown`, a name, or invalid
                break
            nearest = str(found)
            if not self.trusts(nearest):
                break
        return nearest

    def encrypted(self, peer: str, headers: RequestHeaders) -> bool:
        """Whether a trusted proxy reports that the client used TLS."""
        if not self._trusted or not self.trusts(peer):
            return False
        if self._standard:
            protos = [found[1] for hop in _from_right(headers.get("forwarded")) if (found := _PROTO.search(hop))]
        else:
            protos = list(_from_right(headers.get("x-forwarded-proto")))
        return bool(protos) and protos[0].lower() == "https"

    def host(self, peer: str, headers: RequestHeaders) -> str | None:
        """The host that the client requested: as a trusted proxy reports it, otherwise as in the request."""
        if self._trusted and self.trusts(peer):
            if self._standard:
                hosts = [
                    found[1].strip('"') for hop in _from_right(headers.get("forwarded")) if (found := _HOST.search(hop))
                ]
            else:
                hosts = _from_right(headers.get("x-forwarded-host"))
            if hosts:
                return hosts[0]
        return headers.get("host")

    def _hops(self, headers: RequestHeaders) -> Iterator[str]:
        for hop in _from_right(headers.get(self._header)):
            if not self._standard:
                yield hop
                continue
            found = _FOR.search(hop)
            yield found[1].strip('"') if found else ""


def _from_right(text: str | None) -> list[str]:
    """The items of a comma-separated header, last first."""
    if not text:
        return []
    return [hop.strip() for hop in reversed(text.rsplit(",", HOPS_MAX)[-HOPS_MAX:])]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in a text that may include a port; None if there is none."""
    with_port = _WITH_PORT.fullmatch(text)
    if with_port is not None:
        text = with_port[1] or with_port[2]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found
