"""Batches: held for by their input at the batch price, settled once by their output; results are the account's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from farebox.calls.long_calls import long_calls
from farebox.providers.batch_lines import BatchTarget, read_requests
from farebox.providers.formats.base import InvalidRequest
from tests.calls.kit import differences, log_rows, set_gateway, spend_rule
from tests.engines import ON_BOTH_ENGINES
from tests.long_calls.kit import look, make_due, running, settled, spent
from tests.long_calls.openai_objects import OpenAIObjects, lines, outcome, question
from tests.process_death import crash_at_each_point
from tests.sdks import openai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

CHAT = "/v1/chat/completions"
EACH = (1000 * 150 + 100 * 600) // 2
"""The cost of a request with the usage of `outcome`, in nano-dollars: half the price."""


@pytest.fixture
def client(customer: Customer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{customer.gateway_url}/openai", api_key=customer.token, max_retries=0) as made:
        yield made


def upload(client: openai.OpenAI, *requests: dict[str, Any]) -> str:
    return str(client.files.create(file=("in.jsonl", lines(*requests)), purpose="batch").id)


def begin(client: openai.OpenAI, *requests: dict[str, Any], endpoint: Any = "/v1/chat/completions") -> Any:
    file_id = upload(client, *requests)
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h")


def test_a_batch_is_held_for_and_settled_by_its_output(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    batch = begin(client, *map(question, range(3)))
    held = customer.balance.held
    assert 3 * 200 * 600 // 2 < held < 3 * (7000 * 150 + 200 * 600) // 2
    look(farebox)
    assert (customer.balance.held, spent(customer)) == (held, 0)
    output = provider.end_batch(batch.id, "completed", outcome(0), outcome(1, status=400), outcome(2))
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, 2 * EACH)
    assert client.batches.retrieve(batch.id).output_file_id == output
    assert client.files.content(output).read() == provider.contents[output]
    row = next(row for row in log_rows(customer) if row["model"])
    receipt = customer.receipt(row["id"])
    assert (receipt["charge_nanos"], receipt["hold_nanos"]) == (2 * EACH, held)
    assert receipt["price_version"].endswith("service_tier=batch")
    assert differences(farebox) == []


def test_another_account_cannot_access_a_batch(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    batch = begin(client, question(0))
    output = provider.end_batch(batch.id, "completed", outcome(0))
    settled(customer)
    other = farebox.funded("5")
    with openai.OpenAI(base_url=f"{other.gateway_url}/openai", api_key=other.token, max_retries=0) as foreign:
        sent = len(provider.upstream.sent)
        for does in (
            lambda: foreign.batches.retrieve(batch.id),
            lambda: foreign.batches.cancel(batch.id),
            lambda: foreign.files.content(output),
            lambda: foreign.files.delete(output),
            lambda: foreign.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                does()
        assert len(provider.upstream.sent) == sent
        own = begin(foreign, question(0))
        assert [found.id for found in foreign.batches.list()] == [own.id]
        assert [found.id for found in client.batches.list()] == [batch.id]
        assert client.batches.list().data[0].status == "completed"


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_requests_completed_before_the_end_of_a_batch_are_paid_for(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects, status: str
) -> None:
    batch = begin(client, *map(question, range(3)))
    if status == "cancelled":
        client.batches.cancel(batch.id)
    provider.end_batch(batch.id, status, outcome(1))
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, EACH)


def test_a_failed_batch_is_free(customer: Customer, client: openai.OpenAI, provider: OpenAIObjects) -> None:
    batch = begin(client, question(0))
    provider.objects[batch.id]["status"] = "failed"
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, 0)
    assert differences(customer.farebox) == []


def test_several_models_and_responses(customer: Customer, client: openai.OpenAI, provider: OpenAIObjects) -> None:
    """Each request costs its model's price, and the sum is rounded once."""
    batch = begin(client, question(0), question(1, "gpt-4o"))
    provider.end_batch(
        batch.id, "completed", outcome(0, prompt_tokens=1, completion_tokens=1), outcome(1, "gpt-4o-2024-11-20")
    )
    settled(customer)
    assert spent(customer) == (150 + 600) // 2 + (1000 * 2500 + 100 * 10_000) // 2


