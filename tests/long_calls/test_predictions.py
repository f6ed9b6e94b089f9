"""Predictions of Replicate and fal are held for when they begin, and settled, by what they then state, by the first to
see that they have ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.calls.kit import differences, log_rows, set_provider, set_rates
from tests.calls.upstream import Sent, Upstream
from tests.clouds.kit import charged, free
from tests.engines import ON_BOTH_ENGINES
from tests.long_calls.kit import look, make_due, running, settled
from tests.sdks import fal_client, replicate
from tests.support import Customer, Farebox
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES

VERSION = "39ed52f2a78e934b3ba6e2a89f5b1c712de7dfea535525255b1aa35c5565e08b"
PRICES: dict[tuple[str, str], tuple[dict[str, str], int | None]] = {
    ("replicate", VERSION): ({"compute_seconds": "0.001"}, None),
    ("replicate", "black-forest-labs/flux-schnell"): ({"output_images_count": "0.003"}, None),
    ("replicate", "meta/llama"): ({"input_mtok": "1", "output_mtok": "2"}, 4096),
    ("replicate", "google/veo"): ({"output_video_seconds": "0.5"}, None),
    ("fal", "fal-ai/flux/dev"): ({"billed_units": "0.025"}, 4),
    ("fal", "fal-ai/fast-sdxl"): ({"output_images_count": "0.01"}, None),
    ("fal", "fal-ai/unbounded"): ({"billed_units": "0.025"}, None),
}


@dataclass
class Provider:
    """Replicate and fal, as a scripted upstream: `replicate/…`, `fal.run/…` and `queue.fal.run/…`."""

    upstream: Upstream
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, tuple[int, Any, str]] = field(default_factory=dict)
    """fal's queue: request → status, body and billed units."""

    def answer(self, sent: Sent) -> Any:
        """The response to a request; sets the upstream's status and headers."""
        host, *path = urlsplit(sent.path).path.strip("/").split("/")
        self.upstream.headers = {}
        self.upstream.status, body = getattr(self, f"_{host.partition('.')[0]}")(sent, path)
        return body

    def _replicate(self, sent: Sent, path: list[str]) -> tuple[int, Any]:
        if path[0] == "predictions" and len(path) > 1:
            known = self.predictions.get(path[1])
            if known is None:
                return 404, {"detail": "Not found.", "status": 404}
            if path[-1] == "cancel" and known["status"] in ("starting", "processing"):
                known |= {"status": "canceled", "metrics": {"predict_time": 1.5, "total_time": 2}}
            return 200, known
        asked, made = sent.json(), f"p{len(self.predictions)}{id(self):x}"
        urls = {name: f"https://api.replicate.com/v1/predictions/{made}{rest}" for name, rest in URLS}
        self.predictions[made] = {
            "id": made,
            "model": "/".join(path[1:3]) if path[0] == "models" else "owner/model",
            "version": asked.get("version") or "hidden",
            "input": asked["input"],
            "logs": "",
            "output": None,
            "error": None,
            "status": "starting",
            "created_at": "2026-12-01T00:00:00Z",
            "urls": urls,
        }
        return 201, self.predictions[made]

    def _queue(self, sent: Sent, path: list[str]) -> tuple[int, Any]:
        if path[2:3] != ["requests"]:
            made = f"r{len(self.predictions)}{id(self):x}"
            self.predictions[made] = {"status": "IN_QUEUE", "queue_position": 0}
            place = f"https://queue.fal.run/{path[0]}/{path[1]}/requests/{made}"
            urls = {"response_url": place, "status_url": f"{place}/status", "cancel_url": f"{place}/cancel"}
            return 200, {"request_id": made, **urls, **self.predictions[made]}
        known = self.predictions.get(path[3])
        if known is None:
            return 404, {"detail": "Not found"}
        if path[4:] == ["status"]:
            return 200 if known["status"] == "COMPLETED" else 202, {"request_id": path[3], **known}
        if path[4:] == ["cancel"]:
            assert sent.method == "PUT"
            return 202, {"status": "CANCELLATION_REQUESTED"}
        if known["status"] != "COMPLETED":
            return 400, {"detail": "Request is still in progress"}
        status, body, units = self.results[path[3]]
        self.upstream.headers = {"x-fal-billable-units": units} if units else {}
        return status, body

    def _fal(self, sent: Sent, path: list[str]) -> tuple[int, Any]:
        self.upstream.headers = {"x-fal-billable-units": "1.5"}
        return 200, {"images": [IMAGE, IMAGE], "seed": 1}

    def finish(self, made: str, status: str = "succeeded", **more: Any) -> None:
        """Set the result of a prediction at Replicate."""
        self.predictions[made] |= {"status": status, **more}

    def complete(self, made: str, status: int = 200, body: Any = None, units: str = "", **more: Any) -> None:
        """Set the result of a request at fal."""
        self.predictions[made] = {"status": "COMPLETED", "logs": [], "metrics": {"inference_time": 1.5}, **more}
        self.results[made] = (status, {"images": [IMAGE]} if body is None else body, units)


