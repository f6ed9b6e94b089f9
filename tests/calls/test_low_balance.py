"""A balance that runs low under real calls: one auto top-up request, one message, retryable errors."""

import asyncio
import dataclasses
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from farebox.calls.spending.credit_refusal import credit_refusal
from farebox.errors import NO_CREDIT, TOP_UP_UNDER_WAY
from farebox.ledger.commands import Outcome, Verdict
from farebox.storage.sql import Connection
from tests.calls.kit import differences, log_rows
from tests.calls.test_exact_admission import ASKING, openai_client, with_balance
from tests.calls.wire import WireResponse, chat_body, post
from tests.sdks import anthropic, genai, openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("low")) as served:
        yield served


def write(customer: Customer, sql: str, *values: object) -> None:
    def job(connection: Connection) -> None:
        connection.execute(sql, (*values, customer.account_id))

    customer.farebox.run(customer.farebox.services.database.write(job))


def read(customer: Customer, sql: str) -> list[Any]:
    services = customer.farebox.services
    return customer.farebox.run(services.database.scan(lambda c: c.execute(sql, (customer.account_id,)).fetchall()))


def arm(customer: Customer, below: int) -> None:
    """Give the account an active rule with a threshold of `below` nano-dollars."""
    write(
        customer,
        "INSERT INTO top_up_rules (bucket, account_id, amount_cents, threshold_cents, monthly_cap_cents, state, "
        "updated_at) SELECT bucket, account_id, 1000, 500, 10000, 'active', 1 FROM accounts WHERE account_id = ?",
    )
    write(customer, "UPDATE balances SET top_up_below = ? WHERE account_id = ?", below)


def buying(customer: Customer) -> None:
    """An auto top-up in progress at the processor, without a worker."""
    write(
        customer,
        "INSERT INTO top_ups (bucket, account_id, top_up_id, kind, state, credit_cents, fee_cents, tax_cents, lines, "
        "created_at, updated_at, next_at) "
        f"SELECT bucket, account_id, 'auto-1', 'auto', 'processing', 1000, 0, 0, '{{}}', 1, 1, {2**60} "
        "FROM accounts WHERE account_id = ?",
    )


