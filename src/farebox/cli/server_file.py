"""A file in the data folder by which commands find the running server: its address, and the demo's fake Stripe.

`farebox serve --port 9000` sets no variable in another terminal, and the address of the demo's payment processor is
not configured anywhere. Settings that name another payment processor, or a public URL, take precedence over this file.
"""

import os
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from farebox.cli.session import make_data_dir, usable_data_dir
from farebox.settings import Settings

if TYPE_CHECKING:
    from farebox.app import Ready
    from farebox.host_resources import HostResources

FILE = "serving.json"
FETCH_SECONDS = 10.0
"""Longest wait for the server's response: it may itself wait for the database before it answers."""
_ANY_SECRET = "whsec_of_the_server"  # noqa: S105 - commands take no webhooks


class Serving(msgspec.Struct, frozen=True):
    """A server that is running, or that was killed before it could remove this file."""

    base_url: str
    fake_stripe_url: str | None = None
    host: str = ""
    """Host at which commands on this machine reach it; empty if it requires the PROXY protocol."""
    port: int = 0


class ReportedReadiness(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a server's `GET /readyz` (http.control.system) that an operator has to act on."""

    database: str
    remedy: str | None = None
    journal: str
    jobs_late: list[str]


def write(settings: Settings, info: "Ready | HostResources") -> None:
    """Record where the server listens."""
    make_data_dir(settings)  # the database and the key may be in other folders
    host = (
        ""
        if settings.proxy_protocol == "on"
        else {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104
            settings.host, settings.host
        )
    )
    serving = Serving(info.base_url, info.fake_stripe_url, host, info.port)
    write_private(_path(settings), msgspec.json.encode(serving) + b"\n")


def remove(settings: Settings) -> None:
    """Remove the file, when the server has stopped."""
    with suppress(FileNotFoundError):
        _path(settings).unlink()


def running_settings(settings: Settings) -> tuple[Settings, str]:
    """The settings a command uses, completed from the server's file, and the base URL of its links."""
    found = _read(settings)
    if found is None:
        return settings, settings.base_url
    if found.fake_stripe_url is not None and not settings.stripe_secret_key:
        settings = replace(
            settings,
            stripe_secret_key="sk_test_demo",  # noqa: S106 - the fake takes any
            stripe_webhook_secret=_ANY_SECRET,
            stripe_api_base=found.fake_stripe_url,
        )
    return settings, settings.base_url if settings.public_url else found.base_url


def fetch_readiness(settings: Settings) -> tuple[str, ReportedReadiness | None] | None:
    """The URL of the server that serves from this data folder, and its readiness (None if it does not respond). None if
    there is no server, or it cannot be reached from here.
    """
    from http.client import HTTPConnection, HTTPException

    found = _read(settings)
    if found is None or not found.host:
        return None
    with closing(HTTPConnection(found.host, found.port, timeout=FETCH_SECONDS)) as connection:
        try:
            connection.request("GET", "/readyz")
            return found.base_url, msgspec.json.decode(connection.getresponse().read(), type=ReportedReadiness)
        except (OSError, HTTPException, msgspec.DecodeError):
            return found.base_url, None


def write_private(path: Path, content: bytes) -> None:
    """Replace the file atomically, readable by its owner only."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    draft.replace(path)


def _path(settings: Settings) -> Path:
    return Path(settings.data_dir) / FILE


def _read(settings: Settings) -> Serving | None:
    with usable_data_dir(settings):
        try:
            return msgspec.json.decode(_path(settings).read_bytes(), type=Serving)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
