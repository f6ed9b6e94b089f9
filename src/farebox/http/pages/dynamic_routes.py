"""Dynamic routes: a gateway's list, one route with its picture, versions and deployments, and an editor.

The editor is a form: each of its buttons sends the whole form, and the response shows the route as it would be, drawn,
with any faults at their places. Nothing is stored until it is saved.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from farebox.errors import NOT_FOUND, ROUTE_EXISTS, ROUTE_NOT_FOUND, Problem
from farebox.http.control import dynamic_routes as api
from farebox.http.control.wire import Paging
from farebox.http.envelope import Response
from farebox.http.pages import route_form
from farebox.http.pages.fields import json_of
from farebox.http.pages.gateways import HERE, gateway
from farebox.http.pages.own_api import invoke, submit
from farebox.http.pages.route_picture import KINDS, outputs, picture, what
from farebox.http.pages.table import Fields, Shown, redirect_with_note, shell
from farebox.http.pages.view import Flash
from farebox.http.pages.visit import Visit
from farebox.http.validation import Fault, InvalidInput, read

ROUTES_SHOWN = 40
"""Routes that one page of the list shows."""
_SHOWN = 20
"""Number of newest versions and deployments that are shown."""


async def route_list(visit: Visit) -> Shown:
    found = await gateway(visit, visit.request.path["gateway_id"])
    routes = await _all(visit, api.list_all, "routes", gateway_id=found["id"])
    return {
        "title": f"Routes of {found['id']}",
        "gateway": found,
        **visit.part_of("routes", routes, ROUTES_SHOWN),
        "models_text": _models_text,
    }


async def _all(visit: Visit, handler: Any, name: str, **path: str) -> list[Any]:
    """All items of one of the API's lists of routes."""
    found: list[Any] = []
    for page in range(1, api.ROUTES_MAX // 100 + 1):
        items = (await invoke(visit, handler, Paging(page=page, per_page=100), **path))["data"][name]
        found += items
        if len(items) < 100:
            break
    return found


def _models_text(route: Mapping[str, Any]) -> str:
    """The models of a route, in order."""
    return ", ".join(what(element) for element in route["elements"] if element["type"] == "model") or "none yet"


async def one_route(visit: Visit) -> Shown:
    """A route with the version in use, or the one that is asked for."""
    found, path = await gateway(visit, visit.request.path["gateway_id"]), _path(visit)
    route = await _route(visit)
    newest = Paging(per_page=_SHOWN)
    versions = (await invoke(visit, api.list_versions, newest, **path))["data"]["versions"]
    deployments = (await invoke(visit, api.list_deployments, newest, **path))["data"]["deployments"]
    if deployments and not await _was_valid(visit, versions, deployments[-1]):
        deployments.pop()
    version = await _version(visit, route)
    elements = version["elements"]
    return {
        "title": f"Route {route['name']}",
        "gateway": found,
        "route": route,
        "version": version,
        "versions": versions,
        "deployments": deployments,
        "picture": picture(elements),
        "rows": _rows(elements),
    }


async def _was_valid(visit: Visit, versions: Iterable[Mapping[str, Any]], deployment: Mapping[str, Any]) -> bool:
    """Whether a deployment put a version into use. For a route that begins as a draft, the API has a first deployment
    that did not: all later ones are of complete versions."""
    version_id = deployment["version_id"]
    found = next((each for each in versions if each["version_id"] == version_id), None)
    found = found or await invoke(visit, api.get_version, **_path(visit), version_id=version_id)
    return bool(found["is_valid"])


def _path(visit: Visit) -> dict[str, str]:
    return {"gateway_id": visit.request.path["gateway_id"], "id": visit.request.path["route_id"]}


async def _route(visit: Visit) -> dict[str, Any]:
    """The route in the path. Raises Problem (NOT_FOUND)."""
    try:
        found: dict[str, Any] = await invoke(visit, api.get, **_path(visit))
    except Problem as problem:
        if problem.kind is not ROUTE_NOT_FOUND:
            raise
        raise Problem(NOT_FOUND, "This route does not exist") from problem
    return found


async def _version(visit: Visit, route: Mapping[str, Any]) -> dict[str, Any]:
    """The version that the address names, or else the one in use. Raises Problem."""
    version_id = dict(visit.request.query_pairs()).get("version", route["version"]["version_id"])
    found: dict[str, Any] = await invoke(visit, api.get_version, **_path(visit), version_id=version_id)
    return found


@dataclass(frozen=True, slots=True)
class Row:
    """An element in the table behind the picture."""

    name: str
    kind: str
    what: str
    leads: list[tuple[str, str]]


def _rows(elements: Any) -> list[Row]:
    return [Row(each["id"], KINDS.get(each["type"], each["type"]), what(each), outputs(each)) for each in elements]


async def deploy(visit: Visit, form: Fields) -> str:
    """Deploy a version."""
    body = {"version_id": form.get("version", "")}
    await submit(visit, api.create_deployment, api.DeploymentCreate, body, **_path(visit))
    return "The version is now deployed."


async def rename(visit: Visit, form: Fields) -> str:
    name = form.get("name", "").strip()
    await submit(visit, api.rename, api.RouteRename, {"name": name}, **_path(visit))
    return f"The route is now called {name}. Programs use it as dynamic/{name}."


async def delete(visit: Visit, _: Fields) -> Response:
    gone = await invoke(visit, api.delete, **_path(visit))
    return redirect_with_note(visit, _routes(visit), Flash("good", f"Deleted the route {gone['name']}."))


def _routes(visit: Visit) -> str:
    return f"{HERE}/{visit.request.path['gateway_id']}/routes"


# --- the editor -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EditedRoute:
    """A route as it is being edited."""

    gateway: Mapping[str, Any]
    route: Mapping[str, Any] | None
    """None: it is a new one."""
    name: str
    elements: Any
    error: InvalidInput | None = None
    text: str | None = None
    """The route's JSON text, if it was edited as JSON."""
    saving: bool = False
    """Whether it was to be saved."""

    def shown(self) -> Shown:
        elements, plain = self.elements, route_form.is_plain(self.elements)
        drawn = picture(elements, route_form.bad_ones(elements, self.error)) if plain and elements else None
        as_fields = plain and len(elements) <= route_form.FIELDS_MAX
        return {
            "title": f"Change {self.route['name']}" if self.route else "New route",
            "gateway": self.gateway,
            "route": self.route,
            "name": self.name,
            "picture": drawn,
            "rows": _rows(elements) if plain else [],
            "elements": route_form.shown_elements(elements, self.error) if as_fields else [],
            "as_fields": as_fields,
            "kinds": {kind: name for kind, name in KINDS.items() if kind != "start"},
            "others": route_form.other_faults(elements, self.error),
            "examples": [],
            "faulty": self.error is not None,
            "saving": self.saving,
            "text": self.text or json.dumps(elements, indent=2, ensure_ascii=False),
        }


async def new(visit: Visit) -> Shown:
    """The editor with one of the examples."""
    found = await gateway(visit, visit.request.path["gateway_id"])
    first, second = ("demo/demo-1", "demo/demo-2") if visit.services.configuration.demo else _USUAL
    examples = route_form.examples(first, second)
    chosen = dict(visit.request.query_pairs()).get("example", "fallback")
    _, elements = examples.get(chosen, examples["fallback"])
    address = f"{HERE}/{found['id']}/new-route"
    tabs = [(name, f"{address}?example={key}") for key, (name, _) in examples.items()]
    current = examples.get(chosen, examples["fallback"])[0]
    return {**EditedRoute(found, None, "", elements).shown(), "examples": tabs, "example": current}


_USUAL = ("openai/gpt-5-mini", "anthropic/claude-haiku-4-5")


async def edit(visit: Visit) -> Shown:
    """The editor with a version of a route."""
    found, route = await gateway(visit, visit.request.path["gateway_id"]), await _route(visit)
    elements = (await _version(visit, route))["elements"]
    return EditedRoute(found, route, route["name"], elements).shown()


async def edited(visit: Visit, form: Fields) -> Response:
    """What a button of the editor does: draw, add or remove an element, or save."""
    found = await gateway(visit, visit.request.path["gateway_id"])
    route = await _route(visit) if "route_id" in visit.request.path else None
    does, _, which = form.get("do", "").partition(":")
    elements: Any = json_of(form["json"]) if "json" in form else route_form.elements_of(form)
    saving = does in ("save", "deploy")
    state = EditedRoute(found, route, form.get("name", "").strip(), elements, text=form.get("json"), saving=saving)
    if route_form.is_plain(elements):
        if does == "add" and which in KINDS:
            state = replace(state, elements=route_form.with_one_more(elements, which))
        elif does == "remove" and which in map(str, range(len(elements))):
            state = replace(state, elements=elements[: int(which)] + elements[int(which) + 1 :])
    state = replace(state, error=_not_json(form["json"]) if "json" in form else None)
    state = replace(state, error=state.error or _faults(visit, state.elements))
    if saving and state.error is None:
        saved = await _saved(visit, state, deployed=does == "deploy")
        if isinstance(saved, Response):
            return saved
        state = replace(state, error=saved)
    return shell(visit, "route_edit.html", state.shown(), HERE)


def _not_json(text: str) -> InvalidInput | None:
    """Where the text is not JSON."""
    try:
        json.loads(text, parse_int=str)  # numbers of thousands of digits are the API's to refuse
    except json.JSONDecodeError as error:
        what = f"{error.msg[:1].lower()}{error.msg[1:]}"
        words = f"This is not valid JSON in line {error.lineno}, column {error.colno}: {what}"
        return InvalidInput([Fault(("body", "elements"), "Expected array, received string", words)])
    except RecursionError:
        return InvalidInput(
            [Fault(("body", "elements"), "Expected array, received string", "This is nested too deeply")]
        )
    return None


def _faults(visit: Visit, elements: Any) -> InvalidInput | None:
    """The faults that the API would report, and those of a start alone, which the API stores as a draft: here it would
    be a route that was forgotten half-way."""
    try:
        given = read({"elements": elements}, api.VersionCreate, "body", strict=True).elements
        drafted = not api.new_version(visit.request, given).valid
    except InvalidInput as error:
        return error
    return InvalidInput(api.graph_faults(given)) if drafted else None


async def _saved(visit: Visit, state: EditedRoute, *, deployed: bool) -> Response | InvalidInput:
    """Save the route; returns a redirect, or the faults that the API reported."""
    try:
        if state.route is None:
            body = {"name": state.name, "elements": state.elements}
            gateway_id = state.gateway["id"]
            made = await submit(visit, api.create, api.RouteCreate, body, gateway_id=gateway_id)
            note = Flash("good", f"The route is deployed: programs name it dynamic/{made['name']}.")
            return redirect_with_note(visit, f"{_routes(visit)}/{made['id']}", note)
        body = {"elements": state.elements}
        version = await submit(visit, api.create_version, api.VersionCreate, body, **_path(visit))
        if deployed:
            chosen = {"version_id": version["version_id"]}
            await submit(visit, api.create_deployment, api.DeploymentCreate, chosen, **_path(visit))
    except InvalidInput as error:
        return error
    except Problem as problem:
        if problem.kind is not ROUTE_EXISTS:
            raise
        return InvalidInput([Fault(("body", "name"), problem.message)])
    note = Flash("good", "The version is now deployed." if deployed else "The version is saved but not deployed yet.")
    return redirect_with_note(visit, f"{_routes(visit)}/{version['id']}?version={version['version_id']}", note)
