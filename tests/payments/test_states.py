"""The state tables, and the store that moves rows through them: leases, fences, the directory of payments."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.billing.top_up_steps import StepResult
from farebox.payments.model import NoInvoice, TopUp, TopUpRule
from farebox.payments.purchase import Tax
from farebox.payments.states import DISABLED_REASONS, OPEN_TOP_UPS, PENDING_TOP_UPS, RULE_STATES, TOP_UP_STATES
from farebox.storage import leases, tax, top_up_rules
from farebox.storage import top_ups as store
from farebox.storage.accounts import account_of, add_account, find_account
from farebox.storage.database import opened_for_command
from farebox.storage.sql import Connection, RowMissing
from tests.engines import settings_for

ACCOUNT = "acme"
README = Path(__file__).parents[2] / "src/farebox/payments/README.md"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with opened_for_command(settings_for(tmp_path)) as opened:
        add_account(opened, ACCOUNT, "Acme", 0)
        add_account(opened, "other", "Other", 0)
        yield opened


def bucket(connection: Connection, account_id: str = ACCOUNT) -> int:
    account = find_account(connection, account_id)
    assert account is not None
    return account.bucket


def insert(connection: Connection, state: str, **more: object) -> TopUp:
    values: dict[str, object] = {
        "account_id": ACCOUNT, "top_up_id": f"t-{state}", "kind": "manual", "state": state, "credit_cents": 1_000,
        "fee_cents": 0, "tax_cents": 0, "lines": b"{}", "created_at": 1, "updated_at": 1, "next_at": 5,
    }  # fmt: skip
    top_up = TopUp(**(values | more))  # type: ignore[arg-type]
    store.insert(connection, bucket(connection, top_up.account_id), top_up)
    return top_up


# --- the tables -------------------------------------------------------------------------------------------------------


def test_every_state_leads_to_a_final_state() -> None:
    ends = {"paid", "failed", "canceled"}
    for table, final in ((TOP_UP_STATES, ends), (RULE_STATES, set(RULE_STATES))):
        for start in table:
            seen, todo = set(), [start]
            while todo:
                state = todo.pop()
                if state not in seen:
                    seen.add(state)
                    todo += table[state]
            assert seen & final


def test_open_states_are_those_that_are_not_final_and_nothing_leaves_paid() -> None:
    assert set(OPEN_TOP_UPS) == set(TOP_UP_STATES) - {"paid", "failed", "canceled"}
    assert set(PENDING_TOP_UPS) < set(OPEN_TOP_UPS)
    assert TOP_UP_STATES["paid"] == frozenset()
    assert all("paid" in TOP_UP_STATES[state] for state in TOP_UP_STATES if state not in ("paid", "requested"))


def test_a_suspended_rule_can_only_be_resumed() -> None:
    assert RULE_STATES["suspended"] == {"active"}


def test_the_guide_names_every_state_and_reason() -> None:
    text = README.read_text()
    for word in [*TOP_UP_STATES, *RULE_STATES, *DISABLED_REASONS]:
        assert f"`{word}`" in text, f"README.md does not speak of {word}"


# --- transitions ------------------------------------------------------------------------------------------------------


@given(state=st.sampled_from(sorted(TOP_UP_STATES)), target=st.sampled_from(sorted(TOP_UP_STATES)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_a_row_changes_state_only_by_the_table(connection: Connection, state: str, target: str) -> None:
    connection.execute("BEGIN")
    row = insert(connection, state)
    if target == state or target in TOP_UP_STATES[state]:
        moved = store.move(connection, row, target, 9, next_at=10)
        assert store.find(connection, ACCOUNT, row.top_up_id) == moved
        assert moved.updated_at == (1 if target == state else 9)
    else:
        with pytest.raises(AssertionError):
            store.move(connection, row, target, 9, next_at=10)
        assert store.find(connection, ACCOUNT, row.top_up_id) == row
    connection.execute("ROLLBACK")


def test_a_claim_is_exclusive_and_only_for_due_work(connection: Connection) -> None:
    row = insert(connection, "unknown", next_at=100)
    key = (connection, ACCOUNT, row.top_up_id)
    assert store.claim(*key, owner="a", at=99) is None
    claimed = store.claim(*key, owner="a", at=100)
    assert claimed is not None
    assert (claimed.lease_owner, claimed.lease_epoch, claimed.next_at) == ("a", 1, 100 + store.LEASE_MS)
    assert store.claim(*key, owner="b", at=101) is None
    assert store.claim(*key, owner="b", at=101, early=True) is None
    again = store.claim(*key, owner="b", at=100 + store.LEASE_MS)
    assert again is not None
    assert again.lease_epoch == 2


def test_a_worker_that_lost_its_lease_writes_nothing_and_notices(connection: Connection) -> None:
    row = insert(connection, "unknown", next_at=1)
    stale = store.claim(connection, ACCOUNT, row.top_up_id, owner="a", at=1)
    assert stale is not None
    fresh = store.claim(connection, ACCOUNT, row.top_up_id, owner="b", at=1 + store.LEASE_MS)
    assert fresh is not None
    with pytest.raises(store.StaleLease):
        store.move(connection, stale, "failed", 9, next_at=None)
    with pytest.raises(store.StaleLease):
        store.postpone(connection, stale, 9, 10)
    assert store.find(connection, ACCOUNT, row.top_up_id) == fresh


def test_a_revoked_lease_is_invalid(connection: Connection) -> None:
    row = insert(connection, "submitting", next_at=1)
    worker = store.claim(connection, ACCOUNT, row.top_up_id, owner="a", at=1)
    assert worker is not None
    freed = store.revoke_lease(connection, ACCOUNT, row.top_up_id)
    assert freed is not None
    assert (freed.lease_owner, freed.lease_until) == (None, None)
    with pytest.raises(store.StaleLease):
        store.move(connection, worker, "unknown", 9, next_at=10)
    assert store.move(connection, freed, "paid", 9, next_at=None).state == "paid"


def test_a_postponed_step_is_in_the_future(connection: Connection) -> None:
    row = insert(connection, "processing")
    with pytest.raises(AssertionError):
        store.postpone(connection, row, 10, 10)


def test_only_unclaimed_rows_are_made_due(connection: Connection) -> None:
    row = insert(connection, "processing", next_at=100)
    assert store.make_due(connection, row, 10)
    assert store.due(connection, 10, 5) == [(ACCOUNT, row.top_up_id)]
    assert not store.make_due(connection, row, 10)
    store.claim(connection, ACCOUNT, row.top_up_id, owner="a", at=10)
    assert not store.make_due(connection, row, 11)


def test_a_payment_belongs_to_one_purchase_of_one_account_for_good(connection: Connection) -> None:
    assert store.tie_payment(connection, "in_1", ACCOUNT, "t1")
    assert store.tie_payment(connection, "in_1", ACCOUNT, "t1")
    assert not store.tie_payment(connection, "in_1", ACCOUNT, "t2")
    assert not store.tie_payment(connection, "in_1", "other", "t1")
    row = insert(connection, "paid", top_up_id="t1", payment_id="in_1")
    store.note_charge(connection, "in_1", "pi_1", None)
    store.note_charge(connection, "in_1", None, "ch_1")
    for found in (
        store.find_by_payment(connection, "in_1"),
        store.find_by_intent(connection, "pi_1"),
        store.find_by_charge(connection, "ch_1"),
    ):
        assert found == row


def test_the_schema_allows_one_open_auto_top_up(connection: Connection) -> None:
    insert(connection, "requested", kind="auto", top_up_id="auto-1")
    with pytest.raises(Exception, match=r"(?i)unique"):
        insert(connection, "declined", kind="auto", top_up_id="auto-2")
    insert(connection, "failed", kind="auto", top_up_id="auto-3")


# --- rules ------------------------------------------------------------------------------------------------------------


def rule(connection: Connection, state: str = "active", **more: object) -> TopUpRule:
    values: dict[str, object] = {
        "account_id": ACCOUNT, "amount_cents": 1_000, "threshold_cents": 500, "monthly_cap_cents": 10_000,
        "state": state, "reason": None if state == "active" else "card_declined",
    }  # fmt: skip
    made = TopUpRule(**(values | more))  # type: ignore[arg-type]
    top_up_rules.save_rule(connection, bucket(connection), made)
    return made


def armed(connection: Connection) -> int | None:
    ((found,),) = connection.execute("SELECT top_up_below FROM balances WHERE account_id = ?", (ACCOUNT,)).fetchall()
    return None if found is None else int(found)


@pytest.mark.parametrize("state", sorted(RULE_STATES))
@pytest.mark.parametrize("target", sorted(RULE_STATES))
def test_a_rule_changes_state_only_by_its_table(connection: Connection, state: str, target: str) -> None:
    made = rule(connection, state)
    if target == state or target in RULE_STATES[state]:
        top_up_rules.change_rule(connection, made, target, 9, reason=None if target == "active" else "card_declined")
        found = top_up_rules.rule_of(connection, ACCOUNT)
        assert found is not None
        assert found.state == target
    else:
        with pytest.raises(AssertionError):
            top_up_rules.change_rule(connection, made, target, 9, reason="card_declined")


@pytest.mark.parametrize("state", sorted(RULE_STATES))
@pytest.mark.parametrize("under_way", [None, *OPEN_TOP_UPS, "paid", "failed", "canceled"])
def test_the_balance_is_armed_iff_the_rule_is_active_and_nothing_is_open(
    connection: Connection, state: str, under_way: str | None
) -> None:
    rule(connection, state)
    if under_way is not None:
        insert(connection, under_way, kind="auto")
    top_up_rules.rearm(connection, bucket(connection), ACCOUNT)
    free = state == "active" and under_way not in OPEN_TOP_UPS
    assert armed(connection) == (5_000_000_000 if free else None)
    requested = top_up_rules.request_auto(connection, bucket(connection), ACCOUNT, 9)
    assert requested == ("auto-1" if free else None)
    assert top_up_rules.request_auto(connection, bucket(connection), ACCOUNT, 9) is None
    hopeful = free or under_way in PENDING_TOP_UPS
    assert store.auto_under_way(connection, ACCOUNT) == hopeful


def test_the_monthly_total_includes_open_purchases(connection: Connection) -> None:
    insert(connection, "paid", kind="auto", top_up_id="a", paid_at=100, fee_cents=50, tax_cents=7)
    insert(connection, "paid", kind="auto", top_up_id="b", paid_at=99)
    insert(connection, "paid", kind="manual", top_up_id="c", paid_at=100)
    insert(connection, "failed", kind="auto", top_up_id="d")
    assert store.charged_since(connection, ACCOUNT, 100) == 1_057
    insert(connection, "unknown", kind="auto", top_up_id="e")
    assert store.charged_since(connection, ACCOUNT, 100) == 2_057


# --- jobs of one process at a time ------------------------------------------------------------------------------------


def test_a_job_runs_in_one_process_and_is_due_again_after_its_interval(connection: Connection) -> None:
    take = {"every_ms": 100, "lease_ms": 50}
    first = leases.take_lease(connection, "job", owner="a", at=0, **take)
    assert first == 1
    assert leases.take_lease(connection, "job", owner="b", at=49, **take) is None
    second = leases.take_lease(connection, "job", owner="b", at=50, **take)
    assert second == 2
    assert not leases.finish_lease(connection, "job", first, at=51), "the lease belonged to another process"
    assert leases.finish_lease(connection, "job", second, at=60)
    assert leases.take_lease(connection, "job", owner="a", at=159, **take) is None
    third = leases.take_lease(connection, "job", owner="a", at=160, **take)
    assert third == 3
    leases.drop_lease(connection, "job", third, until=170)
    assert leases.take_lease(connection, "job", owner="a", at=169, **take) is None
    assert leases.take_lease(connection, "job", owner="a", at=170, **take) == 4


# --- taxes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("country", "tax_id", "expected"),
    [
        ("DE", "", Tax("VAT", 190_000)),
        ("DE", "DE1", Tax("VAT", 190_000)),
        ("fr", "", Tax("VAT", 200_000)),
        ("FR", "FR1", Tax("VAT", 200_000, reverse_charge=True)),
        ("FR", "  ", Tax("VAT", 200_000)),
        ("CH", "CH1", Tax("MWST", 81_000)),
        ("US", "", Tax("Levy", 10_000)),
        ("", "", Tax("Levy", 10_000)),
        ("", "X1", Tax("Levy", 10_000)),
    ],
)
def test_the_tax_of_a_customer(connection: Connection, country: str, tax_id: str, expected: Tax) -> None:
    for code, name, rate, reverse in (
        ("DE", "VAT", 190_000, True),
        ("FR", "VAT", 200_000, True),
        ("CH", "MWST", 81_000, False),
        ("*", "Levy", 10_000, True),
    ):
        tax.set_tax_rate(
            connection, tax.TaxRate(country=code, name=name, parts_per_million=rate, reverse_charge=reverse)
        )
    assert tax.tax_of_purchase(connection, country=country, tax_id=tax_id, seller_country="DE") == expected


def test_rates_are_listed_changed_and_removed(connection: Connection) -> None:
    rate = tax.TaxRate(country="DE", name="VAT", parts_per_million=190_000)
    tax.set_tax_rate(connection, rate)
    tax.set_tax_rate(connection, msgspec.structs.replace(rate, parts_per_million=160_000))
    assert [found.parts_per_million for found in tax.list_tax_rates(connection)] == [160_000]
    assert tax.remove_tax_rate(connection, "DE")
    assert not tax.remove_tax_rate(connection, "DE")
    assert tax.tax_of_purchase(connection, country="DE", tax_id="", seller_country="") is None


def test_a_top_up_has_no_invoice_before_one_is_open() -> None:
    begun = TopUp(
        account_id="a",
        top_up_id="t",
        kind="manual",
        state="submitting",
        credit_cents=500,
        fee_cents=0,
        tax_cents=0,
        lines=b"{}",
        created_at=1,
        updated_at=1,
    )
    with pytest.raises(NoInvoice, match="t has no invoice"):
        _ = begun.invoice_id
    assert msgspec.structs.replace(begun, payment_id="in_1").invoice_id == "in_1"
    with pytest.raises(NoInvoice, match="paid"):
        _ = StepResult(event="paid").known_invoice


def test_what_a_row_names_is_there(connection: Connection) -> None:
    assert account_of(connection, ACCOUNT).account_id == ACCOUNT
    with pytest.raises(RowMissing, match="nobody"):
        account_of(connection, "nobody")
    with pytest.raises(RowMissing, match="nothing"):
        store.top_up_of(connection, ACCOUNT, "nothing")
