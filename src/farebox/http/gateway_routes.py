"""The control plane's URLs of what a gateway has: dynamic routes, policies, custom domains, datasets, evaluations."""

from farebox.http import quotas
from farebox.http.control import custom_domains, datasets, dynamic_routes, evaluations, policies, policy_simulation
from farebox.http.control.wire import Paging
from farebox.http.router import Route, Shape
from farebox.model import Permission

READ = (Permission.READ, Permission.WRITE)
WRITE = (Permission.WRITE,)

V4 = "/client/v4"
ACCOUNT = f"{V4}/accounts/{{account_id}}"
GATEWAYS = f"{ACCOUNT}/ai-gateway/gateways"
GATEWAY = f"{GATEWAYS}/{{gateway_id}}"
FLOWS = f"{GATEWAY}/routes"
FLOW = f"{FLOWS}/{{id}}"
POLICIES = f"{GATEWAY}/policies"
DOMAINS = f"{GATEWAY}/custom-domains"
DATASETS = f"{GATEWAY}/datasets"
EVALUATIONS = f"{GATEWAY}/evaluations"

# fmt: off
GATEWAY_ROUTES: tuple[Route, ...] = (
    Route(method="GET", path=FLOWS, handler=dynamic_routes.list_all, permissions=READ, shape=Shape.RAW, takes=Paging,
          result=dynamic_routes.Routes, summary="List dynamic routes"),
    Route(method="POST", path=FLOWS, handler=dynamic_routes.create, permissions=WRITE,
          takes=dynamic_routes.RouteCreate, result=dynamic_routes.Route,
          summary="Create a dynamic route; its first version is deployed"),
    Route(method="GET", path=FLOW, handler=dynamic_routes.get, permissions=READ,
          result=dynamic_routes.Route, summary="One dynamic route"),
    Route(method="PATCH", path=FLOW, handler=dynamic_routes.rename, permissions=WRITE, shape=Shape.RAW,
          takes=dynamic_routes.RouteRename, result=dynamic_routes.Renamed, summary="Rename a dynamic route"),
    Route(method="DELETE", path=FLOW, handler=dynamic_routes.delete, permissions=WRITE,
          result=dynamic_routes.Route, summary="Delete a dynamic route with its versions"),
    Route(method="GET", path=f"{FLOW}/versions", handler=dynamic_routes.list_versions, permissions=READ,
          shape=Shape.RAW, takes=Paging, result=dynamic_routes.Versions, summary="List a dynamic route's versions"),
    Route(method="POST", path=f"{FLOW}/versions", handler=dynamic_routes.create_version, permissions=WRITE,
          takes=dynamic_routes.VersionCreate, result=dynamic_routes.RouteVersion,
          summary="Add a version; it serves nothing until it is deployed"),
    Route(method="GET", path=f"{FLOW}/versions/{{version_id}}", handler=dynamic_routes.get_version, permissions=READ,
          result=dynamic_routes.RouteVersion, summary="One version of a dynamic route"),
    Route(method="GET", path=f"{FLOW}/deployments", handler=dynamic_routes.list_deployments, permissions=READ,
          shape=Shape.RAW, takes=Paging, result=dynamic_routes.Deployments,
          summary="The deployments of a dynamic route's versions"),
    Route(method="POST", path=f"{FLOW}/deployments", handler=dynamic_routes.create_deployment, permissions=WRITE,
          takes=dynamic_routes.DeploymentCreate, result=dynamic_routes.Route,
          summary="Deploy a version of a dynamic route"),

    Route(method="GET", path=POLICIES, handler=policies.list_all, permissions=READ, takes=policies.PoliciesQuery,
          result=list[policies.Policy], summary="List policies; `includeStaging=true`: with drafts"),
    Route(method="POST", path=POLICIES, handler=policies.create, permissions=WRITE, shape=Shape.RAW,
          takes=policies.PolicyCreate, result=policies.Written,
          summary="Create a policy; a draft unless the query says `commit=true`"),
    Route(method="GET", path=f"{POLICIES}/{{id}}", handler=policies.get, permissions=READ, takes=policies.PoliciesQuery,
          result=policies.Policy, summary="One policy; `includeStaging=true`: its draft, if it has one"),
    Route(method="PUT", path=f"{POLICIES}/{{id}}", handler=policies.change, permissions=WRITE, shape=Shape.RAW,
          takes=policies.PolicyChange, result=policies.Written,
          summary="Change some fields of a policy; a draft unless the query says `commit=true`"),
    Route(method="DELETE", path=f"{POLICIES}/{{id}}", handler=policies.delete, permissions=WRITE,
          result=policies.Policy, summary="Delete a policy and its draft"),
    Route(method="POST", path=f"{POLICIES}/commit", handler=policies.commit, permissions=WRITE, shape=Shape.RAW,
          result=policies.CommitResult, summary="Put all drafts in force"),
    Route(method="POST", path=f"{POLICIES}/simulate", handler=policy_simulation.simulate, permissions=READ,
          takes=policy_simulation.Simulation, result=policy_simulation.Simulated,
          summary="What the policies, with drafts, would say about a call"),

    Route(method="GET", path=DOMAINS, handler=custom_domains.list_all, permissions=READ, shape=Shape.PAGE,
          takes=custom_domains.CustomDomainsQuery, result=custom_domains.CustomDomain, summary="List custom domains"),
    Route(method="POST", path=DOMAINS, handler=custom_domains.create, permissions=WRITE,
          takes=custom_domains.CustomDomainCreate, result=custom_domains.CustomDomain,
          summary="Create a custom domain; it serves once its TXT record is found"),
    Route(method="GET", path=f"{DOMAINS}/{{hostname}}", handler=custom_domains.get, permissions=READ,
          result=custom_domains.CustomDomain, budget=quotas.DOMAIN_CHECKS,
          summary="One custom domain; its record is looked up if it does not serve yet"),
    Route(method="DELETE", path=f"{DOMAINS}/{{hostname}}", handler=custom_domains.delete, permissions=WRITE,
          result=custom_domains.CustomDomain, summary="Delete a custom domain"),

    Route(method="GET", path=DATASETS, handler=datasets.list_all, permissions=READ, shape=Shape.PAGE,
          takes=datasets.DatasetsQuery, result=datasets.Dataset, summary="List datasets"),
    Route(method="POST", path=DATASETS, handler=datasets.create, permissions=WRITE,
          takes=datasets.DatasetSet, result=datasets.Dataset, summary="Create a dataset: filters over the log"),
    Route(method="GET", path=f"{DATASETS}/{{id}}", handler=datasets.get, permissions=READ,
          result=datasets.Dataset, summary="One dataset"),
    Route(method="PUT", path=f"{DATASETS}/{{id}}", handler=datasets.replace, permissions=WRITE,
          takes=datasets.DatasetSet, result=datasets.Dataset, summary="Replace a dataset"),
    Route(method="DELETE", path=f"{DATASETS}/{{id}}", handler=datasets.delete, permissions=WRITE,
          result=datasets.Dataset, summary="Delete a dataset"),
    Route(method="GET", path=EVALUATIONS, handler=evaluations.list_all, permissions=READ, shape=Shape.PAGE,
          takes=evaluations.EvaluationsQuery, result=evaluations.Evaluation, summary="List evaluations"),
    Route(method="POST", path=EVALUATIONS, handler=evaluations.create, permissions=WRITE,
          takes=evaluations.EvaluationCreate, result=evaluations.Evaluation,
          summary="Evaluate the logs of datasets, in the background"),
    Route(method="GET", path=f"{EVALUATIONS}/{{id}}", handler=evaluations.get, permissions=READ,
          result=evaluations.Evaluation, summary="One evaluation with its results"),
    Route(method="DELETE", path=f"{EVALUATIONS}/{{id}}", handler=evaluations.delete, permissions=WRITE,
          result=evaluations.Evaluation, summary="Delete an evaluation"),
)
# fmt: on
