"""Keys, errors, idempotency, faults: the API's protocol, whatever the call."""

import threading
from typing import Any

import pytest
import stripe

from support import KEY, Fake

CHARGE = {"amount": "1000", "currency": "usd", "payment_method": "pm_card_visa", "confirm": "true"}
INTENTS = "/v1/payment_intents"
SESSIONS = "/v1/checkout/sessions"


def error(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["error"]
    return found


@pytest.mark.parametrize("key", ["", "bad", "sk_live_0123456789abcdef", "rk_live_0123456789abcdef", "pk_test_1"])
def test_keys_that_are_refused(fake: Fake, key: str) -> None:
    response = fake.http.get("/v1/customers", headers={"authorization": f"Bearer {key}"} if key else {})
    assert response.status_code == 401
    assert error(response)["type"] == "invalid_request_error"
    assert ("live key" in error(response)["message"]) is ("_live_" in key)
    assert key == "" or key not in response.text or len(key) < 5


def test_a_key_as_user_name(fake: Fake) -> None:
    assert fake.http.get("/v1/balance", auth=(KEY, "")).status_code == 200


def test_headers_of_a_response(fake: Fake) -> None:
    response = fake.call(
        "POST", "/v1/customers", {"name": "x"}, idempotency_key="k", stripe_version="2026-10-28.endive"
    )
    assert response.headers["request-id"].startswith("req_")
    assert response.headers["stripe-version"] == "2026-10-28.endive"
    assert response.headers["idempotency-key"] == "k"
    assert "idempotent-replayed" not in response.headers


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "code", "param"),
    [
        ("GET", "/v1/customers/cus_nope", None, 404, "resource_missing", "id"),
        ("POST", INTENTS, {**CHARGE, "customer": "cus_nope"}, 400, "resource_missing", "customer"),
        ("POST", INTENTS, {**CHARGE, "payment_method": "pm_nope"}, 400, "resource_missing", "payment_method"),
        ("POST", INTENTS, {**CHARGE, "colour": "red"}, 400, "parameter_unknown", "colour"),
        ("POST", INTENTS, {"currency": "usd"}, 400, "parameter_missing", "amount"),
        ("POST", INTENTS, {**CHARGE, "amount": "ten"}, 400, "parameter_invalid_integer", "amount"),
        ("POST", INTENTS, {**CHARGE, "amount": "49"}, 400, "amount_too_small", "amount"),
        ("POST", INTENTS, {**CHARGE, "amount": "100000000"}, 400, "amount_too_large", "amount"),
        ("POST", INTENTS, {**CHARGE, "amount": ""}, 400, "parameter_invalid_empty", "amount"),
        ("POST", INTENTS, {**CHARGE, "expand[]": "colour"}, 400, None, "expand"),
        ("GET", "/v1/customers?limit=101", None, 400, "parameter_invalid_integer", "limit"),
        ("GET", "/v1/customers?starting_after=cus_x", None, 400, "resource_missing", "starting_after"),
        (
            "POST",
            SESSIONS,
            {"mode": "setup", "currency": "usd"},
            400,
            "parameter_missing",
            "success_url",
        ),
        (
            "POST",
            SESSIONS,
            {"mode": "setup", "currency": "usd", "success_url": "javascript:alert(1)"},
            400,
            "url_invalid",
            "success_url",
        ),
        ("GET", "/v1/subscriptions", None, 404, None, None),
        ("PATCH", "/v1/customers", None, 404, None, None),
    ],
)
def test_errors(
    fake: Fake, method: str, path: str, data: Any, status: int, code: str | None, param: str | None
) -> None:
    response = fake.call(method, path, data)
    found = error(response)
    assert (response.status_code, found.get("code"), found.get("param")) == (status, code, param)
    assert found["type"] == "invalid_request_error"
    assert found["message"]


@pytest.mark.parametrize(
    "body", ["a[b=1", "a=1&a[b]=2", "metadata[x][y]=1", "&".join(["a[" + "][".join("xxxxxxxxxxxxxx") + "]=1"])]
)
def test_bodies_that_cannot_be_read(fake: Fake, body: str) -> None:
    response = fake.http.post("/v1/customers", content=body, headers={"authorization": f"Bearer {KEY}"})
    assert response.status_code == 400