def test_a_response_without_usage_costs_its_share(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    batch = begin(client, question(0), question(1))
    held = customer.balance.held
    unreported = outcome(1)
    del unreported["response"]["body"]["usage"]
    provider.end_batch(batch.id, "completed", outcome(0), unreported)
    settled(customer)
    assert spent(customer) == EACH + held // 2


def test_if_the_output_is_gone_the_hold_is_charged(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    batch = begin(client, question(0))
    held = customer.balance.held
    output = provider.end_batch(batch.id, "completed", outcome(0))
    client.batches.retrieve(batch.id)
    with pytest.raises(openai.ConflictError):
        client.files.delete(output)
    del provider.objects[output]
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, held)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (question(0, "no-such-model"), "has no price"),
        (question(0, stream=True), "streamed"),
        ({**question(0), "url": "/v1/embeddings"}, "Line 1"),
        (
            question(0, messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-x"}}]}]),
            "file-x",
        ),
        ({"custom_id": "x"}, "Line 1"),
    ],
)
def test_what_cannot_be_metered_is_refused_before_it_begins(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects, line: dict[str, Any], why: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        begin(client, line)
    assert refused.value.status_code in (400, 404)
    assert why in refused.value.message
    assert not [sent for sent in provider.upstream.sent if sent.path.endswith("/batches")]
    assert (customer.balance.held, spent(customer)) == (0, 0)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (BatchTarget("openai", CHAT), '{"method": "POST", "url": "/v1/chat/completions", "body": {}, "body": %s}'),
        (
            BatchTarget("openai", CHAT),
            '{"method": "POST", "url": "/v1/chat/completions", "bod\\u0079": {}, "body": %s}',
        ),
        (BatchTarget("mistral", CHAT, "gpt-4o-mini"), '{"custom_id": "0", "body": {}, "body": %s}'),
        (
            BatchTarget("google-ai-studio", "v1beta/models/m:generateContent", "m"),
            '{"request": {}, "request": {"contents": []}}',
        ),
    ],
)
def test_a_line_with_two_requests_is_refused(target: BatchTarget, line: str) -> None:
    """The provider chooses which one counts: the other could name an object of another account."""
    text = line.replace("%s", json.dumps(question(0)["body"])).encode()
    with pytest.raises(InvalidRequest, match="twice"):
        read_requests(text, target, None, 1)


def test_a_batch_that_the_credit_does_not_cover_is_refused(farebox: Farebox, provider: OpenAIObjects) -> None:
    poor = farebox.funded("0.001")
    with openai.OpenAI(base_url=f"{poor.gateway_url}/openai", api_key=poor.token, max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            begin(client, *map(question, range(10)))
        assert refused.value.status_code == 402
    assert not [sent for sent in provider.upstream.sent if sent.path.endswith("/batches")]
    assert poor.balance.held == 0


def test_gateways_that_judge_single_requests_refuse_batches(
    customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    set_gateway(customer, spend_limits={"enabled": True, "rules": [spend_rule("r", 10**12)]})
    with pytest.raises(openai.BadRequestError) as refused:
        begin(client, question(0))
    assert "spend limits" in refused.value.message


def test_a_large_input_is_read_in_pieces(customer: Customer, client: openai.OpenAI, provider: OpenAIObjects) -> None:
    numbers = range(60)
    batch = begin(client, *map(question, numbers))
    (one,) = running(customer)
    assert b'"requests":60' in one.work
    provider.end_batch(batch.id, "completed", *map(outcome, numbers))
    settled(customer)
    assert spent(customer) == 60 * EACH


def test_the_worker_may_die_anywhere(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    services = farebox.services
    points = (services.ledger, "do"), (services.upstream, "send"), (services.database, "write")
    for crash in crash_at_each_point(*points, at_least=8):
        before = spent(customer)
        batch = begin(client, question(0))
        provider.end_batch(batch.id, "completed", outcome(0))
        (long,) = running(customer)
        with crash:
            farebox.run(long_calls.poll(services, long))
        settled(customer)
        assert spent(customer) - before == EACH, crash.point
        assert customer.balance.held == 0
    assert differences(farebox) == []


def test_one_that_never_ends_is_canceled(
    farebox: Farebox, customer: Customer, client: openai.OpenAI, provider: OpenAIObjects
) -> None:
    begin(client, question(0))
    make_due(farebox, ends_at=1)
    settled(customer)
    assert any(sent.path.endswith("/cancel") for sent in provider.upstream.sent)
    assert (customer.balance.held, spent(customer)) == (0, 0)
