"""What went wrong when calling a provider, as one of the words of providers.upstream.Cause."""

import errno
import re
import socket
import ssl
from typing import Final

from farebox.providers.upstream import Cause, UpstreamFailed

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""This machine has run out of descriptors, buffers or memory."""
_BY_ERRNO: Final[dict[int, Cause]] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.ECONNABORTED: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout_connect",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",  # no IPv6 here, as in many containers
}
_BY_VERIFICATION: Final[dict[int, Cause]] = {
    2: "tls_unknown_authority",  # the issuer's certificate is not known
    9: "tls_expired",  # not valid yet
    10: "tls_expired",
    18: "tls_unknown_authority",  # self-signed
    19: "tls_unknown_authority",  # a chain that ends in one
    20: "tls_unknown_authority",  # no issuer available
    21: "tls_unknown_authority",  # a lone certificate
    62: "tls_name",  # of a host
    64: "tls_name",  # of an address
}
"""OpenSSL's X509_V_ERR_… codes, which do not change between releases."""
_WORDS: Final[dict[Cause, str]] = {
    "dns": "its name was not found",
    "address_refused": "its name resolves to no address that an account may call",
    "refused": "nothing listens there",
    "unreachable": "there is no route to its network",
    "reset": "the connection was reset while being established",
    "timeout_connect": "no connection was established in time",
    "tls": "no TLS connection could be made",
    "tls_expired": "its TLS certificate is not valid at this time",
    "tls_name": "its TLS certificate is for another name",
    "tls_unknown_authority": "its TLS certificate is from an untrusted authority",
    "exhausted": "this process has no file descriptors or memory left for a connection",
}
_numbers = re.compile(r"\[Errno (\d+)\]").findall


class ProxyFailed(OSError):
    """The proxy did not open a tunnel."""

    def __init__(self, message: str, cause: Cause) -> None:
        super().__init__(message)
        self.cause: Cause = cause


class AddressForbidden(OSError):
    """None of the host's addresses may be called."""


def not_connected(error: OSError | UnicodeError | TimeoutError, *, to_proxy: bool) -> UpstreamFailed:
    """Why there is no connection. `to_proxy`: the failure was in connecting to the proxy, or in its response."""
    if isinstance(error, ProxyFailed):
        return UpstreamFailed(str(error), sent=False, cause=error.cause)
    cause: Cause = "address_refused" if isinstance(error, AddressForbidden) else _cause(error)
    words = _WORDS.get(cause, "no connection")
    if to_proxy and cause not in ("exhausted", "timeout_connect"):
        return UpstreamFailed(f"of the proxy: {words} ({cause})", sent=False, cause="proxy_unreachable")
    return UpstreamFailed(words, sent=False, cause=cause)


def _cause(error: OSError | UnicodeError) -> Cause:
    if isinstance(error, TimeoutError) and error.errno is None:
        return "timeout_connect"
    if isinstance(error, UnicodeError):  # not a valid DNS name
        return "dns"
    if isinstance(error, socket.gaierror):
        return "exhausted" if error.errno in (socket.EAI_MEMORY, socket.EAI_SYSTEM) else "dns"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFICATION.get(error.verify_code, "tls")
    if isinstance(error, ssl.SSLError):
        return "tls"
    # If a name has several addresses, the loop reports all their failures in one text.
    numbers = [error.errno] if error.errno else [int(number) for number in _numbers(str(error))]
    if not _EXHAUSTED.isdisjoint(numbers):
        return "exhausted"
    found = [_BY_ERRNO[number] for number in numbers if number in _BY_ERRNO]
    if isinstance(error, ConnectionError) and not found:
        return "reset"  # the loop's message for a connection that closed during the TLS handshake
    return "refused" if "refused" in found else found[0] if found else "unreachable"
