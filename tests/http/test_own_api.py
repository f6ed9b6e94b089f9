"""Farebox's own API besides Cloudflare's: cards, hosted Checkout, refunds, disputes, lots, holds, documents, the
profile."""

import csv
import io
from typing import Any

import httpx
import pytest

from farebox.model import Permission
from tests.http.support import errors, http, result, save_card, soon
from tests.support import Customer, Farebox

CENT = 10_000_000
USD = 1_000_000_000


@pytest.fixture
def buyer(farebox: Farebox) -> Customer:
    account_id = farebox.create_account()
    customer = Customer(farebox, account_id, farebox.create_token(account_id))
    save_card(customer)
    return customer


def call(customer: Customer, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    url = f"{customer.api_url}/farebox/{path}"
    return http.request(method, url, json=body, headers=customer.headers | headers)


def get(customer: Customer, path: str) -> Any:
    return result(call(customer, "GET", path))


def buy(customer: Customer, cents: int) -> str:
    """Buy credit; Farebox's ID of the purchase."""
    url = f"{customer.api_url}/ai-gateway/billing/topup"
    payment_id = result(http.post(url, json={"amount": cents}, headers=customer.headers))["payment_intent_id"]
    top_up_id: str = get(customer, f"topups/{payment_id}")["id"]
    return top_up_id


def test_cards_are_listed_chosen_and_removed(buyer: Customer) -> None:
    (visa,) = get(buyer, "payment-methods")["payment_methods"]
    assert (visa["brand"], visa["last4"], visa["is_default"]) == ("visa", "4242", True)
    save_card(buyer, "pm_card_mastercard")
    mastercard, old = get(buyer, "payment-methods")["payment_methods"]
    assert (mastercard["brand"], mastercard["is_default"], old["is_default"]) == ("mastercard", True, False)
    chosen = result(call(buyer, "POST", f"payment-methods/{visa['id']}/default"))["payment_methods"]
    assert [card["id"] for card in chosen if card["is_default"]] == [visa["id"]]
    left = result(call(buyer, "DELETE", f"payment-methods/{visa['id']}"))["payment_methods"]
    assert [(card["id"], card["is_default"]) for card in left] == [(mastercard["id"], True)]
    assert call(buyer, "DELETE", f"payment-methods/{visa['id']}").status_code == 404


def test_cards_of_another_account_are_not_found(farebox: Farebox, buyer: Customer) -> None:
    other = farebox.funded("1")
    (card,) = get(buyer, "payment-methods")["payment_methods"]
    top_up_id = buy(buyer, 1000)
    for method, path in (
        ("POST", f"payment-methods/{card['id']}/default"),
        ("DELETE", f"payment-methods/{card['id']}"),
        ("GET", f"topups/{top_up_id}"),
        ("GET", f"refunds/{top_up_id}"),
    ):
        assert call(other, method, path).status_code == 404
    refund = call(other, "POST", "refunds", {"top_up_id": top_up_id})
    assert refund.status_code == 404
    buying = http.post(
        f"{other.api_url}/ai-gateway/billing/topup",
        json={"amount": 1000, "payment_method_id": card["id"]},
        headers=other.headers,
    )
    assert buying.status_code in (400, 404)
    assert get(other, "topups") == []
    assert buyer.balance.posted == 1000 * CENT


def test_a_checkout_link(buyer: Customer) -> None:
    opened = result(call(buyer, "POST", "checkout", {"mode": "setup"}))
    assert opened["url"].startswith(buyer.farebox.stripe_url)
    assert get(buyer, f"checkout/{opened['id']}")["state"] == "open"
    bought = result(call(buyer, "POST", "checkout", {"mode": "purchase", "amount_cents": 1500}))
    assert bought["top_up_id"]
    assert http.get(bought["url"]).status_code == 200
    other = buyer.farebox.funded("1")
    assert call(other, "GET", f"checkout/{opened['id']}").status_code == 404


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"mode": "purchase"}, ["body", "amount_cents"]),
        ({"mode": "setup", "amount_cents": 1000}, ["body", "amount_cents"]),
        ({"mode": "setup", "success_url": "javascript:alert(1)"}, ["body", "success_url"]),
        ({"mode": "setup", "success_url": "//example.com"}, ["body", "success_url"]),
        ({"mode": "setup", "cancel_url": "https://a b"}, ["body", "cancel_url"]),
        ({"mode": "setup", "cancel_url": "http://[::1"}, ["body", "cancel_url"]),
        ({"mode": "sale"}, ["body", "mode"]),
        ({"mode": "purchase", "amount_cents": 1}, ["body", "amount"]),
    ],
)
def test_checkout_errors_name_the_field(buyer: Customer, body: Any, path: list[str]) -> None:
    response = call(buyer, "POST", "checkout", body)
    assert response.status_code == 400
    assert response.json()["errors"][0]["path"] in (path, ["body", "amount_cents"])


