"""The PROXY protocol: a proxy that forwards bytes first states which client they come from.

Versions 1 and 2 of https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt.
"""

import asyncio
import re
from ipaddress import IPv6Address, ip_address
from typing import Final

PREFACE_MAX: Final = 4096
"""Maximum bytes of a header, including anything after the addresses."""
_V1_MAX: Final = 107
_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_is_v1 = re.compile(rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|TCP([46]) (\S+) (\S+) (\d{1,5}) (\d{1,5}))\r\n").fullmatch
_PORT_MAX: Final = 65_535
_ADDRESS_BYTES: Final = {1: 4, 2: 16}


def read_preface(data: bytes) -> tuple[int, str] | None:
    """The header at the start of a connection: its length, and the client's address, which is empty if it names none
    (as in a health check by the proxy). None while the header is incomplete. Raises ValueError if the data does not
    begin with a header."""
    if data.startswith(_SIGNATURE[: len(data)]):
        return _version_2(data)
    if data.startswith(b"PROXY "[: len(data)]):
        return _version_1(data)
    raise ValueError("the connection does not begin with a header of the PROXY protocol")


def plain(address: str) -> str:
    """The address in its usual spelling: sockets for both IP versions, ours or a proxy's, report an IPv4 address in
    IPv6 form (`::ffff:192.0.2.1`). Raises ValueError if it is not an address."""
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The address of the peer; empty if it has none."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return ""
    address = str(peer[0])
    return plain(address) if ":" in address else address


def _version_1(data: bytes) -> tuple[int, str] | None:
    end = data.find(b"\r\n", 0, _V1_MAX) + 2
    if end == 1:
        if len(data) >= _V1_MAX:
            raise ValueError("the header does not end")
        return None
    found = _is_v1(data[:end])
    if found is None:
        raise ValueError("the header is malformed")
    if found[1] is None:
        return end, ""
    address, other = ip_address(found[2].decode("ascii")), ip_address(found[3].decode("ascii"))
    if not address.version == other.version == int(found[1]):
        raise ValueError("the header's addresses are of another kind")
    if max(int(found[4]), int(found[5])) > _PORT_MAX:
        raise ValueError("the header's ports are invalid")
    return end, plain(str(address))


def _version_2(data: bytes) -> tuple[int, str] | None:
    if len(data) < 16:
        return None
    version, command = data[12] >> 4, data[12] & 15
    family, length = data[13] >> 4, int.from_bytes(data[14:16])
    if version != 2 or command > 1 or family > 3 or data[13] & 15 > 2 or 16 + length > PREFACE_MAX:
        raise ValueError("the header is malformed")
    if len(data) < 16 + length:
        return None
    size = _ADDRESS_BYTES.get(family)
    if command == 0 or size is None:
        return 16 + length, ""
    if length < 2 * size + 4:
        raise ValueError("the header's addresses are cut off")
    return 16 + length, plain(str(ip_address(data[16 : 16 + size])))
