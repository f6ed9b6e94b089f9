"""Responses that are compressed although that was not requested: decoded as they arrive, protected against
decompression bombs.
"""

from collections.abc import Iterator
from typing import Final

from farebox.decoding import BrokenCoding, Decoder, TooLarge, codings
from farebox.providers.upstream import UpstreamFailed, UpstreamResponse

_CODING: Final = "content-encoding"
_NAME_LENGTH: Final = len(_CODING)
RATIO_MAX: Final = 200
"""How many times larger a response may become; generated text rarely compresses to less than a twentieth."""
FREE_BYTES: Final = 16 * 2**20
"""A decoded response up to this size may have any ratio."""


def is_coded(response: UpstreamResponse) -> bool:
    """Whether the response has a content coding."""
    for name, _ in response.headers:  # noqa: SIM110 - a generator takes as long as all the rest
        if len(name) == _NAME_LENGTH and name.lower() == _CODING:
            return True
    return False


def decoded(response: UpstreamResponse) -> UpstreamResponse:
    """The decoded response, without the headers that no longer apply. Raises UnknownCoding."""
    values = [value for name, value in response.headers if name.lower() == _CODING]
    names = codings(", ".join(values))
    return _Decoded(response, Decoder(names)) if names else response


class _Decoded:
    """See providers.upstream.UpstreamResponse."""

    def __init__(self, response: UpstreamResponse, decoder: Decoder) -> None:
        dropped = ("content-encoding", "content-length")
        self.status = response.status
        self.headers = [(name, value) for name, value in response.headers if name.lower() not in dropped]
        self._response = response
        self._decoder = decoder
        self._pieces: Iterator[bytes] = iter(())
        self._taken = 0

    def whole(self) -> bytes | None:
        """Always None, because the response is decoded piece by piece."""
        return None

    async def chunk(self) -> bytes | None:
        """The next bytes. Raises UpstreamFailed, also if the bytes do not have the declared coding, or are a
        decompression bomb."""
        while True:
            try:
                piece = next(self._pieces, None)
            except BrokenCoding as error:
                raise UpstreamFailed("the response could not be decoded", sent=True, cause="protocol") from error
            except TooLarge as error:
                words = f"the response grows to more than {RATIO_MAX} times its size"
                raise UpstreamFailed(words, sent=True, cause="protocol") from error
            if piece:
                return piece
            if piece is None and not await self._more():
                return None

    async def close(self) -> None:
        await self._response.close()

    async def _more(self) -> bool:
        data = await self._response.chunk()
        if data is not None:
            self._taken += len(data)
            self._pieces = self._decoder.feed(data, max(FREE_BYTES, RATIO_MAX * self._taken))
            return True
        if self._taken:
            try:
                self._decoder.close()
            except BrokenCoding as error:
                raise UpstreamFailed(
                    "the response broke off in the middle of its encoding", sent=True, cause="cut"
                ) from error
        return False
