"""How amounts, times, cards and states are displayed."""

import pytest

from farebox.http.pages import labels
from farebox.ledger.books import TRANSFERS
from farebox.payments.model import Card, TopUpRule
from farebox.payments.states import DISABLED_REASONS, DISPUTE_STATES, REFUND_STATES, RULE_STATES, TOP_UP_STATES


@pytest.mark.parametrize(
    ("nanos", "exact", "floor"),
    [
        (0, "0.00", "0.00"),
        (50_000_000_000, "50.00", "50.00"),
        (49_999_982_500, "49.9999825", "49.99"),
        (17_500, "0.0000175", "0.00"),
        (1_234_567_891_234_567_890, "1,234,567,891.23456789", "1,234,567,891.23"),
        (-17_500, "−0.0000175", "−0.01"),
    ],
)
def test_nano_dollars(nanos: int, exact: str, floor: str) -> None:
    assert (labels.exact_usd(nanos), labels.floor_usd(nanos)) == (exact, floor)


def test_cents() -> None:
    assert (labels.usd(1_234_567), labels.field_usd(5000), labels.field_usd(5050)) == ("12,345.67 USD", "50", "50.50")


def test_times_are_shown_in_utc() -> None:
    assert labels.moment(1_795_338_245_678) == "22 Nov 2026, 09:04 UTC"
    assert labels.iso(1_795_338_245_678) == "2026-11-22T09:04:05Z"
    assert (labels.month_name(1_795_338_245_678), labels.month_key(1_795_338_245_678)) == ("November 2026", "2026-11")


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (0.44, "0.4 ms"),
        (154, "154 ms"),
        (999.6, "1.0 s"),
        (59_940, "59.9 s"),
        (59_960, "1 min 0 s"),
        (60_000, "1 min 0 s"),
        (119_600, "2 min 0 s"),
    ],
)
def test_durations(ms: float, said: str) -> None:
    assert labels.duration(ms) == said


def test_cards() -> None:
    card = Card(card_id="x", brand="amex", last4="0005", exp_month=10, exp_year=2026, fingerprint="f")
    assert labels.card_name(card) == "American Express ending in 0005"
    assert labels.expired(card, 1_795_338_245_678)  # in November
    assert not labels.expired(card, 1_793_400_000_000)  # on the last day of October


def test_every_state_and_reason_has_a_label() -> None:
    assert set(labels.TOP_UPS) == set(TOP_UP_STATES)
    assert set(labels.REFUNDS) == set(REFUND_STATES)
    assert set(labels.DISPUTES) == set(DISPUTE_STATES)
    assert set(labels.STOPPED) == set(DISABLED_REASONS)
    assert set(labels.TRANSFERS) == set(TRANSFERS)


def test_the_state_of_an_auto_top_up_in_a_sentence() -> None:
    def said(rule_state: str, *, contested: bool = True, **changes: object) -> str:
        rule = TopUpRule(
            account_id="a",
            amount_cents=5000,
            threshold_cents=1000,
            monthly_cap_cents=20_000,
            state=rule_state,
            **changes,  # type: ignore[arg-type]
        )
        state = labels.rule_state(rule, contested=contested)
        return f"{state.name}: {state.text}" + ("" if state.until is None else f" {state.until}")

    assert said("active") == (
        "Active: buys 50.00 USD when the balance falls below 10.00 USD, at most 200.00 USD in a calendar month."
    )
    assert said("paused", reason="monthly_cap_reached", until=1_796_083_200_000).startswith(
        "Paused: this month’s top-ups have reached your monthly cap. 1796083200000"
    )
    assert said("paused", reason="account_frozen", until=1_796_083_200_000) == (
        "Paused: the operator has frozen the account. It resumes when the account is unfrozen."
    )
    assert said("paused", reason="switched_off", until=1_796_083_200_000).endswith("when they switch it on.")
    assert said("suspended", reason="card_declined").startswith("Suspended: the card was declined.")
    assert said("suspended", reason="payment_disputed").startswith("Suspended: a payment is disputed.")
    assert said("suspended", reason="payment_disputed", contested=False) == (
        "Suspended: a dispute was lost. Save this form again to resume."
    )
    assert {said(state, reason="card_declined").split(":")[0] for state in RULE_STATES} == {
        "Active", "Paused", "Waiting for you", "Suspended",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("agent", "shown"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 "
            "Safari/537.36 Edg/140.0.0.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile "
            "Safari/537.36",
            "Chrome on Android",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "Version/18.5 Mobile/15E148 Safari/604.1",
            "Safari on iOS",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 "
            "Safari/605.1.15",
            "Safari on macOS",
        ),
        ("curl/8.14.1", "curl/8.14.1"),
        ("", ""),
    ],
)
def test_browsers_are_named(agent: str, shown: str) -> None:
    assert labels.browser(agent) == shown