URLS = (("get", ""), ("cancel", "/cancel"), ("web", ""))
IMAGE = {"url": "https://fal.media/a.png", "width": 1024, "height": 1024}
FILE = "https://replicate.delivery/a.webp"


@pytest.fixture(scope="module", autouse=True)
def _rows(farebox: Farebox, upstream: Upstream) -> None:
    set_provider(farebox, "replicate", base_url=f"{upstream.url}/replicate")
    set_provider(farebox, "fal", base_url=f"{upstream.url}/{{host}}")
    set_rates(farebox, *((provider, model, rates, most) for (provider, model), (rates, most) in PRICES.items()))


@pytest.fixture
def provider(upstream: Upstream) -> Iterator[Provider]:
    upstream.status, upstream.headers, upstream.content_type = 200, {}, ""
    upstream.sent.clear()
    made = Provider(upstream)
    upstream.response = made.answer
    yield made
    upstream.headers = {}


@pytest.fixture
def client(customer: Customer) -> Iterator[Any]:
    with client_of(customer) as made:
        yield made


@contextmanager
def client_of(customer: Customer) -> Iterator[Any]:
    made = replicate.client.Client(api_token=customer.token, base_url=f"{customer.gateway_url}/replicate")
    try:
        yield made
    finally:
        made._client.close()


def spent(customer: Customer) -> int:
    return 5_000_000_000 - customer.balance.posted


def test_a_prediction_costs_its_seconds_of_hardware(customer: Customer, client: Any, provider: Provider) -> None:
    prediction = client.predictions.create(version=VERSION, input={"prompt": "A harbour"})
    assert (customer.balance.held, spent(customer)) == (1_800 * 1_000_000, 0), "half an hour, the maximum"
    prediction.reload()
    assert prediction.status == "starting"
    provider.finish(prediction.id, output=[FILE], metrics={"predict_time": 12.345678, "total_time": 30})
    prediction.reload()
    assert (prediction.status, prediction.output) == ("succeeded", [FILE])
    assert (customer.balance.held, spent(customer)) == (0, 12_345_678)
    prediction.reload()
    assert spent(customer) == 12_345_678
    assert not running(customer)
    row = next(row for row in log_rows(customer) if row["model"] == VERSION)
    assert customer.receipt(row["id"])["charge_nanos"] == 12_345_678
    assert differences(customer.farebox) == []


def test_the_worker_settles_predictions_that_nobody_polls(customer: Customer, client: Any, provider: Provider) -> None:
    made = client.models.predictions.create("black-forest-labs/flux-schnell", input={"prompt": "x", "num_outputs": 4})
    assert customer.balance.held == 4 * 3_000_000
    look(customer.farebox)
    assert running(customer)
    provider.finish(made.id, output=[FILE, FILE], metrics={"predict_time": 1, "image_count": 2})
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, 2 * 3_000_000)
    assert provider.upstream.sent[-1].headers["authorization"] == "Bearer operator-key-of-the-test"
    assert differences(customer.farebox) == []


TOKENS = {"token_input_count": 1000, "token_output_count": 100, "predict_time": 2.5}
TIMES = {"started_at": "2026-12-01T00:00:01Z", "completed_at": "2026-12-01T00:00:03Z"}
ENDS: list[tuple[str, dict[str, Any], str, dict[str, Any], int]] = [
    ("meta/llama", {"prompt": "Hello " * 1000, "max_tokens": 200}, "succeeded", {"metrics": TOKENS}, 1_200_000),
    ("google/veo", {"duration": 8}, "succeeded", {"metrics": {"video_output_duration_seconds": 5.5}}, 2_750_000_000),
    ("google/veo", {"duration": 8}, "failed", {"metrics": {"video_output_duration_seconds": 5}, "error": "no"}, 0),
    (VERSION, {}, "failed", {"metrics": {"predict_time": 3}, "error": "It broke."}, 3_000_000),
    (VERSION, {}, "canceled", {"metrics": {"predict_time": 3}}, 3_000_000),
    (VERSION, {}, "aborted", {"metrics": {}}, 0),
    (VERSION, {}, "succeeded", TIMES, 2_000_000),
]  # fmt: skip


