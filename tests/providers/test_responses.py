"""Reading responses: every format, split into chunks anywhere, cut off anywhere, and mixed with garbage."""

import base64
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from farebox.providers.formats.base import Observed, ResponseReader, WireFormat
from tests.providers.samples import (
    BY_SLUG,
    CHAT,
    SAMPLES,
    USAGE,
    USAGE_CHUNK,
    WHOLE,
    Sample,
    body,
    chat_body,
    chunk,
    gemini,
    stream,
    wire_format,
)
from tests.providers.samples import read as read_all
from tests.providers.test_audio_length import mp3_of_zeros

streamed = pytest.mark.parametrize("sample", SAMPLES, ids=[s.id for s in SAMPLES])
every = pytest.mark.parametrize("sample", SAMPLES + WHOLE, ids=[f"{s.id}-{s.streaming}" for s in SAMPLES + WHOLE])


def read(reader: ResponseReader, chunks: Iterable[bytes]) -> tuple[bytes, Observed]:
    """The relayed bytes, and the usage and failures that were read."""
    passed, seen = read_all(reader, chunks)
    return passed, reported(seen)


def reported(seen: Observed) -> Observed:
    """The result without fields that have their own tests."""
    return replace(seen, finish_seen=False, reference="", text="", handed_out=())


def expected(sample: Sample) -> Observed:
    return Observed(sample.usage, sample.model, sample.delivered, complete=True, failed=False)


@every
def test_the_response_is_relayed_unchanged_and_read(sample: Sample) -> None:
    assert read(sample.reader(), [sample.response]) == (sample.response, expected(sample))


@every
def test_chunk_boundaries_do_not_matter(sample: Sample) -> None:
    response = sample.response
    for cut in range(len(response) + 1):
        assert read(sample.reader(), [response[:cut], response[cut:]]) == (response, expected(sample)), cut
    assert read(sample.reader(), [bytes([byte]) for byte in response]) == (response, expected(sample))


@streamed
def test_crlf_comments_and_keep_alives_do_not_matter(sample: Sample) -> None:
    response = b": connected\n\n" + sample.response.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b": bye\r\n\r\n"
    assert read(sample.reader(), [response]) == (response, expected(sample))


@streamed
def test_the_last_event_may_lack_its_empty_line(sample: Sample) -> None:
    response = sample.response.rstrip()
    assert read(sample.reader(), [response]) == (response, expected(sample))


ENDED_BY_THE_BODY = ("perplexity", "gemini", "images")
"""Samples whose protocol has no terminal event."""


@streamed
def test_only_the_last_event_is_kept_back(sample: Sample) -> None:
    """The terminal event is held until the end; without one, the possibly last event until something follows."""
    events = [event + b"\n\n" for event in sample.response.replace(b"\r\n\r\n", b"\n\n").split(b"\n\n")[:-1]]
    reader = sample.reader()
    passed = [reader.feed(event) for event in events]
    if sample.id in ENDED_BY_THE_BODY:
        assert (reader.finished, reader.holding) == (False, True)
    else:
        assert (reader.finished, reader.holding) == (True, False)
    assert b"".join(passed) == b"".join(events[:-1])
    tail, seen = reader.close()
    assert tail == events[-1]
    assert reported(seen) == expected(sample)
    assert seen.finish_seen


@streamed
def test_a_stream_cut_anywhere_is_passed_and_not_taken_for_complete(sample: Sample) -> None:
    response = sample.response
    full = read(sample.reader(), [response])[1]
    for cut in range(len(response)):
        passed, seen = read_all(sample.reader(), [response[:cut]])
        assert passed == response[:cut]
        assert seen.delivered_bytes <= full.delivered_bytes
        assert not seen.failed
        assert (seen.usage is None) == (seen.problem is not None)
        if seen.complete:
            assert seen.finish_seen or seen.empty
        else:
            assert len(response) - cut > 2


