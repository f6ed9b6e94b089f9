"""Undoing the content codings of a body that is large, or becomes so: work for a helper."""

from collections.abc import Sequence

from farebox.decoding import Decoder
from farebox.memfile import MemoryFile


def decode_into(body: bytes, names: Sequence[str], limit: int, file: MemoryFile) -> int:
    """Write what the body decodes to; how many bytes that are. Raises BrokenCoding, TooLarge, OSError."""
    decoder = Decoder(names)
    for piece in decoder.feed(body, limit):
        file.append(piece)
    decoder.close()
    return file.size
