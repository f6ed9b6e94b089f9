"""Expensive operations are rate-limited by account, so that no account uses up the processor's rate limit or Farebox's
own."""

import httpx
import pytest
from structlog.testing import capture_logs

from farebox.billing.processor_events import REFUSALS_LOGGED
from farebox.http import quotas
from farebox.http.quotas import Quota
from farebox.http.routes import ROUTES
from tests.http.support import errors, http
from tests.support import Customer, Farebox
from tests.waiting import start_of_window

OPENED = {"mode": "setup"}


@pytest.mark.parametrize(
    ("budget", "method", "path", "body"),
    [
        (quotas.CHANGES, "DELETE", "ai-gateway/gateways/none", None),
        (quotas.PROCESSOR_REQUESTS, "POST", "ai-gateway/billing/topup", {"amount": 1}),
        (quotas.POLLS, "GET", "farebox/checkout/cs_test_unknown", None),
        (quotas.PAGES, "POST", "farebox/checkout", OPENED),
        (quotas.LINKS, "POST", "farebox/billing-link", None),
        (quotas.DOCUMENTS, "GET", "farebox/documents/none.pdf", None),
        (quotas.TESTS, "POST", "farebox/webhooks/none/test", None),
        (quotas.MODEL_LISTS, "GET", "ai/models/search", None),
    ],
    ids=lambda value: value.name if isinstance(value, Quota) else None,
)
def test_an_accounts_requests_are_limited(
    farebox: Farebox, budget: Quota, method: str, path: str, body: object
) -> None:
    greedy, other = farebox.funded("1"), farebox.funded("1")

    def call(customer: Customer) -> httpx.Response:
        return http.request(method, f"{customer.api_url}/{path}", json=body, headers=customer.headers)

    start_of_window(budget.seconds)
    first = call(greedy)
    assert first.status_code != 429
    for _ in range(budget.limit - 1):
        quotas.spend(farebox.services, budget, greedy.account_id)
    refused = call(greedy)
    assert (refused.status_code, errors(refused)[0][0]) == (429, 2003)
    assert 0 < int(refused.headers["retry-after"]) <= budget.seconds
    assert call(other).status_code == first.status_code


def test_the_data_planes_list_of_models_shares_the_quota_of_the_apis(customer: Customer) -> None:
    start_of_window(quotas.MODEL_LISTS.seconds)
    for _ in range(quotas.MODEL_LISTS.limit):
        quotas.spend(customer.farebox.services, quotas.MODEL_LISTS, customer.account_id)
    for url in (f"{customer.gateway_url}/compat/models", f"{customer.api_url}/ai/v1/models"):
        refused = http.get(url, headers=customer.headers)
        assert (refused.status_code, refused.json()["internalCode"]) == (429, 2003)


def test_unauthorized_calls_do_not_use_quota(farebox: Farebox) -> None:
    owner, other = farebox.funded("1"), farebox.funded("1")
    url = f"{owner.api_url}/farebox/webhooks/none/test"
    for _ in range(quotas.TESTS.limit + 1):
        assert http.post(url, headers=other.headers).status_code == 403
    assert http.post(url, headers=owner.headers).status_code == 404


def test_every_quota_is_used_by_a_route() -> None:
    used = {route.budget for route in ROUTES}
    assert {
        quotas.PROCESSOR_REQUESTS,
        quotas.POLLS,
        quotas.PAGES,
        quotas.LINKS,
        quotas.DOCUMENTS,
        quotas.TESTS,
        quotas.CHANGES,
    } <= used


def test_forged_webhooks_do_not_fill_the_log(farebox: Farebox) -> None:
    with capture_logs() as lines:
        for _ in range(REFUSALS_LOGGED + 5):
            response = http.post(
                f"{farebox.url}/webhooks/stripe", content=b"{}", headers={"stripe-signature": "t=1,v1=0"}
            )
            assert (response.status_code, errors(response)[0][0]) == (400, 2935)
    reported = [line for line in lines if line["event"] == "webhook refused"]
    assert 0 < len(reported) <= REFUSALS_LOGGED