def test_ends_of_predictions(farebox: Farebox, provider: Provider) -> None:
    customer = farebox.funded("50")
    with client_of(customer) as client:
        for model, given, status, more, nanos in ENDS:
            with charged(customer) as cost:
                if model == VERSION:
                    made = client.predictions.create(version=model, input=given)
                else:
                    made = client.models.predictions.create(model, input=given)
                provider.finish(made.id, status, output="https://a/b.mp4", **more)
                settled(customer)
            assert (cost.nanos, cost.row["model"]) == (nanos, model), status


def test_a_deadline_bounds_the_hold_and_a_canceled_one_costs_its_time(customer: Customer, provider: Provider) -> None:
    url, headers = f"{customer.gateway_url}/replicate/predictions", {**customer.headers, "cancel-after": "1m30s"}
    body = {"version": f"owner/model:{VERSION}", "input": {}}
    with free(customer):
        assert "owner/model" in httpx.post(url, json=body, headers=headers).text, "priced under its name"
        response = httpx.post(url, json={**body, "version": VERSION}, headers={**headers, "cancel-after": "soon"})
        assert "`Cancel-After`" in response.text
    timed = {**body, "version": VERSION}
    made = httpx.post(url, json=timed, headers=headers).json()
    assert customer.balance.held == 90 * 1_000_000
    assert made["urls"]["cancel"] == f"{url}/{made['id']}/cancel"
    assert httpx.post(made["urls"]["cancel"], headers=customer.headers).json()["status"] == "canceled"
    assert (customer.balance.held, spent(customer)) == (0, 1_500_000)


HELD: list[tuple[str, dict[str, str], int]] = [
    (f'{{"version": "{VERSION}", "input": {{}}}}', {"cancel-after": "0s"}, 5_000_000),
    ('{"input": {"num_outputs": 4.0}}', {}, 12_000_000),
    ('{"input": {"num_outputs": "4"}}', {}, 12_000_000),
    ('{"input": {"num_outputs": -4, "n": 200, "num_images": true, "max_images": "many"}}', {}, 600_000_000),
]


def test_the_sdk_shows_why_a_prediction_is_refused(farebox: Farebox, provider: Provider) -> None:
    refused = pytest.raises(replicate.exceptions.ReplicateError, match="Insufficient credits: this call can cost")
    with client_of(farebox.funded("0.000000001")) as client, refused as error:
        client.predictions.create(version=VERSION, input={"prompt": "A harbour"})
    assert error.value.status == 402
    assert not provider.predictions


def test_holds_are_for_what_providers_read(farebox: Farebox, provider: Provider) -> None:
    customer = farebox.funded("5")
    url = f"{customer.gateway_url}/replicate/predictions"
    timed = {"version": VERSION, "input": {}}
    assert httpx.post(f"{url}?cancel-after=5s", json=timed, headers=customer.headers).status_code == 201
    assert customer.balance.held == 1_800 * 1_000_000, "a header of that name is a deadline, a parameter is not"
    for body, more, nanos in HELD:
        path = "predictions" if VERSION in body else "models/black-forest-labs/flux-schnell/predictions"
        before, headers = customer.balance.held, {**customer.headers, **more, "content-type": "application/json"}
        response = httpx.post(f"{customer.gateway_url}/replicate/{path}", content=body, headers=headers)
        assert (response.status_code, customer.balance.held - before) == (201, nanos), body
    before = customer.balance.held
    series = {"num_images": 2, "max_images": 6}
    httpx.post(f"{customer.gateway_url}/fal/queue/fal-ai/fast-sdxl", json=series, headers=customer.headers)
    assert customer.balance.held - before == 2 * 6 * 10_000_000


def test_fal_at_once_and_by_its_queue(
    customer: Customer, provider: Provider, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    url = f"{customer.gateway_url}/fal/"
    monkeypatch.setattr(fal_client.client, "RUN_URL_FORMAT", url)
    monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"{url}queue/")
    client = fal_client.SyncClient(key=customer.token)
    request.addfinalizer(lambda: client._client.close())
    with charged(customer) as cost:
        assert len(client.run("fal-ai/flux/dev", {"prompt": "A harbour", "num_images": 2})["images"]) == 2
    assert (cost.nanos, cost.receipt["hold_nanos"]) == (37_500_000, 100_000_000), "by the units in fal's response"
    assert provider.upstream.sent[-1].headers["authorization"] == "Key operator-key-of-the-test"
    with charged(customer) as cost:
        client.run("fal-ai/fast-sdxl", {"prompt": "A harbour", "num_images": 2})
    assert cost.nanos == 20_000_000, "by the images"
    before = customer.balance.posted
    handle = client.submit("fal-ai/flux/dev", {"prompt": "A harbour"})
    assert handle.status_url.startswith(f"{url}queue/fal-ai/flux/requests/")
    assert customer.balance.held == 100_000_000
    assert isinstance(handle.status(), fal_client.Queued)
    provider.complete(handle.request_id, units="2")
    assert handle.get() == {"images": [IMAGE]}
    settled(customer)
    assert (customer.balance.held, before - customer.balance.posted) == (0, 50_000_000)
    handle.cancel()
    for status, more in ((422, {"error": "The prompt is empty."}), (500, {"error": "It broke."})):
        with free(customer):
            broken = client.submit("fal-ai/flux/dev", {"prompt": ""})
            provider.complete(broken.request_id, status, {"detail": "no"}, **more)
            settled(customer)
    assert differences(customer.farebox) == []


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 503])
def test_a_result_that_cannot_be_fetched_now_is_fetched_later(
    customer: Customer, provider: Provider, status: int
) -> None:
    made = httpx.post(f"{customer.gateway_url}/fal/queue/fal-ai/flux/dev", json={}, headers=customer.headers).json()
    provider.complete(made["request_id"], status, {"detail": "not now"})
    look(customer.farebox)
    assert customer.balance.held == 100_000_000
    provider.complete(made["request_id"], units="1")
    settled(customer)
    assert spent(customer) == 25_000_000


