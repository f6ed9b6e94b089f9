"""Removes a key from passing data, in whichever form it is echoed, and changes nothing else.

A key is searched for verbatim, escaped as in JSON, percent-encoded as in a URL, and in base64, also inside a longer
text (`Basic …`, a token that contains it). In passing data it is overwritten with the same number of asterisks, so that
lengths stay correct. In an error, whose length has not been announced, it is replaced by a word, as are the operator's
account IDs.
"""

import base64
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from farebox.providers.upstream import Cause, UpstreamFailed, UpstreamResponse

KEY_MIN: Final = 8
"""Anything shorter is not a real provider key, but a word such as the demo's."""
_PROBES: Final = (32, 16, 8, 4)
_REMOVED: Final = b"[removed]"
_MASKED: Final = re.compile(rb"((?<![\w-])[\w-]++)?+(?:\*{2,}|\.{3,}|\xe2\x80\xa6)([\w=-]*)")
"""A key as providers print it: `sk-…abcd`."""
_SHOWN_MIN: Final = 3
_OF_THE_ACCOUNT: Final = re.compile(
    rb"\b(org-|proj_|project_number:|projects/)[A-Za-z0-9]{6,}|\b(arn:aws[a-z-]*:[a-z]+:[a-z0-9-]*:)\d{12}:[^\s\"]+"
)


class Scrubber:
    """Finds one key. If `forms` is empty, there is nothing to find."""

    __slots__ = ("_begins", "_longest", "_probes", "_used", "_whole", "forms")

    def __init__(self, key: str) -> None:
        self._whole = key.encode()
        families = list(_families(key)) if len(key.encode()) >= KEY_MIN else []
        every = {form for family in families for form in family}
        self.forms: tuple[bytes, ...] = tuple(sorted(every, key=len, reverse=True))
        # Forms that differ only in escapes have a part in common, and only that is searched for.
        self._probes = tuple(_probe(family) for family in families)
        self._longest = max(map(len, self.forms), default=0)
        self._used = frozenset(b"".join(self.forms))
        begins = {re.escape(form[:2]) for form in self.forms} | {re.escape(form[:1]) + rb"\Z" for form in self.forms}
        self._begins = re.compile(b"|".join(begins)).finditer

    def clean(self, data: bytes) -> bytes:
        """The data without the key; the same object if it does not contain the key."""
        return self._without(data, None)

    def clean_error(self, text: bytes) -> bytes:
        """A text about an error without the key, whole or masked, and without the names of the operator's organization
        and project."""
        text = self._without(text, _REMOVED)
        if self.forms:
            text = _MASKED.sub(self._unmasked, text)
        return _OF_THE_ACCOUNT.sub(lambda found: (found[1] or found[2]) + _REMOVED, text)

    def _without(self, data: bytes, instead: bytes | None) -> bytes:
        """`data` with the key replaced by `instead`; None: by the same number of asterisks."""
        for probe in self._probes:
            if data.find(probe) >= 0:  # `in` first raises and drops an exception
                for form in self.forms:
                    data = data.replace(form, b"*" * len(form) if instead is None else instead)
                break
        return data

    def _unmasked(self, found: "re.Match[bytes]") -> bytes:
        head, tail = found.group(1) or b"", found.group(2)
        is_key = self._whole.startswith(head) and self._whole.endswith(tail) and len(head) + len(tail) >= _SHOWN_MIN
        return _REMOVED if is_key else found.group()

    def passes(self, data: bytes) -> bool:
        """Whether this contains nothing of the key and does not end with its beginning, as is nearly always the
        case."""
        if data[-1] in self._used:
            return False
        for probe in self._probes:  # noqa: SIM110 - a generator takes as long as all the rest
            if data.find(probe) >= 0:
                return False
        return True

    def begun(self, data: bytes) -> int:
        """How many of the last bytes may be the beginning of the key."""
        if not data or data[-1] not in self._used:  # usually the end of a line
            return 0
        tail = data[1 - self._longest :]
        for found in self._begins(tail):
            rest = tail[found.start() :]
            if any(form.startswith(rest) for form in self.forms if len(form) > len(rest)):
                return len(rest)
        return 0


