"""Which proxy to use for which target: the usual environment variables, interpreted in the same way for all outgoing
HTTP.

`NO_PROXY` accepts everything that curl 7.88 (spaces, leading dots, CIDR blocks) and Go's net/http (ports, `*.`, no
proxy for this machine) accept, as an operator's list was written for one of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

_SCHEMES = ("http", "https")


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of an environment. This machine itself is always reached without a proxy."""

    by_scheme: Mapping[str, str] = field(default_factory=dict)
    """`http`, `https` (the scheme of the target, not of the proxy) → the proxy's URL."""
    exempt: tuple[str, ...] = ()
    """Targets reached without a proxy. `*` is every host; a name, with or without a leading `.` or `*.`, is that host
    and all below it; an address or CIDR block is itself. Each may end in `:PORT`."""

    def for_origin(self, scheme: str, host: str, port: int) -> str | None:
        """The URL of the proxy, or None."""
        proxy = self.by_scheme.get(scheme)
        host = host.lower().rstrip(".")
        if proxy is None or _is_this_machine(host) or any(_covers(entry, host, port) for entry in self.exempt):
            return None
        return proxy


NO_PROXIES = Proxies()


def proxies_of(environment: Mapping[str, str]) -> Proxies:
    """The proxies set by `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`; for each that is not set, its
    uppercase name is read.

    Raises ValueError, which names the variable and says what to do. It omits the URL, as that may contain a password.
    """

    def first_set(*names: str) -> tuple[str, str]:
        variables = [variable for name in names for variable in (name, name.upper())]
        return next(
            ((variable, environment[variable]) for variable in variables if environment.get(variable)), ("", "")
        )

    found = {scheme: first_set(f"{scheme}_proxy", "all_proxy") for scheme in _SCHEMES}
    by_scheme = {scheme: _checked(variable, url.strip()) for scheme, (variable, url) in found.items() if url.strip()}
    return Proxies(by_scheme, tuple(entry for entry in re.split(r"[,\s]+", first_set("no_proxy")[1]) if entry))


def _checked(variable: str, url: str) -> str:
    url = url if "://" in url else f"http://{url}"
    scheme = url.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise ValueError(
            f"{variable} begins with {scheme}://, and only proxies that speak HTTP are supported: put one in front of "
            f"it and name that in HTTP_PROXY and HTTPS_PROXY (http://HOST:PORT), or unset {variable}"
        )
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable():
        raise ValueError(f"{variable} is not a proxy URL: write it as http://USER:PASSWORD@HOST:PORT")
    return url


def _is_this_machine(host: str) -> bool:
    """Whether the host is this machine, which to a proxy would mean the proxy's own machine."""
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, 6.3
    return address.is_loopback


def _covers(entry: str, host: str, port: int) -> bool:
    name, wanted = _split(entry.lower())
    if wanted is not None and wanted != port:
        return False
    if name == "*":
        return True
    address = _address(host)
    if address is not None:
        try:
            return address in ip_network(name, strict=False)
        except ValueError:
            return False
    plain = name.removeprefix("*").strip(".")
    return bool(plain) and (host == plain or host.endswith(f".{plain}"))


def _split(entry: str) -> tuple[str, int | None]:
    """The parts of `name:port` or `[::1]:port`, each also without a port; an IPv6 address may have no brackets."""
    name, port = entry, ""
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        port = port.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, port = entry.partition(":")
    return name, int(port) if port.isdecimal() else None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
