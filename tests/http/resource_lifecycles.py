"""The resources of the control plane with their life cycles: a table for tests/http/test_resource_lifecycles.py."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from farebox.http.router import Route
from farebox.http.routes import ROUTES
from tests.http.sdk_drivers import Operation
from tests.http.support import GATEWAY_FIELDS
from tests.http.test_dynamic_routes import PLAIN

GATEWAY: Final = "ai-gateway/gateways/{gateway_id}"
TOKEN: Final = "farebox/tokens/{token_id}"
INVALID: Final = (400, 7001)
UNKNOWN: Final = (404, 7002)
CUT: Final = ("body", "elements", 1, "outputs", "success", "elementId")
"""The fault in PLAIN[:2]."""
OTHER: Final = [*PLAIN[:1], PLAIN[1] | {"properties": PLAIN[1]["properties"] | {"model": "demo-2"}}, *PLAIN[2:]]
LIMIT: Final = {"type": "limit", "amount": 1, "period": "day", "technique": "named-interval"}

Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ResourceLifecycle:
    """A resource that is created, read, listed, changed and deleted."""

    name: str
    path: str
    """The path of the list, relative to the account."""
    item: str = "{id}"
    """The rest of the path for a single one."""
    sdk: str = ""
    """The name of the resource in the SDKs; empty: the SDKs lack it."""
    sdk_methods: tuple[str, ...] = ("create", "list", "get", "update", "delete")
    id: str = "id"
    """The field of the result with its ID."""
    needs: tuple[str, ...] = ()
    """Resources that must exist first; the values contain their IDs by name."""
    body: Callable[[int, Mapping[str, str]], Fields]
    """The fields to create the first, the second, …; `values` has the IDs of the resources that it needs."""
    named: bool = False
    """Whether the caller names it in the URL and creates it with PUT; creating it again changes it."""
    hidden: tuple[str, ...] = ()
    """Fields that are returned differently from how they were sent."""
    written_later: tuple[str, ...] = ()
    """Fields that a job fills in after the response."""
    change: tuple[str, Fields] | None = None
    """The method of a change, and the fields to send."""
    changed: Fields | None = None
    """The returned fields, if they differ from those sent."""
    duplicate: tuple[int, int] | None = INVALID
    """The error for creating it again; None: duplicates are allowed."""
    wrong: tuple[tuple[Fields, tuple[Any, ...]], ...]
    """Invalid fields, and the place that the error names."""
    reads: bool = True
    pages: bool = True
    """Whether its list is paged."""
    gone: tuple[int, int] = UNKNOWN
    shown: Callable[[Any], Any] = lambda result: result
    """Extracts a single one from a result."""
    shown_all: Callable[[Any], list[Any]] = lambda result: result
    write_query: str = ""
    """Query of the URL that creates and changes it."""

    def operation(self, method: str, name: str) -> Operation:
        path = self.path if name in ("list", "create") and not (self.named and name == "create") else self.one
        sdk = f"{self.sdk}.{name}" if self.sdk and name in self.sdk_methods else ""
        return Operation(method, path, sdk, self.write_query if name in ("create", "update") else "")

    @property
    def one(self) -> str:
        return f"{self.path}/{self.item}"

    def operations(self) -> set[tuple[str, str]]:
        """The methods and paths of its life cycle."""
        found = {("GET", self.path), ("DELETE", self.one), ("PUT", self.one) if self.named else ("POST", self.path)}
        if self.reads:
            found.add(("GET", self.one))
        if self.change is not None:
            found.add((self.change[0], self.one))
        return found


def _policy(n: int, _: Mapping[str, str]) -> Fields:
    action = {"type": "block", "except": False}
    return {"name": f"p{n}", "actor": "all", "resource": {"model": f"m-{n}"}, "condition": "true", "action": action}


def _day(later: int) -> str:
    """The date that many days after today."""
    return time.strftime("%Y-%m-%d", time.gmtime(time.time() + later * 86_400))


def _entries(text: str) -> list[Fields]:
    return [{"name": "words", "keyword": text}]


LIFECYCLES: Final = (
    ResourceLifecycle(
        name="gateways",
        path="ai-gateway/gateways",
        item="{gateway_id}",
        sdk="ai_gateway",
        body=lambda n, _: {"id": f"g{n}", **GATEWAY_FIELDS, "rate_limiting_limit": n},
        hidden=("cache_ttl",),
        change=("PUT", GATEWAY_FIELDS | {"rate_limiting_limit": 7, "cache_ttl": 30}),
        wrong=(
            ({"id": "Not This"}, ("body", "id")),
            ({"rate_limiting_limit": -1}, ("body", "rate_limiting_limit")),
            ({"retry_max_attempts": 6}, ("body", "retry_max_attempts")),
            ({"log_classification": True}, ("body", "log_classification")),
            ({"guardrails": {"prompt": {"S1": "BLOCK"}, "response": {}}}, ("body", "guardrails")),
        ),
    ),
    ResourceLifecycle(
        name="gateways, in part",
        path="ai-gateway/gateways",
        item="{gateway_id}",
        body=lambda n, _: {"id": f"part-{n}", **GATEWAY_FIELDS},
        hidden=("cache_ttl",),
        change=("PATCH", {"collect_logs": False}),
        wrong=(({"spend_limits": {"rules": [{"limit": 1}]}}, ("body", "spend_limits", "rules", 0, "limitType")),),
    ),
    ResourceLifecycle(
        name="provider configs",
        path=f"{GATEWAY}/provider_configs",
        sdk="ai_gateway.provider_configs",
        sdk_methods=("create", "list"),
        body=lambda n, _: {
            "provider_slug": "demo", "alias": f"a{n}", "default_config": n == 1, "secret": f"sk-number-{n:04}",
        },
        hidden=("secret",),
        change=("PUT", {"secret": "sk-another-0099"}),
        changed={"secret_preview": "…0099"},
        wrong=(
            ({"provider_slug": "nobody"}, ("body", "provider_slug")),
            ({"alias": "not this"}, ("body", "alias")),
            ({"secret": "fbx_" + "0" * 40}, ("body", "secret")),
        ),
        reads=False,
    ),
    ResourceLifecycle(
        name="custom providers",
        path="ai-gateway/custom-providers",
        sdk="ai_gateway.custom_providers",
        sdk_methods=("create", "list", "get", "delete"),
        body=lambda n, _: {"name": f"Number {n}", "slug": f"own-{n}", "base_url": f"https://models.example.com/v{n}"},
        change=("PATCH", {"name": "Renamed", "enable": True}),
        wrong=(
            ({"base_url": "http://10.0.0.1/v1"}, ("body", "base_url")),
            ({"slug": "Not This"}, ("body", "slug")),
            ({"headers": "no json"}, ("body", "headers")),
        ),
    ),
    ResourceLifecycle(
        name="costs",
        path="ai-gateway/custom-providers/costs",
        needs=("custom providers",),
        body=lambda n, ids: {
            "account_provider_id": ids["custom providers"], "model": f"m-{n}", "cost_in": 0.5, "cost_out": n,
        },
        change=("PATCH", {"cost_in": 0.25, "model_rule": "starts-with"}),
        wrong=(
            ({"account_provider_id": "nobody"}, ("body", "account_provider_id")),
            ({"cost_in": -1}, ("body", "cost_in")),
            ({"model_rule": "like"}, ("body", "model_rule")),
        ),
    ),
    ResourceLifecycle(
        name="dynamic routes",
        path=f"{GATEWAY}/routes",
        sdk="ai_gateway.dynamic_routing",
        body=lambda n, _: {"name": f"route-{n}", "elements": PLAIN},
        hidden=("elements",),
        change=("PATCH", {"name": "renamed"}),
        changed={"success": True},
        duplicate=(400, 7005),
        wrong=(({"elements": PLAIN[:2]}, CUT), ({"name": ""}, ("body", "name"))),
        pages=False,
        gone=(404, 7005),
        shown_all=lambda result: list(result["data"]["routes"]),
    ),
    ResourceLifecycle(
        name="policies",
        write_query="?commit=true",
        path=f"{GATEWAY}/policies",
        body=_policy,
        hidden=("action",),
        change=("PUT", {"condition": "token.name == 'x'"}),
        duplicate=None,
        wrong=(
            ({"condition": "token.name =="}, ("body", "condition")),
            ({"actor": "{nothing}"}, ("body", "actor")),
            ({"resource": {}}, ("body", "resource")),
            ({"action": LIMIT | {"amount": 0}}, ("body", "action", "amount")),
        ),
        pages=False,
    ),
    ResourceLifecycle(
        name="custom domains",
        path=f"{GATEWAY}/custom-domains",
        item="{hostname}",
        id="hostname",
        body=lambda n, _: {"domain": f"n{n}.lives.example.com"},
        hidden=("domain",),
        wrong=(
            ({"domain": "https://n.lives.example.com"}, ("body", "domain")),
            ({"domain": "*.lives.example.com"}, ("body", "domain")),
            ({"domain": "10.0.0.1"}, ("body", "domain")),
            ({"minTLS": "1.2"}, ("body", "minTLS")),
        ),
    ),
    ResourceLifecycle(
        name="datasets",
        path=f"{GATEWAY}/datasets",
        sdk="ai_gateway.datasets",
        body=lambda n, _: {
            "name": f"set-{n}", "enable": True, "filters": [{"key": "model", "operator": "eq", "value": ["demo-1"]}],
        },
        change=("PUT", {"name": "other", "enable": False, "filters": []}),
        wrong=(
            ({"name": ""}, ("body", "name")),
            ({"filters": [{"key": "colour", "operator": "eq", "value": []}]}, ("body", "filters", 0, "key")),
        ),
    ),
    ResourceLifecycle(
        name="evaluations",
        path=f"{GATEWAY}/evaluations",
        sdk="ai_gateway.evaluations",
        needs=("datasets",),
        body=lambda n, ids: {
            "name": f"eval-{n}", "dataset_ids": [ids["datasets"]], "evaluation_type_ids": ["cost", "speed"],
        },
        hidden=("dataset_ids", "evaluation_type_ids"),
        written_later=("results", "processed", "total_logs", "modified_at"),
        wrong=(
            ({"dataset_ids": ["nothing"]}, ("body", "dataset_ids", 0)),
            ({"evaluation_type_ids": ["beauty"]}, ("body", "evaluation_type_ids", 0)),
        ),
    ),
    ResourceLifecycle(
        name="DLP profiles",
        path="farebox/dlp-profiles",
        item="{profile_id}",
        body=lambda n, _: {"name": f"words {n}", "entries": _entries(f"secret {n}")},
        hidden=("entries",),
        change=("PUT", {"name": "changed", "entries": _entries("another")}),
        changed={"name": "changed"},
        duplicate=None,
        wrong=(
            ({"entries": []}, ("body", "entries")),
            ({"entries": [{"name": "n", "pattern": {"regex": "(a"}}]}, ("body", "entries", 0, "pattern", "regex")),
        ),
    ),
    ResourceLifecycle(
        name="model aliases",
        path="farebox/model-aliases",
        item="{alias}",
        id="alias",
        body=lambda n, _: {"targets": [f"demo/demo-{n}"]},
        named=True,
        change=("PUT", {"targets": ["demo/demo-3", "demo/demo-1"]}),
        wrong=(({"targets": []}, ("body", "targets")), ({"targets": ["no-provider"]}, ("body", "targets", 0))),
    ),
    ResourceLifecycle(
        name="a gateway's model aliases",
        path="farebox/gateways/{gateway_id}/model-aliases",
        item="{alias}",
        id="alias",
        body=lambda n, _: {"targets": [f"demo/demo-{n}"]},
        named=True,
        change=("PUT", {"targets": ["demo/demo-2"]}),
        wrong=(({"targets": ["no-provider"]}, ("body", "targets", 0)),),
    ),
    ResourceLifecycle(
        name="webhooks",
        path="farebox/webhooks",
        item="{endpoint_id}",
        id="endpoint_id",
        body=lambda n, _: {"url": f"https://hooks.example.com/{n}", "kinds": ["spend_alert"]},
        duplicate=None,
        wrong=(({"url": "ftp://hooks.example.com"}, ("body", "url")), ({"kinds": ["nothing"]}, ("body", "kinds"))),
        reads=False,
        pages=False,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Step:
    """One request of a story, and its expected response."""

    method: str
    path: str
    sdk: str = ""
    query: str = ""
    fields: Fields | Callable[[Mapping[str, str]], Fields] = field(default_factory=dict)
    code: tuple[int, int] = (200, 0)
    place: tuple[Any, ...] = ()
    """The field that the error names."""
    result: Any = None
    """The expected result: for a dictionary, the fields to compare; for a list, its length."""
    keep: Mapping[str, str] = field(default_factory=dict)
    """Values for later steps: name → field of the result (`version.version_id`)."""

    @property
    def operation(self) -> Operation:
        return Operation(self.method, self.path, self.sdk, self.query)


ROUTE, LOG = f"{GATEWAY}/routes/{{id}}", f"{GATEWAY}/logs/{{log_id}}"
POLICY, HOLD = f"{GATEWAY}/policies/{{id}}", "farebox/holds/{hold_id}"
_routing, _logs = "ai_gateway.dynamic_routing", "ai_gateway.logs"
_DESTINATION: Fields = {
    "type": "http",
    "url": "https://logs.example.com/in",
    "headers": {"x-key": "the-secret-of-logs-0001"},
}

STORIES: Final[Mapping[str, tuple[Step, ...]]] = {
    "versions and deployments of routes": (
        Step(method="POST", path=f"{GATEWAY}/routes", sdk=f"{_routing}.create", fields={"name": "r", "elements": PLAIN},
             keep={"id": "id", "version_id": "version.version_id"}),
        Step(method="GET", path=f"{ROUTE}/versions/{{version_id}}", sdk=f"{_routing}.get_version",
             result={"active": "true"}),
        Step(method="POST", path=f"{ROUTE}/versions", sdk=f"{_routing}.create_version", fields={"elements": PLAIN[:2]},
             code=INVALID, place=CUT),
        Step(method="POST", path=f"{ROUTE}/versions", sdk=f"{_routing}.create_version", fields={"elements": OTHER},
             keep={"second": "version_id"}),
        Step(method="GET", path=f"{ROUTE}/versions", sdk=f"{_routing}.list_versions",
             result={"data.versions": [..., ...]}),
        Step(method="POST", path=f"{ROUTE}/deployments", sdk=f"{_routing}.create_deployment",
             fields={"version_id": "nothing"}, code=(404, 7005)),
        Step(method="POST", path=f"{ROUTE}/deployments", sdk=f"{_routing}.create_deployment",
             fields=lambda values: {"version_id": values["second"]}),
        Step(method="GET", path=f"{ROUTE}/versions/{{version_id}}", sdk=f"{_routing}.get_version",
             result={"active": "false"}),
        Step(method="GET", path=f"{ROUTE}/deployments", sdk=f"{_routing}.list_deployments",
             result={"data.deployments": [..., ...]}),
        Step(method="GET", path=f"{GATEWAY}/routes", query="?page=1&per_page=1", result={"data.routes": [...]}),
        Step(method="GET", path=f"{GATEWAY}/routes", query="?page=2&per_page=1", result={"data.routes": []}),
    ),
    "drafts of policies": (
        Step(method="POST", path=f"{GATEWAY}/policies", fields=_policy(1, {}), keep={"id": "id"}),
        Step(method="GET", path=POLICY, code=UNKNOWN),
        Step(method="GET", path=POLICY, query="?includeStaging=true", result={"uncommitted": True, "name": "p1"}),
        Step(method="PUT", path=POLICY, fields={"name": "p2"}, code=INVALID, place=("path", "id")),
        Step(method="GET", path=f"{GATEWAY}/policies", result=[]),
        Step(method="GET", path=f"{GATEWAY}/policies", query="?includeStaging=true", result=[...]),
        Step(method="POST", path=f"{GATEWAY}/policies/simulate", fields={"model": "m-1"},
             result={"evaluation.decision": "block"}),
        Step(method="POST", path=f"{GATEWAY}/policies/simulate", fields={}, code=INVALID, place=("body", "model")),
        Step(method="POST", path=f"{GATEWAY}/policies/commit", result={"committed": 1, "failed": 0}),
        Step(method="GET", path=POLICY, result={"name": "p1"}),
        Step(method="POST", path=f"{GATEWAY}/policies", query="?commit=perhaps", fields=_policy(2, {}), code=INVALID,
             place=("query", "commit")),
    ),
    "logs": (
        Step(method="GET", path=f"{GATEWAY}/logs", sdk=f"{_logs}.list", fields={"per_page": 1}, result=[..., ...],
             keep={"log_id": "1.id", "last_id": "0.id"}),
        Step(method="GET", path=LOG, sdk=f"{_logs}.get", result={"provider": "demo", "success": True}),
        Step(method="GET", path=f"{LOG}/request", sdk=f"{_logs}.request", result={"model": "demo-1"}),
        Step(method="GET", path=f"{LOG}/response", sdk=f"{_logs}.response", result={"object": "chat.completion"}),
        Step(method="PATCH", path=LOG, sdk=f"{_logs}.edit", fields={"feedback": 2, "score": 101}, code=INVALID,
             place=("body", "feedback")),
        Step(method="PATCH", path=LOG, sdk=f"{_logs}.edit",
             fields={"feedback": 1, "score": 50, "metadata": {"a": "b"}}),
        Step(method="GET", path=f"{GATEWAY}/logs", sdk=f"{_logs}.list", result=[...],
             fields={"filters": [{"key": "feedback", "operator": "eq", "value": [1]}]}),
        Step(method="GET", path=f"{GATEWAY}/logs", sdk=f"{_logs}.list", code=INVALID,
             fields={"filters": [{"key": "cost", "operator": "gt", "value": ["much"]}]}),
        Step(method="DELETE", path=f"{GATEWAY}/logs", sdk=f"{_logs}.delete", result={"success": True},
             fields={"filters": [{"key": "feedback", "operator": "eq", "value": [1]}], "limit": 1}),
        Step(method="GET", path=LOG, sdk=f"{_logs}.get", code=UNKNOWN),
        Step(method="PATCH", path=LOG, sdk=f"{_logs}.edit", fields={"feedback": 1}, code=UNKNOWN),
        Step(method="GET", path=f"{LOG}/request", sdk=f"{_logs}.request", code=UNKNOWN),
        Step(method="GET", path=f"{GATEWAY}/logs", sdk=f"{_logs}.list", result=[...]),
    ),
    "what is only read": (
        Step(method="GET", path="ai-gateway/evaluation-types", sdk="ai_gateway.evaluation_types.list",
             fields={"per_page": 2}, result=[..., ..., ...]),
        Step(method="GET", path=f"{GATEWAY}/url/{{provider}}", sdk="ai_gateway.urls.get"),
        Step(method="GET", path="farebox/gateways/{gateway_id}/spend-limits", result=[]),
        Step(method="GET", path="farebox/gateways/{gateway_id}/meter-events", result={"waiting": 0}),
        Step(method="GET", path="farebox/gateways/{gateway_id}/tasks", result=[]),
        Step(method="GET", path="farebox/gateways/{gateway_id}/tasks", query="?start=then", code=INVALID,
             place=("query", "start")),
    ),
    "what access tokens may do": (
        Step(method="GET", path="farebox/tokens", result=[...], keep={"token_id": "0.id"}),
        Step(method="PUT", path=TOKEN, fields={"rate_limiting_limit": -1}, code=INVALID,
             place=("body", "rate_limiting_limit")),
        Step(method="PUT", path=TOKEN, fields={"rate_limiting_limit": 5, "rate_limiting_technique": "sliding"},
             result={"rate_limiting_interval": 60}),
        Step(method="GET", path=TOKEN, result={"rate_limiting_limit": 5, "rate_limiting_technique": "sliding"}),
        Step(method="PUT", path=TOKEN, fields={"models": ["demo"]}, code=INVALID, place=("body", "models")),
        Step(method="PUT", path=TOKEN, fields={"models": ["demo/demo-1"], "expires_at": "2999-01-01T00:00:00Z"},
             result={"rate_limiting_limit": 5}),
        Step(method="GET", path=TOKEN, result={"models": ["demo/demo-1"], "expires_at": "2999-01-01T00:00:00.000Z"}),
        Step(method="PUT", path=TOKEN, fields={"models": ["demo/*"]}, code=(403, 10000)),
    ),
    "the account's settings": (
        Step(method="GET", path="farebox/settings", result={"time_zone": "UTC", "spend_alerts": True}),
        Step(method="PUT", path="farebox/settings", fields={"time_zone": "Mars/Base"}, code=INVALID,
             place=("body", "time_zone")),
        Step(method="PUT", path="farebox/settings", fields={"time_zone": "Asia/Tokyo"}, result={"spend_alerts": True}),
        Step(method="PUT", path="farebox/settings", fields={"spend_alerts": False}, result={"time_zone": "Asia/Tokyo"}),
        Step(method="GET", path="farebox/settings", result={"time_zone": "Asia/Tokyo", "spend_alerts": False}),
    ),
    "where logs are pushed": (
        Step(method="GET", path="farebox/logpush", result={"destination": None}),
        Step(method="PATCH", path=GATEWAY, fields={"logpush": True}, code=INVALID, place=("body", "logpush")),
        Step(method="PUT", path="farebox/logpush", fields=_DESTINATION | {"url": "logs"}, code=INVALID,
             place=("body", "url")),
        Step(method="PUT", path="farebox/logpush", fields=_DESTINATION,
             result={"destination.url": _DESTINATION["url"], "destination.headers": {"x-key": "…0001"}}),
        Step(method="PATCH", path=GATEWAY, fields={"logpush": True}, result={"logpush": True}),
        Step(method="GET", path="farebox/logpush", result={"gateways": [...]}),
        Step(method="PATCH", path=GATEWAY, fields={"logpush": False}, result={"logpush": False}),
        Step(method="DELETE", path="farebox/logpush"),
        Step(method="GET", path="farebox/logpush", result={"destination": None}),
    ),
    "holds": (
        Step(method="POST", path="farebox/holds", fields={"hold_id": "h-1", "amount_nanos": 1000},
             result={"state": "open"}, keep={"hold_id": "hold_id"}),
        Step(method="POST", path="farebox/holds", fields={"hold_id": "h-1", "amount_nanos": 1000},
             result={"state": "open"}),
        Step(method="POST", path="farebox/holds", fields={"hold_id": "h-1", "amount_nanos": 999}, code=(409, 2928)),
        Step(method="POST", path="farebox/holds", fields={"hold_id": "h-2", "amount_nanos": 0}, code=INVALID,
             place=("body", "amount_nanos")),
        Step(method="POST", path=f"{HOLD}/extend", fields={"amount_nanos": 3000}, result={"amount_nanos": 3000}),
        Step(method="GET", path=HOLD, result={"asked_nanos": 1000, "amount_nanos": 3000}),
        Step(method="POST", path=f"{HOLD}/settle", fields={"amount_nanos": 2000}, result={"charged_nanos": 2000}),
        Step(method="POST", path=f"{HOLD}/settle", fields={"amount_nanos": 2000}, result={"charged_nanos": 2000}),
        Step(method="GET", path=HOLD, result={"state": "settled"}),
        Step(method="POST", path="farebox/holds", fields={"hold_id": "h-3", "amount_nanos": 1000},
             keep={"hold_id": "hold_id"}),
        Step(method="POST", path=f"{HOLD}/release", result={"state": "released", "charged_nanos": 0}),
    ),
    "a what-if": (
        Step(method="GET", path="farebox/what-if", code=UNKNOWN),
        Step(method="POST", path="farebox/what-if", fields={"from": "2026-01-01", "to": "2025-01-01", "models": {}},
             code=INVALID, place=("body", "to")),
        Step(method="POST", path="farebox/what-if",
             fields={"from": _day(-30), "to": _day(2), "models": {"demo/demo-1": "demo/demo-1"}},
             result={"total": 2}),
        Step(method="GET", path="farebox/what-if", result={"total": 2}),
        Step(method="DELETE", path="farebox/what-if"),
    ),
}  # fmt: skip
"""Operations beyond the life cycles: versions, drafts, singletons. `gateway_id` is a gateway with two calls."""


ELSEWHERE: Final = {
    "": "the account itself: test_cloudflare_python.py",
    "ai/models/search": "what can be called, not what is configured: tests/calls/test_run.py",
    "ai-gateway/billing": "with a fake Stripe: test_cloudflare_python.py, test_cloudflare_typescript.py",
    **dict.fromkeys(
        (
            "farebox/auto-topup", "farebox/billing-link", "farebox/billing-profile", "farebox/checkout",
            "farebox/disputes", "farebox/payment-methods", "farebox/refunds", "farebox/topups",
        ),
        "with a fake Stripe: test_own_api.py, test_topups.py, tests/payments",
    ),
    **dict.fromkeys(
        ("farebox/balance", "farebox/lots", "farebox/receipts", "farebox/spending-limit", "farebox/transfers"),
        "what the ledger says: test_own_api.py, tests/calls",
    ),
    f"{GATEWAY}/run": "always 404: tests/calls/test_run.py",
    "farebox/documents": "tests/documents", "farebox/statements": "tests/documents",
    "farebox/usage": "what was charged: test_usage_report.py",
    "farebox/messages": "tests/messages", "farebox/webhooks/{endpoint_id}/test": "tests/messages",
}  # fmt: skip
"""Routes that have other tests, by prefix of their path, with the reason."""


def routes_of_accounts() -> set[tuple[str, str]]:
    """Methods and paths, relative to the account."""
    return {
        (route.method, _path_of(route))
        for route in ROUTES
        if "account_id" in route.parameters and not route.path.startswith("/ui/")
    }


def _path_of(route: Route) -> str:
    return route.path.partition("/{account_id}")[2].strip("/")