def test_a_refund_takes_the_credit_and_has_a_credit_note(buyer: Customer) -> None:
    top_up_id = buy(buyer, 3000)
    body = {"top_up_id": top_up_id, "credit_cents": 1000, "reason": "too much"}
    made = [result(call(buyer, "POST", "refunds", body, **{"idempotency-key": "r1"})) for _ in range(2)]
    assert made[0]["id"] == made[1]["id"]
    assert (made[0]["amount_cents"], made[0]["credit_cents"]) == (1000, 1000)
    assert buyer.balance.posted == 2000 * CENT
    assert get(buyer, f"refunds/{made[0]['id']}")["reason"] == "too much"
    assert len(get(buyer, "refunds")) == 1
    assert get(buyer, f"topups/{top_up_id}")["refunded_cents"] == 1000
    too_much = call(buyer, "POST", "refunds", {"top_up_id": top_up_id, "credit_cents": 2001})
    assert (too_much.status_code, errors(too_much)[0][0]) == (400, 2932)
    rest = result(call(buyer, "POST", "refunds", {"top_up_id": top_up_id}))
    assert rest["credit_cents"] == 2000
    assert buyer.balance.posted == 0


def test_refunds_need_billing_write(farebox: Farebox, buyer: Customer) -> None:
    top_up_id = buy(buyer, 1000)
    weaker = Customer(farebox, buyer.account_id, farebox.create_token(buyer.account_id, Permission.WRITE))
    for method, path, body in (
        ("POST", "refunds", {"top_up_id": top_up_id}),
        ("POST", "checkout", {"mode": "setup"}),
        ("POST", "billing-link", None),
        ("PUT", "billing-profile", {}),
        ("DELETE", "payment-methods/x", None),
    ):
        assert call(weaker, method, path, body).status_code == 403
    assert buyer.balance.posted == 1000 * CENT


def test_lots_in_the_order_they_are_spent(buyer: Customer) -> None:
    buy(buyer, 1000)
    buyer.farebox.grant(buyer.account_id, "2")
    granted, bought = get(buyer, "lots")
    assert (granted["book"], granted["remaining_nanos"]) == ("granted", 2 * USD)
    assert (bought["book"], bought["amount_nanos"], bought["expires_at"]) == ("credit", 10 * USD, None)
    assert get(buyer, "lots?spent=true&per_page=1")[0]["lot_id"] == granted["lot_id"]
    assert call(buyer, "GET", "lots?spent=perhaps").status_code == 400


def test_the_statement_as_csv(buyer: Customer) -> None:
    buy(buyer, 1000)
    assert buyer.chat().status_code == 200
    plain = get(buyer, "transfers")
    for response in (
        call(buyer, "GET", "transfers?format=csv"),
        call(buyer, "GET", "transfers", accept="text/csv;q=1, */*"),
    ):
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert response.headers["x-total-count"] == str(len(plain))
        found = list(csv.DictReader(io.StringIO(response.text)))
        assert [int(line["version"]) for line in found] == [transfer["version"] for transfer in plain]
        assert [int(line["amount_nanos"]) for line in found] == [transfer["amount_nanos"] for transfer in plain]
        assert found[-1]["amount_usd"] == "10.00"
    assert "json" in call(buyer, "GET", "transfers?format=json", accept="text/csv").headers["content-type"]


def test_a_csv_cell_is_never_a_formula(customer: Customer) -> None:
    held = {"hold_id": "h", "amount_nanos": 1000}
    assert call(customer, "POST", "holds", held).status_code == 201
    settled = call(customer, "POST", "holds/h/settle", {"amount_nanos": 1000, "note": '=cmd|"/c calc"!A0'})
    assert settled.status_code == 200, settled.text
    found = list(csv.DictReader(io.StringIO(call(customer, "GET", "transfers?format=csv").text)))
    assert found[0]["note"] == '\'=cmd|"/c calc"!A0'


