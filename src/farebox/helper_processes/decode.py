"""Decodes the content codings of a body that is large, or becomes large: work for a helper."""

from collections.abc import Sequence

from farebox.decoding import Decoder
from farebox.memory_files import MemoryFile


def decode_into(body: bytes, names: Sequence[str], limit: int, file: MemoryFile) -> int:
    """Write the decoded body to `file`; returns its size in bytes. Raises BrokenCoding, TooLarge, OSError."""
    decoder = Decoder(names)
    for piece in decoder.feed(body, limit):
        file.append(piece)
    decoder.close()
    return file.size
