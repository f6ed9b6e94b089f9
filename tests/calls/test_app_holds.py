"""Holds made by applications: every step is idempotent, they count like calls, and they outlive restarts."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from farebox.calls import external_holds
from farebox.calls.spending import spending_limit
from farebox.errors import (
    ACCESS_DENIED,
    ACCOUNT_FROZEN,
    CREDIT_HELD,
    HOLD_REFUSED,
    KEY_REUSED,
    LIMIT_TOO_LOW,
    NO_CREDIT,
    NOT_FOUND,
    RATE_LIMITED,
    SPEND_LIMITED,
    TOP_UP_UNDER_WAY,
    VALIDATION_FAILED,
    ErrorKind,
    Problem,
)
from farebox.ledger.recovery import expire_due
from farebox.money import parse_usd
from farebox.operator.administer import set_frozen
from farebox.periodic_jobs import log
from farebox.storage.app_holds import AppHold
from farebox.storage.call_reports import usage_by_model
from farebox.storage.spending import SpendingLimit, set_limit
from tests.calls.kit import differences
from tests.engines import ON_BOTH_ENGINES, TESTER
from tests.support import Customer, running_farebox

pytestmark = ON_BOTH_ENGINES

FIVE = parse_usd("5")
MINUTE = 60_000


class Holds:
    """The hold use cases of one account, called from the test's thread."""

    def __init__(self, customer: Customer) -> None:
        self.customer = customer
        self.farebox = customer.farebox

    def create(self, hold_id: str = "job-1", amount: int = 1000, expires_in_ms: int = MINUTE, **more: Any) -> AppHold:
        return self._run(external_holds.create, hold_id=hold_id, amount=amount, expires_in_ms=expires_in_ms, **more)

    def extend(self, hold_id: str = "job-1", **more: Any) -> AppHold:
        return self._run(external_holds.extend, hold_id, **more)

    def settle(self, hold_id: str = "job-1", amount: int = 700, **more: Any) -> AppHold:
        return self._run(external_holds.settle, hold_id, amount=amount, **more)

    def release(self, hold_id: str = "job-1") -> AppHold:
        return self._run(external_holds.release, hold_id)

    def get(self, hold_id: str = "job-1") -> AppHold:
        return self.farebox.run(external_holds.get(self.farebox.services, self.customer.account_id, hold_id))

    def _run(self, act: Callable[..., Any], *names: str, **more: Any) -> AppHold:
        hold: AppHold = self.farebox.run(act(self.farebox.services, self.customer.account_id, *names, **more))
        return hold

    def read(self, sql: str) -> list[tuple[Any, ...]]:
        database, account_id = self.farebox.services.database, self.customer.account_id
        return self.farebox.run(database.scan(lambda c: c.execute(sql, (account_id,)).fetchall()))

    def freeze(self) -> None:
        """Freeze the account, like the operator."""
        change = partial(set_frozen, by=TESTER, account_id=self.customer.account_id, frozen=True, reason="stolen", at=1)
        self.farebox.run(self.farebox.services.database.write(change))

    def limit(self, nanos: int) -> None:
        limit, account_id = SpendingLimit(nanos, "daily", "sliding"), self.customer.account_id
        self.farebox.run(self.farebox.services.database.write(lambda c: set_limit(c, account_id, limit)))


@pytest.fixture
def holds(customer: Customer) -> Holds:
    return Holds(customer)


def refused(act: Callable[[], object]) -> ErrorKind:
    with pytest.raises(Problem) as caught:
        act()
    return caught.value.kind


