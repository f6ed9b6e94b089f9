"""Fuzzed input breaks nothing and costs nothing. For a longer run: `python -m tests.hostile.fuzz`."""

import random
from pathlib import Path

import httpx
import pytest

from tests.engines import ON_BOTH_ENGINES
from tests.hostile.fuzz import fuzzing
from tests.support import Farebox

pytestmark = ON_BOTH_ENGINES

INPUTS = 100


def test_invalid_requests_are_refused_and_the_books_balance(tmp_path: Path) -> None:
    seed = random.randrange(2**31)
    print(f"seed {seed}: python -m tests.hostile.fuzz --seed {seed}")
    with fuzzing(tmp_path, seed) as fuzz:
        for number in range(INPUTS):
            wrong = fuzz.one(number)
            assert not wrong, wrong
        assert fuzz.books() == [], f"seed {seed}"


@pytest.mark.parametrize("stream", [b"false", b"true"])
@pytest.mark.parametrize("place", ['"\xf8":1', '"metadata":"\xf8"', '"m\xf8":{"a":"\xed\xa0\x80"}'])
def test_invalid_utf_8_in_a_body(farebox: Farebox, place: str, stream: bytes) -> None:
    """Even in fields that Farebox does not read: the body is not JSON, so it is refused and not forwarded."""
    customer = farebox.funded("5")
    body = b'{"model":"demo/demo-1","messages":[],"stream":%s,%s}' % (stream, place.encode("latin-1"))
    response = httpx.post(f"{customer.gateway_url}/compat/chat/completions", content=body, headers=customer.headers)
    assert response.status_code == 400, response.text
    assert "not valid JSON" in response.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    "signature", [b"t=1,v1=\xf8", b"t=1,v1=\xe9,v0=x", b"\xff", b"t=\xb2,v1=a", b"t=" + b"9" * 5000]
)
def test_an_invalid_webhook_signature(farebox: Farebox, signature: bytes) -> None:
    response = httpx.post(f"{farebox.url}/webhooks/stripe", content=b"{}", headers=[(b"stripe-signature", signature)])
    assert response.status_code == 400, response.text
    assert response.json()["errors"][0]["code"] == 2935
