"""Anthropic's files and message batches on the operator's key, called with Anthropic's own SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.calls.kit import differences, log_rows
from tests.calls.upstream import Sent, Upstream
from tests.engines import ON_BOTH_ENGINES
from tests.long_calls.kit import look, running, settled, spent
from tests.long_calls.openai_objects import form_of, lines
from tests.sdks import anthropic
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

MODEL = "claude-haiku-4-5"
EACH = (1000 * 1000 + 100 * 5000) // 2
"""The cost of a request with this usage, in nano-dollars: half the price."""
CREATED = "2026-12-01T00:00:00Z"


@dataclass
class AnthropicObjects:
    """The objects that Anthropic stores for the operator's key, by ID."""

    upstream: Upstream
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    made: int = 0

    def answer(self, sent: Sent) -> Any:
        path = urlsplit(sent.path).path.removeprefix("/v1/")
        folder = "messages/batches" if path.startswith("messages/batches") else path.partition("/")[0]
        object_id, _, sub = path.removeprefix(folder).removeprefix("/").partition("/")
        self.upstream.status = 200
        if folder == "messages":
            return message(1)["result"]["message"]
        if not object_id:
            assert sent.method == "POST", "lists of all accounts are never requested"
            return self._file(sent) if folder == "files" else self._batch()
        known = self.objects.get(object_id)
        if known is None:
            self.upstream.status = 404
            return {"type": "error", "error": {"type": "not_found_error", "message": object_id}}
        if sent.method == "DELETE":
            del self.objects[object_id]
            return {"id": object_id, "type": f"{known['type']}_deleted"}
        if sub in ("content", "results"):
            return self.contents[object_id]
        if sub == "cancel":
            known["processing_status"] = "canceling"
        return known

    def _stored(self, described: dict[str, Any]) -> dict[str, Any]:
        self.objects[described["id"]] = described
        return described

    def _file(self, sent: Sent) -> dict[str, Any]:
        self.made += 1
        content = form_of(sent)["file"]
        described = {"id": f"file_{self.made:04}{id(self):x}", "type": "file", "mime_type": "text/plain"}
        more = {"filename": "f", "size_bytes": len(content), "created_at": CREATED, "downloadable": False}
        return self._stored({**described, **more})

    def _batch(self) -> dict[str, Any]:
        self.made += 1
        counts = {"processing": 2, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        described: dict[str, Any] = {
            "id": f"msgbatch_{self.made:04}{id(self):x}",
            "type": "message_batch",
            "created_at": CREATED,
        }
        described |= {"processing_status": "in_progress", "expires_at": CREATED, "results_url": None}
        return self._stored({**described, "request_counts": counts})

    def end(self, batch_id: str, *outcomes: dict[str, Any]) -> None:
        """Set the result of a batch."""
        succeeded = sum(outcome["result"]["type"] == "succeeded" for outcome in outcomes)
        counts = {"processing": 0, "succeeded": succeeded, "errored": 0, "canceled": 0, "expired": 0}
        self.contents[batch_id] = lines(*outcomes)
        self.objects[batch_id] |= {
            "processing_status": "ended",
            "request_counts": counts,
            "results_url": f"https://api.anthropic.com/v1/messages/batches/{batch_id}/results",
        }


def message(number: int) -> dict[str, Any]:
    """A line of results."""
    said: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": f"{MODEL}-20251001"}
    said |= {"content": [{"type": "text", "text": "Good day."}], "stop_reason": "end_turn", "stop_sequence": None}
    said["usage"] = {"input_tokens": 1000, "output_tokens": 100, "service_tier": "batch"}
    return {"custom_id": f"r{number}", "result": {"type": "succeeded", "message": said}}


def question(number: int, **more: Any) -> Any:
    params = {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": "Hello " * 1000}], **more}
    return {"custom_id": f"r{number}", "params": params}


def asked(file_id: str) -> Any:
    """A request with a file."""
    source = {"type": "document", "source": {"type": "file", "file_id": file_id}}
    return [{"role": "user", "content": [{"type": "text", "text": "Hello there " * 500}, source]}]


@pytest.fixture
def stored(upstream: Upstream) -> AnthropicObjects:
    upstream.status, upstream.headers, upstream.content_type = 200, {}, ""
    upstream.sent.clear()
    made = AnthropicObjects(upstream)
    upstream.response = made.answer
    return made


def opened(customer: Customer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"{customer.gateway_url}/anthropic", api_key=customer.token, max_retries=0)


@pytest.fixture
def client(customer: Customer) -> Iterator[anthropic.Anthropic]:
    with opened(customer) as made:
        yield made


def test_a_batch_is_held_for_and_settled_by_its_results(
    farebox: Farebox, customer: Customer, client: anthropic.Anthropic, stored: AnthropicObjects
) -> None:
    batch = client.messages.batches.create(requests=[question(0), question(1)])
    held = customer.balance.held
    assert 2 * 200 * 5000 // 2 < held < 2 * (9000 * 1000 + 200 * 5000)
    look(farebox)
    assert (customer.balance.held, spent(customer)) == (held, 0)
    with pytest.raises(anthropic.ConflictError):
        client.messages.batches.delete(batch.id)
    stored.end(batch.id, message(0), {"custom_id": "r1", "result": {"type": "expired"}})
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, EACH)
    results = list(client.messages.batches.results(batch.id))
    assert [result.custom_id for result in results] == ["r0", "r1"]
    assert {sent.headers.get("x-api-key") for sent in stored.upstream.sent} == {"key-of-the-operator"}
    receipt = customer.receipt(next(row for row in log_rows(customer) if row["model"])["id"])
    assert (receipt["charge_nanos"], receipt["hold_nanos"]) == (EACH, held)
    client.messages.batches.delete(batch.id)
    assert not list(client.messages.batches.list())
    assert differences(farebox) == []


def test_a_batch_belongs_to_the_account(
    farebox: Farebox, customer: Customer, client: anthropic.Anthropic, stored: AnthropicObjects
) -> None:
    made = [client.messages.batches.create(requests=[question(0)]).id for _ in range(3)]
    for batch_id in made:
        stored.end(batch_id)
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, 0), "nothing succeeded"
    with opened(farebox.funded("1")) as foreign:
        sent = len(stored.upstream.sent)
        for does in (
            foreign.messages.batches.retrieve,
            foreign.messages.batches.cancel,
            foreign.messages.batches.results,
        ):
            with pytest.raises(anthropic.NotFoundError) as refused:
                does(made[0])
            body: Any = refused.value.body
            assert body["error"]["type"] == "not_found_error"
        assert not list(foreign.messages.batches.list())
        assert len(stored.upstream.sent) == sent
    assert [batch.id for batch in client.messages.batches.list(limit=2)] == made[::-1], "page after page"
    page = client.messages.batches.list(limit=1, before_id=made[0])
    assert [batch.id for batch in page.data] == [made[1]]
    assert str(page.data[0].results_url).startswith(customer.gateway_url)


