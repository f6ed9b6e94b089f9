"""Access tokens limited to models: calls of other models are refused before anything is held."""

from collections.abc import Iterator

import httpx
import pytest

from farebox.model import Permission
from farebox.operator import tokens
from farebox.operator.administer import ActionRefused
from tests.calls.kit import set_price
from tests.support import Customer, Farebox, running_farebox


@pytest.fixture(scope="module")
def farebox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("models")) as served:
        set_price(served, "demo", "gold")
        yield served


def limited(farebox: Farebox, *models: str) -> Customer:
    """A customer whose token is limited to these models."""
    customer, services = farebox.funded("5"), farebox.services
    made = farebox.run(
        services.database.write(
            lambda connection: tokens.create_token(
                connection, services.ids, services.vault, account_id=customer.account_id,
                permissions=[Permission.RUN, Permission.READ], at=services.clock.now_ms(), models=models,
            )
        )
    )  # fmt: skip
    return Customer(farebox, customer.account_id, made.secret)


def customers_own(customer: Customer) -> dict[str, str]:
    """The headers of a call with the customer's own provider key."""
    return {"authorization": "Bearer callers-own-key", "cf-aig-authorization": f"Bearer {customer.token}"}


@pytest.mark.parametrize(
    ("models", "allowed"),
    [((), ["demo-1", "gold"]), (("demo/gold",), ["gold"]), (("openai/demo-1", "demo/*"), ["demo-1", "gold"]),
     (("openai/*",), [])],
)  # fmt: skip
def test_a_token_can_call_only_its_models(farebox: Farebox, models: tuple[str, ...], allowed: list[str]) -> None:
    customer = limited(farebox, *models)
    for _ in range(2):  # the second repeats a known head
        for model in ("demo-1", "gold"):
            answer = customer.chat(model=f"demo/{model}")
            if model in allowed:
                assert answer.status_code == 200, answer.text
            else:
                assert (answer.status_code, answer.json()["internalCode"]) == (403, 2970)
                assert f"demo/{model}" in answer.json()["message"]
    assert customer.balance.held == 0


def test_models_are_limited_on_the_callers_own_key_and_on_paths_without_a_model(farebox: Farebox) -> None:
    customer = limited(farebox, "demo/gold")
    headers = customers_own(customer)
    url = f"{customer.gateway_url}/demo/v1/chat/completions"
    for model, status in (("gold", 200), ("demo-1", 403)):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        assert httpx.post(url, json=body, headers=headers).status_code == status
    unread = httpx.post(f"{customer.gateway_url}/demo/v1/batches", json={}, headers=headers)
    assert (unread.status_code, unread.json()["internalCode"]) == (403, 2970)
    assert httpx.get(f"{customer.gateway_url}/demo/v1/batches", headers=headers).status_code != 403


@pytest.mark.parametrize("model", ["gpt-4o", "openai/", "openai/gpt-*", "*", "/x", "open ai/x", "nobody/x"])
def test_invalid_models_are_refused(farebox: Farebox, model: str) -> None:
    with pytest.raises(ActionRefused, match="is not a model"):
        limited(farebox, model)


def test_models_are_stored_in_the_spelling_that_calls_are_compared_in(farebox: Farebox) -> None:
    customer, services = farebox.funded("5"), farebox.services
    made = farebox.run(
        services.database.write(
            lambda connection: tokens.create_token(
                connection, services.ids, services.vault, account_id=customer.account_id, permissions=[Permission.RUN],
                at=services.clock.now_ms(), models=["anthropic/claude-haiku-4.5", "google/*", "custom-acme/m.1"],
            )
        )
    )  # fmt: skip
    assert made.token.models == ("anthropic/claude-haiku-4-5", "google-ai-studio/*", "custom-acme/m.1")


def test_a_body_names_its_model_once_and_as_such(farebox: Farebox) -> None:
    """Some servers ignore the case of names, and of two use the first or the last."""
    customer = limited(farebox, "demo/gold")
    url = f"{customer.gateway_url}/demo/v1/chat/completions"
    bodies = (
        '{"model": "gold", "MODEL": "demo-1", %s}',
        '{"Model": "demo-1", "model": "gold", %s}',
    )
    twice = ('{"model": "demo-1", "model": "gold", %s}', '{"model": "gold", "m\\u006fdel": "gold", %s}')
    for _ in range(2):
        for body in (*bodies, *twice):
            sent = (body % '"messages": [{"role": "user", "content": "hi"}]').encode()
            answer = httpx.post(url, content=sent, headers=customer.headers)
            assert (answer.status_code, answer.json()["internalCode"]) == (400, 2901), body
            own = httpx.post(url, content=sent, headers=customers_own(customer))
            assert (own.status_code, own.json()["internalCode"]) == (403, 2970), body
        nested = {"model": "gold", "metadata": {"MODEL": "x"}, "messages": [{"role": "user", "content": "hi"}]}
        assert httpx.post(url, json=nested, headers=customer.headers).status_code == 200
    compat = customer.chat(model="demo/gold", MODEL="demo-1")
    assert (compat.status_code, compat.json()["internalCode"]) == (400, 2901)
    long = {"messages": [{"role": "user", "content": "word " * 30_000}], "model": "gold", "MODEL": "demo-1"}
    assert httpx.post(url, json=long, headers=customer.headers, timeout=60).status_code == 400
    assert httpx.post(url, json=long, headers=customers_own(customer), timeout=60).status_code == 403
    anybody = farebox.funded("5")
    assert anybody.chat(MODEL="x").status_code == 400
    assert (
        httpx.post(
            f"{anybody.gateway_url}/demo/v1/chat/completions",
            json={**nested, "MODEL": "x"},
            headers=customers_own(anybody),
        ).status_code
        == 200
    ), "with the caller's own key the provider decides"


def test_token_counting_is_limited_to_the_tokens_models(farebox: Farebox) -> None:
    customer = limited(farebox, "demo/gold")
    counted = f"{customer.gateway_url}/demo/v1/messages/count_tokens"
    body = {"messages": [{"role": "user", "content": "one two"}]}
    for path, model, status in (
        (counted, "gold", 200),
        (counted, "demo-1", 403),
        (counted, None, 403),
        (f"{customer.gateway_url}/demo/v1beta/models/gold:countTokens", None, 200),
        (f"{customer.gateway_url}/demo/v1beta/models/demo-1:countTokens", "gold", 403),
    ):
        named = body if model is None else {**body, "model": model}
        sent = {**named, "contents": [{"parts": [{"text": "one two"}]}]} if "countTokens" in path else named
        assert httpx.post(path, json=sent, headers=customer.headers).status_code == status, (path, model)


def test_model_lists_show_only_the_tokens_models(farebox: Farebox) -> None:
    customer = limited(farebox, "demo/gold", "openai/*")
    listed = httpx.get(f"{customer.gateway_url}/compat/models", headers=customer.headers).json()["data"]
    found = httpx.get(f"{customer.api_url}/ai/models/search", headers=customer.headers).json()["result"]
    assert [model["id"] for model in listed] == [model["name"] for model in found] == ["demo/gold"]
