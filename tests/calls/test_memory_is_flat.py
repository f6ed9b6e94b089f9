"""Calls leave nothing in memory once caches are full. Objects are counted, not bytes or time."""

import gc
import http.client
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.calls.kit import set_gateway
from tests.support import Customer, running_farebox
from tests.waiting import pauses

PATIENCE = 0.25
"""The longest pause of `pauses`, reached after a few seconds, when everything has been written."""

ROUNDS = 10_000 if os.environ.get("FAREBOX_TEST_LONG") else 300
"""Rounds of two calls and two reads. Before the first count, more are made than any queue or history holds."""
WARM_ROUNDS = 1_100
TRIES = 6
"""The number of measurements; a leak shows in each of them. On a busy machine a job that runs once a minute may disturb
one, and a connection caches the statements that it executes for the first time."""


@pytest.fixture
def customer(tmp_path: Path) -> Iterator[Customer]:
    with running_farebox(tmp_path) as farebox:
        customer = farebox.funded("1000")
        set_gateway(customer)
        yield customer


class _Client:
    """One keep-alive connection, replaced every 50 rounds."""

    def __init__(self, customer: Customer) -> None:
        self._customer = customer
        self._connection = http.client.HTTPConnection("127.0.0.1", customer.farebox.port, timeout=30)

    def round(self, number: int) -> None:
        customer = self._customer
        if number % 50 == 0:
            self._connection.close()
        for stream in (False, True):
            body = {"model": "demo-1", "messages": [{"role": "user", "content": f"call {number}"}], "stream": stream}
            self._send("POST", f"/v1/{customer.account_id}/default/demo/chat/completions", json.dumps(body).encode())
        api = f"/client/v4/accounts/{customer.account_id}/ai-gateway"
        self._send("GET", f"{api}/billing/credit-balance")
        self._send("GET", f"{api}/gateways/default/logs?per_page=5")

    def close(self) -> None:
        self._connection.close()

    def _send(self, method: str, path: str, body: bytes | None = None) -> None:
        headers = {"authorization": f"Bearer {self._customer.token}", "content-type": "application/json"}
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        text = response.read()
        assert response.status == 200, text


def _counted() -> tuple[int, Counter[str]]:
    """Memory blocks that Python has in use, and the objects that the garbage collector tracks, by type."""
    gc.collect()
    objects = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    return sys.getallocatedblocks(), objects


def _grown(client: _Client) -> dict[str, int]:
    """The growth by type over some calls."""
    _counted()
    blocks, objects = _counted()
    for number in range(ROUNDS):
        client.round(number)
    client.close()

    def grown() -> dict[str, int]:
        more_blocks, more_objects = _counted()
        grown = {name: count - objects[name] for name, count in more_objects.items()}
        # One leaked block per call would be twice as many.
        return {name: more for name, more in grown.items() if more > ROUNDS // 10} | (
            {"blocks": more_blocks - blocks} if more_blocks - blocks >= ROUNDS else {}
        )

    for pause in pauses("what calls left is gone"):  # the rows of the last calls may wait for a busy disk
        if not (left := grown()) or pause >= PATIENCE:
            break
        time.sleep(pause)
    return left


def test_calls_leave_nothing_in_memory(customer: Customer) -> None:
    client = _Client(customer)
    for number in range(WARM_ROUNDS):
        client.round(number)
    for _ in range(TRIES):
        if not (left := _grown(client)):
            break
    assert left == {}