def test_the_statement_can_be_filtered(buyer: Customer) -> None:
    buy(buyer, 1000)
    buyer.chat()
    (charge,) = get(buyer, "transfers?kind=charge")
    assert charge["kind"] == "charge"
    assert get(buyer, "transfers?to=2020-01-01") == []
    assert len(get(buyer, "transfers?from=2020-01-01T00:00:00%2B02:00")) == 2
    assert get(buyer, f"transfers?to={charge['created_at']}&kind=charge") == []
    assert len(get(buyer, f"transfers?from={charge['created_at']}&kind=charge")) == 1
    for wrong in ("kind=theft", "from=yesterday", "to=1e9", "format=xml"):
        assert call(buyer, "GET", f"transfers?{wrong}").status_code == 400
    paged = call(buyer, "GET", "transfers?kind=top_up&per_page=1&page=2").json()
    assert (paged["result"], paged["result_info"]["total_count"]) == ([], 1)


def test_the_life_cycle_of_a_hold(customer: Customer) -> None:
    made = call(customer, "POST", "holds", {"hold_id": "job-1", "amount_nanos": USD, "label": "report"})
    assert made.status_code == 201
    assert result(made)["state"] == "open"
    assert result(call(customer, "POST", "holds", {"hold_id": "job-1", "amount_nanos": USD}))["label"] == "report"
    assert customer.balance.held == USD
    reused = call(customer, "POST", "holds", {"hold_id": "job-1", "amount_nanos": 2 * USD})
    assert (reused.status_code, errors(reused)[0][0]) == (409, 2928)
    extended = result(call(customer, "POST", "holds/job-1/extend", {"amount_nanos": 2 * USD}))
    assert (extended["asked_nanos"], extended["amount_nanos"]) == (USD, 2 * USD)
    body = {"amount_nanos": 123, "provider": "application", "model": "report"}
    for _ in range(2):
        settled = result(call(customer, "POST", "holds/job-1/settle", body))
        assert (settled["state"], settled["charged_nanos"], settled["written_off_nanos"]) == ("settled", 123, 0)
    assert (customer.balance.posted, customer.balance.held) == (5 * USD - 123, 0)
    for path, again in (("settle", {"amount_nanos": 124}), ("release", None), ("extend", {"amount_nanos": 3 * USD})):
        late = call(customer, "POST", f"holds/job-1/{path}", again)
        assert (late.status_code, late.headers["x-should-retry"]) == (409, "false")
    (usage,) = result(
        http.get(
            f"{customer.api_url}/ai-gateway/billing/usage-history?value_grouping_window=day", headers=customer.headers
        )
    )["history"]
    assert usage["aggregated_value"] == pytest.approx(123 / CENT)


def test_holds_are_refused_as_calls_are(farebox: Farebox, customer: Customer) -> None:
    too_much = call(customer, "POST", "holds", {"hold_id": "a", "amount_nanos": 6 * USD})
    assert (too_much.status_code, errors(too_much)[0][0]) == (402, 2021)
    named = call(customer, "POST", "holds", {"amount_nanos": 5 * USD}, **{"idempotency-key": "key-1"})
    assert result(named)["hold_id"] == "key-1"
    kept = call(customer, "POST", "holds", {"hold_id": "b", "amount_nanos": 1})
    assert (kept.status_code, errors(kept)[0][0]) == (429, 2907)
    runner = Customer(farebox, customer.account_id, farebox.create_token(customer.account_id, Permission.RUN))
    assert result(call(runner, "POST", "holds/key-1/release"))["state"] == "released"
    reader = Customer(farebox, customer.account_id, farebox.create_token(customer.account_id, Permission.READ))
    assert call(reader, "POST", "holds", {"hold_id": "c", "amount_nanos": 1}).status_code == 403
    other = farebox.funded("1")
    for path in ("settle", "release", "extend"):
        body = {"amount_nanos": 1} if path != "release" else None
        assert call(other, "POST", f"holds/key-1/{path}", body).status_code == 404
    assert call(other, "GET", "holds/key-1").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"amount_nanos": 1},
        {"hold_id": "a/b", "amount_nanos": 1},
        {"hold_id": "", "amount_nanos": 1},
        {"hold_id": "a", "amount_nanos": 0},
        {"hold_id": "a", "amount_nanos": 10**19},
        {"hold_id": "a", "amount_nanos": 1, "expires_in_ms": 1},
        {"hold_id": "a", "amount_nanos": 1, "label": "x" * 201},
        {"hold_id": "a", "amount_nanos": 1, "amount": 2},
    ],
)
def test_hold_errors_name_the_field(customer: Customer, body: Any) -> None:
    response = call(customer, "POST", "holds", body)
    assert (response.status_code, errors(response)[0][0]) == (400, 7001)


