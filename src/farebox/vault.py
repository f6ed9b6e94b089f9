"""Secrets at rest and signatures: tokens as keyed hashes, other secrets encrypted. All depend on the one secret key."""

import base64
import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from farebox.clock import random_bytes

TOKEN_PREFIX = "fbx_"  # noqa: S105 - the visible start of every access token, so that leaks are found by scanners
_NONCE_BYTES = 12


class SecretUnreadable(RuntimeError):
    """A stored secret cannot be decrypted: FAREBOX_SECRET_KEY is not the key it was encrypted with."""


class Vault:
    """Derives one key for each purpose from the secret key; never keeps or returns what it hashes."""

    def __init__(self, secret_key: bytes) -> None:
        self._pepper = hmac.digest(secret_key, b"farebox access tokens", "sha256")
        self._cipher = AESGCM(hmac.digest(secret_key, b"farebox provider keys", "sha256"))
        self._sealing = hmac.digest(secret_key, b"farebox sealed contents", "sha256")
        self._signing = hmac.digest(secret_key, b"farebox signatures", "sha256")

    def hash_token(self, token: str) -> bytes:
        """HMAC-SHA256 under the pepper; 32 random bytes need no slow hash."""
        return hmac.digest(self._pepper, token.encode(), hashlib.sha256)

    def encrypt(self, secret: str, bound_to: str) -> bytes:
        """AES-GCM; the result decrypts only with the same `bound_to`, so a row cannot be moved to another place."""
        nonce = random_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), bound_to.encode())

    def decrypt(self, stored: bytes, bound_to: str) -> str:
        """Raises SecretUnreadable."""
        try:
            clear = self._cipher.decrypt(stored[:_NONCE_BYTES], stored[_NONCE_BYTES:], bound_to.encode())
        except InvalidTag as error:
            raise SecretUnreadable(
                f"the stored secret of {bound_to} does not decrypt: was FAREBOX_SECRET_KEY changed?"
            ) from error
        return clear.decode()

    def seal(self, content: bytes, bound_to: str) -> bytes:
        """Like `encrypt`, for any number of values: each `bound_to` has a key of its own."""
        nonce, place = random_bytes(_NONCE_BYTES), bound_to.encode()
        return nonce + AESGCM(hmac.digest(self._sealing, place, "sha256")).encrypt(nonce, content, place)

    def unseal(self, stored: bytes, bound_to: str) -> bytes:
        """Raises SecretUnreadable."""
        place = bound_to.encode()
        cipher = AESGCM(hmac.digest(self._sealing, place, "sha256"))
        try:
            return cipher.decrypt(stored[:_NONCE_BYTES], stored[_NONCE_BYTES:], place)
        except (InvalidTag, ValueError) as error:  # ValueError: the nonce is too short
            raise SecretUnreadable(f"what is stored as {bound_to} was not sealed for it with this key") from error

    def sign(self, purpose: str, text: str) -> str:
        """A URL-safe signature of the text, valid only for this purpose."""
        key = hmac.digest(self._signing, purpose.encode(), "sha256")
        return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")).decode().rstrip("=")

    def verify(self, purpose: str, text: str, signature: str) -> bool:
        """Whether `sign` gives this signature for the same purpose and text, compared in constant time."""
        return same(self.sign(purpose, text).encode(), signature.encode(errors="replace"))


def same(left: bytes, right: bytes) -> bool:
    """Comparison in constant time."""
    return hmac.compare_digest(left, right)


def masked(secret: str) -> str:
    """The displayable part of a secret: its last four characters, if it is long enough for that to be safe."""
    return f"…{secret[-4:]}" if len(secret) >= 12 else "…"
