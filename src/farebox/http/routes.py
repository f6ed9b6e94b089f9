"""The URLs of the control plane; those below a gateway are in gateway_routes.py. (The data plane's, `/v1/…` and
`…/ai/…`, are in data_plane.py.)

`GET` routes answer `HEAD` too. A new endpoint is one line here, or in gateway_routes.py, and a handler.
"""

from dataclasses import replace
from functools import cache
from typing import Any

from farebox.errors import CONFIG_BY_TOKEN
from farebox.http import documents, metrics, openapi, quotas, webhooks
from farebox.http.control import (
    account_settings,
    accounts,
    billing,
    cards,
    classification,
    custom_costs,
    custom_providers,
    deliveries,
    evaluations,
    gateways,
    holds,
    log_destination,
    logs,
    messages,
    model_aliases,
    models,
    own,
    profile,
    provider_configs,
    purchases,
    spend_rules,
    spending,
    system,
    tokens,
    topups,
    transfer_statement,
    usage,
    what_if,
)
from farebox.http.control.log_query import LogsQuery, LogsToDelete
from farebox.http.control.wire import Paging
from farebox.http.dlp_routes import DLP_PROFILES
from farebox.http.envelope import Response
from farebox.http.gateway_routes import ACCOUNT, GATEWAY, GATEWAY_ROUTES, GATEWAYS, READ, V4, WRITE
from farebox.http.pages.routes import PAGES
from farebox.http.request import Request
from farebox.http.router import Access, Route, Shape
from farebox.model import Permission
from farebox.pricing.receipt import Receipt

BILLING_WRITE = (Permission.BILLING_WRITE, Permission.WRITE)
MONEY = (Permission.BILLING_WRITE,)
"""For routes that control the owner's cards and money; the permission to configure gateways is not enough."""
BILLING_READ = (Permission.READ, Permission.WRITE, Permission.BILLING_WRITE)
HOLDS = (Permission.RUN, Permission.WRITE)

BILLING = f"{ACCOUNT}/ai-gateway/billing"
LOGS = f"{GATEWAY}/logs"
CONFIGS = f"{GATEWAY}/provider_configs"
CUSTOM = f"{ACCOUNT}/ai-gateway/custom-providers"
OWN = f"{ACCOUNT}/farebox"
ALIASES = f"{OWN}/model-aliases"
GATEWAY_ALIASES = f"{OWN}/gateways/{{gateway_id}}/model-aliases"


@cache
def _document() -> bytes:
    return openapi.document(ROUTES)


async def openapi_json(request: Request, _: None) -> Response:
    return Response(_document())