def test_a_spending_limit_and_what_is_spent_of_it(customer: Customer) -> None:
    assert set(get(customer, "spending-limit").values()) == {None}
    url = f"{customer.api_url}/ai-gateway/billing/spending-limit"
    wanted = {"amount": 100, "duration": "daily", "strategy": "sliding"}
    saved = http.post(url, json=wanted, headers=customer.headers)
    assert saved.status_code == 201
    assert result(saved) == {"enabled": True, "config": wanted}
    assert result(http.get(url, headers=customer.headers)) == {"enabled": True, "config": wanted}
    assert call(customer, "POST", "holds", {"hold_id": "a", "amount_nanos": USD}).status_code == 201
    state = get(customer, "spending-limit")
    assert (state["limit_nanos"], state["spent_nanos"], state["held_nanos"]) == (USD, 0, USD)
    assert (state["available_nanos"], state["window_end"]) == (0, None)
    beyond = call(customer, "POST", "holds", {"hold_id": "b", "amount_nanos": 1})
    assert beyond.status_code == 429
    for _ in range(2):
        assert result(http.delete(url, headers=customer.headers)) == {}
    assert result(http.get(url, headers=customer.headers))["enabled"] is False


def test_the_billing_profile(customer: Customer) -> None:
    wanted = {
        "name": "Ada Ltd",
        "email": "ada@example.com",
        "address": "1 Main Street\nLondon",
        "country": "GB",
        "tax_id": "GB123456789",
        "low_balance_cents": 300,
    }
    assert result(call(customer, "PUT", "billing-profile", wanted)) == wanted
    assert get(customer, "billing-profile") == wanted
    emptied = result(call(customer, "PUT", "billing-profile", {}))
    assert (emptied["name"], emptied["country"]) == ("", "")
    for wrong in ({"email": "x"}, {"country": "Germany"}, {"low_balance_cents": -1}, {"top_up_max_cents": 1}):
        assert call(customer, "PUT", "billing-profile", wrong).status_code == 400


def test_auto_top_up_in_detail(buyer: Customer) -> None:
    assert get(buyer, "auto-topup")["state"] is None
    url = f"{buyer.api_url}/ai-gateway/billing/topup/config"
    body = {"amount": 2000, "threshold": 500, "monthly_cap": 20000}
    result(http.post(url, json=body, headers=buyer.headers))
    found = get(buyer, "auto-topup")
    assert (found["state"], found["monthly_cap_cents"], found["disabled_reason"]) == ("active", 20000, None)


def test_documents(buyer: Customer) -> None:
    top_up_id = buy(buyer, 1000)
    result(call(buyer, "POST", "refunds", {"top_up_id": top_up_id}))
    kinds = {document["kind"]: document for document in get(buyer, "documents")}
    assert kinds["invoice"]["total_cents"] == 1000
    for document in kinds.values():
        own = call(buyer, "GET", f"documents/{document['number']}.pdf")
        assert own.content[:5] == http.get(document["pdf"]).content[:5] == b"%PDF-"
        assert call(buyer.farebox.funded("1"), "GET", f"documents/{document['number']}.pdf").status_code == 404
    assert http.get(kinds["invoice"]["pdf"] + "0").status_code == 403


def test_a_link_to_the_billing_page(buyer: Customer) -> None:
    link = result(call(buyer, "POST", "billing-link"))["url"]
    opened = httpx.get(link, follow_redirects=True)
    assert opened.status_code == 200
    assert opened.headers["content-type"].startswith("text/html")


def test_a_dispute_takes_the_credit_and_gives_it_back_when_it_is_won(buyer: Customer) -> None:
    top_up_id = buy(buyer, 1000)
    payment_id = get(buyer, f"topups/{top_up_id}")["payment_intent_id"]
    assert get(buyer, "disputes") == []
    stripe_url = buyer.farebox.stripe_url
    charge = next(
        payment for payment in http.get(f"{stripe_url}/_fake/ledger").json()["payments"] if payment_id in str(payment)
    )
    opened = http.post(f"{stripe_url}/_fake/disputes", json={"charge": charge["charge"]})
    assert opened.status_code == 200, opened.text
    assert soon(lambda: [dispute["state"] for dispute in get(buyer, "disputes")] == ["open"])
    assert buyer.balance.posted == 0
    (dispute,) = get(buyer, "disputes")
    assert (dispute["top_up_id"], dispute["amount_cents"], dispute["credit_cents"]) == (top_up_id, 1000, 1000)
    http.post(f"{stripe_url}/_fake/disputes/{dispute['id']}/close", json={"status": "won"}).raise_for_status()
    assert soon(lambda: get(buyer, "disputes")[0]["state"] == "won")
    assert buyer.balance.posted == 1000 * CENT


