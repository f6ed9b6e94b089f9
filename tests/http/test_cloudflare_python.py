"""The official `cloudflare` Python SDK against a running server; the seed pages' calls first."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.http.support import GATEWAY_FIELDS, save_card
from tests.sdks import cloudflare
from tests.support import Customer, Farebox


@pytest.fixture
def client(customer: Customer) -> Iterator[cloudflare.Cloudflare]:
    base_url = f"{customer.farebox.url}/client/v4"
    with cloudflare.Cloudflare(api_token=customer.token, base_url=base_url, max_retries=0) as made:
        yield made


def test_get_credit_balance(customer: Customer, client: cloudflare.Cloudflare) -> None:
    customer.chat()
    found = client.ai_gateway.billing.credit_balance(account_id=customer.account_id)
    assert found.balance == customer.balance.posted / 10_000_000
    assert found.has_default_payment_method is False
    assert found.payment_method is None
    assert found.topup_config.amount is None
    assert found.topup_config.disabled_reason is None
    assert found.first_topup_success is False


def test_get_auto_top_up_configuration(customer: Customer, client: cloudflare.Cloudflare) -> None:
    config = client.ai_gateway.billing.topup.config.get(account_id=customer.account_id)
    assert (config.amount, config.threshold, config.error) == (None, None, None)
    assert (config.disabled_reason, config.last_failed_at) == (None, None)


def test_the_seed_pages_with_their_account(farebox: Farebox, seed_account: str) -> None:
    token = farebox.create_token(seed_account)
    with cloudflare.Cloudflare(api_token=token, base_url=f"{farebox.url}/client/v4") as client:
        assert client.ai_gateway.billing.credit_balance(account_id="account_id").balance == 0
        assert client.ai_gateway.billing.topup.config.get(account_id="account_id").amount is None


def test_billing_reads(customer: Customer, client: cloudflare.Cloudflare) -> None:
    customer.chat()
    billing, account_id = client.ai_gateway.billing, customer.account_id
    usage = billing.usage_history(account_id=account_id, value_grouping_window="hour", start_time=0, end_time=4e12)
    assert len(usage.history) == 1
    assert usage.history[0].aggregated_value > 0
    preview = billing.invoice_preview(account_id=account_id)
    assert preview.invoice_lines[0].amount == preview.amount_due
    assert billing.invoice_history(account_id=account_id, type="auto").invoices == []
    assert billing.spending_limit.get(account_id=account_id).enabled is False


def test_accounts_and_token(customer: Customer, client: cloudflare.Cloudflare) -> None:
    assert [account.id for account in client.accounts.list()] == [customer.account_id]
    account = client.accounts.get(account_id=customer.account_id)
    assert account is not None
    assert account.name == "tester"
    token = client.user.tokens.verify()
    assert token is not None
    assert token.status == "active"


def test_gateways_and_paging_that_ends(customer: Customer, client: cloudflare.Cloudflare) -> None:
    gateways, account_id = client.ai_gateway, customer.account_id
    for gateway_id in ("one", "two", "three"):
        gateways.create(account_id=account_id, id=gateway_id, **GATEWAY_FIELDS)
    assert len(list(gateways.list(account_id=account_id, per_page=2))) == 3
    updated = gateways.update("one", account_id=account_id, **(GATEWAY_FIELDS | {"rate_limiting_limit": 7}))
    assert updated.rate_limiting_limit == 7
    assert gateways.delete("one", account_id=account_id).id == "one"
    with pytest.raises(cloudflare.NotFoundError) as gone:
        gateways.get("one", account_id=account_id)
    assert gone.value.errors[0].code == 7002
    url = gateways.urls.get("demo", account_id=account_id, gateway_id="two")
    assert url.endswith(f"/v1/{account_id}/two/demo")


def test_logs(customer: Customer, client: cloudflare.Cloudflare) -> None:
    ids = [customer.chat().headers["cf-aig-log-id"] for _ in range(3)]
    logs, account_id = client.ai_gateway.logs, customer.account_id
    listed = list(logs.list("default", account_id=account_id, per_page=2))
    assert [log.id for log in listed] == ids[::-1]
    cheap = logs.list(
        "default",
        account_id=account_id,
        filters=[
            {"key": "cost", "operator": "gt", "value": [0.5]},
            {"key": "model", "operator": "eq", "value": ["demo-1"]},
        ],
    )
    assert list(cheap) == []
    assert logs.get(ids[0], account_id=account_id, gateway_id="default").path == "v1/chat/completions"
    assert logs.request(ids[0], account_id=account_id, gateway_id="default")
    assert logs.response(ids[0], account_id=account_id, gateway_id="default")


def test_email_and_key_are_refused_in_its_own_exceptions(farebox: Farebox, customer: Customer) -> None:
    with (
        cloudflare.Cloudflare(
            api_email="user@example.com",
            api_key="144c9defac04969c7bfad8efaa8ea194",
            base_url=f"{farebox.url}/client/v4",
            max_retries=0,
        ) as client,
        pytest.raises(cloudflare.PermissionDeniedError) as refused,
    ):
        client.ai_gateway.billing.credit_balance(account_id=customer.account_id)
    assert refused.value.errors[0].code == 9103


def test_the_whole_billing_lifecycle(farebox: Farebox) -> None:
    """Every billing method of the SDK, on an account that buys 50 USD, spends part of it, and sets limits."""
    account_id = farebox.create_account()
    owner = Customer(farebox, account_id, farebox.create_token(account_id))
    save_card(owner)
    client = cloudflare.Cloudflare(api_token=owner.token, base_url=f"{farebox.url}/client/v4", max_retries=0)
    billing = client.ai_gateway.billing
    bought = billing.topup.create(account_id=account_id, amount=5000)
    assert (bought.client_secret, bought.onboarding, bought.brand, bought.last4) == (None, True, "visa", "4242")
    status = billing.topup.status(account_id=account_id, payment_intent_id=bought.payment_intent_id)
    assert (status.status, status.payment_intent_id) == ("completed", bought.payment_intent_id)
    saved = billing.topup.config.create(account_id=account_id, amount=2000, threshold=500)
    assert (saved.amount, saved.threshold) == (2000, 500)
    config = billing.topup.config.get(account_id=account_id)
    assert (config.amount, config.threshold, config.disabled_reason, config.error) == (2000, 500, None, None)
    owner.chat()
    spent = 50 * 10**9 - owner.balance.posted
    balance = billing.credit_balance(account_id=account_id)
    assert balance.balance == pytest.approx(5000 - spent / 10**7)
    assert (balance.has_default_payment_method, balance.first_topup_success) == (True, True)
    assert balance.topup_config.amount == 2000
    (invoice,) = billing.invoice_history(account_id=account_id, type="manual").invoices
    assert (invoice.id, invoice.amount_paid, invoice.status) == (bought.payment_intent_id, 5000, "paid")
    assert billing.invoice_history(account_id=account_id, type="auto").invoices == []
    (line,) = billing.invoice_preview(account_id=account_id).invoice_lines
    assert line.amount == pytest.approx(spent / 10**7)
    (usage,) = billing.usage_history(account_id=account_id, value_grouping_window="day").history
    assert usage.aggregated_value == pytest.approx(spent / 10**7)
    with pytest.warns(DeprecationWarning, match="deprecated"):  # Cloudflare has deprecated it
        billing.spending_limit.create(account_id=account_id, amount=10000, duration="monthly", strategy="fixed")
    limit = billing.spending_limit.get(account_id=account_id)
    assert (limit.enabled, limit.config.amount, limit.config.duration) == (True, 10000, "monthly")
    billing.spending_limit.delete(account_id=account_id)
    assert billing.spending_limit.get(account_id=account_id).enabled is False
    billing.topup.config.delete(account_id=account_id)
    assert billing.topup.config.get(account_id=account_id).amount is None
    client.close()


def test_the_retries_of_the_sdk_charge_once(farebox: Farebox) -> None:
    """The response to the first attempt is lost; the SDK repeats the request with only its retry count added."""
    account_id = farebox.create_account()
    owner = Customer(farebox, account_id, farebox.create_token(account_id))
    save_card(owner)
    lost = _LosesTheFirstResponse()
    with httpx.Client(transport=lost) as transport:
        client = cloudflare.Cloudflare(
            api_token=owner.token, base_url=f"{farebox.url}/client/v4", http_client=transport
        )
        bought = client.ai_gateway.billing.topup.create(account_id=account_id, amount=1000)
        (invoice,) = client.ai_gateway.billing.invoice_history(account_id=account_id).invoices
    assert lost.requests == 3
    assert owner.balance.posted == 10 * 10**9
    assert invoice.id == bought.payment_intent_id


class _LosesTheFirstResponse(httpx.HTTPTransport):
    requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        self.requests += 1
        if self.requests == 1:
            response.read()
            raise httpx.ReadError("the connection was lost")
        return response