def test_a_settled_hold_shows_in_every_report(holds: Holds) -> None:
    made = holds.create(label="nightly batch")
    assert (made.state, made.amount, made.label, made.expires_at - made.created_at) == (
        "open", 1000, "nightly batch", MINUTE,
    )  # fmt: skip
    assert holds.customer.balance.held == 1000
    done = holds.settle(provider="acme", model="acme-large", note="batch of 2026-11-22")
    assert (done.state, done.charge, done.written_off) == ("settled", 700, 0)
    assert (done.provider, done.model, done.note) == ("acme", "acme-large", "batch of 2026-11-22")
    assert (holds.customer.balance.posted, holds.customer.balance.held) == (FIVE - 700, 0)
    usage = holds.read("SELECT provider, model, calls, charge FROM usage_hours WHERE account_id = ?")
    assert usage == [("acme", "acme-large", 1, 700)]
    statement = holds.read("SELECT transfer_id, amount, note FROM transfers WHERE account_id = ? AND kind = 'charge'")
    assert statement == [("charge:app:job-1", 700, "batch of 2026-11-22")]
    assert differences(holds.farebox) == []


def test_a_hold_without_a_provider_counts_as_the_application(holds: Holds) -> None:
    holds.create()
    holds.settle()
    account_id, database = holds.customer.account_id, holds.farebox.services.database
    [line] = holds.farebox.run(database.scan(lambda c: usage_by_model(c, account_id, 0, 2**60)))
    assert (line.provider, line.model, line.charge) == ("application", "", 700)


def test_every_hold_request_is_idempotent(holds: Holds) -> None:
    first = [holds.create() for _ in range(3)]
    assert first[0] == first[1] == first[2]
    assert holds.customer.balance.held == 1000
    assert len({holds.settle().settled_at for _ in range(3)}) == 1
    assert holds.customer.balance.posted == FIVE - 700
    assert holds.create().state == "settled", "the hold with that name, as it is now"
    holds.create("job-2")
    assert [holds.release("job-2").state for _ in range(3)] == ["released"] * 3


def test_a_hold_id_with_different_content_conflicts(holds: Holds) -> None:
    holds.create()
    assert refused(lambda: holds.create(amount=1001)) is KEY_REUSED
    holds.settle()
    assert refused(lambda: holds.settle(amount=701)) is HOLD_REFUSED
    assert refused(holds.release) is HOLD_REFUSED
    assert refused(lambda: holds.extend(amount=2000)) is HOLD_REFUSED
    holds.create("job-2")
    holds.release("job-2")
    assert refused(lambda: holds.settle("job-2")) is HOLD_REFUSED
    assert holds.get("job-2").state == "released"


def test_hold_names_are_separate_by_account_and_from_calls(holds: Holds) -> None:
    call = holds.customer.chat(max_tokens=10)
    log_id = call.headers["cf-aig-log-id"]
    assert refused(lambda: holds.get(log_id)) is NOT_FOUND
    holds.create(log_id)
    other = Holds(holds.farebox.funded("5"))
    assert refused(lambda: other.get(log_id)) is NOT_FOUND
    other.create(log_id, 5)
    assert (holds.get(log_id).amount, other.get(log_id).amount) == (1000, 5)


def test_unknown_holds_and_accounts(holds: Holds) -> None:
    for act in (holds.get, holds.settle, holds.release, holds.extend):
        assert refused(act) is NOT_FOUND
    other = Holds(Customer(holds.farebox, "nobody", ""))
    assert refused(other.create) is ACCESS_DENIED


def test_extending_raises_and_prolongs(holds: Holds) -> None:
    made = holds.create()
    assert holds.extend(amount=1500).amount == 1500
    assert holds.extend(amount=10).amount == 1500
    longer = holds.extend(expires_in_ms=10 * MINUTE)
    assert (longer.amount, longer.expires_at > made.expires_at + 8 * MINUTE) == (1500, True)
    assert holds.extend().expires_at == longer.expires_at
    assert (holds.get().asked, holds.customer.balance.held) == (1000, 1500)
    assert refused(lambda: holds.extend(amount=FIVE + 1)) is NO_CREDIT


def test_a_frozen_account_holds_nothing_more(holds: Holds) -> None:
    """Work that has begun may still take longer, and is charged."""
    first = holds.create("begun", 1000)
    holds.freeze()
    assert refused(lambda: holds.create("new")) is ACCOUNT_FROZEN
    assert refused(lambda: holds.extend("begun", amount=1001)) is ACCOUNT_FROZEN
    assert holds.extend("begun", amount=1000, expires_in_ms=10 * MINUTE).expires_at > first.expires_at
    assert (holds.settle("begun").charge, holds.customer.balance.held) == (700, 0)


