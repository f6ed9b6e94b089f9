"""A pytest plugin for Cloudflare's own SDK tests: none is skipped, and the server is reseeded before each.

It runs in the suite's virtual environment, which has nothing of Farebox: only pytest and the standard library.
"""

import json
import os
import urllib.request

import pytest

RESET_URL = os.environ["FAREBOX_TEST_RESET_URL"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cloudflare skips what its own mock server cannot answer: the whole of billing."""
    for item in items:
        for node in item.listchain():
            node.own_markers = [mark for mark in node.own_markers if mark.name != "skip"]


@pytest.fixture(autouse=True)
def _seeded_anew(request: pytest.FixtureRequest) -> None:
    body = json.dumps({"test": request.node.nodeid}).encode()
    recorder = urllib.request.Request(RESET_URL, body, {"content-type": "application/json"}, method="POST")
    with urllib.request.urlopen(recorder, timeout=60) as response:
        response.read()
