"""Looking up DNS TXT records, by which the owner of a host name proves ownership."""

from ipaddress import ip_address
from typing import Final

SECONDS: Final = 5.0
"""Time limit of one query, with all its retries."""


class NoAnswer(Exception):
    """The name servers gave no answer, so whether the records exist is unknown."""


def servers_of(text: str) -> tuple[tuple[str, int], ...]:
    """Addresses and ports of name servers, separated by commas: `192.0.2.1`, `192.0.2.1:5353`, `[2001:db8::1]:53`.
    Raises ValueError."""
    try:
        return tuple(_server(each.strip()) for each in text.split(",") if each.strip())
    except ValueError as error:
        raise ValueError(f"FAREBOX_DNS_SERVERS: {error}; write for example 192.0.2.53,192.0.2.54:5353") from error


def _server(text: str) -> tuple[str, int]:
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    number = int(port)
    if not 0 < number < 2**16:
        raise ValueError(f"{number} is not a port")
    return str(ip_address(host)), number


async def txt_records(name: str, servers: tuple[tuple[str, int], ...] = ()) -> list[str]:
    """The texts of the name's TXT records; none if there are none, or no such name. `servers`: empty for the system's.
    Raises NoAnswer."""
    import dns.asyncresolver  # loaded only where an account has a custom domain
    import dns.exception
    import dns.nameserver
    import dns.resolver

    try:
        resolver = dns.asyncresolver.Resolver(configure=not servers)
        if servers:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in servers]
        answer = await resolver.resolve(name, "TXT", lifetime=SECONDS, search=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except (dns.exception.DNSException, OSError) as error:
        raise NoAnswer(f"{type(error).__name__}: {error}") from error
    return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]