async def test_a_hundred_calls_across_the_threshold_request_credit_once(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    posted = customer.balance.posted
    await asyncio.to_thread(arm, customer, posted - 50_000)
    await asyncio.to_thread(write, customer, "UPDATE balances SET low_below = ? WHERE account_id = ?", posted - 60_000)
    responses = await asyncio.gather(*(post(customer, chat_body(max_tokens=10)) for _ in range(100)))
    assert {response.status for response in responses} == {200}
    assert read(customer, "SELECT top_up_below FROM balances WHERE account_id = ?") == [(None,)]
    assert read(customer, "SELECT kind FROM top_ups WHERE account_id = ?") == [("auto",)]
    [(content,)] = read(customer, "SELECT content FROM notices WHERE account_id = ? AND kind = 'low_balance'")
    assert posted - 120_000 < json.loads(content)["posted_nanos"] < posted - 60_000, (
        "reported by the charge that crossed the threshold"
    )
    assert differences(farebox) == []


async def test_a_refusal_while_credit_is_being_bought_is_not_final(farebox: Farebox) -> None:
    customer = farebox.funded("0.00001")
    await asyncio.to_thread(buying, customer)
    refused = await post(customer, chat_body(max_tokens=100))
    assert (refused.status, refused.code) == (503, 2929)
    assert refused.headers["retry-after"] == "2"
    assert "x-should-retry" not in refused.headers
    [row] = log_rows(customer)
    assert (row["status_code"], row["farebox"]["error"]) == (503, "top_up_under_way")
    await asyncio.to_thread(write, customer, "UPDATE top_ups SET state = 'action_required' WHERE account_id = ?")
    refused = await post(customer, chat_body(max_tokens=100))
    assert (refused.status, refused.code) == (402, 2021), "a top-up that waits for the owner may wait for days"


async def test_a_refusal_that_requests_credit_is_not_final(farebox: Farebox) -> None:
    customer = farebox.funded("0.00001")
    await asyncio.to_thread(arm, customer, 20_000)
    refused = await post(customer, chat_body(max_tokens=100))
    assert (refused.status, refused.code) == (503, 2929)
    assert len(read(customer, "SELECT top_up_id FROM top_ups WHERE account_id = ?")) == 1


def test_without_payments_no_credit_is_expected(farebox: Farebox) -> None:
    customer = farebox.funded("0.00001")
    buying(customer)
    verdict, services = Verdict(Outcome.REFUSED), farebox.services
    problem = farebox.run(credit_refusal(services, customer.account_id, verdict, 5))
    assert problem.kind is TOP_UP_UNDER_WAY
    without = dataclasses.replace(services, processor=None)
    problem = farebox.run(credit_refusal(without, customer.account_id, verdict, 5))
    assert problem.kind is NO_CREDIT


def test_the_openai_sdk_tries_again_and_is_served_when_the_credit_is_there(farebox: Farebox) -> None:
    customer = with_balance(farebox, 10_000)
    buying(customer)

    def pay() -> None:
        until(lambda: log_rows(customer), "the first refusal")
        farebox.grant(customer.account_id, "1")

    paying = threading.Thread(target=pay)
    paying.start()
    with openai_client(customer) as client:
        response = client.chat.completions.create(
            model="demo-1", messages=[{"role": "user", "content": "Hello there"}], max_tokens=100
        )
    paying.join()
    assert response.choices[0].message.content
    assert [row["status_code"] for row in log_rows(customer)] == [200, 503]


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        ("responses", lambda: openai.InternalServerError),
        ("messages", lambda: anthropic.InternalServerError),
        ("generate", lambda: genai.errors.ServerError),
    ],
)
def test_every_sdk_understands_that_credit_is_being_bought(
    farebox: Farebox, way: str, kind: Callable[[], type[Exception]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from anthropic import _base_client as of_anthropic
    from openai import _base_client as of_openai

    for base in (of_openai.BaseClient, of_anthropic.BaseClient):
        monkeypatch.setattr(base, "_calculate_retry_timeout", lambda *_: 0.01)
    customer = with_balance(farebox, 10_000)
    buying(customer)
    with pytest.raises(kind()) as caught:
        ASKING[way][0](customer, 100)
    error: Any = caught.value
    assert (error.code if way == "generate" else error.status_code) == 503
    assert "credit is being bought" in (str(error.body) if isinstance(error, openai.APIStatusError) else str(error))
    tries = [row["status_code"] for row in log_rows(customer)]
    assert tries == ([503] if way == "generate" else [503, 503, 503])


SAID = [{"role": "user", "content": "Hello there"}]
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
# Path, body with a limit, the name of the limit, a limit that is affordable, and one that is not.
LIMITS: dict[str, tuple[str, Callable[[int], dict[str, Any]], str, int, int]] = {
    "chat": ("demo/v1/chat/completions", lambda most: {"messages": SAID, "max_tokens": most}, "max_tokens", 10, 99),
    "chat, new name": (
        "demo/v1/chat/completions",
        lambda most: {"messages": SAID, "max_completion_tokens": most},
        "max_completion_tokens",
        10,
        99,  # as many digits: the input is counted in bytes
    ),
    "messages": ("demo/v1/messages", lambda most: {"messages": SAID, "max_tokens": most}, "max_tokens", 10, 99),
    "messages, thinking": (
        "demo/v1/messages",
        lambda most: {"messages": SAID, "max_tokens": most, **THINKING},
        "max_tokens",
        1100,
        2000,
    ),
    "generate": (
        "demo/v1beta/models/demo-1:generateContent",
        lambda most: {"contents": [{"parts": [{"text": "Hello"}]}], "generationConfig": {"maxOutputTokens": most}},
        "generationConfig.maxOutputTokens",
        10,
        99,  # as many digits: the input is counted in bytes
    ),
}


@pytest.mark.parametrize("form", LIMITS)
async def test_a_refusal_names_the_output_limit_with_which_the_call_is_affordable(farebox: Farebox, form: str) -> None:
    path, body_of, name, low, high = LIMITS[form]

    async def ask(customer: Customer, most: int) -> WireResponse:
        return await post(customer, json.dumps({"model": "demo-1", **body_of(most)}).encode(), path)

    poor = await ask(farebox.funded("0.000000001"), low)
    said = poor.body.decode()
    assert (poor.status, "or less" in said) == (402, False), "no limit helps"
    cost = re.search(r"can cost up to ([0-9.]+) USD", said)
    assert cost is not None
    customer = farebox.funded(cost[1])
    refused = await ask(customer, high)
    assert refused.status == 402
    advice = re.search(rf"Add credit to the account, set `{name}` to (\d+) or less, or send", refused.body.decode())
    assert advice is not None, refused.body
    assert int(advice[1]) == low
    assert (await ask(customer, low + 1)).status == 402
    assert (await ask(customer, low)).status == 200


@pytest.mark.parametrize(
    ("path", "fields", "funds"),
    [
        ("demo/v1/messages", {"messages": SAID, "max_tokens": 2000, **THINKING}, 500),
        ("demo/v1/responses", {"input": "Hello there", "max_output_tokens": 100}, 10),
        ("demo/v1/embeddings", {"input": "Hello there " * 9000}, 0),
    ],
    ids=["below the budget for thinking", "below the provider's minimum", "without output"],
)
async def test_a_refusal_names_no_limit_that_the_provider_would_refuse(
    farebox: Farebox, path: str, fields: dict[str, Any], funds: int
) -> None:
    whole = {key: value for key, value in fields.items() if key != "thinking"}
    limit = next((key for key in whole if key.startswith("max_")), "")
    cheap = {**whole, limit: funds} if limit else whole
    poor = await post(farebox.funded("0.000000001"), json.dumps({"model": "demo-1", **cheap}).encode(), path)
    cost = re.search(r"can cost up to ([0-9.]+) USD", poor.body.decode())
    assert cost is not None
    customer = farebox.funded(cost[1] if limit else "0.000000001")
    refused = await post(customer, json.dumps({"model": "demo-1", **fields}).encode(), path)
    assert refused.status == 402
    assert "or less" not in refused.body.decode()
