"""When access tokens, stored keys and the operator's keys were last used: collected in memory, written by a job."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from farebox.http.control.wire import iso
from farebox.limits.last_uses import LastUses, Used
from farebox.model import Permission
from farebox.runtime import last_uses
from farebox.storage.buckets import OPERATOR
from farebox.storage.last_uses import all_uses, uses_of, write_uses
from tests.calls import kit
from tests.calls.upstream import serving
from tests.engines import ON_BOTH_ENGINES, read_now
from tests.http.support import http
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import pauses

pytestmark = ON_BOTH_ENGINES


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("uses")) as served:
        kit.set_provider(served, "openai")
        yield served


def written(farebox: Farebox, account_id: str, kind: str) -> dict[str, int]:
    farebox.run(last_uses.write(farebox.services))
    return read_now(farebox.services.settings, lambda connection: uses_of(connection, account_id, kind))


def store_key(customer: Customer) -> dict[str, Any]:
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    http.get(f"{customer.api_url}/ai-gateway/gateways", headers=customer.headers)
    customer.chat()  # creates the gateway
    body = {"provider_slug": "groq", "alias": "default", "default_config": True, "secret": "sk-stored-of-the-account"}
    made: dict[str, Any] = http.post(url, json=body, headers=customer.headers).json()["result"]
    return made


def configs(customer: Customer) -> list[dict[str, Any]]:
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    found: list[dict[str, Any]] = http.get(url, headers=customer.headers).json()["result"]
    return found


def test_every_request_with_a_token_is_a_use(farebox: Farebox) -> None:
    """Including requests that are refused, answered from the cache, or no calls."""
    refused, cached, lists = farebox.funded("5"), farebox.funded("5"), farebox.funded("5")
    assert refused.chat(model="demo/nothing-has-this-name").status_code == 400
    wanted = {"cf-aig-cache-ttl": "60"}
    cached.chat(headers=wanted)
    written(farebox, cached.account_id, "token")
    (before,) = written(farebox, cached.account_id, "token").values()
    for pause in pauses("the response is in the cache"):
        if cached.chat(headers=wanted).headers["cf-aig-cache-status"] == "HIT":
            break
        time.sleep(pause)
    (after,) = written(farebox, cached.account_id, "token").values()
    assert after > before
    assert http.get(f"{lists.gateway_url}/compat/models", headers=lists.headers).status_code == 200
    for customer in (refused, lists):
        assert len(written(farebox, customer.account_id, "token")) == 1


def test_the_api_lists_tokens_with_their_last_use(farebox: Farebox) -> None:
    customer, url = farebox.funded("5"), "{}/farebox/tokens"
    farebox.create_token(customer.account_id, Permission.RUN)
    http.get(url.format(customer.api_url), headers=customer.headers)
    (used,) = written(farebox, customer.account_id, "token").values()
    response = http.get(url.format(customer.api_url), headers=customer.headers)
    first, second = response.json()["result"]
    assert first["last_used_at"] == iso(used)
    assert (second["last_used_at"], second["permissions"], second["active"]) == (None, ["AI Gateway Run"], True)
    assert customer.token not in response.text
    other = farebox.funded("5")
    assert http.get(url.format(customer.api_url), headers=other.headers).status_code == 403
    running = Customer(farebox, customer.account_id, farebox.create_token(customer.account_id, Permission.RUN))
    assert http.get(url.format(customer.api_url), headers=running.headers).status_code == 403


def test_calls_and_the_control_plane_use_keys(farebox: Farebox) -> None:
    customer, idle = farebox.funded("5"), farebox.funded("5")
    began = farebox.services.clock.now_ms()
    assert written(farebox, idle.account_id, "token") == {}
    assert customer.chat().status_code == 200
    (used,) = written(farebox, customer.account_id, "token").values()
    assert began <= used <= farebox.services.clock.now_ms()
    assert written(farebox, OPERATOR, "provider")["demo"] >= began
    assert "openai" not in written(farebox, OPERATOR, "provider")
    http.get(f"{idle.api_url}/ai-gateway/gateways", headers=idle.headers)
    assert len(written(farebox, idle.account_id, "token")) == 1
    everyone = read_now(farebox.services.settings, lambda connection: all_uses(connection, "token"))
    assert len(everyone) >= 2


def test_a_stored_key_counts_as_used_if_the_provider_was_called(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    made = store_key(customer)
    assert made["last_used_at"] is None
    with serving() as upstream:
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        upstream.response = {"choices": [{"index": 0, "message": {"content": "x"}}], "usage": usage}
        kit.set_provider(farebox, "groq", base_url=upstream.url)
        assert customer.chat(model="groq/any").status_code == 200
    farebox.run(last_uses.write(farebox.services))
    (shown,) = configs(customer)
    assert shown["last_used_at"] > made["modified_at"][:10]
    assert "groq" not in written(farebox, OPERATOR, "provider")
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs/{made['id']}"
    assert http.delete(url, headers=customer.headers).json()["result"]["last_used_at"] == shown["last_used_at"]
    assert written(farebox, customer.account_id, "provider_config") == {}


def test_only_later_uses_of_existing_accounts_are_written(farebox: Farebox) -> None:
    account_id = farebox.create_account()

    def write(*uses: tuple[str, str, str, int]) -> None:
        farebox.run(farebox.services.database.write(lambda connection: write_uses(connection, uses)))

    write((account_id, "token", "a", 2_000), (account_id, "token", "b", 1_000), ("nobody", "token", "c", 1_000))
    write((account_id, "token", "a", 1_000), (account_id, "token", "b", 3_000))
    assert written(farebox, account_id, "token") == {"a": 2_000, "b": 3_000}


def test_uses_that_could_not_be_written_are_kept() -> None:
    key: Used = ("a", "token", "t")
    uses = LastUses()
    uses.note(key, at=1)
    uses.note(key, at=2)
    taken = uses.take()
    assert (taken, uses.take()) == ({key: 2}, {})
    uses.note(("a", "token", "u"), at=3)
    uses.put_back(taken.items())
    uses.note(key, at=5)
    assert uses.take() == {key: 5, ("a", "token", "u"): 3}
