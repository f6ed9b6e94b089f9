"""What a gateway sends elsewhere of its calls, as it is configured: checked, and its secrets taken apart from what may
be shown. A secret that is sent back as it was shown stays what it is, as long as it goes to the same place."""

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from farebox.gateway import GatewayConfig, OtelExporter
from farebox.http.control.custom_headers import checked_headers
from farebox.http.control.urls import checked_url
from farebox.http.validation import invalid
from farebox.runtime.gateway_secrets import GatewaySecrets, key_for
from farebox.runtime.services import Services
from farebox.storage.sql import Connection
from farebox.vault import masked


def with_secrets(
    services: Services, connection: Connection, account_id: str, config: GatewayConfig, stored: GatewaySecrets
) -> tuple[GatewayConfig, GatewaySecrets]:
    """The configuration as it is stored and shown, and what of it is secret. `stored`: the gateway's secrets so far.
    Raises InvalidInput."""
    exporters: list[OtelExporter] = []
    otel: dict[str, Mapping[str, str]] = {}
    for number, exporter in enumerate(config.otel or ()):
        place: tuple[Any, ...] = ("body", "otel", number)
        parts = checked_url(services.settings, exporter.url, *place, "url")
        if "@" in parts.netloc or "#" in exporter.url:
            raise invalid("The URL has no user name and no fragment: set credentials as `headers`", *place, "url")
        if exporter.url in otel:
            raise invalid("Spans are sent to each URL once", *place, "url")
        headers = checked_headers(exporter.headers, stored.otel.get(exporter.url, {}), *place, "headers")
        if exporter.authorization is not UNSET:
            _check_key(connection, account_id, config, exporter, exporter.authorization, place)
            if "authorization" in headers:
                message = "Either `authorization` or a header of that name can be set"
                raise invalid(message, *place, "authorization")
        otel[exporter.url] = headers
        exporters.append(replace(exporter, headers={name: masked(value) for name, value in headers.items()}))
    kept = {url: headers for url, headers in otel.items() if headers}
    return replace(config, otel=tuple(exporters) or None), GatewaySecrets(otel=kept)


def _check_key(
    connection: Connection,
    account_id: str,
    config: GatewayConfig,
    exporter: OtelExporter,
    secret_id: str,
    place: tuple[Any, ...],
) -> None:
    """Raises InvalidInput."""
    if key_for(connection, account_id, secret_id, config.store_id or "", exporter.url) is None:
        raise invalid(
            f"There is no key '{secret_id}' in the store of this gateway for a custom provider of the same origin: set "
            "the header `Authorization` instead",
            *place,
            "authorization",
        )
