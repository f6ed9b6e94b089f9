"""Decrypt a file of pushed logs: `python decrypt.py private_key.pem FILE.log.gz`, one log a line.

docs/observability.md shows this program; a test runs it. It needs the package cryptography and nothing of Farebox.
"""

import base64
import gzip
import json
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key


def decrypted(key: RSAPrivateKey, field: Any) -> Any:
    if not isinstance(field, dict) or field.get("type") != "encrypted":
        return field
    wrapped, nonce, data = (base64.b64decode(field[name]) for name in ("key", "iv", "data"))
    secret = key.decrypt(wrapped, OAEP(mgf=MGF1(algorithm=SHA256()), algorithm=SHA256(), label=None))
    return AESGCM(secret).decrypt(nonce, data, None).decode()


def main(key_file: str, log_file: str) -> None:
    key = load_pem_private_key(Path(key_file).read_bytes(), password=None)
    assert isinstance(key, RSAPrivateKey)
    with gzip.open(log_file, "rt", encoding="utf-8") as lines:
        for line in lines:
            print(json.dumps({name: decrypted(key, value) for name, value in json.loads(line).items()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
