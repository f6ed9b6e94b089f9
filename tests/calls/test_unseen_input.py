"""Input that a request does not contain: the hold covers all that may come in, so no tenant can order what it cannot
pay for."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from farebox.money import parse_usd
from farebox.storage.operator_alarms import open_alarms
from farebox.storage.overruns import hold_coverage
from tests.calls.kit import differences, set_provider
from tests.calls.test_provider_prices import message_response, tokens
from tests.calls.upstream import Upstream, serving
from tests.engines import ON_BOTH_ENGINES, looking
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES

GO_ON = {"model": "gpt-4.1", "input": "Go on", "max_output_tokens": 100}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Farebox]:
    settings = {"unseen_input": "mcp=refuse, file_search=learned", "overrun_alarm_cents": 1}
    with running_farebox(tmp_path_factory.mktemp("unseen"), **settings) as served:
        for slug in ("openai", "anthropic", "google-ai-studio"):
            set_provider(served, slug, base_url=upstream.url)
        yield served
        assert differences(served) == []


def stored_response(input_tokens: int, output_tokens: int, reference: str = "resp_acme") -> dict[str, Any]:
    content = [{"type": "output_text", "text": "Gladly."}]
    return {
        "id": reference,
        "object": "response",
        "model": "gpt-4.1",
        "status": "completed",
        "output": [{"type": "message", "role": "assistant", "content": content}],
        "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens},
    }


def ask_responses(customer: Customer, **fields: Any) -> httpx.Response:
    url = f"{customer.gateway_url}/openai/responses"
    return httpx.post(url, json=GO_ON | fields, headers=customer.headers)


def search(customer: Customer) -> httpx.Response:
    requested = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "News?"}]}
    url = f"{customer.gateway_url}/anthropic/v1/messages"
    return httpx.post(url, json=requested | {"tools": [SEARCH]}, headers=customer.headers)


def found(input_tokens: int, searches: int) -> dict[str, Any]:
    usage = tokens(input_tokens, 10, server_tool_use={"web_search_requests": searches})
    return message_response("claude-haiku-4-5", usage)


def together(customer: Customer, times: int, **fields: Any) -> list[httpx.Response]:
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _: ask_responses(customer, **fields), range(times)))


def test_twelve_calls_continuing_an_unknown_response_are_refused(farebox: Farebox, upstream: Upstream) -> None:
    """Each would read 300,000 tokens, which a hold for the request's text alone would not cover."""
    customer = farebox.funded("1.60")
    upstream.response = stored_response(300_000, 100, "resp_long_ago")
    assert ask_responses(customer).status_code == 200
    farebox.services.learned.__init__()  # type: ignore[misc]  # as after a restart
    responses = together(customer, 12, previous_response_id="resp_long_ago")
    assert {response.status_code for response in responses} == {402}
    assert "cannot be seen from here (response)" in responses[0].text
    assert customer.balance.posted == parse_usd("1.60") - (300_000 * 2000 + 100 * 8000)


def test_the_size_of_a_relayed_response_is_known(farebox: Farebox, upstream: Upstream) -> None:
    customer = farebox.funded("1.3008")
    upstream.response = stored_response(300_000, 100, "resp_known")
    assert ask_responses(customer).status_code == 200
    assert customer.balance.posted == parse_usd("0.70")
    upstream.response = stored_response(300_200, 100, "resp_next")
    responses = together(customer, 12, previous_response_id="resp_known")
    codes = sorted(response.status_code for response in responses)
    assert codes.count(200) == 1
    assert set(codes) <= {200, 402, 429}
    assert customer.balance.posted == parse_usd("0.70") - (300_200 * 2000 + 100 * 8000)
    receipt = customer.receipt(next(a for a in responses if a.status_code == 200).headers["cf-aig-log-id"])
    assert receipt["hold_nanos"] >= receipt["charge_nanos"]
    assert "written_off_nanos" not in receipt or receipt["written_off_nanos"] == 0


def test_responses_of_other_accounts_are_unknown(farebox: Farebox, upstream: Upstream) -> None:
    one, other = farebox.funded("1"), farebox.funded("1")
    upstream.response = stored_response(100, 10, "resp_private")
    assert ask_responses(one).status_code == 200
    assert ask_responses(other, previous_response_id="resp_private").status_code == 404
    assert ask_responses(one, previous_response_id="resp_private").status_code == 200


def test_the_size_of_a_partly_read_response_is_unknown(farebox: Farebox, upstream: Upstream) -> None:
    """A model with a small window truncates a long conversation; one with a large window would continue from all of
    it."""
    customer = farebox.funded("1.90")
    upstream.response = stored_response(100_000, 10, "resp_cut")
    assert ask_responses(customer, truncation="auto").status_code == 200
    assert ask_responses(customer, previous_response_id="resp_cut").status_code == 402
    assert ask_responses(customer, truncation="disabled").status_code == 200
    assert ask_responses(customer, previous_response_id="resp_cut").status_code == 200


GEMINI = "google-ai-studio/v1beta/models/gemini-2.5-flash:generateContent"
BUCKET = "gs://the-operators/contract.pdf"


