"""The table: what providers send, what the client must get, and the right charge; end to end.

A row is an object in `cases/*.json`. Texts are invented. A new row needs the right charge and its arithmetic, computed
from the public price, never from Farebox's result. Fields:

- `name`; `kind`: the kind of mistake that it guards against, such as `A1`; `pending`: why the row fails today. A
  pending row that passes is a failure: remove the field when the fault is fixed.
- `provider`, `path`: the URL behind the gateway's; `method` (POST); `request`: JSON, or `multipart`: fields, a file as
  `{"filename": …, "content": …}`; `request_headers`; `balance_usd` (1000); `moment` (drive.MOMENT).
- the provider's response: `status` (200), `headers`, and one of `sse` (a list of events: objects as JSON, texts such as
  `[DONE]` as they are, `{"raw": "…"}` with its own line ends; `named` adds `event:` lines, `eol` is the line end),
  `body` (JSON or text), `raw` (the same, or bytes by a macro). `encode`: a name in cases.ENCODERS. `cut`: the
  connection breaks after it. `leaves_after`: the client hangs up after this many events.
- the right result: `charge` in nano-dollars, or `hold`, or the minimum and maximum if it is not exact; `why`;
  `source`, `policy`, `notes`: what the receipt's fields are or contain (`[]`: empty); `lines`: quantities by meter;
  `hold`: `covers` (always looked at), `clamped`, or `below` where a hold may be less than the charge; `lacks`: numbers
  of events that the client does not get because it did not ask for usage; `forwarded`: `path`, and `has`, texts in the
  body that reaches the provider; or `refusal`: `status` and `code`.
- `only`: the chunkings to drive, instead of all: whole, events, bytes, random (in `make long`), paused (2.5 s between
  events, on a clock that is advanced). `tools`: the unseen input that the row's call may bring in, for test_overruns.

Macros for long values: cases.expand.
"""

import pytest

from tests.calls.kit import differences
from tests.engines import ON_BOTH_ENGINES
from tests.metering.cases import Case, load
from tests.metering.conftest import Outcomes
from tests.metering.drive import Bench

pytestmark = ON_BOTH_ENGINES


def _rows() -> list[object]:
    def marks(case: Case) -> list[pytest.MarkDecorator]:
        if not case.pending:
            return []
        return [pytest.mark.xfail(reason=case.pending, strict=True, raises=pytest.fail.Exception)]

    return [pytest.param(case, id=case.id, marks=marks(case)) for case in load()]


@pytest.mark.parametrize("case", _rows())
def test_row(case: Case, outcomes: Outcomes) -> None:
    wrong = [f"[{outcome.chunking}] {line}" for outcome in outcomes(case) for line in outcome.wrong]
    if wrong:
        pytest.fail("\n".join([f"{case.id} ({case.kind}):", *wrong]), pytrace=False)


def test_the_books_balance_after_all_rows(bench: Bench) -> None:
    assert differences(bench.farebox) == []