def test_the_same_key_and_parameters_get_the_same_response(fake: Fake) -> None:
    first = fake.call("POST", INTENTS, CHARGE, idempotency_key="k1")
    again = fake.call("POST", INTENTS, dict(reversed(CHARGE.items())), idempotency_key="k1")
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["original-request"] == first.headers["request-id"]
    assert len(fake.control("GET", "ledger")["payments"]) == 1
    requests = fake.control("GET", "requests")["requests"]
    assert [(r["method"], r["path"], r["idempotency_key"], r["status"], r["replayed"]) for r in requests] == [
        ("POST", INTENTS, "k1", 200, False),
        ("POST", INTENTS, "k1", 200, True),
    ]


def test_a_key_with_different_parameters_is_refused(fake: Fake) -> None:
    fake.v1.payment_intents.create({"amount": 100, "currency": "usd"}, {"idempotency_key": "k2"})
    with pytest.raises(stripe.IdempotencyError):
        fake.v1.payment_intents.create({"amount": 200, "currency": "usd"}, {"idempotency_key": "k2"})
    assert fake.call("POST", "/v1/customers", {}, idempotency_key="k2").status_code == 400


def test_declines_are_kept_validation_failures_are_not(fake: Fake) -> None:
    declined = {**CHARGE, "payment_method": "pm_card_chargeDeclined"}
    first, again = (fake.call("POST", INTENTS, declined, idempotency_key="k3") for _ in range(2))
    assert (first.status_code, first.content) == (402, again.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert fake.call("POST", INTENTS, {**CHARGE, "amount": "1"}, idempotency_key="k4").status_code == 400
    assert fake.call("POST", INTENTS, CHARGE, idempotency_key="k4").status_code == 200


def test_keys_are_forgotten_after_a_day(fake: Fake) -> None:
    first = fake.call("POST", INTENTS, CHARGE, idempotency_key="k5").json()["id"]
    fake.advance(86_000)
    assert fake.call("POST", INTENTS, CHARGE, idempotency_key="k5").json()["id"] == first
    fake.advance(500)
    assert fake.call("POST", INTENTS, CHARGE, idempotency_key="k5").json()["id"] != first


def test_a_key_in_use(fake: Fake) -> None:
    fake.control("POST", "faults", match=f"POST {INTENTS}", kind="timeout_before", times=1)
    other = Fake(fake.url)

    def lost() -> None:
        with pytest.raises(Exception, match="timed out"):
            other.http.post(
                INTENTS, data=CHARGE, headers={"authorization": f"Bearer {KEY}", "idempotency-key": "k6"}, timeout=0.4
            )

    thread = threading.Thread(target=lost)
    thread.start()
    while not fake.control("GET", "requests")["requests"]:
        pass
    response = fake.call("POST", INTENTS, CHARGE, idempotency_key="k6")
    assert (response.status_code, error(response)["code"]) == (409, "idempotency_key_in_use")
    thread.join()
    other.close()


@pytest.mark.parametrize("kind", ["reset_before", "reset_after_commit", "timeout_before", "timeout_after_commit"])
def test_answers_that_are_lost(fake: Fake, kind: str) -> None:
    done = 1 if kind.endswith("after_commit") else 0
    fake.control("POST", "faults", match="POST /v1/payment_intents", kind=kind)
    headers = {"authorization": f"Bearer {KEY}", "idempotency-key": "k7"}
    with pytest.raises(Exception, match=r"timed out|closed|incomplete"):
        fake.http.post(INTENTS, data=CHARGE, headers=headers, timeout=0.2)
    assert len(fake.control("GET", "ledger")["payments"]) == done
    for _ in range(100):  # the server notices a disconnect some time after it happened
        response = fake.call("POST", INTENTS, CHARGE, idempotency_key="k7")
        if response.status_code != 409:
            break
    assert response.status_code == 200
    assert ("idempotent-replayed" in response.headers) is bool(done)
    assert len(fake.control("GET", "ledger")["payments"]) == 1
    assert fake.control("GET", "requests")["requests"][0]["fault"] == kind


@pytest.mark.parametrize(("kind", "done"), [("error_500_before", 0), ("error_500_after_commit", 1)])
@pytest.mark.parametrize("saved", [True, False])
def test_failures_of_the_api(fake: Fake, kind: str, done: int, *, saved: bool) -> None:
    fake.control("POST", "faults", match="POST /v1/*", kind=kind, saved=saved)
    first = fake.call("POST", INTENTS, CHARGE, idempotency_key="k8")
    assert (first.status_code, error(first)["type"]) == (500, "api_error")
    assert len(fake.control("GET", "ledger")["payments"]) == done
    again = fake.call("POST", INTENTS, CHARGE, idempotency_key="k8")
    assert again.status_code == (500 if saved else 200)
    assert ("idempotent-replayed" in again.headers) is (saved or bool(done))
    assert len(fake.control("GET", "ledger")["payments"]) == (1 if done or not saved else 0)


def test_rate_limits_and_delays(fake: Fake) -> None:
    fake.control("POST", "faults", faults=[{"match": "GET **", "kind": "rate_limit_429", "times": 2}])
    for _ in range(2):
        with pytest.raises(stripe.RateLimitError):
            fake.v1.customers.list()
    assert fake.v1.customers.list().data == []
    fake.control("POST", "faults", match="POST /v1/customers", kind="delay_ms", milliseconds=30)
    assert fake.v1.customers.create({"name": "slow"}).name == "slow"
    assert fake.control("GET", "faults")["faults"] == []
    assert fake.http.post("/_fake/faults", json={"kind": "earthquake"}).status_code == 400


def test_the_sdk_gets_over_a_lost_response_by_itself(fake: Fake) -> None:
    addresses: Any = {"api": fake.url}
    patient = stripe.StripeClient(KEY, http_client=fake.sdk_http, base_addresses=addresses, max_network_retries=2)
    fake.control("POST", "faults", match="POST /v1/payment_intents", kind="error_500_after_commit", saved=False)
    paid = patient.v1.payment_intents.create(
        {"amount": 100, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    )
    assert paid.status == "succeeded"
    assert len(fake.control("GET", "ledger")["payments"]) == 1


def test_customers(fake: Fake) -> None:
    made = fake.v1.customers.create({"email": "a@example.com", "name": "Acme", "metadata": {"acct": "1"}})
    fake.v1.customers.create({"email": "b@example.com"})
    assert [c.id for c in fake.v1.customers.list({"email": "a@example.com"}).data] == [made.id]
    for query in ("email:'a@example.com'", 'name~"acm"', "metadata['acct']:'1'", "-email:'b@example.com'"):
        assert [c.id for c in fake.v1.customers.search({"query": query}).data] == [made.id]
    with pytest.raises(stripe.InvalidRequestError, match="parse"):
        fake.v1.customers.search({"query": "email="})
    assert fake.v1.customers.delete(made.id).deleted
    assert fake.v1.customers.retrieve(made.id).deleted
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        fake.v1.customers.update(made.id, {"name": "x"})


def test_control_paths_that_do_not_exist(fake: Fake) -> None:
    assert fake.http.post("/_fake/nothing").status_code == 404
    assert fake.http.post("/_fake/clock", content=b"[1]").status_code == 400
    assert fake.http.post("/_fake/clock", content=b"{").status_code == 400
    assert fake.http.post("/_fake/clock", json={"advance_seconds": "x"}).status_code == 400


def test_a_body_that_is_too_large(fake: Fake) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    response = fake.http.post("/v1/customers", content=b"description=" + b"x" * 5_000_000, headers=headers)
    assert response.status_code == 413


def test_web_pages_cannot_control_the_fake(fake: Fake) -> None:
    """A site that the developer happens to visit could otherwise post to it."""
    evil = {"origin": "http://evil.example"}
    assert fake.http.post("/_fake/clock", json={"advance_seconds": 60}, headers=evil).status_code == 403
    assert fake.http.get("/_fake/clock").json()["offset_seconds"] == 0
