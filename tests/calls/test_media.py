"""Images, speech and transcripts: their charges with and without usage in the response.

The test scripts the upstream's responses; everything from there to the receipt is real.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.calls.kit import set_provider
from tests.calls.upstream import Upstream, serving
from tests.providers.test_audio_length import content, flac, mp3_of_zeros
from tests.support import Customer, Farebox, running_farebox


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("media")) as served:
        for slug in ("openai", "groq", "workers-ai"):
            set_provider(served, slug, base_url=upstream.url)
        yield served


@pytest.fixture(scope="module")
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("1000")


def charged(customer: Customer, path: str, **request: Any) -> dict[str, Any]:
    """The receipt of a call."""
    response = httpx.post(f"{customer.gateway_url}/{path}", headers=customer.headers, **request)
    assert response.status_code == 200, response.text
    receipt = customer.receipt(response.headers["cf-aig-log-id"])
    assert receipt["hold_nanos"] >= receipt["charge_nanos"]
    return receipt


def transcribed(customer: Customer, sound: bytes, provider: str = "openai", **fields: str) -> dict[str, Any]:
    form = {"model": "whisper-1", "response_format": "text", **fields}
    return charged(customer, f"{provider}/audio/transcriptions", data=form, files={"file": ("a", sound)})


# Transcripts: whisper-1 costs 0.006 USD per minute


def test_a_minute_of_mp3_costs_a_minute_in_every_form_of_response(customer: Customer, upstream: Upstream) -> None:
    minute = mp3_of_zeros(2500)
    for form, response in (("text", b"Good day.\n"), ("srt", b"1\n00:00:00,000 --> 00:00:02,000\nGood day.\n")):
        upstream.says(response, "text/plain; charset=utf-8")
        receipt = transcribed(customer, minute, response_format=form)
        assert (receipt["charge_nanos"], receipt["usage_source"]) == (6_000_000, "counted")
    upstream.says(b'{"text":"Good day.","usage":{"type":"duration","seconds":59.5}}')
    assert transcribed(customer, minute, response_format="json")["charge_nanos"] == 5_950_000, "reported usage first"


def test_an_hour_of_silence_in_100_kb_costs_an_hour(customer: Customer, upstream: Upstream) -> None:
    upstream.says(b"\n", "text/plain")
    silence = flac(7_813, said=1, rate=8_000)
    assert len(silence) < 100_000
    assert transcribed(customer, silence)["charge_nanos"] == 4_001 * 100_000


def test_groq_reports_no_duration_in_json_and_bills_at_least_ten_seconds(
    customer: Customer, upstream: Upstream
) -> None:
    upstream.says(b'{"text":"Good day.","x_groq":{"id":"req_1"}}')
    model = {"model": "whisper-large-v3", "response_format": "json"}
    assert transcribed(customer, mp3_of_zeros(2500), "groq", **model)["charge_nanos"] == 1_850_000
    assert transcribed(customer, content("lame.mp3"), "groq", **model)["charge_nanos"] == 308_334


def test_workers_ai_recordings_are_billed_by_reported_duration(customer: Customer, upstream: Upstream) -> None:
    upstream.says(b'{"result":{"text":"Good day.","transcription_info":{"duration":2.5}},"success":true}')
    receipt = charged(customer, "workers-ai/run/@cf/openai/whisper", content=content("lame.mp3"))
    assert receipt["charge_nanos"] == 18_750  # 0.027 USD per hour


def test_unmeasurable_audio_is_charged_by_the_last_subtitle(customer: Customer, upstream: Upstream) -> None:
    """Vorbis in WebM is bounded only by its bytes; its only length is the one in its header."""
    upstream.says(b"WEBVTT\n\n00:00.000 --> 00:02.300\nGood day.\n", "text/vtt")
    assert transcribed(customer, content("vorbis.webm"), response_format="vtt")["charge_nanos"] == 300_000
    assert transcribed(customer, content("recorded.webm"), response_format="vtt")["charge_nanos"] == 300_000


def test_audio_tokens_are_counted_if_not_reported(customer: Customer, upstream: Upstream) -> None:
    upstream.says(b"Good day.\n", "text/plain")
    receipt = transcribed(customer, mp3_of_zeros(2500), model="gpt-4o-transcribe")
    lines = {line["meter"]: line["quantity"] for line in receipt["lines"]}
    assert lines["input_audio_tokens"] == "600"
    assert 600 * 6_000 < receipt["charge_nanos"] < 600 * 6_000 + 200_000


# Speech


def test_speech_without_usage_is_charged_by_its_duration(customer: Customer, upstream: Upstream) -> None:
    """6.4 seconds are 134 tokens at 12,000 nano-dollars each; the text has a few at 600."""
    upstream.says(mp3_of_zeros(267), "audio/mpeg")
    text = "The tide turns at noon, and the ferry to Lundby leaves ten minutes after it, wind permitting. " * 2
    request = {"model": "gpt-4o-mini-tts", "input": text, "voice": "alloy"}
    receipt = charged(customer, "openai/audio/speech", json=request)
    assert receipt["usage_source"] == "counted"
    assert 134 * 12_000 < receipt["charge_nanos"] < 134 * 12_000 + 40_000
    upstream.says(bytes(48_000 * 6), "audio/pcm")
    receipt = charged(customer, "openai/audio/speech", json={**request, "response_format": "pcm"})
    assert 125 * 12_000 < receipt["charge_nanos"] < 125 * 12_000 + 40_000


def test_speech_in_events_is_charged_by_its_usage(customer: Customer, upstream: Upstream) -> None:
    upstream.says(
        b'data: {"type":"speech.audio.delta","audio":"AAAA"}\n\n'
        b'data: {"type":"speech.audio.done","usage":{"input_tokens":14,"output_tokens":101,"total_tokens":115}}\n\n',
        "text/event-stream",
    )
    request = {"model": "gpt-4o-mini-tts", "input": "Good day", "voice": "alloy", "stream_format": "sse"}
    assert charged(customer, "openai/audio/speech", json=request)["charge_nanos"] == 14 * 600 + 101 * 12_000


def test_speech_by_characters_is_charged_by_them_and_an_empty_answer_is_free(
    customer: Customer, upstream: Upstream
) -> None:
    request = {"model": "tts-1", "input": "Grüße aus Lundby", "voice": "alloy"}
    upstream.says(mp3_of_zeros(100), "audio/mpeg")
    receipt = charged(customer, "openai/audio/speech", json=request)
    assert (receipt["charge_nanos"], receipt["usage_source"]) == (16 * 15_000, "provider")
    upstream.says(b"", "audio/mpeg")
    assert charged(customer, "openai/audio/speech", json=request)["charge_nanos"] == 0


# Images


def test_the_tokens_of_an_svg_are_billed_in_addition_to_its_image(customer: Customer, upstream: Upstream) -> None:
    upstream.says(
        b'{"created":1,"data":[{"b64_json":"QUFB"}],"usage":{"input_tokens":10,"input_tokens_details":{"text_tokens":10,'
        b'"image_tokens":0},"output_tokens":1756,"total_tokens":1766},"svg_usage":{"model":"gpt-5-mini",'
        b'"input_tokens":2000,"output_tokens":5000,"reasoning_tokens":1000,"total_tokens":7000}}'
    )
    request = {"model": "gpt-image-2", "prompt": "A harbour", "output_format": "svg", "svg": {"model": "gpt-5-mini"}}
    receipt = charged(customer, "openai/images/generations", json=request)
    picture, author = 10 * 5_000 + 1756 * 30_000, 2000 * 250 + 5000 * 2_000
    assert receipt["charge_nanos"] == picture + author
    assert [line["model"] for line in receipt["lines"] if line.get("model")] == ["gpt-5-mini"] * 2


# Queued work


def test_queued_work_is_refused_on_the_operators_key(customer: Customer) -> None:
    url = f"{customer.gateway_url}/workers-ai/run/@cf/meta/llama-3.1-8b-instruct"
    for query, body in (("?queueRequest=true", {"prompt": "Hi"}), ("", {"requests": [{"prompt": "Hi"}] * 50})):
        response = httpx.post(url + query, json=body, headers=customer.headers)
        assert response.status_code == 400
        assert "queued" in response.text
