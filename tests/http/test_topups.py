"""Buying credit on Cloudflare's wire: `topup`, its status and limits, auto top-up. Cards are the fake Stripe's."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.billing import cards
from farebox.model import Permission
from farebox.payments.states import DISABLED_REASONS
from tests.http.support import errors, http, result, save_card, soon
from tests.support import Customer, Farebox, running_farebox

UNSET = {"amount": None, "threshold": None, "disabledReason": None, "error": None, "lastFailedAt": None}
CENT = 10_000_000


@pytest.fixture
def buyer(farebox: Farebox) -> Customer:
    """An account without credit, with a card that works."""
    account_id = farebox.create_account()
    customer = Customer(farebox, account_id, farebox.create_token(account_id))
    save_card(customer)
    return customer


def post(customer: Customer, path: str, body: Any, **headers: str) -> httpx.Response:
    url = f"{customer.api_url}/ai-gateway/billing/{path}"
    return http.post(url, json=body, headers=customer.headers | headers)


def get(customer: Customer, path: str, **parameters: Any) -> Any:
    url = f"{customer.api_url}/ai-gateway/billing/{path}"
    return result(http.get(url, params=parameters, headers=customer.headers))


def charges(customer: Customer) -> int:
    """The number of payments that the fake Stripe took from the account."""
    stripe_url, services = customer.farebox.stripe_url, customer.farebox.services
    customer_id = customer.farebox.run(cards.customer_of(services, customer.account_id))
    taken = http.get(f"{stripe_url}/_fake/ledger").json()["payments"]
    return sum(payment["customer"] == customer_id for payment in taken)


def test_buy_credit_and_see_it_everywhere(buyer: Customer) -> None:
    before = get(buyer, "credit-balance")
    assert (before["balance"], before["first_topup_success"]) == (0, False)
    assert before["has_default_payment_method"] is True
    assert before["payment_method"] == {"brand": "visa", "last4": "4242"}
    bought = result(post(buyer, "topup", {"amount": 5000}))
    payment_id = bought.pop("payment_intent_id")
    assert payment_id.startswith("in_")
    assert bought == {"client_secret": None, "onboarding": True, "brand": "visa", "last4": "4242"}
    assert result(post(buyer, "topup/status", {"payment_intent_id": payment_id})) == {
        "payment_intent_id": payment_id,
        "status": "completed",
    }
    after = get(buyer, "credit-balance")
    assert (after["balance"], after["first_topup_success"]) == (5000, True)
    assert buyer.balance.posted == 5000 * CENT
    (invoice,) = get(buyer, "invoice-history")["invoices"]
    created, link = invoice.pop("created"), invoice.pop("invoice_pdf")
    assert abs(created - buyer.farebox.services.clock.now_ms() / 1000) < 60
    pdf = http.get(link)
    assert (pdf.status_code, pdf.headers["content-type"], pdf.content[:5]) == (200, "application/pdf", b"%PDF-")
    assert invoice == {
        "id": payment_id,
        "amount_due": 5000,
        "amount_paid": 5000,
        "amount_remaining": 0,
        "currency": "USD",
        "status": "paid",
        "attempt_count": 1,
        "attempted": True,
        "auto_advance": False,
        "created_by": "owner",
        "invoice_origin": "manual",
        "description": "Prepaid credit",
    }


def test_invoice_history_has_pages_and_kinds(buyer: Customer) -> None:
    ids = [result(post(buyer, "topup", {"amount": amount}))["payment_intent_id"] for amount in (1000, 1001, 1002)]
    first = get(buyer, "invoice-history", per_page=2)
    assert [invoice["id"] for invoice in first["invoices"]] == ids[:0:-1]
    assert first["pagination"] == {"has_more": True, "page": 1, "per_page": 2, "total_count": 3}
    second = get(buyer, "invoice-history", per_page=2, page=2, type="manual")
    assert [invoice["id"] for invoice in second["invoices"]] == ids[:1]
    assert second["pagination"]["has_more"] is False
    assert get(buyer, "invoice-history", type="auto")["invoices"] == []


def test_the_same_idempotency_key_is_the_same_purchase(buyer: Customer) -> None:
    responses = [post(buyer, "topup", {"amount": 1500}, **{"idempotency-key": "order-1"}) for _ in range(3)]
    assert len({result(response)["payment_intent_id"] for response in responses}) == 1
    other = post(buyer, "topup", {"amount": 1600}, **{"idempotency-key": "order-1"})
    assert (other.status_code, errors(other)[0][0]) == (409, 2928)
    assert other.headers["x-should-retry"] == "false"
    again = post(buyer, "topup", {"amount": 1500}, **{"idempotency-key": "order-2"})
    assert result(again)["payment_intent_id"] != result(responses[0])["payment_intent_id"]
    assert charges(buyer) == 2
    assert buyer.balance.posted == 3000 * CENT


def test_a_retry_without_a_key_charges_once(buyer: Customer) -> None:
    """The official SDKs send a POST up to three times; a retry shows only in this header."""
    responses = [post(buyer, "topup", {"amount": 2000}, **{"x-stainless-retry-count": str(n)}) for n in range(3)]
    assert len({result(response)["payment_intent_id"] for response in responses}) == 1
    plain = post(buyer, "topup", {"amount": 2000})
    assert result(plain)["payment_intent_id"] == result(responses[0])["payment_intent_id"]
    assert charges(buyer) == 1


@pytest.mark.parametrize("reason", ["insufficient_funds", "expired_card", "generic_decline"])
def test_a_declined_card_is_402(buyer: Customer, reason: str) -> None:
    (card,) = buyer.farebox.run(cards.cards(buyer.farebox.services, buyer.account_id))
    http.post(f"{buyer.farebox.stripe_url}/_fake/cards/{card.card_id}", json={"behave": reason}).raise_for_status()
    response = post(buyer, "topup", {"amount": 1000})
    assert (response.status_code, errors(response)[0][0]) == (402, 2925)
    assert response.headers["x-should-retry"] == "false"
    assert buyer.balance.posted == 0
    assert charges(buyer) == 0
    assert get(buyer, "credit-balance")["first_topup_success"] is False
    retried = post(buyer, "topup", {"amount": 1000}, **{"x-stainless-retry-count": "1"})
    assert (retried.status_code, retried.json()) == (402, response.json())


def test_a_purchase_in_progress_blocks_another(buyer: Customer) -> None:
    """The same request waits for the response to the first; a different one is refused until then."""
    fault = {"match": "POST /v1/invoices/*/pay", "kind": "delay_ms", "milliseconds": 700}
    http.post(f"{buyer.farebox.stripe_url}/_fake/faults", json=fault).raise_for_status()
    with ThreadPoolExecutor(2) as pool:
        first, same = (pool.submit(post, buyer, "topup", {"amount": 1000}) for _ in range(2))
        deadline = time.monotonic() + 5
        while not result(call_ours(buyer, "topups?per_page=1")) and time.monotonic() < deadline:
            time.sleep(0.01)
        other = post(buyer, "topup", {"amount": 2000})
    assert (other.status_code, errors(other)[0][0], other.headers["x-should-retry"]) == (409, 2927, "false")
    assert result(first.result())["payment_intent_id"] == result(same.result())["payment_intent_id"]
    assert charges(buyer) == 1


def call_ours(customer: Customer, path: str) -> httpx.Response:
    return http.get(f"{customer.api_url}/farebox/{path}", headers=customer.headers)


def test_a_payment_that_the_owner_confirms_stays_pending(farebox: Farebox) -> None:
    account_id = farebox.create_account()
    customer = Customer(farebox, account_id, farebox.create_token(account_id))
    save_card(customer, "pm_card_authenticationRequired")
    bought = result(post(customer, "topup", {"amount": 1000}))
    assert bought["client_secret"]
    assert bought["action_url"].startswith(farebox.stripe_url)
    status = post(customer, "topup/status", {"payment_intent_id": bought["payment_intent_id"]})
    assert result(status)["status"] == "pending"


def test_another_card_can_be_named(buyer: Customer) -> None:
    first = buyer.farebox.run(cards.cards(buyer.farebox.services, buyer.account_id))[0].card_id
    save_card(buyer, "pm_card_mastercard")
    assert result(post(buyer, "topup", {"amount": 1000}))["brand"] == "mastercard"
    assert result(post(buyer, "topup", {"amount": 1100, "payment_method_id": first}))["brand"] == "visa"


def test_without_a_card_nothing_is_bought(customer: Customer) -> None:
    response = post(customer, "topup", {"amount": 1000})
    assert (response.status_code, errors(response)[0][0]) == (400, 2924)


@pytest.mark.parametrize(
    ("path", "body", "fault"),
    [
        ("topup", {}, (["body", "amount"], "Required")),
        ("topup", {"amount": 1000.5}, (["body", "amount"], "Expected integer, received float")),
        ("topup", {"amount": "1000"}, (["body", "amount"], "Expected number, received string")),
        ("topup", {"amount": True}, (["body", "amount"], "Expected number, received boolean")),
        ("topup", {"amount": None}, (["body", "amount"], "Expected number, received null")),
        ("topup", {"amount": 999}, (["body", "amount"], None)),
        ("topup", {"amount": -1000}, (["body", "amount"], None)),
        ("topup", {"amount": 2**53}, (["body", "amount"], "Number must be less than or equal to 9007199254740991")),
        ("topup", {"amount": 10**9}, (["body", "amount"], None)),
        ("topup", {"amount": 1000, "x": 1}, (["body"], "Unrecognized key(s) in object: 'x'")),
        ("topup/status", {}, (["body", "payment_intent_id"], "Required")),
        ("topup/status", {"payment_intent_id": 1}, (["body", "payment_intent_id"], "Expected string, received number")),
        ("topup/config", {"amount": 1000}, (["body", "threshold"], "Required")),
        ("topup/config", {"threshold": 500}, (["body", "amount"], "Required")),
        (
            "topup/config",
            {"amount": 999, "threshold": 500},
            (["body", "amount"], "Number must be greater than or equal to 1000"),
        ),
        (
            "topup/config",
            {"amount": 1000, "threshold": 499},
            (["body", "threshold"], "Number must be greater than or equal to 500"),
        ),
        ("topup/config", {"amount": 10**9, "threshold": 500}, (["body", "amount"], None)),
        (
            "topup/config",
            {"amount": 1000, "threshold": 500, "on": True},
            (["body"], "Unrecognized key(s) in object: 'on'"),
        ),
        ("spending-limit", {"amount": 99, "duration": "daily", "strategy": "fixed"}, (["body", "amount"], None)),
        ("spending-limit", {"amount": 100, "duration": "daily"}, (["body", "strategy"], "Required")),
    ],
)
def test_errors_name_the_field(buyer: Customer, path: str, body: Any, fault: tuple[list[str], str | None]) -> None:
    response = post(buyer, path, body)
    assert response.status_code == 400
    assert errors(response)[0][0] == 7001
    (found,) = response.json()["errors"]
    assert found["path"] == fault[0]
    assert fault[1] is None or found["message"] == fault[1]
    assert buyer.balance.posted == 0


def test_an_unknown_or_foreign_payment_is_not_found(farebox: Farebox, buyer: Customer) -> None:
    payment_id = result(post(buyer, "topup", {"amount": 1000}))["payment_intent_id"]
    other = farebox.funded("1")
    for recorder, customer in ((payment_id, other), ("in_none", buyer), ("../x", buyer)):
        response = post(customer, "topup/status", {"payment_intent_id": recorder})
        assert (response.status_code, errors(response)[0][0]) == (404, 7002)


def test_auto_top_up_is_set_read_and_removed(buyer: Customer) -> None:
    assert get(buyer, "topup/config") == UNSET
    saved = result(post(buyer, "topup/config", {"amount": 2000, "threshold": 500}))
    assert (saved["amount"], saved["threshold"]) == (2000, 500)
    assert get(buyer, "topup/config") == UNSET | {"amount": 2000, "threshold": 500}
    assert get(buyer, "credit-balance")["topup_config"]["threshold"] == 500
    url = f"{buyer.api_url}/ai-gateway/billing/topup/config"
    for _ in range(2):
        assert result(http.delete(url, headers=buyer.headers)) == {}
    assert get(buyer, "topup/config") == UNSET


def test_auto_top_up_fires_below_the_threshold(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    save_card(customer)
    result(post(customer, "topup/config", {"amount": 2000, "threshold": 500}))
    assert customer.chat().status_code == 200
    assert soon(lambda: get(customer, "credit-balance")["balance"] > 2000)
    assert customer.balance.posted == pytest.approx(2500 * CENT, abs=CENT)
    (invoice,) = get(customer, "invoice-history", type="auto")["invoices"]
    assert (invoice["amount_paid"], invoice["created_by"], invoice["invoice_origin"]) == (2000, "auto_topup", "auto")
    assert get(customer, "invoice-history", type="manual")["invoices"] == []
    assert get(customer, "topup/config") == UNSET | {"amount": 2000, "threshold": 500}
    assert get(customer, "credit-balance")["first_topup_success"] is False  # it counts only manual purchases


def test_a_dead_card_suspends_auto_top_up_and_saving_it_again_lifts_that(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    card_id = save_card(customer)
    http.post(f"{farebox.stripe_url}/_fake/cards/{card_id}", json={"behave": "expired_card"}).raise_for_status()
    result(post(customer, "topup/config", {"amount": 2000, "threshold": 500}))
    customer.chat()
    assert soon(lambda: get(customer, "topup/config")["disabledReason"] is not None)
    config = get(customer, "topup/config")
    assert config["disabledReason"] in DISABLED_REASONS
    assert config["error"]
    assert abs(config["lastFailedAt"] - farebox.services.clock.now_ms()) < 60_000
    assert get(customer, "credit-balance")["topup_config"] == config
    detail = result(call_ours(customer, "auto-topup"))
    assert detail["state"] == "suspended"
    assert detail["meaning"] == DISABLED_REASONS[config["disabledReason"]]
    http.post(f"{farebox.stripe_url}/_fake/cards/{card_id}", json={"behave": "ok"}).raise_for_status()
    result(post(customer, "topup/config", {"amount": 2000, "threshold": 500}))
    assert get(customer, "topup/config") == UNSET | {"amount": 2000, "threshold": 500}


def test_only_billing_write_changes_auto_top_up(farebox: Farebox, buyer: Customer) -> None:
    url = f"{buyer.api_url}/ai-gateway/billing/topup/config"
    body = {"amount": 2000, "threshold": 500}
    for permissions in ((Permission.READ,), (Permission.WRITE,), (Permission.READ, Permission.WRITE, Permission.RUN)):
        token = farebox.create_token(buyer.account_id, *permissions)
        headers = {"authorization": f"Bearer {token}"}
        for refused in (http.post(url, json=body, headers=headers), http.delete(url, headers=headers)):
            assert (refused.status_code, errors(refused)[0][0]) == (403, 2934)
            assert refused.headers["x-should-retry"] == "false"
        assert result(http.get(url, headers=headers)) == UNSET
    token = farebox.create_token(buyer.account_id, Permission.BILLING_WRITE)
    assert http.post(url, json=body, headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_payments_can_be_bought_with_write_and_not_with_read(farebox: Farebox, buyer: Customer) -> None:
    url = f"{buyer.api_url}/ai-gateway/billing/topup"
    for permission, status in ((Permission.READ, 403), (Permission.RUN, 403), (Permission.WRITE, 200)):
        token = farebox.create_token(buyer.account_id, permission)
        response = http.post(url, json={"amount": 1000}, headers={"authorization": f"Bearer {token}"})
        assert response.status_code == status


def test_reasons_are_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for word, meaning in DISABLED_REASONS.items():
        assert f"| `{word}` | {meaning} |" in text


def test_settings_of_the_operator(tmp_path: Path) -> None:
    """The effect of FAREBOX_TOKEN_TOPUP_CONFIG, …_SPENDING_LIMIT_POST and …_AUTO_TOPUP on the wire."""
    with running_farebox(
        tmp_path, token_topup_config="deny", spending_limit_post="deny", topup_min_cents=2500, topup_max_cents=9000
    ) as farebox:
        customer = farebox.funded("1")
        save_card(customer)
        refused = post(customer, "topup/config", {"amount": 2500, "threshold": 500})
        assert (refused.status_code, errors(refused)[0][0]) == (403, 2934)
        link = http.post(f"{customer.api_url}/farebox/billing-link", headers=customer.headers)
        assert (link.status_code, errors(link)[0][0]) == (403, 2934)  # its page could change the balance
        deprecated = post(customer, "spending-limit", {"amount": 100, "duration": "daily", "strategy": "fixed"})
        assert deprecated.status_code == 403
        assert "spending limits are deprecated" in errors(deprecated)[0][1]
        assert get(customer, "topup/limits") == {"min_cents": 2500, "max_cents": 9000, "currency": "USD"}
        for amount in (2499, 9001):
            assert post(customer, "topup", {"amount": amount}).status_code == 400
        assert post(customer, "topup", {"amount": 2500}).status_code == 200
