"""Farebox extension: the destination to which an account's logs are pushed. Its secrets are never returned."""

import re
from typing import Annotated, Literal

import msgspec

from farebox.errors import not_found
from farebox.gateway import GatewayConfig
from farebox.http.control.custom_headers import checked_headers
from farebox.http.control.deliveries import Deliveries, deliveries
from farebox.http.control.urls import checked_url
from farebox.http.control.wire import iso, require
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.log_destination import DestinationSecrets, LogDestination, destination_place
from farebox.storage.account_keys import find_key
from farebox.storage.exports import ExportState, retry_now, states_of
from farebox.storage.gateways import list_gateways
from farebox.storage.log_destinations import (
    DestinationRow,
    delete_destination,
    find_destination,
    put_destination,
)
from farebox.storage.sql import Connection
from farebox.vault import SecretUnreadable, masked

_Text = Annotated[str, msgspec.Meta(max_length=256)]
_is_bucket = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}").fullmatch
_is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}").fullmatch
_is_prefix = re.compile(r"[A-Za-z0-9!_.*'()/=-]{0,256}").fullmatch
_is_key = re.compile(r"[!-~]{1,256}").fullmatch
_OF_S3 = (
    ("bucket", _is_bucket, "the bucket's name: 2 to 255 letters, digits and `._-`"),
    ("region", _is_name, "the store's region, such as us-east-1"),
    ("prefix", _is_prefix, "up to 256 letters, digits and `!_.*'()/=-`"),
    ("access_key_id", _is_key, "the ID of the access key, without spaces"),
)
"""Field, its check, and a description of what is valid."""


class LogDestinationSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`http`: each file is posted to `url` with these headers. `s3`: each file is put into the bucket of the store at
    `url`."""

    type: Literal["http", "s3"]
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    headers: dict[str, Annotated[str, msgspec.Meta(max_length=4096)]] = {}
    bucket: _Text = ""
    region: _Text = ""
    prefix: _Text = ""
    access_key_id: _Text = ""
    secret_access_key: _Text = ""


class LogDestinationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The destination, with only the ends of its secrets."""

    type: str
    url: str
    headers: dict[str, str]
    bucket: str
    region: str
    prefix: str
    access_key_id: str
    secret_access_key: str
    created_at: str
    modified_at: str


class Logpush(msgspec.Struct, frozen=True, kw_only=True):
    """The destination of an account's logs, and the state of each gateway that has logs to push, or had some."""

    destination: LogDestinationInfo | None
    gateways: list[Deliveries]


async def get(request: Request, _: None) -> Response:
    return ok(await request.services.database.scan(lambda connection: _info(connection, request.account_id)))


async def put(request: Request, body: LogDestinationSet) -> Response:
    """Set or replace the destination. Waiting logs are pushed to the new one."""
    services, account_id, at = request.services, request.account_id, request.services.clock.now_ms()
    _check(request, body)

    def write(connection: Connection) -> Logpush:
        key = require(find_key(connection, account_id))
        stored = find_destination(connection, account_id)
        secrets = _with_stored(body, _secrets(request, stored, body.url))
        shown = LogDestination(
            type=body.type,
            url=body.url.rstrip("/") if body.type == "s3" else body.url,
            headers={name: masked(value) for name, value in secrets.headers.items()},
            bucket=body.bucket,
            region=body.region,
            prefix=body.prefix,
            access_key_id=body.access_key_id,
            secret_access_key=masked(secrets.secret_access_key) if secrets.secret_access_key else "",
        )
        sealed = services.vault.encrypt(msgspec.json.encode(secrets).decode(), destination_place(account_id))
        created_at = at if stored is None else stored.created_at
        row = DestinationRow(msgspec.json.encode(shown).decode(), sealed, created_at, at)
        put_destination(connection, key, row)
        retry_now(connection, account_id, "push")
        return _info(connection, account_id)

    return ok(await services.database.write(write))


