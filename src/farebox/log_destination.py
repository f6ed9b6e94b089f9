"""The stored form of an account's log destination, without its secrets.

The structs are the stored form; the control plane adds times (http.control.log_destination), and
calls.exports.log_push reads them.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec


class LogDestination(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP endpoint to which files are posted, or a bucket of an S3-compatible store."""

    type: Literal["http", "s3"]
    url: str
    """For an endpoint, the complete URL; for a store, its base URL without a trailing slash."""
    headers: Mapping[str, str] = {}
    """For an endpoint: the request headers, with only the ends of the values."""
    bucket: str = ""
    region: str = ""
    prefix: str = ""
    """Prefix of the names of files in the bucket."""
    access_key_id: str = ""
    secret_access_key: str = ""
    """Only its end."""


class DestinationSecrets(msgspec.Struct, frozen=True):
    """The secrets of a destination, in the form in which they are encrypted."""

    headers: Mapping[str, str] = {}
    secret_access_key: str = ""

    def __repr__(self) -> str:
        return "DestinationSecrets()"


def destination_place(account_id: str) -> str:
    """What the encryption of the secrets is bound to (vault)."""
    return f"log-destination:{account_id}"