def test_a_hold_is_refused_with_the_errors_of_a_call(holds: Holds) -> None:
    assert refused(lambda: holds.create(amount=FIVE + 1)) is NO_CREDIT
    holds.create("most", FIVE - 10)
    assert refused(lambda: holds.create(amount=11)) is CREDIT_HELD
    holds.release("most")
    holds.limit(5000)
    assert refused(lambda: holds.create(amount=5001)) is LIMIT_TOO_LOW
    holds.create("within", 4000)
    assert refused(lambda: holds.extend("within", amount=5001)) is LIMIT_TOO_LOW
    assert refused(lambda: holds.create("beside", 1001)) is CREDIT_HELD
    holds.settle("within", 4000)
    assert refused(lambda: holds.create("beside", 1001)) is SPEND_LIMITED
    holds.create("beside", 1000)
    state = holds.farebox.run(spending_limit.state(holds.farebox.services, holds.customer.account_id))
    assert state is not None
    assert (state.spent, state.held, state.available) == (4000, 1000, 0)
    assert len(holds.read("SELECT 1 FROM notices WHERE account_id = ? AND kind = 'limit_reached'")) == 1


def test_a_refusal_while_credit_is_being_bought_says_so(holds: Holds) -> None:
    sql = (
        "INSERT INTO top_ups (bucket, account_id, top_up_id, kind, state, credit_cents, fee_cents, tax_cents, lines, "
        "created_at, updated_at, next_at) "
        f"SELECT bucket, account_id, 'auto-1', 'auto', 'processing', 1000, 0, 0, '{{}}', 1, 1, {2**60} "
        "FROM accounts WHERE account_id = ?"
    )
    values = (holds.customer.account_id,)
    holds.farebox.run(holds.farebox.services.database.write(lambda c: c.execute(sql, values).fetchall()))
    with pytest.raises(Problem) as caught:
        holds.create(amount=FIVE + 1)
    assert (caught.value.kind, caught.value.retry_after) == (TOP_UP_UNDER_WAY, 2)


def test_an_overrun_takes_the_available_credit_and_reports_the_rest(holds: Holds) -> None:
    holds.create("other", FIVE - 1500)
    holds.create()
    done = holds.settle(amount=2500)
    assert (done.charge, done.written_off) == (1500, 1000)
    assert holds.customer.balance.available == 0
    assert holds.settle(amount=2500) == done
    assert differences(holds.farebox) == []


def test_a_hold_that_expired_is_still_charged(holds: Holds) -> None:
    made = holds.create(expires_in_ms=1000)
    services = holds.farebox.services
    holds.farebox.run(expire_due(services.ledger, services.database, made.expires_at, log))
    assert (holds.get().state, holds.customer.balance.held) == ("expired", 0)
    assert holds.release().state == "expired"
    assert refused(lambda: holds.extend(amount=2000)) is HOLD_REFUSED
    done = holds.settle()
    assert (done.state, done.charge) == ("settled", 700)
    assert holds.read("SELECT charge FROM usage_hours WHERE account_id = ?") == [(700,)]


def test_a_settle_of_nothing_costs_nothing(holds: Holds) -> None:
    holds.create()
    assert holds.settle(amount=0).state == "settled"
    assert holds.read("SELECT * FROM usage_hours WHERE account_id = ?") == []
    assert holds.customer.balance.posted == FIVE


