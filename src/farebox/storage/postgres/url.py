"""FAREBOX_DATABASE_URL of PostgreSQL: read as libpq reads it, for a driver that reads it differently.

asyncpg treats a parameter that it does not know as a server setting, which then makes the connection fail or has no
effect. Here each parameter of libpq has its effect, or is rejected by name. Messages never show a value that may be, or
be part of, a password.
"""

import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlencode

from farebox.settings import SettingsError

_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ALIKE = {"postgres": "postgresql"}

_DRIVERS = frozenset({
    "sslcert", "sslkey", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version",
    "ssl_max_protocol_version", "krbsrvname", "gsslib", "passfile",
})  # fmt: skip
"""Parameters that asyncpg understands the same way as libpq."""

_ONE_OF: Mapping[str, tuple[tuple[str, ...], str]] = {
    "target_session_attrs": (
        ("any", "read-write", "primary"),
        "Farebox writes: leave it out, the host that accepts writes is used",
    ),
    "channel_binding": (
        ("disable", "prefer"),
        "the driver has no channel binding: leave it out, and use sslmode=verify-full with sslrootcert to verify "
        "the server",
    ),
    "gssencmode": (("disable", "prefer"), "the driver does not encrypt by GSSAPI: use sslmode"),
    "sslcompression": (("0",), "TLS compression is obsolete: leave it out"),
    "sslsni": (("1",), "the host name is always sent with TLS: leave it out"),
    "load_balance_hosts": (("disable",), "all hosts are tried at once, and the one that accepts writes is used"),
    "client_encoding": (("auto", "utf8", "UTF8", "utf-8", "UTF-8"), "the driver uses UTF-8: leave it out"),
    "sslmode": (("disable", "allow", "prefer", "require", "verify-ca", "verify-full"), "write one of these"),
}
"""Parameter → the values that make no difference here, or are supported; and what to do about others."""

_REFUSED: Mapping[str, str] = {
    "service": "no service file is read: write host, user and database into the URL",
    "hostaddr": "write the address as the host; sslmode=verify-full then needs it in the server's certificate",
    "replication": "Farebox does not replicate: leave it out",
    "require_auth": "the driver uses the method that the server asks for: leave it out, and set it in pg_hba.conf",
    "requirepeer": "the driver does not check the server's user: leave it out",
    "requiressl": "write sslmode=require",
    "sslcrldir": "write sslcrl with a file",
    "sslcertmode": "write sslcert, or leave it out",
    "gssdelegation": "the driver does not delegate: leave it out",
    "fallback_application_name": "write application_name",
    "min_protocol_version": "the driver speaks version 3.0: leave it out",
    "max_protocol_version": "the driver speaks version 3.0: leave it out",
    "scram_client_key": "write the password, or a passfile",
    "scram_server_key": "write the password, or a passfile",
    "pgbouncer": "that is for another program: leave it out",
    "schema": "write options=-c%20search_path=NAME",
}

_KEEPALIVE: Mapping[str, tuple[int, int]] = {
    name: (level, getattr(socket, option))
    for name, level, option in (
        ("keepalives", socket.SOL_SOCKET, "SO_KEEPALIVE"),
        ("keepalives_idle", socket.IPPROTO_TCP, "TCP_KEEPIDLE"),
        ("keepalives_interval", socket.IPPROTO_TCP, "TCP_KEEPINTVL"),
        ("keepalives_count", socket.IPPROTO_TCP, "TCP_KEEPCNT"),
        ("tcp_user_timeout", socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"),
    )
    if hasattr(socket, option)
}


@dataclass(frozen=True, slots=True)
class ConnectionTarget:
    """The contents of a URL."""

    hosts: tuple[tuple[str | None, int | None], ...]
    """Each is tried. A host that begins with `/` is a socket's folder; None: the driver's default."""
    arguments: Mapping[str, Any] = field(repr=False)
    """Arguments of asyncpg.connect, apart from host and port."""
    startup: Mapping[str, str]
    """Startup parameters that are passed to the server as they are."""
    search_path: str
    """Empty: the server's default."""
    application_name: str
    connect_seconds: float | None
    socket_options: tuple[tuple[int, int, int], ...]


@lru_cache(maxsize=16)
def parse(url: str) -> ConnectionTarget:
    """Read the URL. Raises SettingsError if a part of it is invalid or unsupported; the message says which."""
    scheme, _, rest = url.partition("://")
    if _ALIKE.get(scheme, scheme) != "postgresql":
        raise _wrong("it must begin with postgresql://")
    if _BAD_PERCENT.search(rest):
        raise _wrong("a % in it is not followed by two hexadecimal digits; a literal one is written %25")
    user, password, rest = _credentials(rest)
    place, _, query = rest.partition("?")
    hostlist, _, database = place.partition("/")
    given = _parameters(query)
    hosts = _hosts(hostlist, given)
    arguments: dict[str, Any] = {
        "user": given.pop("user", None) or unquote(user) or None,
        "password": given.pop("password", None) or unquote(password) or None,
        "database": given.pop("dbname", None) or unquote(database) or None,
    }
    startup = {"options": given.pop("options")} if "options" in given else {}
    search_path = given.pop("search_path", "")
    seconds = _whole(given, "connect_timeout")
    socket_options = _socket_options(given)
    name = given.pop("application_name", "")
    _require_known(given)
    arguments |= _secured(given)
    connect_seconds = seconds if seconds and seconds > 0 else None
    return ConnectionTarget(hosts, arguments, startup, search_path, name, connect_seconds, socket_options)


def _wrong(why: str) -> SettingsError:
    return SettingsError(f"FAREBOX_DATABASE_URL cannot be used: {why}")


def _credentials(rest: str) -> tuple[str, str, str]:
    """User and password, verbatim, and what follows. As in libpq they end at the first @."""
    at, slash = rest.find("@"), rest.find("/")
    if at < 0 or 0 <= slash < at:
        return "", "", rest
    user, _, password = rest[:at].partition(":")
    return user, password, rest[at + 1 :]


def _parameters(query: str) -> dict[str, str]:
    """The last value of each parameter. A `+` is literal."""
    given: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise _wrong("a parameter behind the ? is not of the form name=value")
        given[unquote(name)] = unquote(value)
    if given.get("ssl") == "true":  # as JDBC writes it, and libpq reads it
        del given["ssl"]
        given.setdefault("sslmode", "require")
    return given


def _hosts(hostlist: str, given: dict[str, str]) -> tuple[tuple[str | None, int | None], ...]:
    """Hosts with their ports: those of the parameters, otherwise those before the path."""
    before = [_host(part) for part in hostlist.split(",")]
    hosts, ports = [host for host, _ in before], [port for _, port in before]
    if "host" in given:
        hosts = given.pop("host").split(",")
    if values := given.pop("port", ""):
        ports = [_port(port) for port in values.split(",")]
    if len(set(ports)) == 1:
        ports = ports[:1] * len(hosts)
    if len(ports) != len(hosts):
        raise _wrong(f"it names {len(hosts)} hosts and {len(ports)} ports")
    return tuple((host or None, port) for host, port in zip(hosts, ports, strict=True))


def _host(part: str) -> tuple[str, int | None]:
    if "@" in part:
        raise _wrong("there are two @ in it; one that belongs to a user or password is written %40")
    if part.startswith("["):
        host, closed, port = part[1:].partition("]")
        if not closed:
            raise _wrong("the [ of an IPv6 address is not closed")
        return unquote(host), _port(port.removeprefix(":"))
    host, _, port = part.partition(":")
    return unquote(host), _port(port)


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536):
        raise _wrong("the port is not a number; characters of a password such as / are written %2F and the like")
    return int(text)


