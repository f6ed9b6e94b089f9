"""The official `cloudflare` TypeScript SDK against a running server, the seed page's program first."""

import json

import pytest

from tests.http.support import save_card
from tests.node.programs import installed_node, run
from tests.support import Customer, Farebox


@pytest.fixture(scope="module")
def node() -> str:
    return installed_node()


def test_the_documented_seed_page_matches(node: str, farebox: Farebox, seed_account: str) -> None:
    assert run(node, "seed.mjs", Customer(farebox, seed_account, farebox.create_token(seed_account))) == "null\n"


def test_the_whole_billing_lifecycle(node: str, farebox: Farebox) -> None:
    account_id = farebox.create_account()
    owner = Customer(farebox, account_id, farebox.create_token(account_id))
    save_card(owner)
    reported = json.loads(run(node, "billing.mjs", owner))
    payment_id = reported["bought"]["payment_intent_id"]
    assert reported["bought"]["onboarding"] is True
    assert reported["status"] == {"payment_intent_id": payment_id, "status": "completed"}
    assert (reported["saved"]["amount"], reported["saved"]["threshold"]) == (2000, 500)
    assert (reported["config"]["amount"], reported["config"]["disabledReason"]) == (2000, None)
    assert reported["balance"]["balance"] == 5000
    assert reported["balance"]["payment_method"] == {"brand": "visa", "last4": "4242"}
    assert reported["balance"]["first_topup_success"] is True
    assert [invoice["id"] for invoice in reported["history"]["invoices"]] == [payment_id]
    assert (reported["preview"]["amount_due"], reported["usage"]["history"]) == (0, [])
    assert reported["limit"]["config"] == {"amount": 10000, "duration": "monthly", "strategy": "fixed"}
    assert reported["after"]["amount"] is None
    assert reported["refused"] == {"status": 404, "code": 7002}


def test_a_typical_session(node: str, customer: Customer) -> None:
    customer.chat()
    reported = json.loads(run(node, "session.mjs", customer))
    unset = {"amount": None, "threshold": None, "disabledReason": None, "error": None, "lastFailedAt": None}
    assert reported["config"] == unset
    assert reported["balance"]["balance"] == customer.balance.posted / 10_000_000
    assert reported["balance"]["topup_config"] == unset
    assert sorted(reported["gateways"]) == ["default", "one", "three", "two"]
    assert reported["refused"] == {"status": 404, "code": 7002}


def test_stored_keys_and_custom_providers(node: str, farebox: Farebox) -> None:
    reported = json.loads(run(node, "providers.mjs", farebox.funded("1")))
    assert "sk-stored-key" not in json.dumps(reported)
    assert (reported["stored"]["secret_preview"], reported["stored"]["rate_limit_period"]) == ("…0001", 60)
    assert [(config["alias"], config["default_config"]) for config in reported["configs"]] == [
        ("default", False),
        ("second", True),
    ]
    assert (reported["providers"], reported["enabled"]) == (["models", "others"], ["models"])
    assert reported["made"] == reported["read"] == reported["deleted"]
    assert reported["made"]["headers"] == '{"x-api-key":"…"}'
    assert [(one["status"], one["code"]) for one in reported["refused"]] == [(400, 7001)] * 3 + [(404, 7002)]
    assert all("already exists" in one["message"] for one in reported["refused"][:2])


def test_the_life_cycles_of_routes_datasets_evaluations_and_logs(node: str, customer: Customer) -> None:
    log_ids = [customer.chat().headers["cf-aig-log-id"] for _ in range(2)]
    reported = json.loads(run(node, "routing.mjs", customer))
    made, got = reported["made"], reported["got"]
    assert (made["name"], made["version"]["active"], made["gateway_id"]) == ("support", "true", "default")
    assert (reported["twice"], reported["cut"]) == ([400, 7005], [400, 7001])
    assert (reported["renamed"]["success"], reported["renamed"]["route"]["name"]) == (True, "help")
    assert (got["name"], got["elements"][1]["properties"]["model"]) == ("help", "demo-2")
    assert (reported["seen"]["active"], reported["seen"]["elements"]) == ("true", reported["deployed"]["elements"])
    assert (reported["counts"], reported["deletedRoute"]["id"]) == ([1, 2, 2], made["id"])
    assert reported["goneRoute"] == [404, 7005]
    assert (reported["logs"], [log["id"] for log in reported["rated"]]) == (2, [log_ids[1]])
    assert (reported["changed"]["name"], reported["sums"]) == ("better", [1, 1])
    evaluation = reported["evaluation"]
    assert (evaluation["processed"], evaluation["total_logs"]) == (True, 2)
    assert sorted(each["evaluation_type_id"] for each in evaluation["results"]) == sorted(reported["types"])
    assert {each["status_description"] for each in evaluation["results"]} == {"completed"}
    assert reported["goneEvaluation"] == [404, 7002]
    assert (reported["deletedLogs"], reported["left"]) == ({"success": True}, 1)
