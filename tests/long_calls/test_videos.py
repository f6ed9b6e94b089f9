"""Videos are held for when they begin, by their seconds and resolution, and settled once by the first to see them end:
at OpenAI, Google AI Studio and xAI. (Vertex AI and Azure OpenAI: tests/clouds.)"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from farebox.calls.long_calls import long_calls
from tests.calls.kit import differences, forget, log_rows, set_provider
from tests.calls.upstream import Sent, Upstream
from tests.clouds.kit import free
from tests.engines import ON_BOTH_ENGINES
from tests.long_calls.kit import make_due, running, settled
from tests.long_calls.openai_objects import form_of
from tests.process_death import crash_at_each_point
from tests.sdks import genai, openai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

VEO = "veo-3.1-generate-001"
FILE = "https://generativelanguage.googleapis.com/v1beta/files/{}:download?alt=media"


@dataclass
class Studios:
    """OpenAI (`v1/videos`), AI Studio (`v1beta/…`) and xAI (`xai/videos`) as a scripted upstream."""

    upstream: Upstream
    videos: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, sent: Sent) -> Any:
        self.upstream.status = 200
        host, *path = urlsplit(sent.path).path.strip("/").split("/")
        google = host == "v1beta" or path[0] == "files"
        body = self._google(sent, path) if google else (self._xai if host == "xai" else self._openai)(sent, path)
        if body is None:
            self.upstream.status, body = 404, {"error": {"message": "Not found", "code": 404}}
        return body if isinstance(body, bytes) else json.dumps(body).replace('"9e~"', "9e" + "9" * 20).encode()

    def _made(self, **described: Any) -> tuple[str, dict[str, Any]]:
        name = f"v{len(self.videos)}x{id(self):x}"
        self.videos[name] = described
        return name, described

    def _openai(self, sent: Sent, path: list[str]) -> Any:
        known = self.videos.get(path[1]) if len(path) > 1 else None
        if sent.method == "POST":
            asked = known or {"model": "sora-2", "seconds": "4", "size": "720x1280"}
            given = form_of(sent) if "multipart" in sent.headers["content-type"] else sent.json()
            asked = {**asked, **given}
            fields = {name: as_text(asked[name]) for name in ("model", "seconds", "size", "prompt")}
            name, made = self._made(**fields, object="video", status="queued", progress=0, created_at=1)
            made |= {"id": name, "remixed_from_video_id": path[1] if known else None}
            return made
        if sent.method == "DELETE" and known is not None:
            return {"id": path[1], "object": "video.deleted", "deleted": bool(self.videos.pop(path[1]))}
        return b"\x00\x00\x00\x18ftypmp42" if path[2:] == ["content"] and known else known

    def _google(self, sent: Sent, path: list[str]) -> Any:
        if path[0] == "files":
            return b"\x00\x00\x00\x18ftypmp42"
        if sent.method == "POST":
            name, made = self._made()
            made["name"] = f"models/{path[1].partition(':')[0]}/operations/{name}"
            return made
        return self.videos.get(path[3])

    def _xai(self, sent: Sent, path: list[str]) -> Any:
        if sent.method == "POST":
            return {"request_id": self._made(status="pending")[0]}
        return self.videos.get(path[1])

    def finish(self, name: str, status: str = "completed", **more: Any) -> None:
        """Set the result of a video at OpenAI or xAI."""
        self.videos[name] |= {"status": status, **more}

    def end(self, name: str, *files: str, **more: Any) -> None:
        """Set the result of an operation at Google."""
        samples = [{"video": {"uri": FILE.format(file)}} for file in files]
        response = {"generateVideoResponse": {"generatedSamples": samples}}
        self.videos[name] |= {"done": True, **(more or {"response": response})}


def as_text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


@pytest.fixture(scope="module", autouse=True)
def _rows(farebox: Farebox, upstream: Upstream) -> None:
    set_provider(farebox, "grok", base_url=f"{upstream.url}/xai", api_key="key-of-the-operator")
    forget(farebox)


@pytest.fixture
def studios(upstream: Upstream) -> Studios:
    upstream.status, upstream.headers, upstream.content_type = 200, {}, ""
    upstream.sent.clear()
    made = Studios(upstream)
    upstream.response = made.answer
    return made


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("50")


def client_of(customer: Customer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{customer.gateway_url}/openai", api_key=customer.token, max_retries=0)


def paid(customer: Customer, before: int) -> tuple[int, str]:
    """The amount paid since, and the model of the newest receipt. Checks that no hold is left."""
    assert customer.balance.held == 0
    row = next(row for row in log_rows(customer) if row["model"])
    assert customer.receipt(row["id"])["charge_nanos"] == before - customer.balance.posted
    return before - customer.balance.posted, row["model"]


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_openais_sdk_makes_finds_remixes_and_deletes_videos(
    farebox: Farebox, customer: Customer, studios: Studios
) -> None:
    with client_of(customer) as client, client_of(farebox.funded("5")) as other:
        video = client.videos.create(model="sora-2-pro", prompt="A harbour", seconds="8", size="1792x1024")
        assert (customer.balance.held, video.status) == (8 * 500_000_000, "queued")
        assert client.videos.retrieve(video.id).status == "queued"
        with pytest.raises(openai.ConflictError):
            client.videos.delete(video.id)
        studios.finish(video.id)
        assert client.videos.retrieve(video.id).status == "completed"
        assert paid(customer, 50_000_000_000) == (8 * 500_000_000, "sora-2-pro+1024p")
        assert client.videos.download_content(video.id).read().endswith(b"ftypmp42")
        remix = client.videos.remix(video.id, prompt="At night")
        assert customer.balance.held == 8 * 500_000_000, "it has the length and size of the original"
        studios.finish(remix.id)
        before = customer.balance.posted
        settled(customer)
        assert paid(customer, before) == (8 * 500_000_000, "sora-2-pro+1024p")
        form = client.videos.create(prompt="A harbour", input_reference=("a.png", b"\x89PNG", "image/png"))
        assert customer.balance.held == 4 * 100_000_000
        assert [one.id for one in client.videos.list(limit=2)] == [form.id, remix.id, video.id]
        assert not other.videos.list().data
        for call in (other.videos.retrieve, other.videos.delete, other.videos.download_content):
            with pytest.raises(openai.NotFoundError):
                call(video.id)
        with pytest.raises(openai.NotFoundError):
            other.videos.remix(video.id, prompt="Mine")
        studios.finish(form.id, "failed", error={"code": "moderation_blocked", "message": "No."})
        before = customer.balance.posted
        settled(customer)
        assert (customer.balance.held, customer.balance.posted) == (0, before)
        client.videos.delete(video.id)
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(video.id)
        big = client.videos.create(prompt="A harbour " * 1_000)
        assert len(client.videos.list(limit=1).data[0].prompt or "") == 2_000
        studios.finish(big.id, "failed")
        settled(customer)
    assert {sent.headers["authorization"] for sent in studios.upstream.sent} == {"Bearer key-of-the-operator"}
    assert differences(farebox) == []


SAMPLE = {"video": {"uri": FILE.format("x")}}
VEO_ENDS: list[tuple[int, dict[str, Any], int]] = [
    (1, {"error": {"code": 3, "message": "No."}}, 0),
    (2, {"response": {"generateVideoResponse": {"raiMediaFilteredCount": 2}}}, 0),
    (2, {"response": {"raiMediaFilteredCount": "1"}}, 1),
    (2, {"response": {"raiMediaFilteredCount": -1}}, 2),
    (2, {"response": {}}, 2),
    (1, {"response": {"made": [SAMPLE], "duration": "9e~"}}, 1),
    (1, {"response": {"videos": [SAMPLE], "generateVideoResponse": {"generatedSamples": [SAMPLE, SAMPLE]}}}, 1),
]
"""Requested videos, outcome, and charged videos: all of them unless there is a reason for fewer."""


def test_veo_at_ai_studio(farebox: Farebox, customer: Customer, studios: Studios) -> None:
    """google-genai 3.4.0 creates videos only on Vertex AI; it can download those created here."""
    other, url = farebox.funded("5"), f"{customer.gateway_url}/google-ai-studio/v1beta"
    with httpx.Client(headers=customer.headers) as client:

        def begin(model: str, **parameters: Any) -> str:
            asked = {"instances": [{"prompt": "A harbour"}], "parameters": parameters}
            made = client.post(f"{url}/models/{model}:predictLongRunning", json=asked).json()
            return str(made["name"])

        name = begin(VEO, sampleCount=2, durationSeconds="6", resolution="4k")
        assert customer.balance.held == 2 * 6 * 600_000_000
        assert client.get(f"{url}/{name}").json() == {"name": name}
        studios.end(name.rpartition("/")[2], "made1")
        done = client.get(f"{url}/{name}").json()
        assert paid(customer, 50_000_000_000) == (6 * 600_000_000, f"{VEO}+4k"), "one was filtered"
        [sample] = done["response"]["generateVideoResponse"]["generatedSamples"]
        for path in (name, "files/made1:download?alt=media"):
            foreign = f"{other.gateway_url}/google-ai-studio/v1beta/{path}"
            assert httpx.get(foreign, headers=other.headers).status_code == 404
        for count, more, charged in VEO_ENDS:
            before, name = customer.balance.posted, begin("veo-3.1-lite-generate-preview", sampleCount=count)
            assert customer.balance.held == count * 8 * 50_000_000
            studios.end(name.rpartition("/")[2], **more)
            settled(customer)
            spent = before - customer.balance.posted
            assert (customer.balance.held, spent) == (0, charged * 8 * 50_000_000), more
    sdk = genai.Client(api_key=customer.token, http_options={"base_url": url.removesuffix("/v1beta")})
    assert sdk.files.download(file=genai.types.Video(uri=sample["video"]["uri"])).endswith(b"ftypmp42")
    sdk.close()


PENDING = {"prompt": "A harbour", "model": "grok-imagine-video-1.5"}
XAI: list[tuple[dict[str, Any], int, str, dict[str, Any], int]] = [
    ({"duration": 6, "resolution": "720p", "image": {"url": "https://a/b.png"}}, 850, "done",
     {"video": {"url": "https://v", "duration": 6}, "usage": {"cost_in_usd_ticks": 8_500_000_000}}, 850),
    ({}, 1_200, "done", {"video": {"url": "https://v", "duration": 8}}, 640),
    ({"size": "1920x1080", "duration": 2}, 500, "failed", {"error": {"code": "x", "message": "No."}}, 0),
    ({"duration": 2}, 160, "failed", {"usage": {"cost_in_usd_ticks": 1_600_000_000}}, 160),
    ({"duration": 2}, 160, "expired", {}, 0),
    ({"duration": 2}, 160, "done", {"video": {"duration": 900}}, 160),
    ({"duration": 2}, 160, "done", {"video": {"duration": "1"}}, 80),
    ({"duration": 2}, 160, "done", {"video": {"duration": -1}}, 160),
    ({"duration": 2}, 160, "done", {"video": {"duration": "9e~"}}, 160),
]  # fmt: skip
"""The request, the hold in thousandths of a dollar, the outcome, and its cost."""


def test_xais_videos_cost_what_it_states(customer: Customer, studios: Studios) -> None:
    url = f"{customer.gateway_url}/grok/v1/videos"
    for asked, held, status, more, cost in XAI:
        before = customer.balance.posted
        made = httpx.post(f"{url}/generations", json={**PENDING, **asked}, headers=customer.headers)
        name = made.json()["request_id"]
        assert customer.balance.held == held * 10**6, asked
        assert httpx.get(f"{url}/{name}", headers=customer.headers).json() == {"status": "pending"}
        studios.finish(name, status, **more)
        assert httpx.get(f"{url}/{name}", headers=customer.headers).json()["status"] == status
        assert (customer.balance.held, before - customer.balance.posted) == (0, cost * 10**6), asked
    assert not running(customer)
    assert differences(customer.farebox) == []


def test_the_gateway_may_die_anywhere(farebox: Farebox, customer: Customer, studios: Studios) -> None:
    """Before and after every commit and request of a look at a video, the books end the same; and a process that dies
    while the provider is asked leaves a hold that ends by policy."""
    services, url = farebox.services, f"{customer.gateway_url}/openai/videos"
    for crash in crash_at_each_point(
        (services.ledger, "do"), (services.upstream, "send"), (long_calls, "end"), at_least=6
    ):
        before = customer.balance.posted
        made = httpx.post(url, json={"prompt": "A harbour"}, headers=customer.headers).json()["id"]
        studios.finish(made)
        (long,) = running(customer)
        with crash:
            farebox.run(long_calls.poll(services, long))
        settled(customer)
        assert (customer.balance.held, before - customer.balance.posted) == (0, 400_000_000), crash.point
    before = customer.balance.posted
    httpx.post(url, json={"prompt": "A harbour"}, headers=customer.headers)
    farebox.run(
        services.database.write(
            lambda connection: connection.execute("UPDATE long_calls SET state = 'asked' WHERE bucket = 0")
        )
    )
    settled(customer)
    assert (customer.balance.held, customer.balance.posted) == (0, before)
    assert differences(farebox) == []


def test_a_too_large_description_ends_like_a_call_in_doubt(
    farebox: Farebox, customer: Customer, studios: Studios, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{customer.gateway_url}/openai/videos"
    httpx.post(url, json={"prompt": "A harbour"}, headers=customer.headers)
    monkeypatch.setattr(long_calls, "DOCUMENT_MAX", 10)
    make_due(farebox, ends_at=1)
    farebox.run(long_calls.work(farebox.services))
    assert (customer.balance.held, running(customer)) == (0, [])


GROK = "grok/v1/videos/generations"
OPENAI, VEO_PATH = "openai/videos", f"google-ai-studio/v1beta/models/{VEO}:predictLongRunning"
REFUSED: list[tuple[str, Any, str]] = [
    (OPENAI, {"prompt": "x", "seconds": "900"}, "$.seconds"),
    (OPENAI, {"prompt": "x", "seconds": "0001" + "9" * 5_000}, "$.seconds"),
    (OPENAI, '{"prompt": "x", "seconds": ' + "9" * 400 + "}", "$.seconds"),
    (OPENAI, {"prompt": "x", "seconds": -4}, "$.seconds"),
    (OPENAI, {"prompt": "x", "n": 10}, "what `n` costs"),
    (OPENAI, {"prompt": "x", "size": "large"}, "$.size"),
    (OPENAI, '{"prompt": "x", "seconds": "4", "seconds": "12"}', "twice"),
    (OPENAI, {"prompt": "x", "size": "1920x1080"}, "--rate output_video_seconds=USD (per output video second)"),
    (OPENAI, {"prompt": "x", "input_reference": {"file_id": "file-of-another"}}, "No such File"),
    (f"{OPENAI}/edits", {"prompt": "x"}, "use `videos` or `remix`"),
    (f"{OPENAI}/video_1/remix", {"prompt": "x", "seconds": "12"}, "what `seconds` costs"),
    ("grok/v1/videos/edits", {}, "use `videos/generations`"),
    (GROK, {**PENDING, "resolution": "480p", "size": "1920x1080"}, "not both"),
    (GROK, {**PENDING, "n": 10}, "what `n` costs"),
    (GROK, {**PENDING, "video": {"url": "https://v"}}, "what `video` costs"),
    (GROK, {**PENDING, "image": {"file_id": "file-of-another"}}, "No such File"),
    (GROK, {**PENDING, "reference_images": [{"file_id": "file-of-another"}]}, "No such File"),
    (VEO_PATH, {"instances": []}, "one instance"),
    (VEO_PATH, {"instances": [{"video": {"uri": "x"}}]}, "continuing"),
    (VEO_PATH, {"instances": [{"image": {"uri": "x"}}]}, "images are"),
    (VEO_PATH, {"instances": [{"lastFrame": {"gcs_uri": "x"}}]}, "images are"),
    (VEO_PATH, {"instances": [{"last_frame": {}}]}, "`instances[0].last_frame`"),
    (VEO_PATH, {"instances": [{}], "parameters": {"storageUri": "gs://a"}}, "`storageUri`"),
    (VEO_PATH, {"instances": [{}], "parameters": {"sample_count": 4}}, "`parameters.sample_count`"),
    (VEO_PATH, {"instances": [{}], "parameters": {"durationSeconds": "0008" + "9" * 5_000}}, "durationSeconds"),
    (VEO_PATH, {"instances": [{}], "sampleCount": 4}, "what `sampleCount` costs"),
    (VEO_PATH, {"instances": [{}], "parameters": {"generateAudio": False}}, f"{VEO}+silent"),
]


def test_unpriced_videos_are_refused(customer: Customer, studios: Studios) -> None:
    with free(customer), httpx.Client(headers=customer.headers) as client:
        for path, body, why in REFUSED:
            content = body if isinstance(body, str) else json.dumps(body)
            headers = {"content-type": "application/json"}
            response = client.post(f"{customer.gateway_url}/{path}", content=content, headers=headers)
            assert response.status_code in (400, 403, 404), (path, response.text)
            assert why in json.dumps(response.json(), ensure_ascii=False), (path, response.text)
    assert not studios.upstream.sent
    assert not running(customer)
    assert not [row for row in log_rows(customer) if row["cost"]]