def _require_known(given: Mapping[str, str]) -> None:
    for name, value in given.items():
        if name in _ONE_OF:
            values, remedy = _ONE_OF[name]
            if value not in values:
                raise _wrong(f"{name} can be {', '.join(values)} only: {remedy}")
        elif name in _REFUSED:
            raise _wrong(f"{name} is not available: {_REFUSED[name]}")
        elif name not in _DRIVERS and name != "sslrootcert":
            shown = name if name.isidentifier() and len(name) < 64 else "one of them"
            raise _wrong(
                f"{shown} is not a libpq parameter; a setting of the server is written options=-c%20NAME=VALUE"
            )


def _whole(given: dict[str, str], name: str) -> int | None:
    text = given.pop(name, None)
    if text is None or not text.strip():
        return None
    if not re.fullmatch(r"\s*-?[0-9]{1,9}\s*", text):
        raise _wrong(f"{name} must be a whole number")
    return int(text)


def _socket_options(given: dict[str, str]) -> tuple[tuple[int, int, int], ...]:
    """A value of zero or less means the system's default; `keepalives=0` sends none."""
    values = {name: _whole(given, name) for name in _KEEPALIVE}
    is_on = values.pop("keepalives") != 0
    options = [(*_KEEPALIVE["keepalives"], int(is_on))]
    for name, value in values.items():
        if value is not None and value > 0 and (is_on or name == "tcp_user_timeout"):
            options.append((*_KEEPALIVE[name], value))
    return tuple(options)


def _secured(given: dict[str, str]) -> dict[str, Any]:
    """The arguments for asyncpg about TLS and files."""
    names = _DRIVERS | {"sslmode", "sslrootcert"}
    values = {name: value for name, value in given.items() if name in names and value}
    _require_files(values)
    if values.get("sslrootcert") == "system":
        return {"ssl": _system_trust(values)}
    # As a URL again: asyncpg accepts these in no other way.
    return {"dsn": "postgresql://" + ("?" + urlencode(values, quote_via=quote) if values else "")}


def _require_files(values: Mapping[str, str]) -> None:
    """Name a missing file: the driver would not. As in libpq, certificates that are not needed for verification may be
    missing."""
    mode = values.get("sslmode", "prefer")
    needed = [] if mode == "disable" else ["sslcert", "sslkey"]
    if mode.startswith("verify-") and values.get("sslrootcert") != "system":
        needed.append("sslrootcert")
    for name in needed:
        if name in values and not os.access(values[name], os.R_OK):
            raise _wrong(f"the file that {name} names cannot be read")


def _system_trust(values: Mapping[str, str]) -> ssl.SSLContext:
    """Certificates that the system trusts, for exactly the host's name: anything weaker would prove nothing."""
    if values.get("sslmode", "verify-full") != "verify-full":
        raise _wrong("sslrootcert=system works only with sslmode=verify-full")
    others = sorted(values.keys() - {"sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword"})
    if others:
        raise _wrong(f"{others[0]} does not work with sslrootcert=system: name a file of root certificates")
    context = ssl.create_default_context()
    if "sslcert" in values:
        try:
            context.load_cert_chain(values["sslcert"], values.get("sslkey"), values.get("sslpassword", ""))
        except OSError as error:  # ssl.SSLError is one
            raise _wrong(f"sslcert or sslkey cannot be read: {error.strerror or type(error).__name__}") from error
    return context
