"""Every URL of the control plane on one page. (The data plane's, `/v1/…` and `…/ai/…`, are in data_plane.py.)

`GET` routes answer `HEAD` too. A new endpoint is one line here and a handler.
"""

from functools import cache
from typing import Any

from farebox.http import openapi
from farebox.http.control import accounts, billing, gateways, logs, own, system
from farebox.http.control.log_query import LogsQuery
from farebox.http.control.wire import Paging
from farebox.http.envelope import Answer
from farebox.http.request import Request
from farebox.http.router import Access, Route, Shape
from farebox.model import Permission
from farebox.pricing.receipt import Receipt

READ = (Permission.READ, Permission.WRITE)
WRITE = (Permission.WRITE,)
BILLING_WRITE = (Permission.BILLING_WRITE, Permission.WRITE)

V4 = "/client/v4"
ACCOUNT = f"{V4}/accounts/{{account_id}}"
BILLING = f"{ACCOUNT}/ai-gateway/billing"
GATEWAYS = f"{ACCOUNT}/ai-gateway/gateways"
GATEWAY = f"{GATEWAYS}/{{gateway_id}}"
LOGS = f"{GATEWAY}/logs"
OWN = f"{ACCOUNT}/farebox"


@cache
def _document() -> bytes:
    return openapi.document(ROUTES)


async def openapi_json(request: Request, _: None) -> Answer:
    return Answer(_document())


# fmt: off
SERVED: tuple[Route, ...] = (
    Route(method="GET", path="/healthz", handler=system.healthz, access=Access.PUBLIC, shape=Shape.RAW,
          result=system.Health, summary="Whether the process answers"),
    Route(method="GET", path="/readyz", handler=system.readyz, access=Access.PUBLIC, shape=Shape.RAW,
          result=system.Health, summary="Whether the database takes writes"),
    Route(method="GET", path="/openapi.json", handler=openapi_json, access=Access.PUBLIC, shape=Shape.RAW,
          result=dict[str, Any], summary="This document"),

    Route(method="GET", path=f"{V4}/user/tokens/verify", handler=accounts.verify_token, access=Access.TOKEN,
          result=accounts.TokenStatus, summary="Whether the access token is valid"),
    Route(method="GET", path=f"{V4}/accounts", handler=accounts.list_accounts, access=Access.CALLER,
          takes=accounts.AccountsQuery, result=accounts.AccountInfo, shape=Shape.PAGE,
          summary="The accounts of the caller"),
    Route(method="GET", path=ACCOUNT, handler=accounts.get_account, permissions=tuple(Permission),
          result=accounts.AccountInfo, summary="One account"),

    Route(method="GET", path=f"{BILLING}/credit-balance", handler=billing.credit_balance, permissions=READ,
          result=billing.CreditBalance, summary="Credit balance, in cents"),
    Route(method="GET", path=f"{BILLING}/topup/config", handler=billing.topup_config, permissions=READ,
          result=billing.TopupConfig, summary="Auto top-up configuration, in cents"),
    Route(method="GET", path=f"{BILLING}/topup/limits", handler=billing.topup_limits, permissions=READ,
          result=billing.TopupLimits, summary="Smallest and largest top-up, in cents"),
    Route(method="GET", path=f"{BILLING}/usage-history", handler=billing.usage_history, permissions=READ,
          takes=billing.UsageQuery, result=billing.UsageHistory, summary="Usage per day or hour, in cents"),
    Route(method="GET", path=f"{BILLING}/invoice-history", handler=billing.invoice_history, permissions=READ,
          takes=billing.InvoiceQuery, result=billing.InvoiceHistory, summary="Purchases of credit, in cents"),
    Route(method="GET", path=f"{BILLING}/invoice-preview", handler=billing.invoice_preview, permissions=READ,
          result=billing.InvoicePreview, summary="Usage of the running month by model, in cents"),
    Route(method="GET", path=f"{BILLING}/spending-limit", handler=billing.spending_limit, permissions=READ,
          result=billing.SpendingLimit, summary="The deprecated spending limit: never enabled"),
    Route(method="POST", path=f"{BILLING}/spending-limit", handler=billing.set_spending_limit, permissions=WRITE,
          result=billing.SpendingLimit, summary="Deprecated: always answered 403"),
    Route(method="DELETE", path=f"{BILLING}/spending-limit", handler=billing.spending_limit, permissions=WRITE,
          result=billing.SpendingLimit, summary="Deprecated: there is none to delete"),

    Route(method="GET", path=GATEWAYS, handler=gateways.list_all, permissions=READ, shape=Shape.PAGE,
          takes=gateways.GatewaysQuery, result=gateways.Gateway, summary="List gateways"),
    Route(method="POST", path=GATEWAYS, handler=gateways.create, permissions=WRITE,
          takes=gateways.GatewayCreate, result=gateways.Gateway, summary="Create a gateway"),
    Route(method="GET", path=GATEWAY, handler=gateways.get, permissions=READ,
          result=gateways.Gateway, summary="One gateway"),
    Route(method="PUT", path=GATEWAY, handler=gateways.replace, permissions=WRITE,
          takes=gateways.GatewayReplace, result=gateways.Gateway, summary="Replace a gateway's configuration"),
    Route(method="PATCH", path=GATEWAY, handler=gateways.change, permissions=WRITE,
          takes=gateways.GatewayChange, result=gateways.Gateway, summary="Change some fields of a gateway"),
    Route(method="DELETE", path=GATEWAY, handler=gateways.delete, permissions=WRITE,
          result=gateways.Gateway, summary="Delete a gateway"),
    Route(method="GET", path=f"{GATEWAY}/url/{{provider}}", handler=gateways.url, permissions=READ,
          result=str, summary="Base URL of a provider behind the gateway"),

    Route(method="GET", path=LOGS, handler=logs.list_logs, permissions=READ, shape=Shape.PAGE,
          takes=LogsQuery, info=logs.LogsInfo, result=logs.Log, summary="List logs"),
    Route(method="GET", path=f"{LOGS}/{{log_id}}", handler=logs.get_log, permissions=READ,
          result=logs.LogDetail, summary="One log"),
    Route(method="GET", path=f"{LOGS}/{{log_id}}/request", handler=logs.get_request, permissions=READ,
          shape=Shape.RAW, result=Any, summary="The stored request body"),
    Route(method="GET", path=f"{LOGS}/{{log_id}}/response", handler=logs.get_response, permissions=READ,
          shape=Shape.RAW, result=Any, summary="The stored response body"),

    Route(method="GET", path=f"{OWN}/balance", handler=own.balance, permissions=READ,
          result=own.ExactBalance, summary="Posted, held and available, in nano-dollars"),
    Route(method="GET", path=f"{OWN}/transfers", handler=own.transfers, permissions=READ, shape=Shape.PAGE,
          takes=Paging, result=own.Transfer, summary="The statement: every movement of money, newest first"),
    Route(method="GET", path=f"{OWN}/receipts/{{log_id}}", handler=own.receipt, permissions=READ,
          result=Receipt, summary="The receipt of one call"),
)

