"""The gateway dies while a long call is started: between the hold, the provider's response and recording its ID. The
books end the same, the provider has started at most one piece of work, and no credit stays held."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.calls.kit import differences
from tests.engines import ON_BOTH_ENGINES
from tests.long_calls.kit import begin, running, settled, spent
from tests.long_calls.openai_objects import COST, OpenAIObjects, outcome, question
from tests.long_calls.test_batches import EACH, upload
from tests.process_death import crash_at_each_point, recover
from tests.sdks import openai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES


class Work(NamedTuple):
    """A kind of long call."""

    prepare: Callable[[openai.OpenAI], Any]
    begin: Callable[[openai.OpenAI, Any], Any]
    finish: Callable[[OpenAIObjects, str], Any]
    prefix: str
    cost: int


RESPONSE = Work(
    lambda client: None,
    lambda client, _: begin(client),
    lambda provider, made: provider.finish(made),
    "resp_",
    COST,
)
BATCH = Work(
    lambda client: upload(client, question(0)),
    lambda client, file_id: client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
    ),
    lambda provider, made: provider.end_batch(made, "completed", outcome(0)),
    "batch_",
    EACH,
)


@pytest.mark.parametrize("work", [RESPONSE, BATCH], ids=["response", "batch"])
def test_the_gateway_may_die_anywhere(
    farebox: Farebox, customer: Customer, provider: OpenAIObjects, work: Work
) -> None:
    services = farebox.services
    points = (services.ledger, "do"), (services.upstream, "send"), (services.database, "write")
    with openai.OpenAI(base_url=f"{customer.gateway_url}/openai", api_key=customer.token, max_retries=0) as client:
        for crash in crash_at_each_point(*points, at_least=8):
            prepared, before, known, answer = work.prepare(client), spent(customer), set(provider.objects), None
            with crash, contextlib.suppress(openai.APIConnectionError):
                answer = work.begin(client, prepared)
            made = [name for name in set(provider.objects) - known if name.startswith(work.prefix)]
            assert len(made) <= 1, crash.point
            assert answer is None or made == [answer.id]
            recover(customer)
            noted = [long.object_id for long in running(customer) if long.object_id]
            for name in made:
                work.finish(provider, name)
            settled(customer)
            assert answer is None or noted, "what the client has seen is recorded"
            assert spent(customer) - before == (work.cost if noted else 0), crash.point
            assert customer.balance.held == 0, crash.point
    assert differences(farebox) == []
