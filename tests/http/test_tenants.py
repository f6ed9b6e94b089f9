"""A token of one account never sees another: on every route of the table."""

import pytest

from farebox.http.router import Access, Route
from farebox.http.routes import ROUTES
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import errors, http, url
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

OF_ACCOUNTS = [route for route in ROUTES if "account_id" in route.parameters and not route.path.startswith("/ui/")]
"""The routes of the API; for the pages see tests/pages/test_matrix.py."""


@pytest.fixture(scope="module")
def other(farebox: Farebox) -> Customer:
    return farebox.funded("1")


@pytest.fixture(scope="module")
def owner(farebox: Farebox) -> Customer:
    return farebox.funded("1")


@pytest.fixture(scope="module")
def log_id(owner: Customer) -> str:
    """A call of the owner's."""
    return owner.chat().headers["cf-aig-log-id"]


def test_every_route_with_an_account_is_guarded() -> None:
    for route in OF_ACCOUNTS:
        assert route.access is Access.ACCOUNT
        assert route.permissions, route.path
    for route in ROUTES:
        assert (route in OF_ACCOUNTS) == (route.access is Access.ACCOUNT)


@pytest.mark.parametrize("route", OF_ACCOUNTS, ids=lambda route: f"{route.method} {route.path}")
def test_a_foreign_account_is_indistinguishable_from_a_missing_one(
    farebox: Farebox, other: Customer, owner: Customer, log_id: str, route: Route
) -> None:
    responses = [
        http.request(route.method, url(farebox, route, account_id, log_id=log_id), headers=other.headers)
        for account_id in (owner.account_id, "0" * 32, "account_id")
    ]
    for response in responses:
        assert response.status_code == 403
        assert errors(response) == [(10000, "Authentication error")]
        assert response.content == responses[0].content


def test_ids_of_another_account_are_not_found_in_ones_own(
    farebox: Farebox, other: Customer, owner: Customer, log_id: str
) -> None:
    for path in (
        f"ai-gateway/gateways/default/logs/{log_id}",
        f"ai-gateway/gateways/default/logs/{log_id}/request",
        f"ai-gateway/gateways/default/logs/{log_id}/response",
        f"farebox/receipts/{log_id}",
    ):
        assert http.get(f"{owner.api_url}/{path}", headers=owner.headers).status_code == 200
        assert http.get(f"{other.api_url}/{path}", headers=other.headers).status_code == 404
    listed = http.get(f"{other.api_url}/ai-gateway/gateways/default/logs", headers=other.headers)
    assert listed.json()["result"] == []
    accounts = http.get(f"{farebox.url}/client/v4/accounts", headers=other.headers)
    assert [account["id"] for account in accounts.json()["result"]] == [other.account_id]
