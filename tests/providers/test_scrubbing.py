"""A key is removed from relayed data, wherever it is split; and nothing else is changed or held back."""

import asyncio
import base64
import itertools
import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.providers.scrubbing import ScrubbedResponse, Scrubber
from farebox.providers.upstream import UpstreamFailed

KEY = 'sk-op/erator+0123456789="tail'
BASIC = base64.b64encode(f"operator:{KEY}".encode()).decode()
FORMS = {
    "as it is": KEY,
    "as JSON": json.dumps(KEY)[1:-1],
    "as JSON of PHP": json.dumps(KEY)[1:-1].replace("/", "\\/"),
    "in a URL": quote(KEY, safe=""),
    "in a URL, small": quote(KEY, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d"),
    "in a path": quote(KEY),
    "in base64": base64.b64encode(KEY.encode()).decode(),
    "in basic credentials": BASIC,
    "in base64 after one byte": base64.b64encode(f":{KEY}".encode()).decode(),
    "in base64 for URLs": base64.urlsafe_b64encode(f"??{KEY}??".encode()).decode(),
    "in base64, in a URL": quote(base64.b64encode(f"??{KEY}>>".encode()).decode(), safe=""),
}


class Pieces:
    """A response that arrives in these pieces, and then ends or fails."""

    def __init__(self, *pieces: bytes, failure: str = "") -> None:
        self.status = 200
        self.headers: list[tuple[str, str]] = []
        self.pieces = list(pieces)
        self.failure = failure

    def whole(self) -> bytes | None:
        return None

    async def chunk(self) -> bytes | None:
        if self.pieces:
            return self.pieces.pop(0)
        if self.failure:
            raise UpstreamFailed(self.failure, sent=True, cause="cut")
        return None

    async def close(self) -> None:
        pass


def passed(*pieces: bytes, key: str = KEY, failure: str = "") -> list[bytes]:
    """The relayed chunks, with the failure last."""

    async def take() -> list[bytes]:
        response, found = ScrubbedResponse(Pieces(*pieces, failure=failure), Scrubber(key)), []
        try:
            while (chunk := await response.chunk()) is not None:
                found.append(chunk)
            assert await response.chunk() is None
        except UpstreamFailed as failed:
            found.append(str(failed).encode())
        return found

    return asyncio.run(take())


@pytest.mark.parametrize("form", FORMS)
def test_the_key_is_found_across_any_chunk_boundary(form: str) -> None:
    said = FORMS[form].encode()
    expected = Scrubber(KEY).clean(b"<" + said + b">")
    assert b"*" * 20 in expected
    for first in range(1, len(said) + 1):
        for second in range(first, len(said) + 2, 5):
            whole = b"<" + said + b">"
            pieces = filter(None, (whole[:first], whole[first:second], whole[second:]))
            assert b"".join(passed(*pieces)) == expected, (first, second)


@pytest.mark.parametrize("before", [b"", b":", b"??"])
def test_the_key_is_found_in_both_alphabets_of_base64(before: bytes) -> None:
    key = "sk-~~~???>>>~?>~?>~?>0123"
    for coded in (base64.b64encode(before + key.encode()), base64.urlsafe_b64encode(before + key.encode())):
        assert set(coded) & set(b"+/-_")
        assert not set(Scrubber(key).clean(coded)[6:-6]) & set(b"+/-_"), coded


def test_no_line_is_kept_back() -> None:
    pieces = [
        b"data: sk-op\n\n",
        b": sk-op/erator\n",
        b"data: {}\r\n\r\n",
        b'{"a": 1}',
        b"data: sk-op/erator+01234\n\n",
    ]
    assert passed(*pieces) == pieces


def test_text_that_only_begins_like_the_key_passes() -> None:
    assert passed(b"ask", b"-op") == [b"a", b"sk-op"]
    assert passed(b"sk-op/erator+0", b"12!") == [b"sk-op/erator+012!"]
    assert passed(b"say s", b"sk-op!") == [b"say ", b"ssk-op!"]


def test_a_response_that_ends_within_the_key() -> None:
    assert passed(b"now s", b"k-") == [b"now ", b"sk-"]
    assert passed(KEY.encode()[:-1]) == [b"*" * (len(KEY) - 1)]
    assert passed(b"now " + KEY.encode()[:-1], failure="it broke off") == [
        b"now ",
        b"*" * (len(KEY) - 1),
        b"it broke off",
    ]
    assert passed(b"now s", failure="it broke off") == [b"now ", b"s", b"it broke off"]


def test_a_word_is_no_key() -> None:
    assert Scrubber("demo").forms == ()
    assert passed(b"demo", b" de", key="demo") == [b"demo", b" de"]


@settings(max_examples=300, deadline=None, print_blob=True)
@given(
    parts=st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from([form.encode() for form in FORMS.values()]),
            st.builds(lambda form, at: form.encode()[:at], st.sampled_from(list(FORMS.values())), st.integers(1, 40)),
        ),
        max_size=8,
    ),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_scrubbing_is_independent_of_chunk_boundaries(parts: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(parts) + b"\n"
    ends = sorted({*(cut for cut in cuts if cut < len(whole)), 0, len(whole)})
    pieces = [whole[start:end] for start, end in itertools.pairwise(ends)]
    came = b"".join(passed(*pieces))
    assert came == Scrubber(KEY).clean(whole)
    assert len(came) == len(whole)
    if not any(form.encode() in whole for form in FORMS.values()) and b"*" not in came:
        assert came == whole
