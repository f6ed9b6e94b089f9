"""Google's files and batches on the operator's key, called with Google's own SDK."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from farebox.calls.long_calls import long_calls
from farebox.calls.long_calls.long_calls import begin
from farebox.storage.sql import DatabaseUnavailable
from tests.calls.kit import differences, log_rows, set_gateway
from tests.calls.upstream import Sent, Upstream
from tests.engines import ON_BOTH_ENGINES
from tests.long_calls.google_objects import EACH, MODEL, GoogleObjects, answered, as_file, asked
from tests.long_calls.kit import look, running, settled, spent
from tests.sdks import genai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

FILES = "google-ai-studio/upload/v1beta/files"
START = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}


@pytest.fixture
def stored(upstream: Upstream) -> Iterator[GoogleObjects]:
    upstream.status, upstream.headers, upstream.content_type = 200, {}, ""
    upstream.sent.clear()
    made = GoogleObjects(upstream)
    upstream.response = made.answer
    yield made
    upstream.headers = {}


def opened(customer: Customer) -> genai.Client:
    options: Any = {"base_url": f"{customer.gateway_url}/google-ai-studio"}
    return genai.Client(api_key=customer.token, http_options=options)


@pytest.fixture
def client(customer: Customer) -> Iterator[genai.Client]:
    with opened(customer) as made:
        yield made


def upload(client: genai.Client, content: bytes) -> Any:
    return client.files.upload(file=io.BytesIO(content), config={"mime_type": "text/plain", "display_name": "in"})


def inlined(number: int = 0, **config: Any) -> Any:
    return {
        "contents": "Hello " * 1000,
        "config": {"max_output_tokens": 200, **config},
        "metadata": {"key": f"r{number}"},
    }


def test_a_batch_by_file_is_held_for_and_settled_by_its_output(
    farebox: Farebox,
    customer: Customer,
    client: genai.Client,
    stored: GoogleObjects,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = upload(client, as_file(asked(0), asked(1)))
    batch = client.batches.create(model=MODEL, src=file.name, config={"display_name": "mine"})
    held = customer.balance.held
    assert 2 * 200 * 2500 // 2 < held < 2 * (7000 * 300 + 200 * 2500) // 2
    look(farebox)
    assert (customer.balance.held, spent(customer)) == (held, 0)
    output = stored.end(
        str(batch.name), "SUCCEEDED", answered(0), {"key": "r1", "error": {"code": 13, "message": "No"}}
    )
    monkeypatch.setattr(long_calls, "AT_ONCE", 0)  # no worker polls before the test does
    ended = client.batches.get(name=str(batch.name))
    assert ended.dest is not None
    assert (ended.state, ended.dest.file_name) == ("JOB_STATE_SUCCEEDED", output)
    for does in (lambda: client.files.delete(name=output), lambda: client.batches.delete(name=str(batch.name))):
        with pytest.raises(genai.errors.ClientError) as busy:
            does()
        assert busy.value.code == 409
    monkeypatch.undo()
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, EACH)
    assert client.files.download(file=output) == stored.contents[output]
    receipt = customer.receipt(next(row for row in log_rows(customer) if row["model"])["id"])
    assert (receipt["charge_nanos"], receipt["hold_nanos"]) == (EACH, held)
    assert [job.name for job in client.batches.list()] == [batch.name]
    client.files.delete(name=output)
    client.batches.delete(name=str(batch.name))
    assert not list(client.batches.list())
    assert {sent.headers["x-goog-api-key"] for sent in stored.upstream.sent} == {"key-of-the-operator"}
    assert differences(farebox) == []


def test_a_batch_in_the_request_costs_what_its_responses_have_used(
    customer: Customer, client: genai.Client, stored: GoogleObjects
) -> None:
    """Tokens read from a cache cost the same as outside of batches."""
    batch = client.batches.create(model=MODEL, src=[inlined(0), inlined(1)])
    assert customer.balance.held > 0
    stored.end(str(batch.name), "SUCCEEDED", answered(0, cachedContentTokenCount=400), answered(1), inline=True)
    ended = client.batches.get(name=str(batch.name))
    assert ended.dest is not None
    assert [one.response.text for one in ended.dest.inlined_responses or () if one.response] == ["Good day."] * 2
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, 2 * EACH - 400 * 300 // 2 + 400 * 30)
    assert [job.name for job in client.batches.list()] == [batch.name], "however large its responses are"


@pytest.mark.parametrize("state", ["CANCELLED", "EXPIRED", "FAILED"])
def test_a_batch_without_results_is_free(
    customer: Customer, client: genai.Client, stored: GoogleObjects, state: str
) -> None:
    batch = client.batches.create(model=MODEL, src=[inlined()])
    if state == "CANCELLED":
        client.batches.cancel(name=str(batch.name))
    stored.objects[str(batch.name)]["metadata"]["state"] = f"BATCH_STATE_{state}"
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, 0)


def test_files_and_batches_belong_to_the_account(
    farebox: Farebox, customer: Customer, client: genai.Client, stored: GoogleObjects
) -> None:
    file = upload(client, as_file(asked(0)))
    made = [str(client.batches.create(model=MODEL, src=file.name).name) for _ in range(3)]
    part = {"file_data": {"file_uri": file.uri, "mime_type": "text/plain"}}
    contents: Any = [{"parts": [part], "role": "user"}]
    with opened(farebox.funded("1")) as foreign:
        sent = len(stored.upstream.sent)
        refused_calls: list[Any] = [
            lambda: foreign.batches.get(name=made[0]),
            lambda: foreign.batches.cancel(name=made[0]),
            lambda: foreign.batches.delete(name=made[0]),
            lambda: foreign.batches.create(model=MODEL, src=file.name),
            lambda: foreign.batches.create(model=MODEL, src=[inlined() | {"contents": contents}]),
            lambda: foreign.files.get(name=file.name),
            lambda: foreign.files.download(file=file.name),
            lambda: foreign.files.delete(name=file.name),
            lambda: foreign.models.generate_content(model=MODEL, contents=contents),
        ]  # fmt: skip
        for does in refused_calls:
            with pytest.raises(genai.errors.ClientError) as refused:
                does()
            assert (refused.value.code, refused.value.status) == (404, "NOT_FOUND")
        assert not [*foreign.files.list(), *foreign.batches.list()]
        assert len(stored.upstream.sent) == sent
    assert [job.name for job in client.batches.list(config={"page_size": 2})] == made, "page after page"
    assert [found.name for found in client.files.list()] == [file.name]
    client.models.generate_content(model=MODEL, contents=contents)
    client.files.delete(name=file.name)
    with pytest.raises(genai.errors.ClientError):
        client.files.get(name=file.name)


def begin_upload(customer: Customer, size: int, **more: Any) -> httpx.Response:
    headers = {**customer.headers, **START, "x-goog-upload-header-content-length": str(size), **more.pop("headers", {})}
    return httpx.post(f"{customer.gateway_url}/{FILES}", headers=headers, json={"file": {"displayName": "f", **more}})


def test_a_file_comes_in_pieces_by_the_url_that_its_beginning_returns(
    farebox: Farebox, customer: Customer, stored: GoogleObjects
) -> None:
    """As at Google, anyone with the URL may send the pieces of this file, through this gateway, up to the declared
    size."""
    begun = begin_upload(customer, 10)
    url = begun.headers["x-goog-upload-url"]
    assert url.startswith(f"{customer.gateway_url}/{FILES}?upload_id=")
    assert not {"x-goog-upload-control-url", "x-guploader-uploadid"} & set(begun.headers)
    ticket = parse_qs(urlsplit(url).query)["upload_id"][0]
    other = farebox.funded("1")
    set_gateway(other)
    set_gateway(customer, "second")

    def send(at: str, offset: int, piece: bytes, command: str = "upload") -> httpx.Response:
        return httpx.post(
            at, headers={"x-goog-upload-command": command, "x-goog-upload-offset": str(offset)}, content=piece
        )

    sent = len(stored.upstream.sent)
    elsewhere = [
        url.replace(customer.account_id, other.account_id),
        url.replace("/default/", "/second/"),
        url.replace(ticket, ticket[:-4] + "AAAA"),
        url.replace(ticket, "up1"),
        f"{customer.gateway_url}/{FILES}",
    ]
    for at in elsewhere:
        assert send(at, 0, b"01234").status_code == 401
    assert send(url, 6, b"01234").status_code == 400, "more than declared"
    assert len(stored.upstream.sent) == sent
    assert send(url, 0, b"01234").headers["x-goog-upload-status"] == "active"
    last = send(url, 5, b"56789", "upload, finalize")
    assert (last.status_code, last.headers["x-goog-upload-status"]) == (200, "final")
    name = last.json()["file"]["name"]
    assert stored.contents[name] == b"0123456789"
    with opened(customer) as client:
        assert client.files.get(name=name).size_bytes == 10
    assert customer.balance.posted == 5_000_000_000


def test_files_are_bounded_and_come_in_one_way(farebox: Farebox, customer: Customer, stored: GoogleObjects) -> None:
    most = farebox.services.settings.account_files_bytes_max
    for refused in (
        begin_upload(customer, most + 1),
        begin_upload(customer, 1, name="files/of-my-own"),
        begin_upload(customer, 1, headers={"x-goog-upload-protocol": "multipart"}),
        begin_upload(customer, 1, headers={"x-goog-upload-header-content-length": "many"}),
    ):
        assert refused.status_code == 400, refused.text
    assert not stored.upstream.sent


@pytest.mark.parametrize(
    ("src", "why"),
    [
        ([inlined(tools=[{"google_search": {}}])], "tools that run at the provider"),
        ([inlined(), {**inlined(), "model": "gemini-2.5-pro"}], "and the batch for"),
        ([{**inlined(), "config": {"max_output_tokens": 200, "cached_content": "cachedContents/x"}}], "not found"),
        ("files/unknown", "No such File"),
    ],
)
def test_what_cannot_be_metered_is_refused_before_it_begins(
    customer: Customer, client: genai.Client, stored: GoogleObjects, src: Any, why: str
) -> None:
    with pytest.raises(genai.errors.ClientError) as refused:
        client.batches.create(model=MODEL, src=src)
    assert why in str(refused.value.message)
    assert not stored.upstream.sent
    assert not running(customer)
    assert customer.balance.held == 0


@pytest.mark.parametrize(
    "batch",
    [
        {"inputConfig": {"requests": {"requests": []}}},
        {"inputConfig": {"fileName": "files/x", "requests": {"requests": [asked()]}}},
        {"inputConfig": {"requests": {"requests": [asked()]}}, "input_config": {"file_name": "files/x"}},
        {"inputConfig": {"requests": {"requests": [asked()]}}, "webhookConfig": {"uris": ["https://example.com"]}},
        {"model": "models/gemini-2.5-pro", "inputConfig": {"requests": {"requests": [asked()]}}},
    ],
)
def test_ambiguous_requests_are_refused(customer: Customer, stored: GoogleObjects, batch: Any) -> None:
    url = f"{customer.gateway_url}/google-ai-studio/v1beta/models/{MODEL}:batchGenerateContent"
    refused = httpx.post(url, headers=customer.headers, json={"batch": batch})
    assert refused.status_code == 400, refused.text
    assert not stored.upstream.sent


@pytest.mark.parametrize("name", ["cachedContent", "cached_content"])
def test_a_cache_is_named_once(customer: Customer, stored: GoogleObjects, name: str) -> None:
    """Google might use the other one, which was not checked."""
    twice = f'"{name}": "cachedContents/a", "{name}": "cachedContents/b"'
    body = '{"contents": [{"parts": [{"text": "Hi"}]}], ' + twice + "}"
    url = f"{customer.gateway_url}/google-ai-studio/v1beta/models/{MODEL}:generateContent"
    refused = httpx.post(url, headers={**customer.headers, "content-type": "application/json"}, content=body)
    assert (refused.status_code, "twice" in refused.text) == (400, True), refused.text
    assert not stored.upstream.sent


KEPT = "Hello there " * 3_000
CACHED = 10_000
"""The number of tokens of a cache."""


def made(hours: float = 1) -> int:
    """The cost of such a cache of gemini-2.5-flash, in nano-dollars: its input and its storage."""
    return CACHED * 300 + int(CACHED * hours * 1_000)


def test_a_cache_is_paid_for_when_it_is_made_and_read_at_its_price(
    farebox: Farebox, customer: Customer, client: genai.Client, stored: GoogleObjects
) -> None:
    with opened(farebox.funded("1")) as foreign:
        cache = client.caches.create(model=MODEL, config={"contents": KEPT, "ttl": "7200s", "display_name": "mine"})
        name = str(cache.name)
        assert (customer.balance.held, spent(customer), running(customer)) == (0, made(2), [])
        row = next(row for row in log_rows(customer) if row["model"])
        receipt = customer.receipt(row["id"])
        assert (receipt["charge_nanos"], row["model"]) == (made(2), MODEL)
        assert made(2) < receipt["hold_nanos"] < 5 * made(2)
        before = spent(customer)
        assert client.models.generate_content(model=MODEL, contents="And?", config={"cached_content": name}).text
        assert spent(customer) - before == CACHED * 30 + 1_000 * 300 + 100 * 2_500
        receipt = customer.receipt(log_rows(customer)[0]["id"])
        assert receipt["hold_nanos"] < 65_536 * 2_500 + 20_000 * 1_000, "its size is known, so no window is held for it"
        assert [one.name for one in client.caches.list()] == [name]
        assert client.caches.get(name=name).name == name
        before = spent(customer)
        client.caches.update(name=name, config={"ttl": "10800s"})
        assert (customer.balance.held, spent(customer) - before) == (0, CACHED * 1_000), "another hour"
        client.caches.update(name=name, config={"ttl": "60s"})
        assert (customer.balance.held, spent(customer) - before) == (0, CACHED * 1_000), "shortening gives nothing back"
        assert not list(foreign.caches.list())
        refused_calls: list[Any] = [
            lambda: foreign.caches.get(name=name),
            lambda: foreign.caches.delete(name=name),
            lambda: foreign.caches.update(name=name, config={"ttl": "60s"}),
            lambda: foreign.models.generate_content(model=MODEL, contents="x", config={"cached_content": name}),
        ]
        sent = len(stored.upstream.sent)
        for does in refused_calls:
            with pytest.raises(genai.errors.ClientError) as refused:
                does()
            assert (refused.value.code, refused.value.status) == (404, "NOT_FOUND")
        assert len(stored.upstream.sent) == sent
    before = spent(customer)
    client.caches.delete(name=name)
    with pytest.raises(genai.errors.ClientError):
        client.models.generate_content(model=MODEL, contents="x", config={"cached_content": name})
    assert spent(customer) == before
    assert not running(customer)
    assert differences(farebox) == []


def test_changes_of_a_cache_at_once_are_charged_once(
    customer: Customer, client: genai.Client, stored: GoogleObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = client.caches.create(model=MODEL, config={"contents": KEPT, "ttl": "3600s"}).name
    url, before = f"{customer.gateway_url}/google-ai-studio/v1beta/{name}", spent(customer)
    others: list[int] = []

    def change(hours: int) -> int:
        body = {"ttl": f"{hours * 3_600}s"}
        return httpx.patch(url, json=body, headers=customer.headers, timeout=60).status_code

    def answer(sent: Sent) -> Any:  # the other change arrives during the provider's request
        if sent.method == "PATCH" and not others:
            others.append(change(3))
        return stored.answer(sent)

    stored.upstream.response = answer
    assert (change(3), others) == (200, [409])
    assert (customer.balance.held, spent(customer) - before) == (0, 2 * CACHED * 1_000)

    async def overtaken(
        *arguments: Any,
    ) -> None:  # the other change arrives and is answered once this one has been priced
        if len(others) == 1:
            others.append(0)
            others[1] = await asyncio.to_thread(change, 5)
        await begin(*arguments)

    monkeypatch.setattr("farebox.calls.serve.begin", overtaken)
    assert (change(5), others) == (409, [409, 200])
    assert (customer.balance.held, spent(customer) - before) == (0, 4 * CACHED * 1_000)
    assert not running(customer)
    assert differences(customer.farebox) == []


UNCACHED: list[tuple[dict[str, Any], str]] = [
    ({"ttl": "1h"}, "$.ttl"),
    ({"ttl": "99999999s"}, "$.ttl"),
    ({"expireTime": "2027-01-01T00:00:00Z"}, "given as `ttl`"),
    ({"tools": [{"googleSearch": {}}]}, "hosted tools"),
    ({"contents": [{"parts": [{"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}]}]}, "sound and video"),
    *(
        ({field: {"parts": [{"inlineData": {**mimes, "data": "AAAA"}}]}}, "sound and video")
        for field in ("systemInstruction", "system_instruction")
        for mimes in (
            {"mimeType": " audio/mp3"},
            {"mime_type": "application/ogg"},
            {"mimeType": "text/plain", "mime_type": "audio/mp3"},
        )
    ),
    (
        {"contents": [{"parts": [{"fileData": {"fileUri": "https://youtu.be/x", "mimeType": "text/plain"}}]}]},
        "sound and video",
    ),
    ({"model": "models/gemini-3.6-flash"}, "stored_mtok_hours"),
]


def test_invalid_caches_are_refused(customer: Customer, stored: GoogleObjects) -> None:
    url = f"{customer.gateway_url}/google-ai-studio/v1beta/cachedContents"
    body = {"model": f"models/{MODEL}", "contents": [{"parts": [{"text": KEPT}]}]}
    for more, why in UNCACHED:
        response = httpx.post(url, json={**body, **more}, headers=customer.headers)
        assert (response.status_code in (400, 403), why in response.text) == (True, True), response.text
    for end, cost in (({}, made()), ({"error": "away"}, 0)):
        stored.broken = bool(end)
        before = spent(customer)
        httpx.post(url, json=body, headers=customer.headers)
        assert (customer.balance.held, spent(customer) - before) == (0, cost), "without a duration it is an hour"
    with opened(customer) as sdk:
        file = sdk.files.upload(file=io.BytesIO(b"ID3"), config={"mime_type": "audio/mp3"})
    part = {"fileData": {"fileUri": file.uri, "mimeType": "image/png"}}
    sent = len(stored.upstream.sent)
    response = httpx.post(url, json={**body, "contents": [{"parts": [part]}]}, headers=customer.headers)
    assert (response.status_code, "sound and video" in response.text) == (400, True), response.text
    assert len(stored.upstream.sent) == sent
    settled(customer)
    stored.broken, size = False, stored.cached
    for said in ({}, {"totalTokenCount": 0}, {"totalTokenCount": -1}):
        before, stored.cached = spent(customer), said
        httpx.post(url, json=body, headers=customer.headers)
        receipt = customer.receipt(next(row for row in log_rows(customer) if row["model"])["id"])
        assert receipt["hold_nanos"] > 0
        assert (customer.balance.held, spent(customer) - before) == (0, receipt["hold_nanos"]), (
            "it was created nevertheless"
        )
    stored.cached = size
    before = spent(customer)
    with pytest.MonkeyPatch.context() as patch:  # the process dies before the created cache is paid for
        patch.setattr("farebox.calls.long_calls.relay.process_description", _died)
        httpx.post(url, json=body, headers=customer.headers)
    assert customer.balance.held > 0
    settled(customer)
    assert (customer.balance.held, spent(customer) - before) == (0, made())
    assert differences(customer.farebox) == []


async def _died(*_: Any) -> Any:
    raise DatabaseUnavailable("as if the process had ended here")