def test_files_belong_to_the_account(
    farebox: Farebox, customer: Customer, client: anthropic.Anthropic, stored: AnthropicObjects
) -> None:
    made = [client.files.upload(file=("f.txt", b"Hello", "text/plain")).id for _ in range(3)]
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]

    def ask(of: anthropic.Anthropic, file_id: str) -> Any:
        return of.messages.create(model=MODEL, max_tokens=200, messages=asked(file_id))

    with opened(farebox.funded("1")) as foreign:
        sent = len(stored.upstream.sent)
        for does in (foreign.files.retrieve_metadata, foreign.files.delete, lambda file_id: ask(foreign, file_id)):
            with pytest.raises(anthropic.NotFoundError):
                does(made[0])
        with pytest.raises(anthropic.NotFoundError):
            foreign.messages.create(
                model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "x"}], extra_body={"container": "c"}
            )
        with pytest.raises(anthropic.NotFoundError):
            foreign.messages.count_tokens(model=MODEL, messages=asked(made[0]))
        assert len(stored.upstream.sent) == sent
        assert not list(foreign.files.list())
    ask(client, made[0])
    client.files.delete(made[0])
    with pytest.raises(anthropic.NotFoundError):
        ask(client, made[0])
    assert customer.balance.held == 0


def test_callers_cannot_choose_the_operators_workspace(client: anthropic.Anthropic, stored: AnthropicObjects) -> None:
    client.files.upload(file=("f.txt", b"Hello", "text/plain"), workspace_id="wrkspc_other")
    assert "anthropic-workspace-id" not in stored.upstream.sent[-1].headers


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"model": "no-such-model"}, "has no price"),
        ({"stream": True}, "streamed"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools that run at the provider"),
        ({"speed": "fast"}, "another price"),
    ],
)
def test_what_cannot_be_metered_is_refused_before_it_begins(
    customer: Customer, client: anthropic.Anthropic, stored: AnthropicObjects, more: dict[str, Any], why: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.batches.create(requests=[question(0), question(1, **more)])
    assert why in json.dumps(refused.value.body)
    assert not stored.upstream.sent
    assert not running(customer)
    assert customer.balance.held == 0