async def delete(request: Request, _: None) -> Response:
    """Delete the destination; rejected as long as gateways push to it."""
    account_id = request.account_id

    def write(connection: Connection) -> Logpush:
        if find_destination(connection, account_id) is None:
            raise not_found()
        configs = [(row.gateway_id, row.config) for row in list_gateways(connection, account_id)]
        pushing = [name for name, config in configs if msgspec.json.decode(config, type=GatewayConfig).logpush]
        if pushing:
            names = ", ".join(pushing)
            words = f"First switch pushing off in the settings of these gateways: {names}"
            raise invalid(f"Switch `logpush` of these gateways off first: {names}", "path", "logpush", words=words)
        delete_destination(connection, account_id)
        return _info(connection, account_id)

    return ok(await request.services.database.write(write))


def _check(request: Request, body: LogDestinationSet) -> None:
    """Raises InvalidInput."""
    parts = checked_url(request.services.settings, body.url, "body", "url")
    if "@" in parts.netloc or "#" in body.url:
        raise invalid("The URL must not have a user name or fragment", "body", "url")
    if body.type == "http":
        if body.bucket or body.region or body.prefix or body.access_key_id or body.secret_access_key:
            raise invalid(
                "These are for `s3`: bucket, region, prefix, access_key_id, secret_access_key",
                "body",
                words="An endpoint has no bucket, region, prefix or access key: clear these fields, or choose a bucket",
            )
        return
    if body.headers:
        raise invalid("Headers are for `http`", "body", "headers", words="A bucket has no headers: clear this field")
    if parts.query or parts.path.strip("/"):
        message = "Only the endpoint, such as https://s3.eu-central-1.amazonaws.com"
        raise invalid(
            message, "body", "url", words="Enter only the endpoint, such as https://s3.eu-central-1.amazonaws.com"
        )
    for name, valid, expected in _OF_S3:
        if not valid(getattr(body, name)):
            message = f"Expected {expected}" if getattr(body, name) else f"Required: {expected}"
            raise invalid(message, "body", name, words=f"Enter {expected}".replace("`", ""))


def _with_stored(body: LogDestinationSet, stored: DestinationSecrets) -> DestinationSecrets:
    """The secrets; a value that is sent back as it was shown keeps its stored value. Raises InvalidInput."""
    if body.type == "http":
        return DestinationSecrets(headers=checked_headers(body.headers, stored.headers, "body", "headers"))
    secret = body.secret_access_key
    if stored.secret_access_key and secret == masked(stored.secret_access_key):
        secret = stored.secret_access_key
    if not _is_key(secret):
        raise invalid(
            "Send the whole key: the stored one may not be sent to another endpoint", "body", "secret_access_key"
        )
    return DestinationSecrets(secret_access_key=secret)


def _secrets(request: Request, stored: DestinationRow | None, url: str) -> DestinationSecrets:
    """The stored secrets, if they are for the same URL and can be decrypted; otherwise empty."""
    if stored is None or msgspec.json.decode(stored.config, type=LogDestination).url.rstrip("/") != url.rstrip("/"):
        return DestinationSecrets()
    try:
        text = request.services.vault.decrypt(stored.sealed, destination_place(request.account_id))
    except SecretUnreadable:
        return DestinationSecrets()
    return msgspec.json.decode(text, type=DestinationSecrets)


def _info(connection: Connection, account_id: str) -> Logpush:
    """Raises Problem (NOT_FOUND)."""
    require(find_key(connection, account_id))
    row = find_destination(connection, account_id)
    states = {state.gateway_id: state for state in states_of(connection, account_id) if state.kind == "push"}
    for gateway in list_gateways(connection, account_id):
        if msgspec.json.decode(gateway.config, type=GatewayConfig).logpush:
            states.setdefault(gateway.gateway_id, ExportState(gateway.gateway_id, "push"))
    shown = [deliveries(connection, account_id, states[name]) for name in sorted(states)]
    return Logpush(destination=None if row is None else _destination(row), gateways=shown)


def _destination(row: DestinationRow) -> LogDestinationInfo:
    shown = msgspec.json.decode(row.config, type=LogDestination)
    return LogDestinationInfo(
        **msgspec.structs.asdict(shown), created_at=iso(row.created_at), modified_at=iso(row.modified_at)
    )
