"""Log rows as lines of JSON, with the fields of Cloudflare's Logpush dataset `ai_gateway_events`, for a file.

With a public key, metadata and bodies are encrypted as Cloudflare does it: each log has its own AES-256 key, which
encrypts each field by AES-GCM with its own nonce; the key itself is encrypted by RSA-OAEP with SHA-256.
"""

import base64
import gzip
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from farebox.clock import random_bytes
from farebox.export_formats.completion import json_text

BODY_MAX: Final = 2**20
"""Largest body in a line; of a larger one, the line has only the size."""
BITS: Final = (2048, 8192)
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_OAEP: Final = OAEP(mgf=MGF1(algorithm=SHA256()), algorithm=SHA256(), label=None)


class InvalidPublicKey(ValueError):
    """The text is not a key that logs can be encrypted with; the message says why."""


class LogLine(msgspec.Struct, frozen=True):
    """One call in the form of the dataset. `fields` are never encrypted."""

    fields: Mapping[str, Any]
    metadata: Mapping[str, Any]
    request: bytes | None
    """The bodies as the log stores them; None if it stores none."""
    response: bytes | None


def public_key(text: str) -> RSAPublicKey:
    """The public key in a PEM text. Raises InvalidPublicKey."""
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidPublicKey("it is not the PEM text of a public key") from error
    if not isinstance(key, RSAPublicKey) or not BITS[0] <= key.key_size <= BITS[1]:
        raise InvalidPublicKey(f"it is not an RSA key of {BITS[0]} to {BITS[1]} bits")
    return key


def file_of(lines: Iterable[LogLine], key: RSAPublicKey | None) -> bytes:
    """The compressed file of these lines."""
    seal = None if key is None else _Sealer(key)
    text = b"".join(msgspec.json.encode(_line(line, seal)) + b"\n" for line in lines)
    return gzip.compress(text, compresslevel=6, mtime=0)


def _line(line: LogLine, seal: "_Sealer | None") -> dict[str, Any]:
    if seal is None:
        return {
            **line.fields,
            "Metadata": line.metadata,
            "RequestBody": _shown(line.request),
            "ResponseBody": _shown(line.response),
        }
    seal.begin()
    return {
        **line.fields,
        "Metadata": seal.field(msgspec.json.encode(line.metadata)),
        "RequestBody": _too_large(line.request) or seal.field(line.request),
        "ResponseBody": _too_large(line.response) or seal.field(line.response),
    }


def _shown(body: bytes | None) -> Any:
    """JSON unchanged, other text as a string, other bytes in base64."""
    if not body:
        return {}
    if (large := _too_large(body)) is not None:
        return large
    if json_text(body) is not None:
        return msgspec.Raw(body)
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"type": "base64", "data": base64.b64encode(body).decode()}


def _too_large(body: bytes | None) -> dict[str, Any] | None:
    return {"type": "omitted", "size": len(body)} if body is not None and len(body) > BODY_MAX else None


class _Sealer:
    """Encrypts the fields of one line after another."""

    def __init__(self, key: RSAPublicKey) -> None:
        self._key = key
        self._wrapped = ""
        self._cipher: AESGCM | None = None

    def begin(self) -> None:
        """Begin the next line, with its own key."""
        secret = random_bytes(_KEY_BYTES)
        self._cipher = AESGCM(secret)
        self._wrapped = base64.b64encode(self._key.encrypt(secret, _OAEP)).decode()

    def field(self, text: bytes | None) -> dict[str, str]:
        """An encrypted field; an empty object if there is nothing to encrypt."""
        if not text:
            return {}
        assert self._cipher is not None, "a line has begun"
        nonce = random_bytes(_NONCE_BYTES)
        data = self._cipher.encrypt(nonce, text, None)
        return {
            "type": "encrypted",
            "key": self._wrapped,
            "iv": base64.b64encode(nonce).decode(),
            "data": base64.b64encode(data).decode(),
        }
