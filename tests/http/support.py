"""What the tests of the control plane share."""

import re
from typing import Any

import httpx

from farebox.http.router import Route
from tests.support import Farebox

http = httpx.Client(timeout=30)
"""One client for all tests: making one costs more than a request."""

GATEWAY_FIELDS: dict[str, Any] = {
    "cache_invalidate_on_update": False,
    "cache_ttl": None,
    "collect_logs": True,
    "rate_limiting_interval": None,
    "rate_limiting_limit": None,
}
"""What Cloudflare requires of a new gateway, beside its id."""


def errors(answer: httpx.Response) -> list[tuple[int, str]]:
    """The codes and messages of an error; checks that it is in the envelope."""
    body = answer.json()
    assert body["success"] is False
    assert body["result"] is None
    assert body["messages"] == []
    assert body["errors"]
    return [(error["code"], error["message"]) for error in body["errors"]]


def result(answer: httpx.Response) -> Any:
    """The result of a success; checks the envelope."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["success"] is True
    assert body["errors"] == []
    return body["result"]


def url(farebox: Farebox, route: Route, account_id: str, **parameters: str) -> str:
    """A URL of the route; a parameter that is not named is `default` for a gateway, else `demo`."""
    values = {"account_id": account_id, "gateway_id": "default"} | parameters
    return farebox.url + re.sub(r"\{(\w+)\}", lambda found: values.get(found.group(1), "demo"), route.path)