def in_bucket(**part: Any) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": "Read it"}, part]}], "generationConfig": {"maxOutputTokens": 50}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("openai/responses", GO_ON | {"prompt": {"id": "pmpt_of_the_operator"}}),
        (GEMINI, in_bucket(fileData={"fileUri": BUCKET, "mimeType": "application/pdf"})),
        (GEMINI, in_bucket(file_data={"file_uri": " GS://the-operators/x", "mime_type": "image/png"})),
        (
            "openai/chat/completions",
            {"model": "gpt-4.1", "messages": [{"role": "user", "content": [{"image_url": {"url": BUCKET}}]}]},
        ),
    ],
    ids=["prompt", "bucket", "bucket_spelled_otherwise", "image"],
)
def test_the_operators_stored_objects_are_not_readable_on_its_key(
    farebox: Farebox, upstream: Upstream, path: str, body: dict[str, Any]
) -> None:
    customer, before = farebox.funded("5"), len(upstream.sent)
    refused = httpx.post(f"{customer.gateway_url}/{path}", json=body, headers=customer.headers)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 2903), refused.text
    assert len(upstream.sent) == before


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "gpt-4.1", "input": "Go on", "model": "gpt-4.1-nano"}',
        b'{"model": "gpt-4.1", "input": "Go on", "mod\\u0065l": "gpt-4.1-nano"}',
        b'{"model": "gpt-4.1-nano", "input": "Go on", "MODEL": "gpt-4.1"}',
        b'{"model": "gpt-4.1-nano", "input": "Go on", "M\\u006fdel": "gpt-4.1"}',
        b'{"model": "gpt-4.1", "input": "Go on", "max_output_tokens": 9000, "max_output_tokens": 1}',
        b'{"model": "gpt-4.1", "input": "Go on", "max_output_tokens": 1, "Max_Output_Tokens": 9000}',
        b'{"model": "gpt-4.1", "input": [{"role": "user", "content": [{"file_id": "a", "file_id": "b"}]}]}',
        b'{"model": "gpt-4.1", "previous_response_id": "a", "input": "Go on", "previous_response_id": "b"}',
    ],
    ids=["model", "escaped", "letters", "escaped_letters", "limit", "letters_of_a_limit", "file", "response"],
)
def test_a_repeated_field_is_refused_if_readers_could_differ(farebox: Farebox, upstream: Upstream, body: bytes) -> None:
    customer, before = farebox.funded("5"), len(upstream.sent)
    url, headers = f"{customer.gateway_url}/openai/responses", customer.headers | {"content-type": "application/json"}
    refused = httpx.post(url, content=body, headers=headers)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 2901), refused.text
    assert "twice" in refused.json()["message"]
    assert len(upstream.sent) == before


def test_a_search_is_possible_on_little_and_its_hold_grows_with_what_searches_bring_in(
    farebox: Farebox, upstream: Upstream
) -> None:
    sample = farebox.funded("10")
    upstream.response = found(20_000, 2)
    hold = sample.receipt(search(sample).headers["cf-aig-log-id"])["hold_nanos"]
    assert 5 * 32_000 * 2000 < hold < 5 * 33_000 * 2000 + 60_000_000
    little = farebox.funded("0.12")
    receipt = little.receipt(search(little).headers["cf-aig-log-id"])
    assert receipt["charge_nanos"] == 20_000 * 1000 + 10 * 5000 + 2 * 10_000_000
    assert receipt["hold_nanos"] == parse_usd("0.12"), "the whole balance"
    assert search(farebox.funded("0.05")).status_code == 402, "too little for one search"
    upstream.response = found(90_000, 1)
    assert search(sample).status_code == 200
    upstream.response = found(20_000, 2)
    grown = sample.receipt(search(sample).headers["cf-aig-log-id"])["hold_nanos"]
    assert grown > 5 * 89_000 * 2000


def test_one_tenants_searches_do_not_raise_other_tenants_holds(farebox: Farebox, upstream: Upstream) -> None:
    upstream.response = found(20_000, 2)
    for _ in range(3):
        assert search(farebox.funded("5")).status_code == 200
    greedy, with_single_uses = farebox.funded("10"), farebox.funded("5")
    upstream.response = found(900_000, 1)
    assert search(greedy).status_code == 200
    upstream.response = found(20_000, 2)
    holds = [
        customer.receipt(search(customer).headers["cf-aig-log-id"])["hold_nanos"]
        for customer in (with_single_uses, greedy)
    ]
    assert holds[0] < 5 * 33_000 * 2000 + 60_000_000
    assert holds[1] > 5 * 890_000 * 1000


def test_a_request_that_the_operator_does_not_pay_for_is_refused(farebox: Farebox) -> None:
    customer = farebox.funded("100")
    mcp = {"type": "mcp", "server_label": "acme", "server_url": "https://acme.example/mcp"}
    response = ask_responses(customer, tools=[mcp])
    assert response.status_code == 403 or response.status_code == 400, response.text
    assert "mcp" in response.text
    assert customer.balance.posted == parse_usd("100")


def test_written_off_amounts_are_reported(farebox: Farebox, upstream: Upstream) -> None:
    upstream.response = found(20_000, 2)
    assert search(farebox.funded("10")).status_code == 200
    poor = farebox.funded("0.30")
    upstream.response = found(1_200_000, 5)  # the most that the searches may bring in, whatever was observed before
    receipt = poor.receipt(search(poor).headers["cf-aig-log-id"])
    cost = 1_200_000 * 1000 + 10 * 5000 + 5 * 10_000_000
    assert (receipt["charge_nanos"], receipt["written_off_nanos"]) == (parse_usd("0.30"), cost - parse_usd("0.30"))
    with looking(farebox.services.settings) as connection:
        rows = [row for row in hold_coverage(connection, 0) if row.written_off]
    assert [(row.provider, row.model, row.kinds) for row in rows] == [
        ("anthropic", "claude-haiku-4-5", ("web_search",))
    ]
    assert rows[0].written_off == cost - parse_usd("0.30")
    assert rows[0].calls > 1
    assert rows[0].held >= parse_usd("0.30")

    def alarmed() -> bool:
        with looking(farebox.services.settings) as connection:
            return any(alarm.kind == "overrun" for alarm in open_alarms(connection))

    until(alarmed, "the alarm", 20)
