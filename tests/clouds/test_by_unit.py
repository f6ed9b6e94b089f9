"""Providers that do not bill by tokens, called with their official SDKs if they have one: charged to the
nano-dollar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.providers.definitions.by_unit import BY_UNIT
from tests.calls.kit import set_provider, set_rates
from tests.calls.upstream import Upstream
from tests.clouds.kit import charged, free
from tests.engines import ON_BOTH_ENGINES
from tests.providers.test_audio_length import mp3_of_zeros
from tests.sdks import cartesia, deepgram, elevenlabs, openai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

PRICES: dict[tuple[str, str], dict[str, str]] = {
    ("cartesia", "sonic-3"): {"input_mchars": "39"},
    ("cartesia", "ink-whisper"): {"audio_hours": "0.13"},
    ("deepgram", "nova-3+diarize+multi"): {"audio_hours": "0.432"},
    ("elevenlabs", "eleven_v3_by_credit"): {"billed_units": "0.0001"},
    ("elevenlabs", "scribe_v2+keyterms"): {"audio_hours": "0.264"},
    ("ideogram", "ideogram-v3"): {"output_images_count": "0.06"},
    ("ideogram", "ideogram-v3+turbo"): {"output_images_count": "0.03"},
    ("ideogram", "V_2A"): {"output_images_count": "0.04"},
    ("stability", "erase"): {"output_images_count": "0.05"},
    ("deepgram", "by-tokens"): {"input_mtok": "1"},
    ("elevenlabs", "credits-without-bound"): {"billed_units": "0.0001"},
}
BOUNDED = {"eleven_v3_by_credit": 5_000}
MINUTE = mp3_of_zeros(2500)
TEXT = "Grüße aus Lundby: the ferry leaves at noon."


@pytest.fixture(scope="module", autouse=True)
def _rows(farebox: Farebox, upstream: Upstream) -> None:
    for slug in (*(provider.slug for provider in BY_UNIT), "grok", "google-ai-studio", "voyage", "jina"):
        set_provider(farebox, slug, base_url=f"{upstream.url}/{slug}")
    set_rates(farebox, *((provider, model, rates, BOUNDED.get(model)) for (provider, model), rates in PRICES.items()))


@pytest.fixture(scope="module")
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("100")


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """An HTTP client for SDKs that do not close theirs."""
    with httpx.Client() as client:
        yield client


def test_cartesia(customer: Customer, upstream: Upstream) -> None:
    client = cartesia.Cartesia(base_url=f"{customer.gateway_url}/cartesia", api_key=customer.token, max_retries=0)
    form: Any = {"container": "mp3", "sample_rate": 44100, "bit_rate": 128000}
    asked: dict[str, Any] = {"model_id": "sonic-3", "transcript": TEXT, "voice": {"mode": "id", "id": "v"}}
    with client:
        upstream.says(MINUTE, "audio/mpeg")
        with charged(customer) as cost:
            assert client.tts.generate(**asked, output_format=form).read() == MINUTE
        assert (cost.nanos, cost.row["model"]) == (len(TEXT) * 39_000, "sonic-3")
        events = [{"type": "chunk", "data": "AAAA", "done": False, "status_code": 206, "step_time": 1.5}]
        events.append({"type": "done", "done": True, "status_code": 200})
        upstream.says(b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events), "text/event-stream")
        raw: Any = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24000}
        with charged(customer) as cost:
            assert [event.type for event in client.tts.generate_sse(**asked, output_format=raw)] == ["chunk", "done"]
        assert cost.nanos == len(TEXT) * 39_000
        upstream.says(b'event: error\ndata: {"type":"error","error":"no such voice","status_code":400}\n\n')
        with free(customer):
            list(client.tts.with_raw_response.generate_sse(**asked, output_format=raw).iter_bytes())
        upstream.says(b'{"type":"transcript","text":"Good day.","language":"en","duration":59.96}')
        with charged(customer) as cost:
            client.stt.transcribe(file=("a.mp3", MINUTE), model="ink-whisper")
        assert cost.nanos == -(-5996 * 130_000_000 // 360_000)
        upstream.says(b'{"type":"transcript","text":"Good day.","language":"en"}')
        with charged(customer) as cost:
            client.stt.transcribe(file=("a.mp3", MINUTE), model="ink-whisper")
        assert cost.nanos == -(-60 * 130_000_000 // 3_600), (
            "by the length of the recording if nothing states the duration"
        )


def transcript(seconds: float, channels: int = 1) -> bytes:
    info = {"request_id": "r", "sha256": "", "created": "2026-12-01T00:00:00Z", "models": [], "model_info": {}}
    said = {"channels": [{"alternatives": [{"transcript": "Good day."}]} for _ in range(channels)]}
    return json.dumps({"metadata": {**info, "duration": seconds, "channels": channels}, "results": said}).encode()


@pytest.mark.filterwarnings("ignore:websockets:DeprecationWarning")  # raised by deepgram-sdk
def test_deepgram(customer: Customer, upstream: Upstream, http: httpx.Client) -> None:
    url = f"{customer.gateway_url}/deepgram"
    place = deepgram.DeepgramClientEnvironment(base=url, production=url, agent=url, agent_rest=url)
    client = deepgram.DeepgramClient(api_key=customer.token, environment=place, httpx_client=http)
    upstream.says(transcript(59.5))
    with charged(customer) as cost:
        answer: Any = client.listen.v1.media.transcribe_file(request=MINUTE, model="nova-3")
    assert (cost.nanos, answer.metadata.duration) == (-(-595 * 258_000_000 // 36_000), 59.5)
    upstream.says(transcript(100.25, channels=2))
    with charged(customer) as cost:
        more: Any = {"language": "multi", "diarize": True, "multichannel": True}
        client.listen.v1.media.transcribe_url(url="https://example.com/a.mp3", model="nova-3", **more)
    assert (cost.nanos, cost.row["model"]) == (2 * 10_025 * 1_200, "nova-3+diarize+multi")
    assert upstream.sent[-1].headers["authorization"] == "Token operator-key-of-the-test"
    upstream.says(MINUTE, "audio/mpeg")
    upstream.headers = {"dg-char-count": "40"}
    with charged(customer) as cost:
        assert b"".join(client.speak.v1.audio.generate(text=TEXT, model="aura-2-thalia-en")) == MINUTE
    assert cost.nanos == 40 * 30_000
    upstream.headers = {}
    with charged(customer) as cost:
        b"".join(client.speak.v1.audio.generate(text=TEXT, model="aura-2-thalia-en"))
    assert cost.nanos == len(TEXT) * 30_000
    upstream.says(transcript(1))
    with charged(customer) as cost:
        body, headers = b' {"url": "https://a"}', {**customer.headers, "content-type": "audio/mpeg"}
        httpx.post(f"{url}/v1/listen?model=nova-3", content=body, headers=headers)
    assert cost.receipt["hold_nanos"] == 12 * 258_000_000, "a remote recording, whatever the content type"


def test_elevenlabs(customer: Customer, upstream: Upstream, http: httpx.Client) -> None:
    client = elevenlabs.ElevenLabs(
        base_url=f"{customer.gateway_url}/elevenlabs", api_key=customer.token, httpx_client=http
    )
    upstream.says(MINUTE, "audio/mpeg")
    upstream.headers = {"character-cost": "22"}
    speech = client.text_to_speech
    with charged(customer) as cost:
        assert b"".join(speech.convert("voice1", text=TEXT, model_id="eleven_v3_by_credit")) == MINUTE
    assert cost.nanos == 22 * 100_000, "by the credits that the response states"
    with charged(customer) as cost:
        b"".join(speech.stream("voice1", text=TEXT, model_id="eleven_flash_v2_5"))
    assert cost.nanos == len(TEXT) * 40_000, "by the characters of the text"
    upstream.headers = {}
    upstream.says(b'{"audio_base64":"AAAA","alignment":null,"normalized_alignment":null}')
    with charged(customer) as cost:
        speech.convert_with_timestamps("voice1", text=TEXT)
    assert (cost.nanos, cost.row["model"]) == (len(TEXT) * 80_000, "eleven_multilingual_v2")
    heard = {"language_code": "eng", "language_probability": 1, "text": "Good day.", "words": []}
    upstream.says(json.dumps({**heard, "audio_duration_secs": 59.5}).encode())
    with charged(customer) as cost:
        client.speech_to_text.convert(model_id="scribe_v2", file=MINUTE)
    assert cost.nanos == -(-595 * 220_000_000 // 36_000)
    with charged(customer) as cost:
        client.speech_to_text.convert(model_id="scribe_v2", file=MINUTE, keyterms=["Lundby"])
    assert cost.nanos == -(-595 * 264_000_000 // 36_000), "more expensive variants are priced under their own name"
    channel = {**heard, "audio_duration_secs": 30}
    upstream.says(json.dumps({"transcripts": [channel, channel]}).encode())
    with charged(customer) as cost:
        client.speech_to_text.convert(model_id="scribe_v2", file=MINUTE, use_multi_channel=True)
    assert cost.nanos == -(-60 * 220_000_000 // 3_600), "each channel is billed"


def test_ideogram(customer: Customer, upstream: Upstream) -> None:
    def asked(path: str, **body: Any) -> None:
        response = httpx.post(f"{customer.gateway_url}/ideogram/{path}", headers=customer.headers, **body)
        assert response.status_code == 200, response.text

    upstream.says(json.dumps({"created": "now", "data": [{"url": "https://a", "is_image_safe": True}] * 3}).encode())
    with charged(customer) as cost:
        form = {"prompt": (None, "A harbour"), "num_images": (None, "3"), "rendering_speed": (None, "TURBO")}
        asked("v1/ideogram-v3/generate", files=form)
    assert (cost.nanos, cost.receipt["hold_nanos"]) == (3 * 30_000_000, 3 * 30_000_000)
    upstream.says(json.dumps({"created": "now", "data": [{"url": "https://a", "is_image_safe": True}]}).encode())
    with charged(customer) as cost:
        asked("v1/ideogram-v3/generate", json={"prompt": "A harbour"})
    assert cost.nanos == 60_000_000
    with charged(customer) as cost:
        asked("generate", json={"image_request": {"prompt": "A harbour", "model": "V_2A", "num_images": 2}})
    assert cost.nanos == 40_000_000, "by the images in the response, not the number requested"


def test_stability(customer: Customer, upstream: Upstream) -> None:
    upstream.says(b"\x89PNG" + bytes(4096), "image/png")
    services: list[tuple[str, dict[str, Any], str, int]] = [
        ("generate/ultra", {}, "ultra", 80),
        ("generate/sd3", {}, "sd3.5-large", 65),
        ("generate/sd3", {"model": (None, "sd3.5-medium")}, "sd3.5-medium", 35),
        ("edit/erase", {"image": b"x"}, "erase", 50),
    ]
    for path, more, model, thousandths in services:
        url = f"{customer.gateway_url}/stability/v2beta/stable-image/{path}"
        form: Any = {"prompt": (None, "A harbour"), **more}
        with charged(customer) as cost:
            response = httpx.post(url, files=form, headers={**customer.headers, "accept": "image/*"})
        assert (response.content[:4], cost.nanos, cost.row["model"]) == (b"\x89PNG", thousandths * 10**6, model)
    assert upstream.sent[-1].headers["authorization"] == "Bearer operator-key-of-the-test"


def test_images_by_their_number(customer: Customer, upstream: Upstream) -> None:
    upstream.says(b'{"created":1,"data":[{"url":"https://a"},{"url":"https://b"}]}')
    with openai.OpenAI(base_url=f"{customer.gateway_url}/grok", api_key=customer.token, max_retries=0) as client:
        with charged(customer) as cost:
            client.images.generate(model="grok-imagine-image", prompt="A harbour", n=3)
        assert (cost.nanos, cost.receipt["hold_nanos"]) == (2 * 20_000_000, 3 * 20_000_000)
        with charged(customer) as cost:
            more = {"resolution": "2k"}
            client.images.generate(model="grok-imagine-image-2.0", prompt="A harbour", n=2, extra_body=more)
        assert (cost.nanos, cost.row["model"]) == (2 * 60_000_000, "grok-imagine-image-2.0+2k")
    made = {"bytesBase64Encoded": "AAAA", "mimeType": "image/png"}
    upstream.says(json.dumps({"predictions": [made, {"raiFilteredReason": "no"}]}).encode())
    with charged(customer) as cost:
        url = f"{customer.gateway_url}/google-ai-studio/v1beta/models/imagen-3.0-generate-001:predict"
        body = {"instances": [{"prompt": "A harbour"}], "parameters": {"sampleCount": 2}}
        assert httpx.post(url, json=body, headers=customer.headers).status_code == 200
    assert (cost.nanos, cost.receipt["hold_nanos"]) == (40_000_000, 80_000_000)


def test_rerank_by_tokens(customer: Customer, upstream: Upstream) -> None:
    found = [{"index": 0, "relevance_score": 0.9}]
    upstream.says(json.dumps({"object": "list", "data": found, "usage": {"total_tokens": 1000}}).encode())
    asked = {"query": "When does the ferry leave? " * 20, "documents": ["At noon. " * 50] * 20}
    for place, nanos in (("voyage/v1/rerank", 20), ("jina/v1/rerank", 50)):
        model = "rerank-2.5-lite" if nanos == 20 else "jina-reranker-m0"
        with charged(customer) as cost:
            url = f"{customer.gateway_url}/{place}"
            assert httpx.post(url, json={"model": model, **asked}, headers=customer.headers).status_code == 200
        assert (cost.nanos, cost.receipt["usage_source"]) == (1000 * nanos, "provider")


JSON = {"content-type": "application/json"}
TWICE = b'{"model_id": "sonic-9", "model_id": "sonic-3", "transcript": "x", "text": "x", "prompt": "x"}'
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("deepgram/v1/listen?model=nova-9", {"content": MINUTE}, "set deepgram nova-9 --rate audio_hours=USD"),
    ("deepgram/v1/listen?model=nova-3&redact=pii", {"content": MINUTE}, "deepgram nova-3+redact "),
    ("deepgram/v1/listen?model=nova-3&language=Multi", {"content": MINUTE}, "deepgram nova-3+multi "),
    ("deepgram/v1/listen?model=by-tokens", {"content": MINUTE}, "does not cover the units of this request"),
    ("deepgram/v1/listen?model=nova-3&model=base", {"content": MINUTE}, "more than once"),
    ("deepgram/v1/listen?model=nova-3&topics=true", {"content": MINUTE}, "billed by tokens"),
    ("deepgram/v1/listen?model=nova-3&detect_topics=true", {"content": MINUTE}, "billed by tokens"),
    ("deepgram/v1/listen?model=nova-3&callback=http%3A%2F%2Fa", {"content": MINUTE}, "callback"),
    ("deepgram/v1/speak?model=aura-2-thalia-en", {"json": {"words": "x"}}, "`text`"),
    ("deepgram/v1/projects", {"json": {}}, "cannot tell what"),
    ("cartesia/tts/bytes", {"content": b"{", "headers": JSON}, "not valid JSON"),
    ("cartesia/tts/bytes", {"content": TWICE, "headers": JSON}, "twice"),
    ("elevenlabs/v1/text-to-speech/v", {"content": TWICE, "headers": JSON}, "twice"),
    ("ideogram/v1/ideogram-v3/generate", {"content": TWICE, "headers": JSON}, "twice"),
    ("cartesia/tts/bytes", {"json": {"model_id": "sonic-9", "transcript": "x"}}, "--rate input_mchars=USD"),
    ("cartesia/stt", {"files": {"file": b"x"}}, "lacks the field `model`"),
    ("cartesia/stt?encoding=pcm_s16le", {"data": {"model": "ink-whisper"}, "files": {"file": b"x"}}, "sample_rate"),
    ("elevenlabs/v1/text-to-speech/v", {"json": {"text": "x", "model_id": "credits-without-bound"}}, "--output-max"),
    ("elevenlabs/v1/speech-to-text", {"files": {"model_id": (None, "scribe_v2")}}, "no recording"),
    ("elevenlabs/v1/speech-to-text", {"files": {"file": b"x"}, "data": {"model_id": "a", "webhook": "1"}}, "webhook"),
    ("ideogram/v1/ideogram-v3/generate", {"json": {"prompt": "x", "num_images": 99}}, "from 1 to 8"),
    ("stability/v2beta/stable-image/edit/inpaint", {"files": {"image": b"x"}}, "--rate output_images_count=USD"),
    ("stability/v2beta/stable-image/generate/sd3", {"json": {"model": "sd3.5-large"}}, "boundary"),
    ("stability/v2beta/stable-image/upscale/creative", {"files": {"image": b"x"}}, "fetched later"),
    ("ideogram/v1/ideogram-v3/generate", {"json": {"prompt": "x", "rendering_speed": "FLASH"}}, "ideogram-v3+flash"),
]  # fmt: skip


def test_what_cannot_be_metered_is_refused_and_costs_nothing(customer: Customer, upstream: Upstream) -> None:
    with free(customer), httpx.Client(headers=customer.headers) as client:
        for path, asked, why in REFUSED:
            response = client.post(f"{customer.gateway_url}/{path}", **asked)
            assert response.status_code in (400, 403), (path, response.text)
            assert why in response.text, (path, response.text)
    assert not upstream.sent


def test_impossible_figures_cost_the_hold_and_failures_nothing(customer: Customer, upstream: Upstream) -> None:
    upstream.says(MINUTE, "audio/mpeg")
    url = f"{customer.gateway_url}/elevenlabs/v1/text-to-speech/v"
    body = {"text": TEXT, "model_id": "eleven_v3_by_credit"}
    for stated, nanos in (("-3", 500_000_000), ("1e999999999", 500_000_000), ("many", len(TEXT) * 100_000)):
        upstream.headers = {"character-cost": stated}
        with charged(customer) as cost:
            httpx.post(url, json=body, headers=customer.headers)
        assert cost.nanos == nanos, stated
    upstream.headers, upstream.status = {}, 422
    with free(customer):
        httpx.post(url, json=body, headers=customer.headers)
