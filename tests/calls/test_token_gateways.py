"""Access tokens that are limited to gateways: what they do not reach is refused on every way, and held nowhere."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from farebox.http.call_target import MODEL_CALLS, MODEL_LISTS
from farebox.http.router import Access
from farebox.http.routes import SERVED
from farebox.model import Permission
from farebox.operator import tokens
from farebox.operator.administer import ActionRefused
from farebox.storage.custom_domains import CustomDomain, put_domain
from tests.calls.kit import log_rows
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import GATEWAY_FIELDS, errors, http, result
from tests.http.support import url as url_of
from tests.sdks import anthropic, genai, openai
from tests.support import Customer, Farebox, running_farebox
from tests.uncommitted import uncommitted

pytestmark = ON_BOTH_ENGINES

TEAM = "team-a"
HI = [{"role": "user", "content": "Hi"}]
NOT_ALLOWED = (403, 2972)


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("gateways")) as served:
        yield served


@pytest.fixture
def owner(farebox: Farebox) -> Customer:
    """Of an account with a gateway for a team, beside others."""
    customer = farebox.funded("5")
    for gateway_id in (TEAM, "other"):
        create(customer, gateway_id)
    return customer


@pytest.fixture
def member(owner: Customer) -> Customer:
    return limited(owner, TEAM)


def create(customer: Customer, gateway_id: str, **more: object) -> None:
    body = {**GATEWAY_FIELDS, "id": gateway_id, **more}
    result(http.post(f"{customer.api_url}/ai-gateway/gateways", json=body, headers=customer.headers))


def limited(customer: Customer, *gateways: str, permissions: tuple[Permission, ...] = tuple(Permission)) -> Customer:
    """The account with a token for these gateways, that calls the first of them."""
    farebox, services = customer.farebox, customer.farebox.services
    made = farebox.run(
        services.database.write(
            lambda connection: tokens.create_token(
                connection, services.ids, services.vault, account_id=customer.account_id, permissions=permissions,
                at=services.clock.now_ms(), name="team", gateways=gateways,
            )
        )
    )  # fmt: skip
    return at_gateway(Customer(farebox, customer.account_id, made.secret), gateways[0])


def at_gateway(customer: Customer, gateway_id: str) -> Customer:
    there = Customer(customer.farebox, customer.account_id, customer.token)
    there.gateway_url = f"{customer.farebox.url}/v1/{customer.account_id}/{gateway_id}"
    return there


def the_token(owner: Customer) -> dict[str, Any]:
    """The one that is named `team`, as the API shows it."""
    found = result(http.get(f"{owner.api_url}/farebox/tokens", headers=owner.headers))
    return next(token for token in found if token["name"] == "team")


def set_token(owner: Customer, **changes: object) -> httpx.Response:
    url = f"{owner.api_url}/farebox/tokens/{the_token(owner)['id']}"
    return http.put(url, json=changes, headers=owner.headers)


def refusal(response: httpx.Response) -> tuple[int, int]:
    return response.status_code, response.json()["internalCode"]


# --- calls ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class At:
    """A caller and the gateway that it calls."""

    caller: Customer
    gateway_id: str

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        """To a path below the gateway."""
        url = at_gateway(self.caller, self.gateway_id).gateway_url + path
        return http.post(url, json=body, headers=headers or self.caller.headers)

    def get(self, path: str) -> httpx.Response:
        return http.get(at_gateway(self.caller, self.gateway_id).gateway_url + path, headers=self.caller.headers)

    def delete(self, path: str) -> httpx.Response:
        return http.delete(at_gateway(self.caller, self.gateway_id).gateway_url + path, headers=self.caller.headers)

    def rest(self, path: str, body: object = None) -> httpx.Response:
        """To a path below `/ai`, with the gateway in the header."""
        headers = self.caller.headers | {"cf-aig-gateway-id": self.gateway_id}
        return http.request(
            "GET" if body is None else "POST", f"{self.caller.api_url}/ai{path}", json=body, headers=headers
        )

    def domain(self, times: int = 1) -> httpx.Response:
        """To a custom domain of the gateway, several times on one connection; the last response."""
        farebox, account_id = self.caller.farebox, self.caller.account_id
        host = f"{self.gateway_id}.{account_id}.example"
        row = CustomDomain(host, account_id, self.gateway_id, "", "active", None, None, 1, 1)
        farebox.run(farebox.services.database.write(lambda connection: put_domain(connection, row)))
        farebox.run(farebox.services.configuration.notice_own_change())
        with httpx.Client(base_url=farebox.url, headers=self.caller.headers | {"host": host}) as client:
            return [client.post("/compat/chat/completions", json=CHAT) for _ in range(times)][-1]


CHAT: dict[str, Any] = {"model": "demo/demo-1", "messages": HI}
NATIVE: dict[str, Any] = {"model": "demo-1", "messages": HI}
BELOW, REST = "/v1/{account_id}/{gateway_id}", "/client/v4/accounts/{account_id}/ai"
PROVIDER = f"{BELOW}/{{provider}}/{{path}}"
UPLOAD = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}


class Way(NamedTuple):
    """A way in which a call comes to a gateway."""

    path: str
    """In the tables of what is served."""
    status: int
    """Where the gateway is allowed."""
    send: Callable[[At], httpx.Response]


WAYS = {
    "compat": Way(f"{BELOW}/compat/chat/completions", 200, lambda at: at.post("/compat/chat/completions", CHAT)),
    "embeddings": Way(
        f"{BELOW}/compat/embeddings", 200,
        lambda at: at.post("/compat/embeddings", {"model": "demo/demo-1", "input": "Hi"}),
    ),
    "custom domain": Way(f"{BELOW}/compat/chat/completions", 200, lambda at: at.domain()),
    "custom domain again": Way(f"{BELOW}/compat/chat/completions", 200, lambda at: at.domain(times=2)),
    "provider": Way(PROVIDER, 200, lambda at: at.post("/demo/v1/chat/completions", NATIVE)),
    "own key": Way(
        PROVIDER, 200,
        lambda at: at.post(
            "/demo/v1/chat/completions", NATIVE,
            **{"authorization": "Bearer callers-own", "cf-aig-authorization": f"Bearer {at.caller.token}"},
        ),
    ),
    "key in the query": Way(
        PROVIDER, 400,
        lambda at: at.post(
            f"/google-ai-studio/v1beta/models/m:generateContent?key={at.caller.token}", {}, accept="*/*"
        ),
    ),
    "upload": Way(
        PROVIDER, 400,
        lambda at: at.post(
            "/google-ai-studio/upload/v1beta/files", {}, **at.caller.headers, **UPLOAD,
            **{"x-goog-upload-header-content-length": "10"},
        ),
    ),
    "background": Way(
        PROVIDER, 400,
        lambda at: at.post("/openai/responses", {"model": "demo-1", "input": "Hi", "background": True}),
    ),
    "a response": Way(PROVIDER, 400, lambda at: at.get("/openai/responses/resp_1")),
    "batches": Way(PROVIDER, 400, lambda at: at.get("/openai/batches")),
    "a batch": Way(PROVIDER, 400, lambda at: at.post("/openai/batches", {"input_file_id": "file-1"})),
    "files": Way(PROVIDER, 400, lambda at: at.get("/openai/files")),
    "delete": Way(PROVIDER, 400, lambda at: at.delete("/openai/files/file-1")),
    "universal": Way(
        BELOW, 200,
        lambda at: at.post("", [{"provider": "demo", "endpoint": "v1/chat/completions", "query": NATIVE}]),
    ),
    "run": Way(f"{REST}/run/{{model}}", 200, lambda at: at.rest("/run/demo/demo-1", {"messages": HI})),
    "run at Workers AI": Way(
        f"{REST}/run/{{model}}", 400, lambda at: at.rest("/run/@cf/meta/llama-3.1-8b-instruct", {"messages": HI})
    ),
    "run by body": Way(
        f"{REST}/run", 200, lambda at: at.rest("/run", {"model": "demo/demo-1", "input": {"messages": HI}})
    ),
    "rest chat": Way(f"{REST}/v1/chat/completions", 200, lambda at: at.rest("/v1/chat/completions", CHAT)),
    "rest messages": Way(
        f"{REST}/v1/messages", 200, lambda at: at.rest("/v1/messages", CHAT | {"max_tokens": 20})
    ),
    "rest responses": Way(
        f"{REST}/v1/responses", 200, lambda at: at.rest("/v1/responses", {"model": "demo/demo-1", "input": "Hi"})
    ),
    "rest embeddings": Way(
        f"{REST}/v1/embeddings", 200, lambda at: at.rest("/v1/embeddings", {"model": "demo/demo-1", "input": "Hi"})
    ),
    "models": Way(f"{BELOW}/compat/models", 200, lambda at: at.get("/compat/models")),
    "a model": Way(f"{BELOW}/compat/models/{{model}}", 200, lambda at: at.get("/compat/models/demo/demo-1")),
    "rest models": Way(f"{REST}/v1/models", 200, lambda at: at.rest("/v1/models")),
    "a rest model": Way(f"{REST}/v1/models/{{model}}", 200, lambda at: at.rest("/v1/models/demo/demo-1")),
}  # fmt: skip


def test_every_path_of_model_calls_is_tried() -> None:
    assert {way.path for way in WAYS.values()} == {path for path, _ in (*MODEL_CALLS, *MODEL_LISTS)}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_to_another_gateway(owner: Customer, member: Customer, way: str) -> None:
    for gateway_id in ("other", "default", "nowhere"):
        refused = WAYS[way].send(At(member, gateway_id))
        assert refused.status_code == 403, refused.text
        assert "gateway_not_allowed" in refused.text or "2972" in refused.text
        assert f"“{gateway_id}”" in refused.text
    allowed = WAYS[way].send(At(member, TEAM))
    assert allowed.status_code == WAYS[way].status, allowed.text
    assert owner.balance.held == 0


def test_what_is_refused_costs_nothing_and_makes_nothing(owner: Customer, member: Customer) -> None:
    before = owner.balance
    for gateway_id in ("other", "default", "nowhere"):
        refused = at_gateway(member, gateway_id).chat()
        assert refusal(refused) == NOT_ALLOWED
        response = refused.json()
        assert (response["source"], response["error"]["code"]) == ("token", "gateway_not_allowed")
        assert response["remedy"].startswith("Use a gateway that the access token is for")
        assert refused.headers["x-should-retry"] == "false"
    assert owner.balance == before
    assert log_rows(owner) == []
    listed = result(http.get(f"{owner.api_url}/ai-gateway/gateways", headers=owner.headers))
    assert sorted(gateway["id"] for gateway in listed) == ["other", TEAM], "`default` is not created by it"
    assert member.chat().status_code == 200
    assert owner.balance.posted < before.posted


def test_sdks_see_it(member: Customer) -> None:
    other = at_gateway(member, "other").gateway_url
    with (
        openai.OpenAI(base_url=f"{other}/compat", api_key=member.token) as client,
        pytest.raises(openai.PermissionDeniedError) as of_openai,
    ):
        client.chat.completions.create(model="demo/demo-1", messages=HI)  # type: ignore[arg-type]
    assert of_openai.value.code == "gateway_not_allowed"
    with (
        anthropic.Anthropic(base_url=f"{other}/anthropic", api_key=member.token) as claude,
        pytest.raises(anthropic.PermissionDeniedError) as of_anthropic,
    ):
        claude.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=HI)  # type: ignore[arg-type]
    assert of_anthropic.value.body["error"]["type"] == "permission_error"  # type: ignore[index]
    assert "“other”" in str(of_anthropic.value)
    options: Any = {"base_url": f"{other}/google-ai-studio"}
    with (
        genai.Client(api_key=member.token, http_options=options) as google,
        pytest.raises(genai.errors.ClientError) as of_google,
    ):
        google.models.generate_content(model="gemini-2.5-flash", contents="Hi")
    assert (of_google.value.code, of_google.value.status) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    "path", ["/openai/realtime?model=gpt-realtime", "/openai/responses", "", "/deepgram/v1/listen"]
)
def test_no_websocket_leads_to_another_gateway(member: Customer, path: str) -> None:
    url = at_gateway(member, "other").gateway_url.replace("http", "ws", 1) + path
    words: Any = ["realtime", f"openai-insecure-api-key.{member.token}"]
    for given in ({"additional_headers": member.headers}, {"subprotocols": words}):
        with pytest.raises(InvalidStatus) as refused:
            connect(url, **given)
        assert refused.value.response.status_code == 403
        assert json.loads(refused.value.response.body)["internalCode"] == 2972


def test_a_websockets_next_message_is_refused_once_its_token_does_not_reach_the_gateway(
    owner: Customer, member: Customer
) -> None:
    """On the universal endpoint, where each message is a call of its own and the socket stays open."""
    with connect(member.gateway_url.replace("http", "ws", 1), additional_headers=member.headers) as socket:
        ask = {"eventId": "1", "provider": "demo", "endpoint": "v1/chat/completions"}
        request = {"type": "universal.create", "request": ask | {"query": {"model": "demo-1", "messages": HI}}}
        socket.send(json.dumps(request))
        assert '"universal.created"' in str(socket.recv(30))
        result(set_token(owner, gateways=["other"]))
        for _ in range(2):
            socket.send(json.dumps(request))
            assert "2972" in str(socket.recv(30))
        result(set_token(owner, gateways=None))
        socket.send(json.dumps(request))
        assert '"universal.created"' in str(socket.recv(30))


def test_a_change_is_seen_at_once_on_a_connection_that_repeats_a_hit(owner: Customer) -> None:
    """Repeated hits of the cache are answered without looking at anything again (http.repeated_hits)."""
    create(owner, "cached", cache_ttl=3600)
    caller = limited(owner, "cached")
    body = {"model": "demo-1", "messages": HI}
    with httpx.Client() as client:

        def call() -> httpx.Response:
            return client.post(f"{caller.gateway_url}/demo/v1/chat/completions", json=body, headers=caller.headers)

        assert [call().headers.get("cf-aig-cache-status") for _ in range(4)] == ["MISS", "HIT", "HIT", "HIT"]
        result(set_token(owner, gateways=["other"]))
        assert [refusal(call()) for _ in range(2)] == [NOT_ALLOWED] * 2
        result(set_token(owner, gateways=["other", "cached"]))
        assert [call().headers.get("cf-aig-cache-status") for _ in range(2)] == ["HIT", "HIT"]
        url = f"{owner.api_url}/ai-gateway/gateways/cached"
        result(http.delete(url, headers=owner.headers))
        create(owner, "cached", cache_ttl=3600)
        assert refusal(call()) == NOT_ALLOWED


def test_a_gateway_without_authentication_still_heeds_the_token_that_comes(owner: Customer, member: Customer) -> None:
    create(owner, "open", authentication=False)
    there = at_gateway(member, "open").gateway_url
    body = {"model": "demo-1", "messages": HI}
    own_key = {"authorization": "Bearer callers-own"}
    url = f"{there}/demo/v1/chat/completions"
    assert http.post(url, json=body, headers=own_key).status_code == 200
    with_token = http.post(url, json=body, headers=own_key | {"cf-aig-authorization": f"Bearer {member.token}"})
    assert refusal(with_token) == NOT_ALLOWED


# --- setting it -------------------------------------------------------------------------------------------------------


def test_the_gateways_of_a_token_are_set_and_freed(owner: Customer, member: Customer) -> None:
    other = at_gateway(member, "other")
    assert (the_token(owner)["gateways"], member.chat().status_code, other.chat().status_code) == ([TEAM], 200, 403)
    changed = result(set_token(owner, gateways=["other", TEAM, "other"]))
    assert changed["gateways"] == ["other", TEAM], "each once"
    assert (member.chat().status_code, other.chat().status_code) == (200, 200)
    assert result(set_token(owner, rate_limiting_limit=100))["gateways"] == ["other", TEAM], "the rest stays as it is"
    result(set_token(owner, gateways=["other"]))
    assert (refusal(member.chat()), other.chat().status_code) == (NOT_ALLOWED, 200)
    assert result(set_token(owner, gateways=None))["gateways"] is None
    assert (member.chat().status_code, other.chat().status_code) == (200, 200)


@pytest.mark.parametrize(
    "gateways",
    [[], ["nowhere"], [TEAM, "nowhere"], [""], ["Team-A"], ["team-a\n"], ["team-a\u0000"], ["*"], ["x" * 65],
     ["'; DROP TABLE gateways; --"], ["\ud800"], [TEAM] * 101, [f"g{number}" for number in range(101)], "team-a",
     [1], [None], {"team-a": True}, ["of-another"]],
)  # fmt: skip
def test_what_is_no_gateway_of_the_account_is_refused(owner: Customer, member: Customer, gateways: object) -> None:
    stranger = owner.farebox.funded("5")
    create(stranger, "of-another")
    sent = json.dumps({"gateways": gateways}).encode()
    url = f"{owner.api_url}/farebox/tokens/{the_token(owner)['id']}"
    response = http.put(url, content=sent, headers=owner.headers | {"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert errors(response)
    assert the_token(owner)["gateways"] == [TEAM]


def test_a_token_is_not_created_for_a_gateway_that_is_not_there(owner: Customer) -> None:
    for gateway_id in ("nowhere", "team-a\0", "Team"):
        with pytest.raises(ActionRefused, match="has no gateway") as refused:
            limited(owner, gateway_id)
        assert refused.value.of == "gateways"


def test_default_may_be_named_before_its_first_call_makes_it(owner: Customer) -> None:
    caller = limited(owner, "default")
    assert caller.chat().status_code == 200
    assert refusal(at_gateway(caller, TEAM).chat()) == NOT_ALLOWED


def test_a_deleted_gateway_is_taken_out_and_one_of_its_name_is_not_reached(owner: Customer, member: Customer) -> None:
    result(set_token(owner, gateways=[TEAM, "other"]))
    free = limited(owner, TEAM)
    free_id = result(http.get(f"{owner.api_url}/farebox/tokens", headers=owner.headers))[-1]["id"]
    result(http.put(f"{owner.api_url}/farebox/tokens/{free_id}", json={"gateways": None}, headers=owner.headers))
    result(http.delete(f"{owner.api_url}/ai-gateway/gateways/{TEAM}", headers=owner.headers))
    assert the_token(owner)["gateways"] == ["other"]
    assert refusal(member.chat()) == NOT_ALLOWED
    create(owner, TEAM)
    assert refusal(member.chat()) == NOT_ALLOWED, "it is another gateway"
    assert free.chat().status_code == 200, "a token that is not limited reaches it"
    result(http.delete(f"{owner.api_url}/ai-gateway/gateways/other", headers=owner.headers))
    assert the_token(owner)["gateways"] == [], "no gateway, and not all"
    for gateway_id in ("other", TEAM, "default"):
        assert refusal(at_gateway(member, gateway_id).chat()) == NOT_ALLOWED
    assert result(set_token(owner, gateways=[TEAM]))["gateways"] == [TEAM]
    assert member.chat().status_code == 200


def test_a_limited_token_deletes_its_own_gateway_and_reaches_none(owner: Customer, member: Customer) -> None:
    gateway = f"{member.api_url}/ai-gateway/gateways/{TEAM}"
    assert result(http.delete(gateway, headers=member.headers))["id"] == TEAM
    assert errors(http.get(gateway, headers=member.headers))[0][0] == 2972
    assert result(http.get(f"{member.api_url}/ai-gateway/gateways", headers=member.headers)) == []


# --- the API ----------------------------------------------------------------------------------------------------------


def test_the_api_shows_it_its_gateways_and_nothing_of_others(owner: Customer, member: Customer) -> None:
    gateways = f"{member.api_url}/ai-gateway/gateways"
    assert [each["id"] for each in result(http.get(gateways, headers=member.headers))] == [TEAM]
    assert result(http.get(f"{gateways}/{TEAM}", headers=member.headers))["id"] == TEAM
    ours = member.chat().headers["cf-aig-log-id"]
    theirs = at_gateway(owner, "other").chat().headers["cf-aig-log-id"]
    assert len(result(http.get(f"{gateways}/{TEAM}/logs", headers=member.headers))) == 1
    for gateway_id in ("other", "nowhere", "default"):
        for path in ("", "/logs", f"/logs/{theirs}", "/provider_configs", "/policies", "/routes", "/url/demo"):
            refused = http.get(f"{gateways}/{gateway_id}{path}", headers=member.headers)
            assert (refused.status_code, errors(refused)[0][0]) == NOT_ALLOWED, path
    receipts = f"{member.api_url}/farebox/receipts"
    assert result(http.get(f"{receipts}/{ours}", headers=member.headers))["gateway_id"] == TEAM
    for log_id in (theirs, "none"):
        assert http.get(f"{receipts}/{log_id}", headers=member.headers).status_code == 404
    assert http.get(f"{receipts}/{theirs}", headers=owner.headers).status_code == 200
    models = f"{member.api_url}/ai/models/search"
    assert result(http.get(models, headers=member.headers | {"cf-aig-gateway-id": TEAM}))
    assert errors(http.get(models, headers=member.headers))[0][0] == 2972, "that is the gateway `default`"
    assert result(http.get(member.api_url, headers=member.headers))["id"] == member.account_id
    verify = f"{member.farebox.url}/client/v4/user/tokens/verify"
    assert result(http.get(verify, headers=member.headers))["status"] == "active"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "farebox/balance"), ("GET", "farebox/usage"), ("GET", "farebox/transfers"), ("GET", "farebox/tokens"),
     ("PUT", "farebox/tokens/{token}"), ("GET", "farebox/tokens/{token}"), ("POST", "farebox/holds"),
     ("POST", "farebox/what-if"), ("POST", "farebox/billing-link"), ("PUT", "farebox/logpush"),
     ("GET", "farebox/gateways/other/spend-limits"), ("GET", "farebox/gateways/other/model-aliases"),
     ("POST", "ai-gateway/gateways"), ("GET", "ai-gateway/billing/credit-balance"),
     ("POST", "ai-gateway/billing/topup"),
     ("GET", "ai-gateway/custom-providers"), ("PATCH", "ai-gateway/gateways/other"),
     ("DELETE", "ai-gateway/gateways/other"), ("GET", "farebox/dlp-profiles")],
)  # fmt: skip
def test_what_is_of_the_account_as_a_whole_is_not_for_it(
    owner: Customer, member: Customer, method: str, path: str
) -> None:
    """Nor does it free itself."""
    url = f"{member.api_url}/{path.format(token=the_token(owner)['id'])}"
    body = {"gateways": None} if method in ("POST", "PUT", "PATCH") else None
    for _ in range(2):  # the second with a head that is known
        refused = http.request(method, url, json=body, headers=member.headers)
        assert (refused.status_code, errors(refused)[0][0]) == NOT_ALLOWED
    assert the_token(owner)["gateways"] == [TEAM]


OF_ACCOUNTS = [route for route in SERVED if route.access is Access.ACCOUNT]


def test_every_route_of_accounts_is_closed_unless_it_is_made_for_limited_tokens(member: Customer) -> None:
    """A new route is tried by being there."""
    open_to_it = []
    for route in OF_ACCOUNTS:
        where = url_of(member.farebox, route, member.account_id, gateway_id="other")
        answer = http.request(route.method, where, headers=member.headers)
        if answer.status_code != 403:
            open_to_it.append(f"{route.method} {route.path.removeprefix('/client/v4/accounts/{account_id}')}")
        else:
            assert errors(answer)[0][0] == 2972, route.path
    assert open_to_it == [
        "GET ",
        "GET /ai-gateway/gateways",
        "GET /ai-gateway/evaluation-types",
        "GET /farebox/receipts/{log_id}",
    ], "and `ai/models/search`, which is of the gateway `default` here"


def test_a_change_is_seen_at_once_by_the_api(owner: Customer, member: Customer) -> None:
    url = f"{member.api_url}/farebox/balance"
    with httpx.Client() as client:
        result(set_token(owner, gateways=None))
        assert client.get(url, headers=member.headers).status_code == 200
        result(set_token(owner, gateways=[TEAM]))
        assert client.get(url, headers=member.headers).status_code == 403


def test_a_token_of_another_account_is_rejected_as_before(owner: Customer, member: Customer) -> None:
    stranger = owner.farebox.funded("5")
    there = Customer(owner.farebox, stranger.account_id, member.token)
    assert refusal(there.chat()) == (401, 2009)
    assert errors(http.get(f"{there.api_url}/ai-gateway/gateways/{TEAM}", headers=there.headers))[0][0] == 10000


@pytest.mark.parametrize(
    ("change", "status", "reached"), [({"gateways": [TEAM]}, 400, None), ({"rate_limiting_limit": 5}, 200, [])]
)
def test_a_gateway_that_another_process_deletes_does_not_come_back(
    owner: Customer, change: dict[str, Any], status: int, reached: list[str] | None
) -> None:
    limited_now = reached is not None
    if limited_now:
        limited(owner, TEAM)
    listed = result(http.get(f"{owner.api_url}/farebox/tokens", headers=owner.headers))
    token_id = next(each["id"] for each in listed if (each["gateways"] is not None) == limited_now)
    url, of_account = f"{owner.api_url}/farebox/tokens/{token_id}", f"account_id = '{owner.account_id}'"
    deleting = (
        "UPDATE config_version SET version = version + 1",  # as storage.gateways.delete_gateway begins
        f"UPDATE access_tokens SET gateways = '[]' WHERE {of_account} AND gateways IS NOT NULL",
        f"DELETE FROM gateways WHERE {of_account} AND gateway_id = '{TEAM}'",
    )
    with ThreadPoolExecutor(1) as thread:
        with uncommitted(owner.farebox, *deleting):
            changing = thread.submit(http.put, url, json=change, headers=owner.headers)
            time.sleep(0.3)  # so that it has read what was there before, if it reads without waiting
        assert changing.result().status_code == status
    assert result(http.get(url, headers=owner.headers))["gateways"] == reached
