"""The file with the secret key, and its format. Independent of the settings."""

import base64
import os
import stat
from pathlib import Path

from farebox.clock import random_bytes

KEY_BYTES = 32


def make_key_file(path: Path) -> None:
    """Write a new key under a temporary name and link it into place: the first process wins, and a partial key is never
    read.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(base64.b64encode(random_bytes(KEY_BYTES)).decode() + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first: its key is used
    finally:
        draft.unlink()


def decoded_key(text: str, where: str) -> bytes:
    """The key that the text contains. Raises ValueError, which says how to fix it."""
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{where} is not base64: generate one with `openssl rand -base64 32`") from error
    if len(key) != KEY_BYTES:
        raise ValueError(f"{where} is {len(key)} bytes, not 32: generate one with `openssl rand -base64 32`")
    return key


def key_of_file(path: Path) -> bytes:
    """The key in the file, which is created if it is missing. Raises ValueError, which says how to fix it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        make_key_file(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"{path} may be read by others: run `chmod 600 {path}`")
    return decoded_key(path.read_text().strip(), str(path))