def test_a_result_that_can_never_be_fetched_is_ended_by_policy(customer: Customer, provider: Provider) -> None:
    made = httpx.post(f"{customer.gateway_url}/fal/queue/fal-ai/flux/dev", json={}, headers=customer.headers).json()
    provider.complete(made["request_id"], 429, {"detail": "not now"})
    make_due(customer.farebox, ends_at=1)
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, 0)


def test_one_that_never_ends_is_canceled_and_ended_by_policy(customer: Customer, provider: Provider) -> None:
    httpx.post(f"{customer.gateway_url}/fal/queue/fal-ai/flux/dev", json={}, headers=customer.headers)
    make_due(customer.farebox, ends_at=1, created_at=1)
    look(customer.farebox)
    until(lambda: [sent.method for sent in provider.upstream.sent] == ["POST", "PUT", "GET"])
    provider.predictions.clear()
    make_due(customer.farebox, ends_at=1, created_at=1)
    settled(customer)
    assert (customer.balance.held, spent(customer)) == (0, 0)


def test_predictions_belong_to_the_account(farebox: Farebox, customer: Customer, provider: Provider) -> None:
    other = farebox.funded("5")
    url = f"{customer.gateway_url}/replicate/predictions"
    made = httpx.post(url, json={"version": VERSION, "input": {}}, headers=customer.headers).json()["id"]
    queued = httpx.post(f"{customer.gateway_url}/fal/queue/fal-ai/flux/dev", json={}, headers=customer.headers).json()
    place = f"fal/queue/fal-ai/flux/requests/{queued['request_id']}"
    asked = len(provider.upstream.sent)
    for method, path in (
        ("GET", f"replicate/predictions/{made}"),
        ("POST", f"replicate/predictions/{made}/cancel"),
        ("GET", f"{place}/status"),
        ("GET", place),
        ("PUT", f"{place}/cancel"),
    ):
        response = httpx.request(method, f"{other.gateway_url}/{path}", headers=other.headers)
        assert (response.status_code, "not found" in response.text) == (404, True), path
    assert len(provider.upstream.sent) == asked


JSON = {"content-type": "application/json"}
REFUSED: list[tuple[str, Any, str]] = [
    ("replicate/models/owner/unpriced/predictions", {"input": {}}, "--rate compute_seconds=USD (per compute second)"),
    ("replicate/models/google/veo/predictions", {"input": {}}, "--output-max"),
    ("replicate/predictions", {"version": "latest", "input": {}}, "$.version"),
    ("replicate/predictions", {"version": VERSION}, "`input`"),
    ("replicate/trainings", {}, "job has finished"),
    ("replicate/predictions", f'{{"version": "owner/dear", "version": "{VERSION}", "input": {{}}}}', "twice"),
    ("fal/fal-ai/fast-sdxl", '{"num_images": 8, "num_images": 1}', "twice"),
    ("fal/queue/fal-ai/unbounded", {}, "--output-max"),
    ("fal/fal-ai/flux/dev", {"num_images": 0}, "num_images"),
    ("fal/fal-ai/flux/dev/stream", {}, "states its units"),
    ("fal/workflows/owner/mine", {}, "several models"),
]


def test_what_cannot_be_metered_is_refused(customer: Customer, provider: Provider) -> None:
    with free(customer), httpx.Client(headers=customer.headers) as client:
        for path, body, why in REFUSED:
            content = body if isinstance(body, str) else json.dumps(body)
            response = client.post(f"{customer.gateway_url}/{path}", content=content, headers=JSON)
            assert response.status_code in (400, 403), (path, response.text)
            assert why in json.dumps(response.json(), ensure_ascii=False), (path, response.text)
    assert not provider.upstream.sent
    assert not running(customer)
