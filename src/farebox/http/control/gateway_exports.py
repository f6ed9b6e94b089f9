"""The configuration of a gateway's deliveries to other services: it is validated, and its secrets are separated from
what may be shown. A secret that is sent back as it was shown keeps its value, as long as it goes to the same
destination."""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from farebox.export_formats.log_lines import InvalidPublicKey, public_key
from farebox.export_formats.stripe_event import InvalidTemplate, template_of
from farebox.gateway import GatewayConfig, OtelExporter, StripeMeter
from farebox.http.control.custom_headers import checked_headers
from farebox.http.control.urls import checked_url
from farebox.http.validation import invalid
from farebox.runtime.gateway_secrets import GatewaySecrets, key_for
from farebox.runtime.services import Services
from farebox.storage.log_destinations import find_destination
from farebox.storage.sql import Connection
from farebox.vault import masked

_is_stripe_key = re.compile(r"(?:sk|rk)_[A-Za-z0-9_]{1,500}").fullmatch


def with_secrets(
    services: Services, connection: Connection, account_id: str, config: GatewayConfig, stored: GatewaySecrets
) -> tuple[GatewayConfig, GatewaySecrets]:
    """The configuration as it is stored and shown, and its secrets. `stored`: the gateway's secrets so far. Raises
    InvalidInput."""
    if config.logpush:
        _check_logpush(connection, account_id)
    if config.logpush_public_key is not None:
        _check_public_key(config.logpush_public_key)
    exporters, otel = _exporters(services, connection, account_id, config, stored)
    stripe, key = _meter(config.stripe, stored.stripe)
    secrets = GatewaySecrets(otel={url: headers for url, headers in otel.items() if headers}, stripe=key)
    return replace(config, otel=exporters, stripe=stripe), secrets


def _check_logpush(connection: Connection, account_id: str) -> None:
    """Raises InvalidInput."""
    if find_destination(connection, account_id) is None:
        message = (
            f"The account has no destination for logs: set one first, with PUT …/accounts/{account_id}/farebox/logpush"
        )
        words = "The account has no log destination: first set one on the page “Log destination”"
        raise invalid(message, "body", "logpush", words=words)


def _check_public_key(text: str) -> None:
    """Raises InvalidInput."""
    try:
        public_key(text)
    except InvalidPublicKey as error:
        message = f"This key cannot be used: {error}: make one with `openssl rsa -pubout -in private_key.pem`"
        raise invalid(message, "body", "logpush_public_key") from error


def _exporters(
    services: Services, connection: Connection, account_id: str, config: GatewayConfig, stored: GatewaySecrets
) -> tuple[tuple[OtelExporter, ...] | None, dict[str, Mapping[str, str]]]:
    """The exporters as they are shown, and their headers by URL. Raises InvalidInput."""
    exporters: list[OtelExporter] = []
    otel: dict[str, Mapping[str, str]] = {}
    for number, exporter in enumerate(config.otel or ()):
        place: tuple[Any, ...] = ("body", "otel", number)
        parts = checked_url(services.settings, exporter.url, *place, "url")
        if "@" in parts.netloc or "#" in exporter.url:
            raise invalid("The URL must not have a user name or fragment: set credentials as `headers`", *place, "url")
        if exporter.url in otel:
            raise invalid("Another exporter has this URL too: spans are sent to each URL once", *place, "url")
        headers = checked_headers(exporter.headers, stored.otel.get(exporter.url, {}), *place, "headers")
        if exporter.authorization is not UNSET:
            _check_key(connection, account_id, config, exporter, exporter.authorization, place)
            if "authorization" in headers:
                message = "Either `authorization` or a header of that name can be set"
                raise invalid(message, *place, "authorization")
        otel[exporter.url] = headers
        exporters.append(replace(exporter, headers={name: masked(value) for name, value in headers.items()}))
    return tuple(exporters) or None, otel


def _meter(meter: StripeMeter | None, stored: str) -> tuple[StripeMeter | None, str]:
    """The meter as it is shown, and its key; `stored`: the key so far. Raises InvalidInput."""
    if meter is None:
        return None, ""
    key = stored if stored and meter.authorization == masked(stored) else meter.authorization
    key = key.removeprefix("Bearer ").strip()
    if not _is_stripe_key(key):
        message = "This is not a secret or restricted key of Stripe: these begin with sk_ or rk_"
        raise invalid(message, "body", "stripe", "authorization")
    for number, event in enumerate(meter.usage_events):
        try:
            template_of(event.payload)
        except InvalidTemplate as error:
            place = ("body", "stripe", "usage_events", number, "payload")
            raise invalid(f"This is not a valid event template: {error}", *place) from error
    if not meter.usage_events:
        return None, ""
    return replace(meter, authorization=masked(key)), key


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