WRONG: dict[str, Callable[[Holds], Callable[[], object]]] = {
    "hold_id": lambda holds: partial(holds.create, "a/b"),
    "hold_id, empty": lambda holds: partial(holds.create, ""),
    "hold_id, long": lambda holds: partial(holds.create, "a" * 129),
    "amount": lambda holds: partial(holds.create, amount=0),
    "amount, below zero": lambda holds: partial(holds.settle, amount=-1),
    "amount, large": lambda holds: partial(holds.create, amount=2**60),
    "expires_in_ms": lambda holds: partial(holds.create, expires_in_ms=999),
    "expires_in_ms, long": lambda holds: partial(holds.create, expires_in_ms=86_400_001),
    "label": lambda holds: partial(holds.create, label="a\nb"),
    "label, long": lambda holds: partial(holds.create, label="a" * 201),
    "provider": lambda holds: partial(holds.settle, provider="a" * 65),
    "model": lambda holds: partial(holds.settle, model="a" * 201),
    "note": lambda holds: partial(holds.settle, note="\0"),
    "amount, extended": lambda holds: partial(holds.extend, "there", amount=0),
    "expires_in_ms, extended": lambda holds: partial(holds.extend, "there", expires_in_ms=1),
}


@pytest.mark.parametrize("name", WRONG)
def test_hold_errors_are_named(holds: Holds, name: str) -> None:
    holds.create("there", 5)
    with pytest.raises(Problem) as caught:
        WRONG[name](holds)()
    assert caught.value.kind is VALIDATION_FAILED
    assert caught.value.path == ("body", name.partition(",")[0])
    assert holds.customer.balance.held == 5


def test_an_accounts_open_holds_are_limited(holds: Holds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_holds, "OPEN_MAX", 3)
    for name in ("a", "b", "c"):
        holds.create(name)
    assert refused(lambda: holds.create("d")) is RATE_LIMITED
    assert holds.create("a") == holds.get("a")  # a repeat does not count
    assert holds.customer.chat().status_code == 200  # calls do not count, and are not affected
    holds.release("b")
    assert holds.create("d").state == "open"


def test_further_models_of_an_hour_are_counted_together(holds: Holds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_holds, "MODELS_MAX", 2)
    for name, model in (("1", "a"), ("2", "b"), ("3", "c"), ("4", "d"), ("5", "b")):
        holds.create(name)
        settled = holds.settle(name, 100, provider="mine", model=model)
        assert (settled.provider, settled.model) == (("application", "(other)") if model in "cd" else ("mine", model))
    found = holds.read("SELECT provider, model, calls, charge FROM usage_hours WHERE account_id = ? ORDER BY model")
    assert found == [("application", "(other)", 2, 200), ("mine", "a", 1, 100), ("mine", "b", 2, 200)]
    assert differences(holds.farebox) == []


def test_a_hundred_holds_at_once_admit_what_the_balance_covers(holds: Holds) -> None:
    services, account_id = holds.farebox.services, holds.customer.account_id
    each = FIVE // 10

    async def race() -> list[Any]:
        creating = (
            external_holds.create(services, account_id, hold_id=f"h{n % 50}", amount=each, expires_in_ms=MINUTE)
            for n in range(100)
        )
        return await asyncio.gather(*creating, return_exceptions=True)

    responses = holds.farebox.run(race())
    admitted = {response.hold_id for response in responses if isinstance(response, AppHold)}
    assert len(admitted) == 10
    assert {each.kind for each in responses if isinstance(each, Problem)} == {CREDIT_HELD}
    assert holds.customer.balance.available == 0
    for hold_id in admitted:
        holds.settle(hold_id, each)
    assert holds.customer.balance.posted == 0
    assert differences(holds.farebox) == []


@pytest.mark.slow
@pytest.mark.parametrize("in_doubt", ["release", "charge"])
def test_a_restart_ends_no_hold_of_an_application(tmp_path: Path, in_doubt: str) -> None:
    with running_farebox(tmp_path, in_doubt=in_doubt) as farebox:
        customer = farebox.funded("5")
        Holds(customer).create()
    with running_farebox(tmp_path, in_doubt=in_doubt) as farebox:
        holds = Holds(Customer(farebox, customer.account_id, customer.token))
        assert (holds.get().state, holds.customer.balance.held) == ("open", 1000)
        assert holds.settle().charge == 700
        assert differences(farebox) == []