# fmt: off
SERVED: tuple[Route, ...] = (
    Route(method="GET", path="/healthz", handler=system.healthz, access=Access.PUBLIC, shape=Shape.RAW,
          result=system.Health, summary="Liveness of the process"),
    Route(method="GET", path="/readyz", handler=system.readyz, access=Access.PUBLIC, shape=Shape.RAW,
          result=system.Readiness, summary="Whether calls can be served: 200, or 503 with what is not ready and "
          "what to do about it"),
    Route(method="GET", path=metrics.PATH, handler=metrics.metrics, access=Access.TOKEN, shape=Shape.RAW, result=str,
          content_type="text/plain", summary="Metrics for Prometheus; needs the token set by the operator"),
    Route(method="GET", path="/openapi.json", handler=openapi_json, access=Access.PUBLIC, shape=Shape.RAW,
          result=dict[str, Any], summary="This document"),

    Route(method="GET", path=f"{V4}/user/tokens/verify", handler=accounts.verify_token, access=Access.TOKEN,
          result=accounts.TokenStatus, summary="Whether the access token is valid"),
    Route(method="GET", path=f"{V4}/accounts", handler=accounts.list_accounts, access=Access.CALLER,
          takes=accounts.AccountsQuery, result=accounts.AccountInfo, shape=Shape.PAGE,
          summary="The caller's accounts"),
    Route(method="GET", path=ACCOUNT, handler=accounts.get_account, permissions=tuple(Permission),
          limited_too=True, result=accounts.AccountInfo, summary="One account"),
    Route(method="GET", path=f"{ACCOUNT}/ai/models/search", handler=models.search, permissions=tuple(Permission),
          limited_too=True, shape=Shape.PAGE, takes=models.ModelsQuery, result=models.Model,
          budget=quotas.MODEL_LISTS, summary="The models that can be called, and what they cost"),

    Route(method="GET", path=f"{BILLING}/credit-balance", handler=billing.credit_balance, permissions=BILLING_READ,
          reads=billing.CREDIT, result=billing.CreditBalance, summary="Credit balance, card and auto top-up, in cents"),
    Route(method="POST", path=f"{BILLING}/topup", handler=topups.create, permissions=BILLING_WRITE,
          takes=topups.TopupCreate, idempotent=True, result=topups.Topup, budget=quotas.PROCESSOR_REQUESTS,
          summary="Buy credit with a saved card"),
    Route(method="POST", path=f"{BILLING}/topup/status", handler=topups.status, permissions=BILLING_WRITE,
          takes=topups.TopupStatusQuery, result=topups.TopupStatus, budget=quotas.POLLS,
          summary="Status of a purchase"),
    Route(method="GET", path=f"{BILLING}/topup/limits", handler=topups.limits, permissions=BILLING_READ,
          result=topups.TopupLimits, summary="Smallest and largest top-up, in cents"),
    Route(method="GET", path=f"{BILLING}/topup/config", handler=topups.config, permissions=BILLING_READ,
          result=topups.TopupConfig, summary="Auto top-up, in cents"),
    Route(method="POST", path=f"{BILLING}/topup/config", handler=topups.set_config, permissions=MONEY,
          denied=CONFIG_BY_TOKEN, takes=topups.TopupConfigSet, result=topups.TopupConfigSaved,
          summary="Switch auto top-up on, or back on"),
    Route(method="DELETE", path=f"{BILLING}/topup/config", handler=topups.remove_config, permissions=MONEY,
          denied=CONFIG_BY_TOKEN, result=topups.Nothing, summary="Switch auto top-up off"),
    Route(method="GET", path=f"{BILLING}/usage-history", handler=billing.usage_history, permissions=BILLING_READ,
          takes=billing.UsageQuery, result=billing.UsageHistory, summary="Usage per day or hour, in cents"),
    Route(method="GET", path=f"{BILLING}/invoice-history", handler=billing.invoice_history, permissions=BILLING_READ,
          takes=billing.InvoiceQuery, result=billing.InvoiceHistory, summary="Purchases of credit, in cents"),
    Route(method="GET", path=f"{BILLING}/invoice-preview", handler=billing.invoice_preview, permissions=BILLING_READ,
          result=billing.InvoicePreview, summary="Usage of the current month by model, in cents"),
    Route(method="GET", path=f"{BILLING}/spending-limit", handler=spending.get, permissions=BILLING_READ,
          result=spending.Limit, summary="The account's spending limit, in cents"),
    Route(method="POST", path=f"{BILLING}/spending-limit", handler=spending.put, permissions=BILLING_WRITE, status=201,
          takes=spending.LimitSet, result=spending.Limit, summary="Set the account's spending limit"),
    Route(method="DELETE", path=f"{BILLING}/spending-limit", handler=spending.remove, permissions=BILLING_WRITE,
          result=topups.Nothing, summary="Remove the account's spending limit"),

    Route(method="GET", path=GATEWAYS, handler=gateways.list_all, permissions=READ, shape=Shape.PAGE,
          limited_too=True, takes=gateways.GatewaysQuery, result=gateways.Gateway, summary="List gateways"),
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
    Route(method="GET", path=f"{GATEWAY}/run/{{run_id}}/resume", handler=gateways.resume,
          permissions=(*READ, Permission.RUN), shape=Shape.RAW, content_type="text/event-stream", result=bytes,
          summary="Resume a stream: always 404, as none can be"),
    Route(method="GET", path=f"{GATEWAY}/url/{{provider}}", handler=gateways.url, permissions=READ,
          result=str, summary="Base URL of a provider behind the gateway"),

    Route(method="GET", path=CONFIGS, handler=provider_configs.list_all, permissions=READ, shape=Shape.PAGE,
          takes=Paging, result=provider_configs.ProviderConfig, summary="The gateway's stored keys, without the keys"),
    Route(method="POST", path=CONFIGS, handler=provider_configs.create, permissions=WRITE,
          takes=provider_configs.ProviderConfigCreate, result=provider_configs.ProviderConfig,
          summary="Store a key at a provider"),
    Route(method="PUT", path=f"{CONFIGS}/{{id}}", handler=provider_configs.replace, permissions=WRITE,
          takes=provider_configs.ProviderConfigReplace, result=provider_configs.ProviderConfig,
          summary="Replace a stored key"),
    Route(method="DELETE", path=f"{CONFIGS}/{{id}}", handler=provider_configs.delete, permissions=WRITE,
          result=provider_configs.ProviderConfig, summary="Delete a stored key"),

    Route(method="GET", path=CUSTOM, handler=custom_providers.list_all, permissions=READ, shape=Shape.PAGE,
          takes=custom_providers.CustomProvidersQuery, result=custom_providers.CustomProvider,
          summary="List custom providers"),
    Route(method="POST", path=CUSTOM, handler=custom_providers.create, permissions=WRITE,
          takes=custom_providers.CustomProviderCreate, result=custom_providers.CustomProvider,
          summary="Create a custom provider"),
    Route(method="GET", path=f"{CUSTOM}/{{id}}", handler=custom_providers.get, permissions=READ,
          result=custom_providers.CustomProvider, summary="One custom provider"),
    Route(method="PATCH", path=f"{CUSTOM}/{{id}}", handler=custom_providers.change, permissions=WRITE,
          takes=custom_providers.CustomProviderChange, result=custom_providers.CustomProvider,
          summary="Change some fields of a custom provider"),
    Route(method="DELETE", path=f"{CUSTOM}/{{id}}", handler=custom_providers.delete, permissions=WRITE,
          result=custom_providers.CustomProvider, summary="Delete a custom provider, its costs and its keys"),
    Route(method="GET", path=f"{CUSTOM}/costs", handler=custom_costs.list_all, permissions=READ, shape=Shape.PAGE,
          takes=custom_costs.CustomCostsQuery, result=custom_costs.CustomCost,
          summary="List what models of custom providers cost"),
    Route(method="POST", path=f"{CUSTOM}/costs", handler=custom_costs.create, permissions=WRITE,
          takes=custom_costs.CustomCostCreate, result=custom_costs.CustomCost, summary="Set what a model costs"),
    Route(method="GET", path=f"{CUSTOM}/costs/{{id}}", handler=custom_costs.get, permissions=READ,
          result=custom_costs.CustomCost, summary="One cost"),
    Route(method="PATCH", path=f"{CUSTOM}/costs/{{id}}", handler=custom_costs.change, permissions=WRITE,
          takes=custom_costs.CustomCostChange, result=custom_costs.CustomCost, summary="Change a cost"),
    Route(method="DELETE", path=f"{CUSTOM}/costs/{{id}}", handler=custom_costs.delete, permissions=WRITE,
          result=custom_costs.CustomCost, summary="Delete a cost"),

    Route(method="GET", path=LOGS, handler=logs.list_logs, permissions=READ, shape=Shape.PAGE,
          takes=LogsQuery, info=logs.LogsInfo, result=logs.Log, summary="List logs"),
    Route(method="GET", path=f"{LOGS}/{{log_id}}", handler=logs.get_log, permissions=READ,
          result=logs.LogDetail, summary="One log"),
    Route(method="DELETE", path=LOGS, handler=logs.delete_logs, permissions=WRITE, shape=Shape.RAW, takes=LogsToDelete,
          result=logs.Deleted, summary="Delete logs; receipts and charges stay"),
    Route(method="PATCH", path=f"{LOGS}/{{log_id}}", handler=logs.edit_log, permissions=WRITE, takes=logs.LogChange,
          result=logs.Log, summary="Rate a call: feedback, score, metadata"),
    Route(method="GET", path=f"{LOGS}/{{log_id}}/request", handler=logs.get_request, permissions=READ,
          shape=Shape.RAW, result=Any, summary="The stored request body"),
    Route(method="GET", path=f"{LOGS}/{{log_id}}/response", handler=logs.get_response, permissions=READ,
          shape=Shape.RAW, result=Any, summary="The stored response body"),

    *GATEWAY_ROUTES,
    Route(method="GET", path=f"{ACCOUNT}/ai-gateway/evaluation-types", handler=evaluations.list_types, permissions=READ,
          limited_too=True, shape=Shape.PAGE, takes=evaluations.TypesQuery, result=evaluations.EvaluationType,
          summary="What evaluations can compute"),

    Route(method="GET", path=f"{OWN}/balance", handler=own.balance, permissions=BILLING_READ,
          result=own.ExactBalance, summary="Posted, held and available, in nano-dollars"),
    Route(method="GET", path=f"{OWN}/transfers", handler=transfer_statement.transfers, permissions=BILLING_READ,
          shape=Shape.PAGE, takes=transfer_statement.TransfersQuery, result=transfer_statement.Transfer,
          summary="The statement: every movement of money, newest first; also as CSV"),
    Route(method="GET", path=f"{OWN}/lots", handler=transfer_statement.lots, permissions=BILLING_READ, shape=Shape.PAGE,
          takes=transfer_statement.LotsQuery, result=transfer_statement.Lot,
          summary="The lots of credit, in the order they are spent"),
    Route(method="GET", path=f"{OWN}/usage", handler=usage.get, permissions=BILLING_READ,
          takes=usage.UsageReportQuery, result=usage.UsageReport,
          summary="Usage by hour, day or month and by model, provider, gateway, token, user or metadata; also as CSV"),
    Route(method="GET", path=f"{OWN}/receipts/{{log_id}}", handler=own.receipt, permissions=READ,
          limited_too=True, result=Receipt, summary="The receipt of one call"),

    Route(method="POST", path=f"{OWN}/what-if", handler=what_if.begin, permissions=WRITE, takes=what_if.WhatIfCreate,
          result=what_if.WhatIf, budget=quotas.WHAT_IFS,
          summary="Replay past calls under another limit, or with another model"),
    Route(method="GET", path=f"{OWN}/what-if", handler=what_if.get, permissions=READ, result=what_if.WhatIf,
          summary="The latest what-if: its state, and its report"),
    Route(method="DELETE", path=f"{OWN}/what-if", handler=what_if.cancel, permissions=WRITE, result=what_if.WhatIf,
          summary="Cancel the what-if that is running"),

    Route(method="GET", path=f"{OWN}/payment-methods", handler=cards.list_cards, permissions=BILLING_READ,
          result=cards.SavedCards, summary="The saved cards"),
    Route(method="POST", path=f"{OWN}/payment-methods/{{card_id}}/default", handler=cards.make_default,
          permissions=MONEY, result=cards.SavedCards, budget=quotas.PROCESSOR_REQUESTS,
          summary="Make a card the default"),
    Route(method="DELETE", path=f"{OWN}/payment-methods/{{card_id}}", handler=cards.remove, permissions=MONEY,
          result=cards.SavedCards, budget=quotas.PROCESSOR_REQUESTS, summary="Remove a card"),
    Route(method="POST", path=f"{OWN}/checkout", handler=cards.open_checkout, permissions=MONEY,
          takes=cards.CheckoutOpen, idempotent=True, result=cards.OpenCheckout, budget=quotas.PAGES,
          summary="A hosted page to save a card or to buy credit"),
    Route(method="GET", path=f"{OWN}/checkout/{{checkout_id}}", handler=cards.checkout, permissions=BILLING_READ,
          result=cards.CheckoutState, budget=quotas.POLLS, summary="Status of a hosted page"),
    Route(method="POST", path=f"{OWN}/billing-link", handler=profile.billing_link, permissions=MONEY,
          result=profile.BillingLink, budget=quotas.LINKS, summary="A single-use link to the owner's billing page"),
    Route(method="GET", path=f"{OWN}/billing-profile", handler=profile.get_profile, permissions=BILLING_READ,
          result=profile.BillingProfile, summary="Who the invoices are for"),
    Route(method="PUT", path=f"{OWN}/billing-profile", handler=profile.set_profile, permissions=MONEY,
          takes=profile.ProfileSet, result=profile.BillingProfile, summary="Set who the invoices are for"),
    Route(method="GET", path=f"{OWN}/auto-topup", handler=profile.auto_topup, permissions=BILLING_READ,
          result=profile.AutoTopup, summary="Auto top-up in detail"),
    Route(method="GET", path=f"{OWN}/topups", handler=purchases.list_purchases, permissions=BILLING_READ,
          shape=Shape.PAGE, takes=Paging, result=purchases.Purchase, summary="Purchases of credit, newest first"),
    Route(method="GET", path=f"{OWN}/topups/{{top_up_id}}", handler=purchases.get_purchase, permissions=BILLING_READ,
          result=purchases.Purchase, budget=quotas.POLLS, summary="One purchase, by either of its IDs"),
    Route(method="GET", path=f"{OWN}/refunds", handler=purchases.list_refunds, permissions=BILLING_READ,
          shape=Shape.PAGE, takes=Paging, result=purchases.Refund, summary="Refunds, newest first"),
    Route(method="POST", path=f"{OWN}/refunds", handler=purchases.create_refund, permissions=MONEY,
          takes=purchases.RefundCreate, idempotent=True, result=purchases.Refund,
          budget=quotas.PROCESSOR_REQUESTS, summary="Refund unspent credit to the card"),
    Route(method="GET", path=f"{OWN}/refunds/{{refund_id}}", handler=purchases.get_refund, permissions=BILLING_READ,
          result=purchases.Refund, summary="One refund"),
    Route(method="GET", path=f"{OWN}/disputes", handler=purchases.list_disputes, permissions=BILLING_READ,
          shape=Shape.PAGE, takes=Paging, result=purchases.Dispute, summary="Disputed payments, newest first"),
    Route(method="GET", path=f"{OWN}/spending-limit", handler=spending.state, permissions=BILLING_READ,
          result=spending.LimitState, summary="The spending limit and how much of it is spent, in nano-dollars"),

    Route(method="GET", path=f"{OWN}/settings", handler=account_settings.get, permissions=BILLING_READ,
          result=account_settings.Settings, summary="The account's time zone, and whether it wants alerts"),
    Route(method="PUT", path=f"{OWN}/settings", handler=account_settings.change, permissions=BILLING_WRITE,
          takes=account_settings.SettingsChange, result=account_settings.Settings, budget=quotas.CHANGES,
          summary="Change the account's time zone, or switch alerts on and off"),

    Route(method="GET", path=f"{OWN}/tokens", handler=tokens.list_all, permissions=READ, shape=Shape.PAGE,
          takes=Paging, result=tokens.Token, summary="The account's access tokens, without their secrets"),
    Route(method="GET", path=f"{OWN}/tokens/{{token_id}}", handler=tokens.get, permissions=READ, result=tokens.Token,
          summary="One access token, without its secret"),
    Route(method="PUT", path=f"{OWN}/tokens/{{token_id}}", handler=tokens.change, permissions=WRITE,
          takes=tokens.TokenChange, result=tokens.Token,
          summary="Change which models an access token may call, through which gateways, how often, and until when"),

    Route(method="GET", path=f"{OWN}/gateways/{{gateway_id}}/spend-limits", handler=spend_rules.states,
          permissions=READ, shape=Shape.PAGE, takes=spend_rules.SpendQuery, result=spend_rules.SpendState,
          summary="What is left of each rule of a gateway's spend limits, in nano-dollars"),

    Route(method="GET", path=f"{OWN}/logpush", handler=log_destination.get, permissions=READ,
          result=log_destination.Logpush, summary="The log destination and its state"),
    Route(method="PUT", path=f"{OWN}/logpush", handler=log_destination.put, permissions=WRITE,
          takes=log_destination.LogDestinationSet, result=log_destination.Logpush,
          summary="Set the log destination"),
    Route(method="DELETE", path=f"{OWN}/logpush", handler=log_destination.delete, permissions=WRITE,
          result=log_destination.Logpush, summary="Stop pushing logs"),
    Route(method="GET", path=f"{OWN}/gateways/{{gateway_id}}/meter-events", handler=deliveries.meter_events,
          permissions=READ, result=deliveries.Deliveries, summary="State of the events for a gateway's Stripe meter"),
    Route(method="GET", path=f"{OWN}/gateways/{{gateway_id}}/tasks", handler=classification.tasks,
          permissions=READ, takes=classification.TasksQuery, result=list[classification.Task],
          summary="The tasks of a gateway's calls, and how well their models fit"),

    Route(method="GET", path=ALIASES, handler=model_aliases.list_all, permissions=READ, shape=Shape.PAGE,
          takes=Paging, result=model_aliases.Alias, summary="List the model aliases of the account"),
    Route(method="GET", path=f"{ALIASES}/{{alias}}", handler=model_aliases.get, permissions=READ,
          result=model_aliases.Alias, summary="One model alias of the account"),
    Route(method="PUT", path=f"{ALIASES}/{{alias}}", handler=model_aliases.put, permissions=WRITE,
          takes=model_aliases.AliasSet, result=model_aliases.Alias, summary="Set a model alias of the account"),
    Route(method="DELETE", path=f"{ALIASES}/{{alias}}", handler=model_aliases.delete, permissions=WRITE,
          result=model_aliases.Alias, summary="Delete a model alias of the account"),
    Route(method="GET", path=GATEWAY_ALIASES, handler=model_aliases.list_of_gateway, permissions=READ, shape=Shape.PAGE,
          takes=Paging, result=model_aliases.Alias, summary="List the model aliases of a gateway"),
    Route(method="GET", path=f"{GATEWAY_ALIASES}/{{alias}}", handler=model_aliases.get_of_gateway, permissions=READ,
          result=model_aliases.Alias, summary="One model alias of a gateway"),
    Route(method="PUT", path=f"{GATEWAY_ALIASES}/{{alias}}", handler=model_aliases.put_of_gateway, permissions=WRITE,
          takes=model_aliases.AliasSet, result=model_aliases.Alias, summary="Set a model alias of a gateway"),
    Route(method="DELETE", path=f"{GATEWAY_ALIASES}/{{alias}}", handler=model_aliases.delete_of_gateway,
          permissions=WRITE, result=model_aliases.Alias, summary="Delete a model alias of a gateway"),

    Route(method="POST", path=f"{OWN}/holds", handler=holds.create, permissions=HOLDS, status=201,
          takes=holds.HoldCreate, idempotent=True, result=holds.Hold,
          summary="Hold money for an application's own work"),
    Route(method="GET", path=f"{OWN}/holds/{{hold_id}}", handler=holds.get, permissions=(*READ, Permission.RUN),
          result=holds.Hold, summary="One hold"),
    Route(method="POST", path=f"{OWN}/holds/{{hold_id}}/extend", handler=holds.extend, permissions=HOLDS,
          takes=holds.HoldExtend, result=holds.Hold, summary="Hold more, or longer"),
    Route(method="POST", path=f"{OWN}/holds/{{hold_id}}/settle", handler=holds.settle, permissions=HOLDS,
          takes=holds.HoldSettle, result=holds.Hold, summary="Charge the actual cost and release the rest"),
    Route(method="POST", path=f"{OWN}/holds/{{hold_id}}/release", handler=holds.release, permissions=HOLDS,
          result=holds.Hold, summary="Release the whole hold"),

    Route(method="GET", path=f"{OWN}/documents", handler=documents.index, permissions=BILLING_READ, shape=Shape.PAGE,
          takes=Paging, result=documents.DocumentInfo, summary="Invoices and credit notes, newest first"),
    Route(method="GET", path=f"{OWN}/documents/{{document}}", handler=documents.pdf, permissions=BILLING_READ,
          shape=Shape.RAW, content_type=documents.PDF, result=bytes,
          budget=quotas.DOCUMENTS,
          summary="An invoice or credit note (`NUMBER.pdf`) or a usage statement (`statement-2026-11.pdf`)"),
    Route(method="GET", path=f"{OWN}/statements/{{month}}", handler=documents.statement, permissions=BILLING_READ,
          result=documents.MonthStatement, summary="A month's usage statement, in nano-dollars"),
    Route(method="GET", path="/documents/{document}", handler=documents.linked, access=Access.PUBLIC, shape=Shape.RAW,
          content_type=documents.PDF, takes=documents.Signed, result=bytes, summary="A document by its signed link"),

    Route(method="GET", path=f"{OWN}/webhooks", handler=messages.endpoints, permissions=BILLING_READ,
          result=list[messages.Endpoint], summary="The endpoints that messages are sent to"),
    Route(method="POST", path=f"{OWN}/webhooks", handler=messages.add_endpoint, permissions=BILLING_WRITE, status=201,
          takes=messages.NewEndpoint, result=messages.EndpointWithSecret, summary="Add an endpoint"),
    Route(method="DELETE", path=f"{OWN}/webhooks/{{endpoint_id}}", handler=messages.remove_endpoint,
          permissions=BILLING_WRITE, result=messages.Endpoint, summary="Remove an endpoint"),
    Route(method="POST", path=f"{OWN}/webhooks/{{endpoint_id}}/test", handler=messages.try_endpoint,
          permissions=BILLING_WRITE, result=messages.TestResult, budget=quotas.TESTS,
          summary="Send a test message now"),
    Route(method="GET", path=f"{OWN}/messages", handler=messages.index, permissions=BILLING_READ, shape=Shape.PAGE,
          takes=Paging, result=messages.Message, summary="Messages with their deliveries, newest first"),
    Route(method="POST", path=f"{OWN}/messages/{{message_id}}/replay", handler=messages.replay,
          permissions=BILLING_WRITE, result=messages.Replayed, budget=quotas.TESTS,
          summary="Send a message again"),

    Route(method="POST", path="/webhooks/stripe", handler=webhooks.stripe, access=Access.PUBLIC,
          shape=Shape.RAW, raw_limit=webhooks.BODY_LIMIT, result=Any, summary="Events from the payment processor"),
    *DLP_PROFILES,
)
# fmt: on


def _limited(route: Route) -> Route:
    """The route with the quota for changes, if it makes one. Logs are not configuration."""
    changes = route.method != "GET" and route.permissions == WRITE and "/logs" not in route.path
    return replace(route, budget=quotas.CHANGES) if changes and route.budget is None else route


ROUTES = (*[_limited(route) for route in SERVED], *PAGES)
"""The routes of the API and of the pages (docs/pages.md)."""