def test_a_cut_claude_stream_still_reports_its_input() -> None:
    sample = next(s for s in SAMPLES if s.id == "messages")
    seen = read(sample.reader(), [sample.response[: sample.response.index(b"event: message_delta")]])[1]
    assert not seen.complete
    assert seen.usage is not None
    assert (seen.usage["input_tokens"], seen.usage["output_tokens"]) == (7010, 1)
    assert seen.delivered_bytes == sample.delivered


def test_zero_and_null_do_not_reset_a_figure() -> None:
    """Some gateways in front of Claude repeat the input figures as zero or null in `message_delta`."""
    sample = next(s for s in SAMPLES if s.id == "messages")
    later = {
        "input_tokens": 0,
        "cache_read_input_tokens": None,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": None},
        "output_tokens": 120,
    }
    response = sample.response.replace(
        b"event: message_stop", stream({"type": "message_delta", "usage": later}) + b"event: message_stop"
    )
    assert read(sample.reader(), [response]) == (response, expected(sample))


def test_a_cut_whole_body_is_bounded_by_its_bytes() -> None:
    for sample in WHOLE:
        if sample.id in ("speech", "gemini array stream"):
            continue
        passed, seen = read(sample.reader(), [sample.response[:-1]])
        assert passed == sample.response[:-1]
        assert seen == Observed(None, None, len(passed), problem="no usage (1 unreadable)"), sample.id


def test_a_cut_gemini_array_is_read_up_to_the_cut() -> None:
    sample = next(s for s in WHOLE if s.id == "gemini array stream")
    cut = sample.response.index(b'"text": "lo"') + 11
    seen = read(sample.reader(), [sample.response[:cut]])[1]
    assert not seen.complete
    assert seen.usage == {"input_tokens": 1000}
    assert 5 <= seen.delivered_bytes < cut


# The usage event that Farebox added


def test_the_usage_event_is_hidden_at_every_chunk_boundary() -> None:
    sample = SAMPLES[0]
    wanted = sample.response.replace(sample.hidden, b"")
    assert wanted != sample.response
    for cut in range(len(sample.response) + 1):
        chunks = [sample.response[:cut], sample.response[cut:]]
        assert read(sample.reader(hide_usage=True), chunks) == (wanted, expected(sample))


def test_hidden_usage_as_the_unterminated_end_of_a_stream() -> None:
    sample = SAMPLES[0]
    response = sample.response[: sample.response.index(sample.hidden)] + sample.hidden.rstrip()
    passed, seen = read(sample.reader(hide_usage=True), [response])
    assert passed == sample.response[: sample.response.index(sample.hidden)]
    assert seen == expected(sample)


def test_usage_next_to_content_is_never_hidden() -> None:
    for sample in SAMPLES[1:]:
        if sample.slug in ("mistral", "groq", "perplexity-ai"):
            assert read(sample.reader(hide_usage=True), [sample.response])[0] == sample.response


def test_empty_choices_without_usage_are_passed() -> None:
    """Azure starts its streams with such a chunk."""
    filtered = stream(chunk(None, prompt_filter_results=[], usage=None))
    response = filtered + SAMPLES[0].response
    assert read(SAMPLES[0].reader(hide_usage=True), [response])[0] == filtered + SAMPLES[0].response.replace(
        USAGE_CHUNK, b""
    )


# Failures inside a response


@pytest.mark.parametrize(
    ("slug", "path", "request_body", "event"),
    [
        ("openai", "chat/completions", CHAT, {"error": {"message": "overloaded"}}),
        ("groq", "chat/completions", CHAT, {"choices": [], "x_groq": {"id": "req_1", "error": "overloaded"}}),
        (
            "openai",
            "responses",
            body(model="m", input="x"),
            {"type": "response.failed", "response": {"status": "failed"}},
        ),
        ("openai", "responses", body(model="m", input="x"), {"type": "error", "message": "x"}),
        ("anthropic", "v1/messages", body(model="m", messages=[]), {"type": "error", "error": {"type": "overloaded"}}),
        (
            "google-ai-studio",
            "v1/models/m:streamGenerateContent",
            body(contents=[]),
            {"error": {"code": 503, "status": "UNAVAILABLE"}},
        ),
        (
            "cohere",
            "v2/chat",
            body(model="m", messages=[]),
            {"type": "message-end", "delta": {"finish_reason": "ERROR"}},
        ),
        ("workers-ai", "run/@cf/a/b", body(prompt="x"), {"errors": [{"message": "x"}]}),
    ],
)
def test_a_failure_inside_a_stream(slug: str, path: str, request_body: bytes, event: dict[str, Any]) -> None:
    wire = wire_format(slug, path)
    parsed = wire.parse(path, "application/json", request_body)
    response = stream(event)
    passed, seen = read(wire.reader(parsed, streaming=True, hide_usage=True), [response])
    assert passed == response
    assert seen == Observed(None, None, 0, problem="no usage", complete=True, failed=True)


def test_a_failure_in_a_whole_body() -> None:
    wire = wire_format("openai", "chat/completions")
    parsed = wire.parse("", "", CHAT)
    seen = read(wire.reader(parsed, streaming=False, hide_usage=False), [b'{"error":{"message":"no"}}'])[1]
    assert (seen.usage, seen.failed) == (None, True)


def test_a_blocked_prompt_has_nothing_to_wait_for() -> None:
    sample = next(s for s in SAMPLES if s.id == "gemini")
    reader = sample.reader()
    event = stream({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}})
    assert reader.feed(event) == b""
    assert reader.holding
    tail, seen = reader.close()
    assert (tail, seen.usage, seen.complete) == (event, {"input_tokens": 9}, True)


def test_several_choices_end_when_all_have_ended() -> None:
    wire = wire_format("google-ai-studio", "v1/models/m:streamGenerateContent")
    request = body(contents=[], generationConfig={"candidateCount": 2})
    reader = wire.reader(wire.parse("v1/models/m:streamGenerateContent", "", request), streaming=True, hide_usage=False)
    first, second = stream(gemini("a", "STOP")), gemini("b", "STOP")
    assert reader.feed(first) == first
    assert reader.feed(first) == first, "the same event again"
    second["candidates"][0]["index"] = 1
    states = [(reader.all_ended, reader.holding)]
    assert reader.feed(stream(second)) == b""
    states.append((reader.all_ended, reader.holding))
    assert states == [(False, False), (True, True)]
    assert not reader.finished


def test_grounding_is_counted_by_prompt_up_to_gemini_2_and_by_search_from_3_on() -> None:
    event = gemini("a", "STOP", usageMetadata={"promptTokenCount": 5, "candidatesTokenCount": 1})
    event["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["a", "b", "c"]}
    for model, searches in (("gemini-2.5-pro", 1), ("gemini-3.1-pro-preview", 3)):
        path = f"v1/models/{model}:streamGenerateContent"
        wire = wire_format("google-ai-studio", path)
        reader = wire.reader(wire.parse(path, "", body(contents=[])), streaming=True, hide_usage=False)
        assert read(reader, [stream(event)])[1].usage == {
            "input_tokens": 5,
            "output_tokens": 1,
            "web_searches": searches,
        }


# Figures that cannot be right


def chat_usage(usage: Any) -> Observed:
    wire = wire_format("openai", "chat/completions")
    reader = wire.reader(wire.parse("", "", CHAT), streaming=False, hide_usage=False)
    return read(reader, [chat_body(usage)])[1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"prompt_tokens": -1}, "input_tokens"),
        ({"prompt_tokens": 10**10}, "input_tokens"),
        ({"prompt_tokens": 1.5}, "input_tokens"),
        ({"prompt_tokens": 1e300}, "input_tokens"),
        ({"prompt_tokens": "many"}, "input_tokens"),
        ({"prompt_tokens": "-1"}, "input_tokens"),
        ({"prompt_tokens": True}, "input_tokens"),
        ({"completion_tokens_details": {"reasoning_tokens": -1}}, "output_reasoning_tokens"),
    ],
)
def test_impossible_figures_are_rejected(change: dict[str, Any], word: str) -> None:
    seen = chat_usage({**USAGE, **change})
    assert seen.usage is None
    assert seen.implausible
    assert seen.problem is not None
    assert word in seen.problem
    assert (seen.complete, seen.delivered_bytes) == (True, 7)


def test_digits_in_a_string_are_a_count() -> None:
    assert chat_usage({"prompt_tokens": "9", "completion_tokens": 2}).usage == {"input_tokens": 9, "output_tokens": 2}


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"prompt_tokens": None, "total_tokens": None}, ("input_tokens",)),
        ({"completion_tokens": None, "completion_tokens_details": None, "total_tokens": None}, ("output_tokens",)),
        ({"completion_tokens": 0, "completion_tokens_details": None}, ("output_tokens",)),
        (dict.fromkeys(USAGE, None) | {"prompt_tokens": 0, "completion_tokens": 0}, ("input_tokens", "output_tokens")),
    ],
)
def test_missing_figures_are_marked_for_counting(change: dict[str, Any], missing: tuple[str, ...]) -> None:
    seen = chat_usage({**USAGE, **change})
    assert (seen.implausible, seen.problem) == (False, None)
    assert set(seen.missing) == set(missing)
    assert seen.usage is not None
    reported = {"input_tokens", "output_tokens"} - set(missing)
    assert all(seen.usage[meter] for meter in reported)


def test_figures_given_by_the_total_are_not_counted() -> None:
    for meter in ("prompt_tokens", "completion_tokens"):
        seen = chat_usage({**USAGE, meter: None, "total_tokens": 150})
        assert seen.usage is not None
        assert (seen.usage["input_tokens"], seen.usage["output_tokens"], seen.missing) == (100, 50, ())
        assert "the total" in seen.notes[0]


@pytest.mark.parametrize(
    ("change", "part", "left"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 101}}, "cache_read_tokens", 100),
        ({"prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 60}}, "cache_write_tokens", 40),
        ({"prompt_tokens_details": {"audio_tokens": 101}}, "input_audio_tokens", 100),
        ({"completion_tokens_details": {"reasoning_tokens": 51}}, "output_reasoning_tokens", 50),
    ],
)
def test_a_part_above_its_whole_is_cut_to_it_and_noted(change: dict[str, Any], part: str, left: int) -> None:
    seen = chat_usage({**USAGE, **change})
    assert seen.usage is not None
    assert (seen.usage["input_tokens"], seen.usage["output_tokens"], seen.usage[part]) == (100, 50, left)
    assert part in seen.notes[0]


def test_true_is_not_a_count() -> None:
    assert chat_usage({"prompt_tokens": True, "completion_tokens": 2}).problem == "input_tokens is “True”, not a count"


def test_a_negative_figure_cannot_hide_in_a_sum() -> None:
    wire = wire_format("anthropic", "v1/messages")
    for fresh, cached in ((100, -90), (-90, 100)):
        usage = {"input_tokens": fresh, "cache_read_input_tokens": cached, "output_tokens": 1}
        reader = wire.reader(wire.parse("", "", body(model="m", messages=[])), streaming=False, hide_usage=False)
        assert read(reader, [body(type="message", content=[], usage=usage)])[1].usage is None


@pytest.mark.parametrize("usage", [None, {}, [], "many"])
def test_absent_usage(usage: Any) -> None:
    seen = chat_usage(usage)
    assert (seen.usage, seen.problem) == (None, "no usage")


def test_whole_floats_count_and_empty_objects_are_no_figures() -> None:
    seen = chat_usage({"prompt_tokens": 9.0, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": {}}})
    assert seen.usage == {"input_tokens": 9, "output_tokens": 2}
    assert all(type(value) is int for value in seen.usage.values())


# Garbage

FORMATS: list[tuple[WireFormat, Sample]] = [(sample.format, sample) for sample in SAMPLES + WHOLE]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_KEYS = [
    "choices",
    "delta",
    "usage",
    "message",
    "model",
    "error",
    "type",
    "response",
    "output",
    "item",
    "candidates",
    "content",
    "parts",
    "usageMetadata",
    "text",
    "content_block",
    "tool_calls",
    "function",
    "x_groq",
    "result",
    "errors",
    "meta",
    "groundingMetadata",
    "duration",
    "finish_reason",
]
_RUBBISH = st.recursive(
    _JSON,
    lambda inner: st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4) | st.lists(inner, max_size=2),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=60) | _RUBBISH.map(lambda v: b"data: " + json.dumps(v).encode() + b"\n\n"), max_size=6)
)
def test_garbage_is_passed_and_never_raises(chunks: list[bytes]) -> None:
    for wire, sample in FORMATS:
        for streaming in (True, False):
            passed, seen = read(wire.reader(sample.parsed, streaming=streaming, hide_usage=False), chunks)
            assert passed == b"".join(chunks)
            assert (seen.usage is None) == (seen.problem is not None)


@settings(max_examples=60, deadline=None)
@given(_RUBBISH)
def test_a_garbage_body_never_raises(value: Any) -> None:
    for wire, sample in FORMATS:
        response = json.dumps(value).encode()
        assert read(wire.reader(sample.parsed, streaming=False, hide_usage=True), [response])[0] == response


@pytest.mark.parametrize("depth", [600, 900, 100_000])
def test_deep_nesting_never_raises(depth: int) -> None:
    for wire, sample in FORMATS:
        for inner in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
            for key in (b"usage", b"choices", b"delta", b"content", b"x"):
                response = b'data: {"type":"x.delta","' + key + b'":' + inner + b"}\n\n"
                assert read(wire.reader(sample.parsed, streaming=True, hide_usage=False), [response])[0] == response
                whole = response[6:]
                assert read(wire.reader(sample.parsed, streaming=False, hide_usage=False), [whole])[0] == whole


def test_garbage_in_the_middle_does_not_lose_the_usage() -> None:
    for sample in SAMPLES:
        events = sample.response.replace(b"\r\n\r\n", b"\n\n").split(b"\n\n")
        garbage = (b"{rubbish", b'"\xff\xfe"')
        response = b"\n\n".join([events[0], *(b"data: " + data for data in garbage), *events[1:]])
        seen = replace(expected(sample), delivered_bytes=sample.delivered + sum(map(len, garbage)))
        assert read(sample.reader(), [response]) == (response, seen), sample.id


def test_a_body_above_the_bound_passes_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farebox.providers.formats.readers.KEPT_WHOLE", 10)
    monkeypatch.setattr("farebox.providers.skimmer.SKELETON_BYTES_MAX", 20)
    sample = WHOLE[0]
    passed, seen = read(sample.reader(), [sample.response[:15], sample.response[15:]])
    assert passed == sample.response
    assert seen.problem == "no usage (1 too large to read)"
    assert seen.delivered_bytes == len(sample.response)


# Audio


def transcript(response: bytes) -> Observed:
    wire = wire_format("openai", "audio/transcriptions")
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b--\r\n'
    parsed = wire.parse("", "multipart/form-data; boundary=b", form)
    return read(wire.reader(parsed, streaming=False, hide_usage=False), [response])[1]


def test_transcripts_are_metered_by_seconds_or_tokens() -> None:
    seconds = {"audio_seconds": 9, "input_audio_seconds": 9}
    assert transcript(body(text="hi", usage={"type": "duration", "seconds": 9})).usage == seconds
    half = Decimal("8.5")
    assert transcript(body(text="hi", duration=8.5)).usage == {"audio_seconds": half, "input_audio_seconds": half}
    assert transcript(body(text="hi", duration="8.5")).usage == {"audio_seconds": half, "input_audio_seconds": half}
    tokens = {"input_tokens": 14, "input_token_details": {"text_tokens": 4, "audio_tokens": 10}, "output_tokens": 45}
    assert transcript(body(text="hi", usage={"type": "tokens", **tokens})).usage == {
        "input_tokens": 14,
        "input_text_tokens": 4,
        "input_audio_tokens": 10,
        "output_tokens": 45,
    }
    assert transcript(b"just the text").problem == "no usage"
    assert transcript(body(text="hi", duration="soon")).usage is None


def test_audio_of_models_billed_by_tokens_is_not_measured() -> None:
    wire = wire_format("openai", "audio/speech")
    parsed = wire.parse("", "", body(model="gpt-4o-mini-tts", input="hello"))
    seen = read(wire.reader(parsed, streaming=False, hide_usage=False), [b"\xff\xfb"])[1]
    assert (seen.usage, seen.problem) == (None, "no usage")


def test_subtitles_give_a_minimum_duration() -> None:
    srt = "1\n00:00:00,000 --> 00:00:02,000\nGood\n\n2\n00:59:00,000 --> 01:00:01,250\nday.\n"
    assert transcript(srt.encode()).input_audio_seconds == Decimal("3601.25")
    assert transcript(b"WEBVTT\n\n00:00.000 --> 00:02.500\nGood day.\n").input_audio_seconds == Decimal("2.5")
    assert transcript(b"Good --> day").input_audio_seconds == 0


def test_the_duration_of_audio_is_measured() -> None:
    def sound(response: bytes, **more: str) -> Observed:
        wire = wire_format("openai", "audio/speech")
        parsed = wire.parse("", "", body(model="gpt-4o-mini-tts", input="hello", **more))
        return read(wire.reader(parsed, streaming=False, hide_usage=False), [response])[1]

    assert sound(mp3_of_zeros(250)).sound_seconds == 6
    assert sound(bytes(96_000), response_format="pcm").sound_seconds == 2
    assert sound(mp3_of_zeros(100_000)).sound_seconds == 2400, "larger than the buffer for text"


def test_the_duration_of_a_cut_audio_stream_is_measured() -> None:
    wire = wire_format("openai", "audio/speech")
    parsed = wire.parse(
        "", "", body(model="gpt-4o-mini-tts", input="hello", stream_format="sse", response_format="pcm")
    )
    event = stream({"type": "speech.audio.delta", "audio": base64.b64encode(bytes(48_000)).decode()})
    assert read(wire.reader(parsed, streaming=True, hide_usage=False), [event, event])[1].sound_seconds == 2
    wire = wire_format("openai", "chat/completions")
    audio = {"data": base64.b64encode(bytes(48_000)).decode(), "transcript": "Hi"}
    chunk = stream({"choices": [{"index": 0, "delta": {"audio": audio}}]})
    seen = read(wire.reader(wire.parse("", "", CHAT), streaming=True, hide_usage=False), [chunk])[1]
    assert (float(seen.sound_seconds), seen.delivered_bytes) == (1.0, 2)


def test_workers_ai_reports_the_duration_of_a_recording() -> None:
    wire = wire_format("workers-ai", "run/@cf/openai/whisper")
    parsed = wire.parse("run/@cf/openai/whisper", "", b"ID3" + bytes(5000))
    response = body(result={"text": "hi", "transcription_info": {"duration": 4.5}}, success=True)
    seen = read(wire.reader(parsed, streaming=False, hide_usage=False), [response])[1]
    assert seen.usage == {"audio_seconds": Decimal("4.5"), "input_audio_seconds": Decimal("4.5")}
    assert read(wire.reader(parsed, streaming=False, hide_usage=False), [body(result={"text": "hi"})])[1].usage is None


def test_the_slugs_in_use_are_real() -> None:
    assert {sample.slug for sample in SAMPLES} <= set(BY_SLUG)