scrubber_of = lru_cache(1024)(Scrubber)
"""The scrubber of a key, cached: there are as many keys as the operator and the accounts have stored."""


def _families(key: str) -> Iterator[frozenset[bytes]]:
    """The forms of the key, grouped so that those in a group differ only in how single characters are escaped."""
    yield frozenset(_escaped(key))
    raw = key.encode()
    for before in range(3):  # the number of preceding bytes, modulo 3, changes base64
        coded = base64.b64encode(bytes(before) + raw)
        # The first and last characters contain bits of the adjacent bytes.
        whole = coded[-(-before * 4 // 3) : (before + len(raw)) * 4 // 3]
        for_urls = whole.translate(bytes.maketrans(b"+/", b"-_"))
        yield frozenset({*_escaped(whole.decode()), for_urls})


def _escaped(text: str) -> Iterator[bytes]:
    yield text.encode()
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1].encode()
        yield from (escaped, escaped.replace(b"/", rb"\/"))
    for safe in ("", "/"):
        percent = quote(text, safe=safe)
        yield from (percent.encode(), re.sub("%..", lambda found: found.group().lower(), percent).encode())


def _probe(family: frozenset[bytes]) -> bytes:
    """A piece that all these forms have in common; a long one is found faster. Empty, which everything contains, if
    they have none."""
    shortest = min(family, key=len)
    for size in _PROBES:
        for at in range(len(shortest) - size + 1):
            piece = shortest[at : at + size]
            if all(piece in form for form in family):
                return piece
    return b""


class ScrubbedResponse:
    """A response without the key (providers.upstream.UpstreamResponse). If a chunk ends with the beginning of the key,
    that part is held back until the next chunk decides; events end with a line break, so none is held back."""

    def __init__(self, response: UpstreamResponse, scrubber: Scrubber) -> None:
        self.status = response.status
        self.headers = cleaned_headers(response.headers, scrubber)
        self._response = response
        self._scrubber = scrubber
        self._kept = b""
        self._over = False
        self._failure: tuple[str, Cause] | None = None

    def whole(self) -> bytes | None:
        """Always None, because it is cleaned piece by piece."""
        return None

    async def chunk(self) -> bytes | None:
        """The next bytes. Raises UpstreamFailed, after what had been held back has passed."""
        if self._failure is not None:
            words, cause = self._failure
            raise UpstreamFailed(words, sent=True, cause=cause)
        while not self._over:
            try:
                data = await self._response.chunk()
            except UpstreamFailed as failure:
                if not self._kept:
                    raise
                self._failure = str(failure), failure.cause
                return self._rest()
            if data is None:
                self._over = True
                break
            if not self._kept and data and self._scrubber.passes(data):
                return data
            data = self._scrubber.clean(self._kept + data if self._kept else data)
            begun = self._scrubber.begun(data)
            self._kept = data[len(data) - begun :] if begun else b""
            if begun < len(data):
                return data[: len(data) - begun] if begun else data
        return self._rest() or None

    async def close(self) -> None:
        await self._response.close()

    def _rest(self) -> bytes:
        """What was held back. If that is much, the response ends in the middle of the key."""
        rest, self._kept = self._kept, b""
        return rest if len(rest) < KEY_MIN else b"*" * len(rest)


def cleaned_headers(headers: list[tuple[str, str]], scrubber: Scrubber) -> list[tuple[str, str]]:
    """The headers without the key; the same list if it is in none of them."""
    every = "\n".join([value for _, value in headers]).encode("latin-1")
    if scrubber.clean(every) is every:
        return headers
    return [(name, scrubber.clean(value.encode("latin-1")).decode("latin-1")) for name, value in headers]
