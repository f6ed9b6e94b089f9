"""Mistral's files and batches on the operator's key, called with Mistral's own SDK."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.calls.kit import differences, log_rows
from tests.calls.upstream import Sent, Upstream
from tests.engines import ON_BOTH_ENGINES
from tests.long_calls.kit import look, running, settled, spent
from tests.long_calls.openai_objects import form_of, lines, outcome
from tests.sdks import mistralai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

MODEL = "mistral-small-latest"
CHAT: Any = "/v1/chat/completions"
EACH = (1000 * 150 + 100 * 600) // 2
"""The cost of a request with the usage of `outcome`, in nano-dollars: half the price."""


@dataclass
class MistralObjects:
    """The objects that Mistral stores for the operator's key, by ID."""

    upstream: Upstream
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    outputs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Outputs of batches whose requests were in their body."""
    made: int = 0

    def answer(self, sent: Sent) -> Any:
        address = urlsplit(sent.path)
        path = address.path.removeprefix("/v1/")
        folder = "batch/jobs" if path.startswith("batch/jobs") else "files"
        object_id, _, sub = path.removeprefix(folder).removeprefix("/").partition("/")
        self.upstream.status, self.upstream.content_type = 200, "application/octet-stream" if sub == "content" else ""
        if not object_id:
            assert sent.method == "POST", "lists of all accounts are never requested"
            return self._file(sent) if folder == "files" else self._batch(sent)
        known = self.objects.get(object_id)
        if known is None:
            self.upstream.status = 404
            return {"detail": "Not found."}
        if sent.method == "DELETE":
            del self.objects[object_id]
            return {"id": object_id, "object": known["object"], "deleted": True}
        if sub == "content":
            return self.contents[object_id]
        if sub == "url":
            return {"url": f"https://storage.example/{object_id}"}
        if sub == "cancel":
            known["status"] = "CANCELLATION_REQUESTED"
        if "inline=true" in address.query:
            return {**known, "outputs": self.outputs.get(object_id)}
        return known

    def _stored(self, prefix: str, **described: Any) -> dict[str, Any]:
        self.made += 1
        object_id = f"{prefix}-{self.made:04}{id(self):x}"
        self.objects[object_id] = {"id": object_id, "created_at": 1, **described}
        return self.objects[object_id]

    def _file(self, sent: Sent) -> dict[str, Any]:
        fields = form_of(sent)
        described = self._stored(
            "file", object="file", bytes=len(fields["file"]), filename="f", purpose=fields["purpose"].decode(),
            sample_type="batch_request", source="upload",
        )  # fmt: skip
        self.contents[described["id"]] = fields["file"]
        return described

    def _batch(self, sent: Sent) -> dict[str, Any]:
        asked = sent.json()
        none = {"total_requests": 0, "completed_requests": 0, "succeeded_requests": 0, "failed_requests": 0}
        return self._stored(
            "job", object="batch", input_files=asked.get("input_files") or [], endpoint=asked["endpoint"],
            model=asked.get("model"), errors=[], status="QUEUED", output_file=None, **none,
        )  # fmt: skip

    def end(self, batch_id: str, status: str, *outcomes: dict[str, Any], inline: bool = False) -> str:
        """Set the result of a batch; the ID of its output."""
        self.objects[batch_id] |= {"status": status, "succeeded_requests": len(outcomes)}
        if inline:
            self.outputs[batch_id] = list(outcomes)
            return ""
        output = self._stored(
            "file", object="file", bytes=1, filename="o", purpose="batch", sample_type="batch_result", source="mistral"
        )
        self.contents[output["id"]] = lines(*outcomes)
        self.objects[batch_id]["output_file"] = output["id"]
        return str(output["id"])


def question(number: int, **more: Any) -> Any:
    body = {"max_tokens": 200, "messages": [{"role": "user", "content": "Hello " * 1000}], **more}
    return {"custom_id": f"r{number}", "body": body}


@pytest.fixture
def stored(upstream: Upstream) -> MistralObjects:
    upstream.status, upstream.headers, upstream.content_type = 200, {}, ""
    upstream.sent.clear()
    made = MistralObjects(upstream)
    upstream.response = made.answer
    return made


def opened(customer: Customer) -> mistralai.Mistral:
    make: Any = mistralai.Mistral
    made: mistralai.Mistral = make(api_key=customer.token, server_url=f"{customer.gateway_url}/mistral")
    return made


@pytest.fixture
def client(customer: Customer) -> Iterator[mistralai.Mistral]:
    with opened(customer) as made:
        yield made


def upload(client: mistralai.Mistral, *requests: Any) -> str:
    file: Any = {"file_name": "in.jsonl", "content": lines(*requests)}
    return client.files.upload(file=file, purpose="batch").id


def test_a_batch_is_held_for_and_settled_by_its_output(
    farebox: Farebox, customer: Customer, client: mistralai.Mistral, stored: MistralObjects
) -> None:
    files = [upload(client, question(0)), upload(client, question(1, model=MODEL))]
    batch = client.batch.jobs.create(input_files=files, endpoint=CHAT, model=MODEL)
    held = customer.balance.held
    assert 2 * 200 * 600 // 2 < held < 2 * (7000 * 150 + 200 * 600) // 2
    look(farebox)
    assert (customer.balance.held, spent(customer)) == (held, 0)
    output = stored.end(batch.id, "SUCCESS", outcome(0, MODEL), outcome(1, MODEL, status=400))
    assert client.batch.jobs.get(job_id=batch.id).output_file == output
    for does in (lambda: client.files.delete(file_id=output), lambda: client.batch.jobs.delete(job_id=batch.id)):
        with pytest.raises(mistralai.errors.SDKError) as busy:
            does()
        assert busy.value.status_code == 409
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, EACH)
    assert client.files.download(file_id=output).read() == stored.contents[output]
    receipt = customer.receipt(next(row for row in log_rows(customer) if row["model"])["id"])
    assert (receipt["charge_nanos"], receipt["hold_nanos"]) == (EACH, held)
    assert receipt["price_version"].endswith("service_tier=batch")
    client.files.delete(file_id=output)
    client.batch.jobs.delete(job_id=batch.id)
    assert client.batch.jobs.list().data == []
    assert {sent.headers["authorization"] for sent in stored.upstream.sent} == {"Bearer key-of-the-operator"}
    assert differences(farebox) == []


def test_a_batch_with_inline_requests_and_responses(
    customer: Customer, client: mistralai.Mistral, stored: MistralObjects
) -> None:
    batch = client.batch.jobs.create(requests=[question(0), question(1)], endpoint=CHAT, model=MODEL)
    assert customer.balance.held > 0
    stored.end(batch.id, "TIMEOUT_EXCEEDED", outcome(0, MODEL), inline=True)
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, EACH)
    batch = client.batch.jobs.create(requests=[question(0)], endpoint=CHAT, model=MODEL)
    client.batch.jobs.cancel(job_id=batch.id)
    assert customer.balance.held > 0, "it may still be working"
    stored.end(batch.id, "CANCELLED", inline=True)
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, EACH)


def test_files_and_batches_belong_to_the_account(
    farebox: Farebox, customer: Customer, client: mistralai.Mistral, stored: MistralObjects
) -> None:
    file_id = upload(client, question(0))
    made = [client.batch.jobs.create(input_files=[file_id], endpoint=CHAT, model=MODEL).id for _ in range(3)]
    with opened(farebox.funded("1")) as foreign:
        sent = len(stored.upstream.sent)
        refused_calls: list[Any] = [
            lambda: foreign.batch.jobs.get(job_id=made[0]),
            lambda: foreign.batch.jobs.cancel(job_id=made[0]),
            lambda: foreign.batch.jobs.delete(job_id=made[0]),
            lambda: foreign.batch.jobs.create(input_files=[file_id], endpoint=CHAT, model=MODEL),
            lambda: foreign.files.retrieve(file_id=file_id),
            lambda: foreign.files.download(file_id=file_id),
            lambda: foreign.files.get_signed_url(file_id=file_id),
            lambda: foreign.files.delete(file_id=file_id),
        ]
        for does in refused_calls:
            with pytest.raises(mistralai.errors.SDKError) as refused:
                does()
            assert refused.value.status_code == 404, refused.value.body
        assert (foreign.files.list().data, foreign.batch.jobs.list().total) == ([], 0)
        assert len(stored.upstream.sent) == sent
    page = client.batch.jobs.list(page=1, page_size=2)
    assert ([job.id for job in page.data or ()], page.total) == (made[:1], 3)
    assert [job.id for job in client.batch.jobs.list(order_by="created", status=["QUEUED"]).data or ()] == made
    assert client.batch.jobs.list(status=["SUCCESS"]).total == 0
    assert [file.id for file in client.files.list().data] == [file_id]
    assert client.files.get_signed_url(file_id=file_id).url.endswith(file_id)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"requests": [question(0, model="codestral-latest")]}, "and the batch for"),
        ({"model": None}, "model"),
        ({"model": "no-such-model"}, "has no price"),
        ({"requests": [question(0, stream=True)]}, "streamed"),
        ({"requests": [{"custom_id": "x", "body": {}}]}, "Line 1"),
        ({"endpoint": "/v1/ocr"}, "a batch must be for one of"),
        ({"agent_id": "ag-1", "model": None}, "not an agent"),
        ({"timeout_hours": 168}, "timeout_hours"),
        ({"input_files": ["file-x"]}, "either"),
    ],
)
def test_what_cannot_be_metered_is_refused_before_it_begins(
    customer: Customer, client: mistralai.Mistral, stored: MistralObjects, more: dict[str, Any], why: str
) -> None:
    asked: dict[str, Any] = {"requests": [question(0)], "endpoint": CHAT, "model": MODEL, **more}
    with pytest.raises(mistralai.errors.SDKError) as refused:
        client.batch.jobs.create(**asked)
    assert refused.value.status_code == 400
    assert why in refused.value.body
    assert not stored.upstream.sent
    assert not running(customer)
    assert customer.balance.held == 0
