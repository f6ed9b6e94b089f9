import time

import httpx
import pytest

from farebox.clock import SystemClock
from farebox.model import Permission
from farebox.storage.accounts import add_user, list_tokens, revoke_token
from tests.http.support import GATEWAY_FIELDS, errors, http, result
from tests.support import Customer, Farebox

MISSING = (400, [(9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")])
MALFORMED = (400, [(6003, "Invalid request headers")])
REJECTED = (401, [(9109, "Invalid access token")])
WRONG_KEY = (403, [(9103, "Unknown X-Auth-Key or X-Auth-Email")])
EMAIL = "someone@example.com"
KEY = "144c9defac04969c7bfad8efaa8ea194"


@pytest.fixture
def user(farebox: Farebox, customer: Customer) -> dict[str, str]:
    """Headers of a user who is a member of the customer's account."""
    email = f"{customer.account_id}@example.com"
    services = farebox.services
    key_hash = services.vault.hash_token(KEY)
    farebox.run(services.database.write(lambda c: add_user(c, email, key_hash, [customer.account_id], 0)))
    return {"x-auth-email": email, "x-auth-key": KEY}


def refusal(response: httpx.Response) -> tuple[int, list[tuple[int, str]]]:
    return response.status_code, errors(response)


@pytest.mark.parametrize(
    ("headers", "expected", "chain"),
    [
        ({}, MISSING, None),
        ({"x-other": "x"}, MISSING, None),
        ({"authorization": "Basic abc"}, MALFORMED, [6111]),
        ({"authorization": "Bearer"}, MALFORMED, [6111]),
        ({"authorization": "Bearer two words"}, MALFORMED, [6111]),
        ({"authorization": "Bearer " + "x" * 600}, MALFORMED, [6111]),
        ({"authorization": "Bearer fbx_unknown"}, REJECTED, None),
        ({"x-auth-key": KEY}, MALFORMED, [6102]),
        ({"x-auth-email": EMAIL}, MALFORMED, [6103]),
        ({"x-auth-email": "nobody", "x-auth-key": KEY}, MALFORMED, [6102]),
        ({"x-auth-email": EMAIL, "x-auth-key": "two words"}, MALFORMED, [6103]),
        ({"x-auth-email": EMAIL, "x-auth-key": KEY}, WRONG_KEY, None),
        ({"authorization": "Bearer fbx_unknown", "x-auth-email": EMAIL, "x-auth-key": KEY}, REJECTED, None),
    ],
)
def test_credentials_that_are_refused(
    customer: Customer, headers: dict[str, str], expected: object, chain: list[int] | None
) -> None:
    response = http.get(f"{customer.api_url}/ai-gateway/billing/credit-balance", headers=headers)
    assert refusal(response) == expected
    if chain is not None:
        assert [link["code"] for link in response.json()["errors"][0]["error_chain"]] == chain


def test_a_revoked_token_is_refused(farebox: Farebox, customer: Customer) -> None:
    services = farebox.services
    token = farebox.run(services.database.scan(lambda c: list_tokens(c, customer.account_id)))[0]
    farebox.run(services.database.write(lambda c: revoke_token(c, token.token_id, 1)))
    farebox.run(_forget(farebox))
    response = http.get(f"{customer.api_url}/farebox/balance", headers=customer.headers)
    assert refusal(response) == REJECTED


async def _forget(farebox: Farebox) -> None:
    await farebox.services.configuration.notice_changes()


def test_an_expired_token_is_refused(farebox: Farebox) -> None:
    account_id = farebox.create_account()
    token = farebox.create_token(account_id, expires_at=SystemClock().now_ms() - 1)
    response = http.get(f"{farebox.url}/client/v4/user/tokens/verify", headers={"authorization": f"Bearer {token}"})
    assert refusal(response) == (401, [(1000, "Invalid API Token")])


def test_a_revoked_or_expired_token_stops_working_on_an_open_connection(farebox: Farebox, customer: Customer) -> None:
    services = farebox.services
    revoked = farebox.run(services.database.get(lambda c: list_tokens(c, customer.account_id)))[0]
    expiring = farebox.create_token(customer.account_id, expires_at=SystemClock().now_ms() + 2_000)
    url = f"{customer.api_url}/ai-gateway/billing/credit-balance"
    with httpx.Client() as one, httpx.Client(headers={"authorization": f"Bearer {expiring}"}) as other:
        for _ in range(3):
            assert one.get(url, headers=customer.headers).status_code == other.get(url).status_code == 200
        farebox.run(services.database.write(lambda c: revoke_token(c, revoked.token_id, 1)))
        farebox.run(services.configuration.notice_changes())
        assert refusal(one.get(url, headers=customer.headers)) == REJECTED
        time.sleep(2)
        assert refusal(other.get(url)) == REJECTED


def test_a_user_signs_in_with_email_and_key(customer: Customer, user: dict[str, str]) -> None:
    response = http.get(f"{customer.api_url}/ai-gateway/billing/credit-balance", headers=user)
    assert result(response)["balance"] == 500
    wrong = http.get(f"{customer.api_url}/farebox/balance", headers=user | {"x-auth-key": KEY[:-1]})
    assert refusal(wrong) == WRONG_KEY


def test_of_two_credentials_the_valid_one_wins(farebox: Farebox, customer: Customer, user: dict[str, str]) -> None:
    url = f"{customer.api_url}/farebox/balance"
    for token in ("Bearer fbx_unknown", "Basic abc"):
        result(http.get(url, headers=user | {"authorization": token}))
    other = farebox.funded("1")
    assert http.get(url, headers=user | other.headers).status_code == 403  # the key does not extend a valid token


def test_a_user_sees_only_the_accounts_of_their_memberships(
    farebox: Farebox, customer: Customer, user: dict[str, str]
) -> None:
    listed = result(http.get(f"{farebox.url}/client/v4/accounts", headers=user))
    assert [account["id"] for account in listed] == [customer.account_id]


def test_verify_describes_the_token(farebox: Farebox, customer: Customer) -> None:
    url = f"{farebox.url}/client/v4/user/tokens/verify"
    response = http.get(url, headers=customer.headers)
    assert result(response)["status"] == "active"
    assert response.json()["messages"][0]["message"] == "This API Token is valid and active"
    assert refusal(http.get(url)) == MISSING
    assert refusal(http.get(url, headers={"authorization": "x"})) == MALFORMED


@pytest.mark.parametrize("permission", list(Permission))
def test_permissions(farebox: Farebox, permission: Permission) -> None:
    account_id = farebox.create_account()
    headers = {"authorization": f"Bearer {farebox.create_token(account_id, permission)}"}
    gateways = f"{farebox.url}/client/v4/accounts/{account_id}/ai-gateway/gateways"
    may_read = permission in (Permission.READ, Permission.WRITE)
    assert http.get(gateways, headers=headers).status_code == (200 if may_read else 403)
    created = http.post(gateways, headers=headers, json={"id": "mine"} | GATEWAY_FIELDS)
    assert created.status_code == (200 if permission is Permission.WRITE else 403)


def test_permission_is_checked_before_the_body(farebox: Farebox, customer: Customer) -> None:
    gateways = f"{customer.api_url}/ai-gateway/gateways"
    assert refusal(http.post(gateways, content=b"{")) == MISSING
    other = farebox.funded("1")
    assert refusal(http.post(gateways, content=b"{", headers=other.headers)) == (
        403,
        [(10000, "Authentication error")],
    )
