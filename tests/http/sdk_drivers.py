"""One interface to Cloudflare's two official SDKs, so that a test runs with either."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from tests.node.programs import NODE
from tests.sdks import cloudflare
from tests.support import Customer


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a route, and the SDK's name for it (`ai_gateway.datasets.update`); without a name it is called by its
    path. Paths are those of the routes, relative to the account."""

    method: str
    path: str
    sdk: str = ""
    query: str = ""
    """The query of an operation that the SDK does not have."""

    def parts(self, account_id: str, values: Mapping[str, str]) -> tuple[str, list[str], dict[str, str]]:
        """The URL after the version; and the positional and named arguments of the SDK's method."""
        names = re.findall(r"\{(\w+)\}", self.path)
        url = f"/accounts/{account_id}/" + re.sub(r"\{(\w+)\}", lambda found: values[found[1]], self.path) + self.query
        named = {name: values[name] for name in names[:-1]} | {"account_id": account_id}
        return url, [values[name] for name in names[-1:]], named


@dataclass(frozen=True, slots=True)
class SdkResponse:
    """The outcome; `result` is without the envelope, and contains all pages of a list."""

    status: int
    result: Any = None
    errors: list[dict[str, Any]] = field(default_factory=list)

    @property
    def code(self) -> tuple[int, int]:
        """Status and code of the first error."""
        return self.status, self.errors[0].get("code", 0) if self.errors else 0

    @property
    def paths(self) -> list[tuple[Any, ...]]:
        """The fields that the errors name."""
        return [tuple(error.get("path", ())) for error in self.errors]


class Driver(Protocol):
    """One SDK."""

    def ask(
        self, who: Customer, account_id: str, operation: Operation, values: Mapping[str, str], fields: Mapping[str, Any]
    ) -> SdkResponse:
        """Call an operation with the access token of `who`."""
        ...


class PythonDriver:
    """The package `cloudflare`."""

    def __init__(self) -> None:
        self._clients: dict[str, Any] = {}

    def ask(
        self, who: Customer, account_id: str, operation: Operation, values: Mapping[str, str], fields: Mapping[str, Any]
    ) -> SdkResponse:
        try:
            return SdkResponse(200, self._asked(self._client(who), account_id, operation, values, fields))
        except cloudflare.APIStatusError as error:
            body = error.body if isinstance(error.body, dict) else {}
            return SdkResponse(error.status_code, errors=body.get("errors", []))

    def _client(self, who: Customer) -> Any:
        base_url = f"{who.farebox.url}/client/v4"
        if who.token not in self._clients:
            client = cloudflare.Cloudflare(api_token=who.token, base_url=base_url, max_retries=0)
            self._clients[who.token] = client
        return self._clients[who.token]

    def _asked(
        self, client: Any, account_id: str, operation: Operation, values: Mapping[str, str], fields: Mapping[str, Any]
    ) -> Any:
        url, positional, named = operation.parts(account_id, values)
        if operation.sdk:
            method = client
            for name in operation.sdk.split("."):
                method = getattr(method, name)
            known = inspect.signature(method).parameters
            unknown = {name: value for name, value in fields.items() if name not in known}
            given = {name: value for name, value in fields.items() if name in known}
            found = method(*positional, **named, **given, extra_body=unknown or None)
            if hasattr(found, "iter_pages"):
                return [_plain(item) for item in found]
            return _plain(found)
        sent = {"options": {"params": fields}} if operation.method in ("GET", "DELETE") else {"body": fields}
        response = getattr(client, operation.method.lower())(url, cast_to=httpx.Response, **sent)
        return unwrapped(response.json())


def _plain(found: Any) -> Any:
    return found.to_dict(mode="json", warnings=False) if hasattr(found, "to_dict") else found


def unwrapped(body: Any) -> Any:
    """The result, without its envelope if it has one."""
    return body["result"] if isinstance(body, dict) and "result" in body and "success" in body else body


class NodeDriver:
    """The package `cloudflare` for TypeScript, in a process that reads a request per line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(
        self, who: Customer, account_id: str, operation: Operation, values: Mapping[str, str], fields: Mapping[str, Any]
    ) -> SdkResponse:
        url, positional, named = operation.parts(account_id, values)
        words = [
            word[0] + "".join(map(str.title, word[1:])) for word in (n.split("_") for n in operation.sdk.split("."))
        ]
        question = {
            "token": who.token,
            "baseURL": f"{who.farebox.url}/client/v4",
            "sdk": words if operation.sdk else [],
            "positional": positional,
            "named": {**named, **fields},
            "method": operation.method.lower(),
            "url": url,
            "fields": fields,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the program ended with {self._process.wait(10)}"
        response = json.loads(line)
        assert "failure" not in response, response["failure"]
        result = response.get("result")
        return SdkResponse(
            response["status"], result if operation.sdk else unwrapped(result), response.get("errors") or []
        )


@contextmanager
def node_driver(node: str) -> Iterator[NodeDriver]:
    """`node`: the program (tests.node.programs)."""
    command, environment = [node, "driver.mjs"], {"PATH": os.environ["PATH"]}
    with subprocess.Popen(
        command, cwd=NODE, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield NodeDriver(process)
