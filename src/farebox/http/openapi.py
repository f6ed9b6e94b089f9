"""The OpenAPI document, generated from the route table and from the types that decode and encode, so that it cannot
differ from them."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from farebox import __version__, errors
from farebox.errors import ErrorKind
from farebox.http.call_target import MODEL_CALLS, MODEL_LISTS
from farebox.http.envelope import JSON, Envelope, ErrorItem, Note
from farebox.http.router import Access, Route, Shape

_REF = "#/components/schemas/{name}"
_SECURITY: dict[Access, list[dict[str, list[str]]]] = {
    Access.PUBLIC: [],
    Access.TOKEN: [{"token": []}],
    Access.CALLER: [{"token": []}, {"email": [], "key": []}],
    Access.ACCOUNT: [{"token": []}, {"email": [], "key": []}],
}


def document(routes: Iterable[Route]) -> bytes:
    """OpenAPI 3.1 as JSON. Routes that only answer that they are not available are listed by name only."""
    routes = tuple(routes)
    served = [route for route in routes if route.result is not None]
    types = [kind for route in served for kind in (route.result, route.takes, route.info) if kind is not None]
    envelope = [Envelope, ErrorItem, Note]
    schemas, components = msgspec.json.schema_components([*types, *envelope], ref_template=_REF)
    _require_what_is_always_sent(components, [*types, *envelope], {route.takes for route in served})
    schema_of = dict(zip(types, schemas, strict=False))
    paths: dict[str, Any] = {}
    for route in served:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of, components)
    for path, summary in MODEL_CALLS:
        paths[path] = {"post": _model_call(path, summary)}
    for path, summary in MODEL_LISTS:
        paths[path] = {"get": _model_call(path, summary)}
    text = {
        "openapi": "3.1.0",
        "info": {"title": "Farebox", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": _SCHEMES,
            "responses": {"Error": _error_response()},
        },
        "x-errors": [_error(kind) for kind in error_kinds()],
    }
    return msgspec.json.encode(text)


def _require_what_is_always_sent(components: dict[str, Any], types: list[Any], taken: set[Any]) -> None:
    """Mark response fields with a default as required: such a field is always in the response, unless it is UNSET."""
    structs = [kind for kind in types if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    omitting = {kind.__name__ for kind in structs if kind in taken or kind.__struct_config__.omit_defaults}
    for name, component in components.items():
        if name in omitting:
            continue
        properties = component.get("properties", {})
        sent = {key for key, schema in properties.items() if schema.pop("default", msgspec.UNSET) is not msgspec.UNSET}
        component["required"] = [key for key in properties if key in sent or key in component.get("required", ())]


def error_kinds() -> list[ErrorKind]:
    """Every kind of error, in the order of errors.py."""
    return [value for value in vars(errors).values() if isinstance(value, ErrorKind)]


_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "An access token of one account"},
    "email": {"type": "apiKey", "in": "header", "name": "X-Auth-Email"},
    "key": {"type": "apiKey", "in": "header", "name": "X-Auth-Key"},
    "gatewayToken": {
        "type": "apiKey",
        "in": "header",
        "name": "cf-aig-authorization",
        "description": "`Bearer` and an access token with the permission `AI Gateway Run`",
    },
}


def _operation(route: Route, schema_of: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__module__.rsplit('.', 1)[-1]}.{route.method.lower()}.{route.handler.__name__}",
        "summary": route.summary,
        "security": _SECURITY[route.access],
        "parameters": [_path_parameter(name) for name in route.parameters],
        "responses": {
            str(route.status): _response(route, schema_of.get(route.result, {})),
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if route.permissions:
        operation["x-permissions"] = [permission.value for permission in route.permissions]
    if route.idempotent:
        operation["parameters"].append(_IDEMPOTENCY_KEY)
    if route.raw_limit:
        operation["requestBody"] = {"required": True, "content": {"*/*": {}}}
    if route.takes is None:
        return operation
    if route.takes_body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[route.takes]}},
        }
    else:
        operation["parameters"] += _query_parameters(components[route.takes.__name__])
    return operation


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "The same request under the same key is carried out once",
}


def _path_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1}
    if name == "account_id":
        schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(component: dict[str, Any]) -> list[dict[str, Any]]:
    required = component.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in component["properties"].items()
    ]


def _response(route: Route, result: dict[str, Any]) -> dict[str, Any]:
    if route.shape is Shape.RAW:
        media = route.content_type.partition(";")[0]
        return {"description": route.summary, "content": {media: {"schema": result} if media == JSON else {}}}
    extra: dict[str, Any] = {"result": result}
    if route.shape is Shape.PAGE:
        info = {"$ref": _REF.format(name=route.info.__name__)}
        extra = {"result": {"type": "array", "items": result}, "result_info": info}
    schema = {
        "allOf": [
            {"$ref": _REF.format(name="Envelope")},
            {"type": "object", "properties": extra, "required": list(extra)},
        ]
    }
    return {"description": route.summary, "content": {"application/json": {"schema": schema}}}


_FACTS: Final = {
    **{name: {"type": "string"} for name in ("source", "remedy", "remedy_url", "rule_id", "resets_at")},
    **{name: {"type": "number"} for name in ("retry_after", "needed_usd", "available_usd")},
}
"""Schema of the details of refusals (http.refusals)."""


def _error_response() -> dict[str, Any]:
    schema = {
        "allOf": [
            {"$ref": _REF.format(name="Envelope")},
            {"type": "object", "properties": {"success": {"const": False}, "result": {"type": "null"}, **_FACTS}},
        ]
    }
    return {
        "description": "The request was not carried out; `x-errors` lists the codes",
        "content": {"application/json": {"schema": schema}},
    }


def _error(kind: ErrorKind) -> dict[str, Any]:
    return {"name": kind.name, "status": kind.status, "code": kind.code, "remedy": kind.remedy}


def _model_call(path: str, summary: str) -> dict[str, Any]:
    names = [segment[1:-1] for segment in path.split("/") if segment.startswith("{")]
    return {
        "summary": summary,
        "tags": ["model calls"],
        "security": [{"gatewayToken": []}, {"token": []}],
        "parameters": [_path_parameter(name) for name in names],
        "responses": {
            "200": {"description": "The provider's response"},
            "default": {"description": "The provider's error, or ours in the provider's format"},
        },
    }