def test_failed_purchases_are_listed_too(buyer: Customer) -> None:
    (card,) = get(buyer, "payment-methods")["payment_methods"]
    http.post(f"{buyer.farebox.stripe_url}/_fake/cards/{card['id']}", json={"behave": "expired_card"})
    url = f"{buyer.api_url}/ai-gateway/billing/topup"
    assert http.post(url, json={"amount": 1000}, headers=buyer.headers).status_code == 402
    (failed,) = get(buyer, "topups")
    assert (failed["state"], failed["credit_cents"]) == ("failed", 1000)
    assert (failed["paid_at"], failed["invoice_pdf"]) == (None, None)
    assert failed["error"]


def test_webhook_endpoints_are_the_accounts_own(farebox: Farebox, customer: Customer) -> None:
    made = call(customer, "POST", "webhooks", {"url": "https://example.com/hook", "kinds": ["top_up_paid"]})
    endpoint = result(made)
    assert made.status_code == 201
    assert endpoint["secret"]
    assert [item["endpoint_id"] for item in get(customer, "webhooks")] == [endpoint["endpoint_id"]]
    other = farebox.funded("1")
    assert get(other, "webhooks") == []
    assert call(other, "DELETE", f"webhooks/{endpoint['endpoint_id']}").status_code == 404
    assert "secret" not in get(customer, "webhooks")[0]
    result(call(customer, "DELETE", f"webhooks/{endpoint['endpoint_id']}"))
    assert get(customer, "webhooks") == []


def test_an_unsigned_webhook_is_refused(farebox: Farebox) -> None:
    for headers in ({}, {"stripe-signature": "t=1,v1=00"}):
        response = http.post(f"{farebox.url}/webhooks/stripe", content=b"{}", headers=headers)
        assert (response.status_code, errors(response)[0][0]) == (400, 2935)
    large = http.post(f"{farebox.url}/webhooks/stripe", content=b" " * (2**20 + 1))
    assert large.status_code == 413


def test_a_key_is_scoped_to_its_account(farebox: Farebox, buyer: Customer) -> None:
    """Purchases, hosted pages, refunds and holds with the same key: accounts neither get each other's nor block each
    other."""
    other_id = farebox.create_account()
    other = Customer(farebox, other_id, farebox.create_token(other_id))
    save_card(other)
    key, page_key = {"idempotency-key": "the-same"}, {"idempotency-key": "the-same-page"}
    purchases, pages, refunds, holds = set(), set(), set(), set()
    for customer, cents in ((buyer, 2000), (other, 3000), (buyer, 2000), (other, 3000)):
        url = f"{customer.api_url}/ai-gateway/billing/topup"
        bought = result(http.post(url, json={"amount": cents}, headers=customer.headers | key))["payment_intent_id"]
        page = result(call(customer, "POST", "checkout", {"mode": "purchase", "amount_cents": cents}, **page_key))
        top_up_id = get(customer, f"topups/{bought}")["id"]
        refunded = call(customer, "POST", "refunds", {"top_up_id": top_up_id, "credit_cents": cents // 4}, **key)
        held = call(customer, "POST", "holds", {"amount_nanos": cents * CENT // 4}, **key)
        purchases.add((customer.account_id, bought))
        pages.add((customer.account_id, page["id"]))
        refunds.add((customer.account_id, result(refunded)["id"]))
        holds.add((customer.account_id, result(held)["hold_id"], result(held)["amount_nanos"]))
    for found in (purchases, pages, refunds, holds):
        assert len(found) == 2, found
    assert len({page_id for _, page_id in pages}) == 2
    for customer, cents in ((buyer, 2000), (other, 3000)):
        assert soon(lambda customer=customer, cents=cents: customer.balance.posted == cents * 3 // 4 * CENT)  # type: ignore[misc]
        assert customer.balance.held == cents * CENT // 4
        (refund_id,) = [each for account, each in refunds if account == customer.account_id]
        assert get(customer, f"refunds/{refund_id}")["credit_cents"] == cents // 4
        assert len(get(customer, "refunds")) == 1
    assert result(call(buyer, "POST", "holds/the-same/release"))["state"] == "released"
    assert (buyer.balance.held, other.balance.held) == (0, 3000 * CENT // 4)
