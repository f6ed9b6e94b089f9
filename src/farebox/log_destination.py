"""Where an account has its logs pushed: what is stored of it, beside its secrets.

The structs are the stored form; the control plane adds times (http.control.log_destination), and
calls.exports.log_push reads them.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec


class LogDestination(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP endpoint, to which files are posted, or a bucket of an S3-compatible store."""

    type: Literal["http", "s3"]
    url: str
    """Of an endpoint the whole URL; of a store its endpoint, without a slash at the end."""
    headers: Mapping[str, str] = {}
    """Of an endpoint; here only the ends of the values."""
    bucket: str = ""
    region: str = ""
    prefix: str = ""
    """What the names of files begin with in the bucket."""
    access_key_id: str = ""
    secret_access_key: str = ""
    """Here only its end."""


class DestinationSecrets(msgspec.Struct, frozen=True):
    """What of it is secret, in the form in which it is sealed."""

    headers: Mapping[str, str] = {}
    secret_access_key: str = ""

    def __repr__(self) -> str:
        return "DestinationSecrets()"


def destination_place(account_id: str) -> str:
    """What the encryption of the secrets is bound to."""
    return f"log-destination:{account_id}"
