"""docs/messages.md: every kind is documented, and its example of checking a signature works."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from farebox.messages.sign import secret_from, signed_headers
from farebox.operator.deliver import RETRIES_MS
from farebox.storage.notices import KINDS
from tests.repo.reference import ROOT

PAGE = (ROOT / "docs" / "messages.md").read_text()
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def example() -> Callable[[str, dict[str, str], bytes], bool]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    found: Callable[[str, dict[str, str], bytes], bool] = names["is_genuine"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_documented_with_an_example(kind: str) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", SECTIONS[kind], re.DOTALL)
    data = json.loads(shown)
    assert data
    assert isinstance(data, dict)
    for name, value in data.items():
        if name.endswith(("_cents", "_nanos")):
            assert isinstance(value, int)


def test_no_unknown_kind_is_documented() -> None:
    assert set(SECTIONS) == set(KINDS)


def test_the_example_checks_signatures() -> None:
    is_genuine = example()
    secret, body = secret_from(b"s" * 32), b'{"type":"test"}'
    now = int(time.time() * 1000)
    headers = signed_headers(secret, "msg_1", now, body)
    assert is_genuine(secret, headers, body)
    several = headers | {"webhook-signature": f"v1,AAAA {headers['webhook-signature']}"}
    assert is_genuine(secret, several, body)
    assert not is_genuine(secret_from(b"t" * 32), headers, body)
    assert not is_genuine(secret, headers, body + b"\n")
    assert not is_genuine(secret, signed_headers(secret, "msg_1", now - 301_000, body), body)


def test_a_known_signature() -> None:
    """The example of the Standard Webhooks specification's own test suite."""
    secret, name = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    headers = signed_headers(secret, name, 1_614_265_330_000, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_retries_are_those_of_the_page() -> None:
    units = {"seconds": 1, "minutes": 60, "hour": 3_600, "hours": 3_600}
    (text,) = re.findall(r"The message is sent again after (.*?)\. Then", PAGE, re.DOTALL)
    found = [int(number) * units[unit] * 1000 for number, unit in re.findall(r"(\d+)\s+(\w+)", text)]
    assert found == list(RETRIES_MS)
