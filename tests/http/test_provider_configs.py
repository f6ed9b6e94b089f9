"""Stored keys and custom providers over the control plane: their life cycles, with the official SDK and without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.engines import ON_BOTH_ENGINES
from tests.http.support import GATEWAY_FIELDS, errors, http, result
from tests.sdks import cloudflare
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

KEY = "sk-stored-key-of-the-account-0001"


@pytest.fixture(scope="module")
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


@pytest.fixture(scope="module")
def other(farebox: Farebox) -> Customer:
    return farebox.funded("5")


_opened = ExitStack()


@pytest.fixture(autouse=True)
def _all_closed() -> Iterator[None]:
    """A connection that is left to the garbage collector fails a later test."""
    with _opened:
        yield


def sdk(customer: Customer) -> cloudflare.Cloudflare:
    base_url = f"{customer.farebox.url}/client/v4"
    return _opened.enter_context(cloudflare.Cloudflare(api_token=customer.token, base_url=base_url, max_retries=0))


def api(customer: Customer, method: str, path: str, body: object = None, **query: Any) -> httpx.Response:
    url = f"{customer.api_url}/ai-gateway/{path}"
    return http.request(method, url, json=body, params=query, headers=customer.headers)


def faults(response: httpx.Response) -> dict[str, str]:
    """The errors of a body, by field."""
    assert response.status_code == 400, response.text
    assert {code for code, _ in errors(response)} == {7001}
    return {".".join(map(str, error["path"][1:])): error["message"] for error in response.json()["errors"]}


def test_the_life_cycle_of_a_stored_key(customer: Customer, other: Customer) -> None:
    client, account_id = sdk(customer), customer.account_id
    configs = client.ai_gateway.provider_configs
    client.ai_gateway.create(account_id=account_id, id="keys", **GATEWAY_FIELDS)
    made = configs.create(
        "keys",
        account_id=account_id,
        alias="default",
        default_config=True,
        provider_slug="openai",
        secret=KEY,
        rate_limit=10,
    )
    assert (made.alias, made.default_config, made.provider_slug, made.gateway_id) == ("default", True, "openai", "keys")
    assert (made.rate_limit, made.rate_limit_period, made.secret_preview) == (10, 60, "…0001")
    second = configs.create(
        "keys",
        account_id=account_id,
        alias="second",
        default_config=True,
        provider_slug="openai",
        secret_id=made.secret_id,
    )
    assert (second.secret_id, second.secret_preview) == (made.secret_id, made.secret_preview)
    google = configs.create(
        "keys", account_id=account_id, alias="default", default_config=False, provider_slug="google", secret=KEY
    )
    assert google.provider_slug == "google-ai-studio", "an alias of the provider's name"
    listed = list(configs.list("keys", account_id=account_id, per_page=2))
    assert [config.id for config in listed] == [made.id, second.id, google.id]
    assert [config.default_config for config in listed] == [False, True, False], "one default per provider"
    assert KEY not in api(customer, "GET", "gateways/keys/provider_configs").text
    _replace_and_delete(customer, other, made, second)


def _replace_and_delete(customer: Customer, other: Customer, made: Any, second: Any) -> None:
    """Two configs that share a secret: `made`, which is deleted, and `second`."""
    client, account_id = sdk(customer), customer.account_id
    configs = client.ai_gateway.provider_configs
    path = "gateways/keys/provider_configs"
    replaced = result(api(customer, "PUT", f"{path}/{made.id}", {"secret": "sk-replaced-key-9999"}))
    assert (replaced["secret_preview"], replaced["secret_id"]) == ("…9999", made.secret_id)
    previews = {config["alias"]: config["secret_preview"] for config in result(api(customer, "GET", path))[:2]}
    assert previews == {"default": "…9999", "second": "…9999"}, "all configs with the secret use the new value"
    assert faults(api(customer, "PUT", f"{path}/{made.id}", {"secret": KEY, "alias": "x"}))[""].startswith("Unrec")

    with pytest.raises(cloudflare.BadRequestError, match="already exists") as duplicate:
        configs.create(
            "keys", account_id=account_id, alias="default", default_config=True, provider_slug="openai", secret=KEY
        )
    assert duplicate.value.errors[0].code == 7001

    for foreign in (
        api(other, "PUT", f"{path}/{made.id}", {"secret": KEY}),
        api(other, "DELETE", f"{path}/{made.id}"),
        api(customer, "DELETE", f"gateways/default/provider_configs/{made.id}"),
    ):
        assert (foreign.status_code, errors(foreign)) == (404, [(7002, "Not Found")])
    assert result(api(other, "GET", path)) == [], "of a gateway that does not exist"

    deleted = result(api(customer, "DELETE", f"{path}/{made.id}"))
    assert deleted["id"] == made.id
    assert api(customer, "DELETE", f"{path}/{made.id}").status_code == 404
    again = configs.create(
        "keys",
        account_id=account_id,
        alias="third",
        default_config=False,
        provider_slug="openai",
        secret_id=made.secret_id,
    )
    assert again.secret_preview == "…9999", "the secret is kept as long as a config uses it"
    client.ai_gateway.delete("keys", account_id=account_id)
    assert result(api(customer, "GET", path)) == []
    client.ai_gateway.create(account_id=account_id, id="keys", **GATEWAY_FIELDS)
    assert result(api(customer, "GET", path)) == [], "recreating a gateway with the same name restores nothing"
    lost = {"alias": "a", "default_config": True, "provider_slug": "openai", "secret_id": made.secret_id}
    assert "was not found" in faults(api(customer, "POST", path, lost))["secret_id"]


STORE = {"alias": "a", "default_config": True, "provider_slug": "openai", "secret": KEY}


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (STORE | {"provider_slug": "nobody"}, "provider_slug", "There is no provider “nobody”"),
        (STORE | {"provider_slug": "workers-ai"}, "provider_slug", "Keys for Workers AI cannot be stored"),
        (STORE | {"alias": "my key"}, "alias", "Invalid: must match"),
        (STORE | {"alias": ""}, "alias", "String must contain at least 1 character(s)"),
        (STORE | {"default_config": "yes"}, "default_config", "Expected boolean, received string"),
        (STORE | {"secret": "two words"}, "secret", "This is not a key for openai: the key has characters"),
        (STORE | {"secret": "fbx_x"}, "secret", "This is an access token of Farebox"),
        (STORE | {"rate_limit": 1.5}, "rate_limit", "Expected integer, received float"),
        (STORE | {"rate_limit": -1}, "rate_limit", "Number must be greater than or equal to 0"),
        (STORE | {"rate_limit": 1, "rate_limit_period": 0}, "rate_limit_period", "Number must be greater than"),
        (STORE | {"colour": "red"}, "", "Unrecognized key(s) in object: 'colour'"),
        ({"alias": "a"}, "default_config", "Required"),
        (
            {name: value for name, value in STORE.items() if name != "secret"},
            "secret",
            "The secret 'default_openai_a' was not found",
        ),
    ],
)
def test_invalid_stored_keys_are_refused(customer: Customer, body: dict[str, Any], field: str, message: str) -> None:
    found = faults(api(customer, "POST", "gateways/default/provider_configs", body))
    assert found[field].startswith(message)
    assert result(api(customer, "GET", "gateways/default/provider_configs")) == []


def test_a_gateway_must_exist_before_it_has_keys(customer: Customer) -> None:
    response = api(customer, "POST", "gateways/nowhere/provider_configs", STORE)
    assert (response.status_code, errors(response)) == (404, [(7002, "Not Found")])


def test_secrets_are_shared_within_a_store_only(farebox: Farebox) -> None:
    owner, stranger = farebox.funded("1"), farebox.funded("1")
    for customer, gateways in ((owner, ("one", "two", "apart")), (stranger, ("one",))):
        for gateway in gateways:
            store = "apart" if gateway == "apart" else None
            result(api(customer, "POST", "gateways", {"id": gateway, "store_id": store} | GATEWAY_FIELDS))
    assert result(api(owner, "GET", "gateways/apart"))["store_id"] == "apart"
    made = result(api(owner, "POST", "gateways/one/provider_configs", STORE | {"secret_id": "mine"}))
    assert made["secret_id"] == "mine"
    taken = faults(api(owner, "POST", "gateways/two/provider_configs", STORE | {"secret_id": "mine"}))
    assert "already exists" in taken["secret_id"]
    by_id = {name: value for name, value in STORE.items() if name != "secret"} | {"secret_id": "mine"}
    assert result(api(owner, "POST", "gateways/two/provider_configs", by_id))["secret_preview"] == "…0001"
    usual = {"alias": "b", "default_config": False, "provider_slug": "openai"}
    named = usual | {"alias": "c", "secret": KEY, "secret_id": "two_openai_b"}
    assert result(api(owner, "POST", "gateways/two/provider_configs", named))["secret_id"] == "two_openai_b"
    assert result(api(owner, "POST", "gateways/two/provider_configs", usual))["secret_id"] == "two_openai_b"
    for customer, gateway in ((owner, "apart"), (stranger, "one")):
        assert (
            "was not found" in faults(api(customer, "POST", f"gateways/{gateway}/provider_configs", by_id))["secret_id"]
        )


def test_a_secret_stored_for_one_server_is_sent_to_no_other(farebox: Farebox) -> None:
    """Otherwise anyone who may change the configuration could have a key sent to their own server and read it there."""
    customer = farebox.funded("1")
    keys = "gateways/default/provider_configs"
    made = result(api(customer, "POST", keys, STORE))
    theirs = CUSTOM | {"slug": "theirs", "headers": '{"x-api-key": "sk-hidden-value-1234"}'}
    path = f"custom-providers/{result(api(customer, 'POST', 'custom-providers', theirs))['id']}"
    for provider in ("custom-theirs", "anthropic"):
        body = {"alias": "b", "default_config": True, "provider_slug": provider, "secret_id": made["secret_id"]}
        found = faults(api(customer, "POST", keys, body))
        assert found["secret_id"].endswith("is stored for 'openai', and for no other provider")
    moved = {"base_url": "https://elsewhere.example.com"}
    assert faults(api(customer, "PATCH", path, moved))["headers"].startswith("Send the headers again")
    whole = result(api(customer, "GET", path))
    assert "cannot be sent" in faults(api(customer, "PATCH", path, whole | moved))["headers"], (
        "a mask is not accepted as a value"
    )
    assert result(api(customer, "PATCH", path, {"base_url": "https://X.example.com/v2"}))["headers"] == whole["headers"]
    kept = result(api(customer, "POST", keys, STORE | {"provider_slug": "custom-theirs"}))
    replacement = moved | {"headers": '{"x-api-key": "sk-another-value-5678"}'}
    assert faults(api(customer, "PATCH", path, replacement))["base_url"].startswith("Delete the provider's stored keys")
    result(api(customer, "DELETE", f"{keys}/{kept['id']}"))
    assert result(api(customer, "PATCH", path, replacement))["headers"] == '{"x-api-key":"…5678"}'


def test_the_life_cycle_of_a_custom_provider(customer: Customer, other: Customer) -> None:
    client, account_id = sdk(customer), customer.account_id
    providers = client.ai_gateway.custom_providers
    made = providers.create(
        account_id=account_id,
        name="My Models",
        slug="my-models",
        base_url="https://models.example.com/v1",
        headers='{"Authorization": "Bearer sk-hidden-value-1234", "X-Team": "red"}',
    )
    assert (made.name, made.slug, made.base_url) == ("My Models", "my-models", "https://models.example.com/v1")
    assert (made.enable, made.beta, made.headers) == (False, False, '{"authorization":"…1234","x-team":"…"}')
    assert made.logo
    assert made.created_at == made.modified_at
    assert providers.get(made.id, account_id=account_id).slug == "my-models"
    for name in ("b", "a", "c"):
        providers.create(
            account_id=account_id, name=name, slug=f"s-{name}", base_url="https://x.example.com", beta=True
        )
    assert [one.name for one in providers.list(account_id=account_id, per_page=2)] == ["a", "b", "c", "My Models"]
    assert [one.slug for one in providers.list(account_id=account_id, beta=True)] == ["s-a", "s-b", "s-c"]
    assert [one.slug for one in providers.list(account_id=account_id, search="MODELS")] == ["my-models"]
    assert list(providers.list(account_id=account_id, enable=True)) == []
    newest = result(api(customer, "GET", "custom-providers", order_by="created_at DESC"))
    assert [one["slug"] for one in newest] == ["s-c", "s-a", "s-b", "my-models"]
    assert "order_by" in str(api(customer, "GET", "custom-providers", order_by="nothing").json()["errors"][0]["path"])

    path = f"custom-providers/{made.id}"
    whole = result(api(customer, "GET", path))
    changed = result(api(customer, "PATCH", path, whole | {"enable": True, "description": "Ours"}))
    assert (changed["enable"], changed["description"], changed["headers"]) == (True, "Ours", whole["headers"])
    changed = result(api(customer, "PATCH", path, {"headers": '{"authorization":"…1234","x-more":"y"}'}))
    assert changed["headers"] == '{"authorization":"…1234","x-more":"…"}', (
        "a mask that is sent back keeps the stored value"
    )
    lines = {"headers": "X-One: 1\n X-Two : a: b \nX-Empty"}
    assert result(api(customer, "PATCH", path, lines))["headers"] == '{"x-one":"…","x-two":"…","x-empty":"…"}'
    assert result(api(customer, "PATCH", path, {"headers": None}))["headers"] == "{}"

    with pytest.raises(cloudflare.BadRequestError, match="already exists") as duplicate:
        providers.create(account_id=account_id, name="x", slug="my-models", base_url="https://x.example.com")
    assert duplicate.value.errors[0].code == 7001
    assert "already exists" in faults(api(customer, "PATCH", path, {"slug": "s-a"}))["slug"]
    foreign = sdk(other).ai_gateway.custom_providers.create(
        account_id=other.account_id, name="x", slug="my-models", base_url="https://x.example.com"
    )
    assert foreign.slug == made.slug, "slugs are separate by account"
    for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
        assert api(other, method, path, body).status_code == 404
    assert providers.delete(made.id, account_id=account_id).id == made.id
    with pytest.raises(cloudflare.NotFoundError):
        providers.get(made.id, account_id=account_id)


CUSTOM = {"name": "x", "slug": "wrong", "base_url": "https://x.example.com"}


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"slug": "Not This"}, "slug", "Invalid: must match"),
        ({"name": ""}, "name", "String must contain at least 1"),
        ({"base_url": "http://x.example.com"}, "base_url", "Must start with https://"),
        ({"base_url": "ftp://x.example.com"}, "base_url", "Invalid url"),
        ({"base_url": "https://u:p@x.example.com"}, "base_url", "A base URL cannot have a user name"),
        ({"base_url": "https://x.example.com/?a=b"}, "base_url", "A base URL cannot have a user name"),
        ({"base_url": "https://x.example.com/../y"}, "base_url", "A base URL cannot have a user name"),
        ({"base_url": "https://x.example.com:0"}, "base_url", "Invalid url"),
        ({"base_url": "https://[::1"}, "base_url", "Invalid url"),
        ({"base_url": "https://x.example.com:65536"}, "base_url", "Invalid url"),
        ({"base_url": "https://x.example.com:"}, "base_url", "Invalid url"),
        ({"base_url": "https://a..b"}, "base_url", "Invalid url"),
        ({"base_url": f"https://{'a' * 64}.example.com"}, "base_url", "Invalid url"),
        ({"base_url": "https://-x.example.com"}, "base_url", "Invalid url"),
        ({"base_url": "https://x%2eexample.com"}, "base_url", "Invalid url"),
        ({"base_url": "https://127.1"}, "base_url", "Invalid url"),
        ({"base_url": "https://0x7f.0x1"}, "base_url", "Invalid url"),
        ({"base_url": "https://x.example.com/a\\b"}, "base_url", "Invalid url"),
        ({"base_url": "https://x.example.com/%zz"}, "base_url", "Invalid url"),
        ({"base_url": "https://x.example.com/{model}"}, "base_url", "Invalid url"),
        ({"base_url": "https://bücher.example"}, "base_url", "Invalid url"),
        ({"base_url": "https://127.0.0.1"}, "base_url", "This address may not be called"),
        ({"base_url": "https://169.254.169.254"}, "base_url", "This address may not be called"),
        ({"base_url": "https://[::ffff:10.0.0.1]"}, "base_url", "This address may not be called"),
        ({"headers": '{"a": 1}'}, "headers", "Expected a JSON object"),
        ({"headers": '{"a": "b"'}, "headers", "Expected a JSON object"),
        ({"headers": "no header"}, "headers", "The header 'no header' cannot be set"),
        ({"headers": '["a"]'}, "headers", "The header '[\"a\"]' cannot be set"),
        ({"headers": "a: b\nproxy-x: y"}, "headers", "The header 'proxy-x' cannot be set"),
        ({"headers": '{"host": "x"}'}, "headers", "The header 'host' cannot be set"),
        ({"headers": '{"cf-aig-x": "x"}'}, "headers", "The header 'cf-aig-x' cannot be set"),
        ({"headers": '{"x": "a\\nb"}'}, "headers", "The value of the header 'x' cannot be sent"),
        ({"colour": "red"}, "", "Unrecognized key(s)"),
    ],
)
def test_invalid_custom_providers_are_refused(
    customer: Customer, change: dict[str, Any], field: str, message: str
) -> None:
    assert faults(api(customer, "POST", "custom-providers", CUSTOM | change))[field].startswith(message)
    assert result(api(customer, "GET", "custom-providers", search="wrong")) == []


def test_unusual_but_valid_base_urls_are_accepted(customer: Customer) -> None:
    for number, base_url in enumerate(
        (
            "https://x_y.example.com./v1/",
            "https://xn--bcher-kva.example:8443/a%20b/v1",
            "https://93.184.215.14/v1",
            "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:443",
            "https://localmodels",
        )
    ):
        made = result(
            api(customer, "POST", "custom-providers", CUSTOM | {"slug": f"odd{number}", "base_url": base_url})
        )
        assert made["base_url"] == base_url


def test_the_life_cycle_of_a_cost(customer: Customer, other: Customer) -> None:
    provider = result(api(customer, "POST", "custom-providers", CUSTOM | {"slug": "costly"}))["id"]
    path = "custom-providers/costs"
    body = {"account_provider_id": provider, "model": "m-1", "cost_in": 1e-6, "cost_out": 0.000002}
    made = result(api(customer, "POST", path, body))
    assert {name: made[name] for name in body} == body
    assert (made["model_rule"], made["cost_type"], made["enable"], made["weight"]) == ("equals", "tokens", True, 0)
    assert made["changed_by"] == "manual"
    for rule, model in (("starts-with", "m-"), ("contains", "-")):
        result(api(customer, "POST", path, body | {"model_rule": rule, "model": model, "weight": -1}))
    assert [cost["model"] for cost in result(api(customer, "GET", path, per_page=2))] == ["m-1", "m-"]
    assert [cost["model"] for cost in result(api(customer, "GET", path, per_page=2, page=2))] == ["-"]
    assert result(api(customer, "GET", path, page=3, per_page=2)) == []
    assert [cost["model"] for cost in result(api(customer, "GET", path, model_rule="contains"))] == ["-"]
    assert [cost["model"] for cost in result(api(customer, "GET", path, search="m-1"))] == ["m-1"]
    assert result(api(customer, "GET", path, account_provider_id="another")) == []
    assert result(api(customer, "GET", path, enable=False)) == []

    pricing = {"input_cached_tokens": 5e-7, "output_reasoning_tokens": 3e-6}
    changed = result(api(customer, "PATCH", f"{path}/{made['id']}", {"token_pricing": pricing, "enable": False}))
    assert changed["token_pricing"] == '{"input_cached_tokens":5e-7,"output_reasoning_tokens":3e-6}'
    assert (changed["cost_in"], changed["enable"]) == (1e-6, False)
    assert result(api(customer, "PATCH", f"{path}/{made['id']}", changed))["token_pricing"] == changed["token_pricing"]
    assert result(api(customer, "GET", f"{path}/{made['id']}"))["enable"] is False

    assert "already exists" in faults(api(customer, "POST", path, body | {"model": "M-1"}))["model"]
    for change, field in (
        ({"account_provider_id": "nobody"}, "account_provider_id"),
        ({"model_rule": "ends-with"}, "model_rule"),
        ({"cost_in": -1}, "cost_in"),
        ({"cost_type": "characters"}, "cost_type"),
        ({"token_pricing": {"nothing": 1}}, "token_pricing"),
        ({"token_pricing": "not json"}, "token_pricing"),
        ({"cost_in": 1e-19}, ""),
    ):
        assert field in faults(api(customer, "POST", path, body | {"model": "new"} | change)), change
    for method, sent in (("GET", None), ("PATCH", {"enable": True}), ("DELETE", None)):
        assert api(other, method, f"{path}/{made['id']}", sent).status_code == 404
    assert result(api(other, "GET", path)) == []
    stranger = faults(api(other, "POST", path, body))
    assert stranger["account_provider_id"] == "The custom provider was not found"

    assert result(api(customer, "DELETE", f"{path}/{made['id']}"))["id"] == made["id"]
    assert api(customer, "GET", f"{path}/{made['id']}").status_code == 404
    result(api(customer, "DELETE", f"custom-providers/{provider}"))
    assert result(api(customer, "GET", path)) == [], "costs are deleted with their provider"


def test_the_url_of_a_custom_provider(customer: Customer, other: Customer) -> None:
    result(api(customer, "POST", "custom-providers", CUSTOM | {"slug": "linked"}))
    assert customer.chat().status_code == 200
    url = result(api(customer, "GET", "gateways/default/url/custom-linked"))
    assert url == f"{customer.gateway_url}/custom-linked"
    assert result(api(customer, "GET", "gateways/default/url/workers-ai")).endswith("/default/workers-ai")
    assert other.chat().status_code == 200
    assert api(other, "GET", "gateways/default/url/custom-linked").status_code == 400
