"""Signatures of webhooks, in the format of Standard Webhooks (standardwebhooks.com, version 1.0.0).

The signed text is `id.timestamp.body`; the key is the base64-decoded part of the secret after `whsec_`.
"""

import base64
import hashlib
import hmac

PREFIX = "whsec_"
KEY_BYTES = 32


def secret_from(key: bytes) -> str:
    """The secret in the form that is shown to its owner."""
    return PREFIX + base64.b64encode(key).decode()


def message_id(account_id: str, notice_id: str) -> str:
    """The `webhook-id` of a notice: the same each time it is sent, so that a receiver can recognize a repeat."""
    return "msg_" + hashlib.sha256(f"{account_id}\n{notice_id}".encode()).hexdigest()[:32]


def signed_headers(secret: str, identifier: str, at: int, body: bytes) -> dict[str, str]:
    """The headers of a webhook sent at that time (milliseconds)."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    timestamp = str(at // 1000)
    signature = hmac.digest(key, f"{identifier}.{timestamp}.".encode() + body, "sha256")
    return {
        "webhook-id": identifier,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }
