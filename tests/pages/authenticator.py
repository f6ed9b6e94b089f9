"""A software authenticator: it implements WebAuthn, and makes the mistakes that a test asks for."""

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

USER_PRESENT, USER_VERIFIED, HAS_CREDENTIAL = 0x01, 0x04, 0x40


def text_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def bytes_of(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Authenticator:
    """Holds one passkey. The fields of `make` and `use` set its mistakes."""

    origin: str
    counts: bool = True
    """Whether it counts signatures."""
    credential_id: bytes = field(default_factory=lambda: os.urandom(32))
    sign_count: int = 0
    handle: bytes = b""
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def _client_data(self, kind: str, options: dict[str, Any], wrong: dict[str, Any]) -> bytes:
        client_data = {"type": kind, "challenge": options["challenge"], "origin": self.origin, "crossOrigin": False}
        return json.dumps(client_data | {name: wrong[name] for name in wrong if name in client_data}).encode()

    def _data(self, rp_id: str, flags: int, wrong: dict[str, Any]) -> bytes:
        flags &= ~int(wrong.get("without", 0))
        count = int(wrong.get("sign_count", self.sign_count))
        return hashlib.sha256(wrong.get("rp_id", rp_id).encode()).digest() + bytes([flags]) + count.to_bytes(4, "big")

    def make(self, options: dict[str, Any], **wrong: Any) -> str:
        """Create a passkey; the credential as the browser would send it."""
        self.handle = bytes_of(options["user"]["id"])
        public = self.key.public_key().public_numbers()
        cose = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: public.x.to_bytes(32, "big"), -3: public.y.to_bytes(32, "big")})
        data = self._data(options["rp"]["id"], USER_PRESENT | USER_VERIFIED | HAS_CREDENTIAL, wrong)
        data += bytes(16) + len(self.credential_id).to_bytes(2, "big") + self.credential_id + cose
        response = {
            "clientDataJSON": text_of(self._client_data("webauthn.create", options, wrong)),
            "attestationObject": text_of(cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})),
        }
        return self._sent(response)

    def use(self, options: dict[str, Any], **wrong: Any) -> str:
        """Sign a challenge; the assertion as the browser would send it."""
        self.sign_count += self.counts
        client_data = self._client_data("webauthn.get", options, wrong)
        data = self._data(options["rpId"], USER_PRESENT | USER_VERIFIED, wrong)
        key = wrong.get("key", self.key)
        signature = key.sign(data + hashlib.sha256(client_data).digest(), ec.ECDSA(hashes.SHA256()))
        response = {
            "clientDataJSON": text_of(client_data),
            "authenticatorData": text_of(data),
            "signature": text_of(signature),
            "userHandle": text_of(wrong.get("handle", self.handle)),
        }
        return self._sent(response)

    def _sent(self, response: dict[str, str]) -> str:
        named = text_of(self.credential_id)
        return json.dumps({"id": named, "rawId": named, "type": "public-key", "response": response})