_NOT_YET: tuple[tuple[str, str], ...] = (
    ("POST", f"{BILLING}/topup"),
    ("POST DELETE", f"{BILLING}/topup/config"),
    ("POST", f"{BILLING}/topup/status"),
    ("DELETE", LOGS),
    ("PATCH", f"{LOGS}/{{log_id}}"),
    ("GET POST", f"{GATEWAY}/provider_configs"),
    ("PUT DELETE", f"{GATEWAY}/provider_configs/{{id}}"),
    ("GET POST", f"{GATEWAY}/routes"),
    ("GET PATCH DELETE", f"{GATEWAY}/routes/{{id}}"),
    ("GET POST", f"{GATEWAY}/routes/{{id}}/versions"),
    ("GET", f"{GATEWAY}/routes/{{id}}/versions/{{version_id}}"),
    ("GET POST", f"{GATEWAY}/routes/{{id}}/deployments"),
    ("GET POST", f"{GATEWAY}/datasets"),
    ("GET PUT DELETE", f"{GATEWAY}/datasets/{{id}}"),
    ("GET POST", f"{GATEWAY}/evaluations"),
    ("GET DELETE", f"{GATEWAY}/evaluations/{{id}}"),
    ("GET POST", f"{GATEWAY}/custom-domains"),
    ("GET DELETE", f"{GATEWAY}/custom-domains/{{hostname}}"),
    ("GET POST", f"{GATEWAY}/policies"),
    ("GET PUT DELETE", f"{GATEWAY}/policies/{{id}}"),
    ("GET", f"{ACCOUNT}/ai-gateway/evaluation-types"),
    ("GET POST", f"{ACCOUNT}/ai-gateway/custom-providers"),
    ("GET PATCH DELETE", f"{ACCOUNT}/ai-gateway/custom-providers/{{id}}"),
    ("GET POST", f"{ACCOUNT}/ai-gateway/custom-providers/costs"),
    ("GET PATCH DELETE", f"{ACCOUNT}/ai-gateway/custom-providers/costs/{{id}}"),
)
"""What Cloudflare serves and this release does not: answered with an error that says so."""
# fmt: on

UNAVAILABLE = tuple(
    Route(
        method=method,
        path=path,
        handler=system.not_available,
        permissions=READ if method == "GET" else BILLING_WRITE if path.startswith(BILLING) else WRITE,
        result=None,
        summary="Not available in this release",
    )
    for methods, path in _NOT_YET
    for method in methods.split()
)

ROUTES = SERVED + UNAVAILABLE
