"""Streams as real providers send them: in any framing and chunking, with huge and unreadable events."""

import base64
import json
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from farebox.providers.formats.base import Observed, ResponseReader
from farebox.providers.formats.sniffer import Sniffer
from farebox.providers.skimmer import Skimmer
from tests.providers.samples import CHAT, SAMPLES, WHOLE, Sample, body, chat_body, chunk, gemini, stream, wire_format

PLAIN = {"prompt_tokens": 10, "completion_tokens": 2}
PATH = "v1beta/models/gemini-2.5-flash:streamGenerateContent"


def chat(*, hide_usage: bool = False, n: int = 1) -> ResponseReader:
    wire = wire_format("openai", "chat/completions")
    request = body(model="m", messages=[{"role": "user", "content": "hi"}], stream=True, n=n)
    return wire.reader(wire.parse("", "", request), streaming=True, hide_usage=hide_usage)


def google() -> ResponseReader:
    wire = wire_format("google-ai-studio", PATH)
    return wire.reader(wire.parse(PATH, "", body(contents=[])), streaming=True, hide_usage=False)


def chunkings(response: bytes) -> Iterator[list[bytes]]:
    """The response in one piece, byte by byte, line by line, and split at random."""
    yield [response]
    if len(response) < 100_000:
        yield [bytes([byte]) for byte in response]
    yield response.splitlines(keepends=True)
    chance = random.Random(7)
    places = sorted(chance.sample(range(1, len(response)), min(9, len(response) - 1)))
    yield [response[i:j] for i, j in zip([0, *places], [*places, len(response)], strict=True)]


def drive(reader: ResponseReader, chunks: list[bytes], *, paused: bool = False) -> tuple[bytes, Observed]:
    """The relayed bytes and the reading; with `paused`, held data is released after each chunk."""
    passed = []
    for piece in chunks:
        passed.append(reader.feed(piece))
        if paused and reader.holding:
            passed.append(reader.release())
    rest, seen = reader.close()
    return b"".join((*passed, rest)), seen


def same(make: Any, response: bytes, wanted: bytes | None = None) -> Observed:
    """The reading, after checking that every chunking gives the same one, with and without pauses."""
    found: list[Observed] = []
    for chunks in chunkings(response):
        for paused in (False, True):
            passed, seen = drive(make(), chunks, paused=paused)
            assert passed == (response if wanted is None else wanted), (len(chunks), paused)
            found.append(seen)
    assert all(seen == found[0] for seen in found)
    return found[0]


# Where a stream ends


@pytest.mark.parametrize(
    "events",
    [
        [chunk(None, usage=PLAIN), chunk({"content": "a"}), chunk({"content": "b"}, "stop"), "[DONE]"],
        [chunk({"content": "a"}), chunk(None, usage=PLAIN), chunk({"content": "b"}, "stop"), "[DONE]"],
        [chunk({"content": "a"}, "stop", usage=PLAIN), chunk({"content": "b"}, "stop", usage=PLAIN), "[DONE]"],
        [chunk({"content": "a"}, "", usage=PLAIN), chunk({"content": "b"}, "", usage=PLAIN), "[DONE]"],
        [chunk({"content": "a"}, "stop", usage=PLAIN), chunk({"content": "b"})],
        [chunk({"content": "a"}, error={}), chunk({"content": "b"}, "stop", usage=PLAIN, error=None), "[DONE]"],
        [chunk({"content": "a"}, error=""), "[DONE]", chunk({"content": "b"}, usage=PLAIN)],
    ],
)
def test_nothing_is_lost_before_or_after_the_end(events: list[Any]) -> None:
    seen = same(chat, stream(*events))
    assert (seen.usage, seen.failed, seen.delivered_bytes) == ({"input_tokens": 10, "output_tokens": 2}, False, 2)


def test_a_choice_that_ends_twice_is_one() -> None:
    events = [chunk({"content": "a"}, "stop", usage=PLAIN), chunk({"content": "b"}, "stop")]
    reader = chat(n=2)
    reader.feed(stream(*events))
    assert (reader.all_ended, reader.holding) == (False, False)


def test_google_may_send_stop_at_any_time() -> None:
    events = [gemini(text, "STOP") for text in ("", "a", "b", "")]
    reader = google()
    passed = [reader.feed(stream(event)) for event in events]
    assert passed == [b"", *(stream(event) for event in events[:-1])], "one event behind, and no more"
    seen = same(google, stream(*events))
    assert (seen.delivered_bytes, seen.complete, seen.finish_seen) == (2, True, True)


def test_a_held_event_is_relayed_when_another_follows_or_on_release() -> None:
    reader, last = google(), stream(gemini("a", "STOP"))
    assert reader.feed(last[:-1]) == b""
    assert reader.feed(last[-1:]) == b"", "its empty line belongs to it"
    assert reader.feed(b"d") == b"", "not an event yet"
    assert reader.release() == last
    assert reader.holding is False
    assert reader.close()[0] == b"d"


def test_a_done_marker_after_the_terminal_event_passes() -> None:
    sample = next(sample for sample in SAMPLES if sample.id == "responses")
    response = sample.response + b"data: [DONE]\n\n"
    reader = sample.reader()
    assert sample.response.startswith(reader.feed(response))
    assert reader.finished
    assert same(sample.reader, response).reference == "resp_1"


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.id for sample in SAMPLES])
def test_every_choice_has_ended_only_at_the_end(sample: Sample) -> None:
    middle = sample.response[: len(sample.response) // 3]
    assert drive(sample.reader(), [middle])[1].finish_seen is False
    assert drive(sample.reader(), [sample.response])[1].finish_seen is True


# Framing


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.id for sample in SAMPLES])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("apart", [1, 2, 3])
def test_line_ends_and_empty_lines_do_not_matter(sample: Sample, end: bytes, apart: int) -> None:
    events = sample.response.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]
    response = b"".join(event.replace(b"\n", end) + end * apart for event in events)
    seen = same(sample.reader, response)
    assert (seen.usage, seen.delivered_bytes, seen.complete) == (sample.usage, sample.delivered, True)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\r\n", b"\r"])
def test_a_hidden_usage_event_is_dropped_with_its_empty_line(end: bytes) -> None:
    events = [chunk({"content": "a"}, "stop"), chunk(None, usage=PLAIN)]
    first, hidden, done = (b"data: " + json.dumps(event).encode() + end for event in (*events, "[DONE]"))
    done = b"data: [DONE]" + end
    seen = same(lambda: chat(hide_usage=True), first + hidden + done, first + done)
    assert seen.usage == {"input_tokens": 10, "output_tokens": 2}


def test_an_event_without_figures_is_not_hidden() -> None:
    response = stream(chunk(None, usage={}, prompt_filter_results=[]), chunk({"content": "a"}, "stop"), "[DONE]")
    same(lambda: chat(hide_usage=True), response)


def test_an_event_in_several_lines() -> None:
    text = json.dumps(chunk({"content": "a"}, "stop", usage=PLAIN), indent=1).replace("\n", "\ndata: ")
    response = f": hello\n\ndata: {text}\n\n".encode()
    assert same(chat, response).usage == {"input_tokens": 10, "output_tokens": 2}


@pytest.mark.parametrize("end", [b"\n\n", b"\n", b"\r"])
def test_long_lines_read_the_same_whole_and_in_pieces(end: bytes) -> None:
    odd = [
        b"data: " + b"x" * 70_000,
        b"id: " + b"7" * 70_000,
        b"data: {half",
        b'data: {"a": "' + b"QUJD" * 30_000 + b'"}',
    ]
    events = [chunk({"content": "a"}), chunk({"content": "b " * 40_000}), chunk({}, "stop", usage=PLAIN)]
    lines = [
        part
        for event, extra in zip([*events, "[DONE]"], odd, strict=True)
        for part in (extra, b"data: " + (event.encode() if isinstance(event, str) else json.dumps(event).encode()))
    ]
    seen = same(chat, b"".join(line + end for line in lines))
    assert seen.usage == {"input_tokens": 10, "output_tokens": 2}
    assert seen.delivered_bytes == 1 + 80_000 + 70_001 + len("{half"), "unreadable data counts by its bytes"


# What cannot be read


@pytest.mark.parametrize(
    "odd",
    [
        '{"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"p": NaN}}]}',
        '{"choices": [{"index": 0, "delta": {"content": "\\ud83d"}}]}',
        '{"choices": [{"index": 0, "delta": []}]}',
        '{"choices": [null, {"delta": {"content": null, "tool_calls": {}}}], "usage": []}',
        '{"choices": null, "usage": null}',
        '{"choices": "none"}',
        '{"choices": [{"index": "0", "delta": {"content": "\udcff"}}]}',
        "{half",
        '"text"',
        "[1, 2]",
        "7",
    ],
)
def test_a_malformed_event_affects_only_itself(odd: str) -> None:
    response = stream(chunk({"content": "a"})) + f"data: {odd}\n\n".encode("utf-8", "surrogateescape")
    seen = same(chat, response + stream(chunk({"content": "b"}, "stop", usage=PLAIN), "[DONE]"))
    assert seen.usage == {"input_tokens": 10, "output_tokens": 2}
    assert seen.delivered_bytes >= 2


def test_without_usage_text_is_kept_and_unreadable_events_count_by_bytes() -> None:
    events = stream(chunk({"content": "Grü"}), "{half", chunk({"content": "ße"}, "stop"), "[DONE]")
    seen = same(chat, events)
    assert (seen.text, seen.delivered_bytes) == ("Grüße", 7 + 5)
    assert seen.problem == "no usage (1 unreadable)"
    assert same(chat, stream(chunk({"content": "x"}, "stop", usage=PLAIN), "[DONE]")).text == "", "nothing needs it"


def test_a_body_that_strict_readers_refuse_is_read() -> None:
    wire = wire_format("openai", "chat/completions")
    for old, new in ((b'"Gr', b'"\\ud800'), (b'"c1"', b"NaN"), (b'"stop"', b'"\xff"'), (b"[{", b"[null,{")):
        response = chat_body(PLAIN).replace(old, new, 1)
        reader = wire.reader(wire.parse("", "", CHAT), streaming=False, hide_usage=False)
        assert drive(reader, [response])[1].usage == {"input_tokens": 10, "output_tokens": 2}


@pytest.mark.parametrize("response", [b"", b"\n\n", b": nothing\n\n", b"data: [DONE]\n\n"])
def test_a_stream_without_an_event_is_empty(response: bytes) -> None:
    seen = drive(chat(), [response])[1]
    assert (seen.empty, seen.complete, seen.usage, seen.delivered_bytes) == (True, True, None, 0)
    assert drive(chat(), [stream(chunk({}))])[1].empty is False


def test_a_body_of_white_space_is_empty() -> None:
    for sample in WHOLE:
        for response in (b"", b" \n "):
            passed, seen = drive(sample.reader(), [response] if response else [])
            assert (passed, seen.empty, seen.complete) == (response, True, True)
        assert drive(sample.reader(), [sample.response])[1].empty is False


# What is large

PICTURE = base64.b64encode(random.Random(3).randbytes(3 * 2**20)).decode()


def large(**more: Any) -> dict[str, Any]:
    event = gemini("see", "STOP", usageMetadata={"promptTokenCount": 7, "candidatesTokenCount": 1290}, **more)
    event["candidates"][0]["content"]["parts"].append({"inlineData": {"mimeType": "image/png", "data": PICTURE}})
    return event


def test_a_huge_event_is_relayed_as_it_arrives_and_is_read() -> None:
    response = stream(gemini("a"), large(), gemini("b", "STOP"))
    reader = google()
    kept = most = 0
    for at in range(0, len(response), 65536):
        piece = response[at : at + 65536]
        kept += len(piece) - len(reader.feed(piece))
        most = max(most, kept)
    assert most <= 2 * 65536
    seen = same(google, response)
    assert (seen.usage, seen.delivered_bytes) == ({"input_tokens": 1000, "output_tokens": 1290}, 5)


def test_only_the_last_byte_of_a_huge_terminal_event_is_held_back() -> None:
    reader = google()
    response = stream(large())
    passed = b"".join([reader.feed(response[at : at + 65536]) for at in range(0, len(response), 65536)])
    assert reader.holding
    assert 0 < len(response) - len(passed) <= 65536
    with pytest.raises(json.JSONDecodeError):
        json.loads(passed.removeprefix(b"data: "))


def test_a_huge_body_is_read() -> None:
    wire = wire_format("google-ai-studio", PATH)
    for response in (json.dumps(large()).encode(), json.dumps([gemini("a"), large()], indent=1).encode()):
        reader = wire.reader(wire.parse(PATH, "", body(contents=[])), streaming=False, hide_usage=False)
        passed, seen = drive(reader, [response[at : at + 65536] for at in range(0, len(response), 65536)])
        assert passed == response
        assert seen.usage is not None
        assert seen.usage["output_tokens"] == 1290


def test_vectors_do_not_hide_the_usage() -> None:
    sample = next(sample for sample in WHOLE if sample.id == "embeddings")
    chance = random.Random(5)
    data = [
        {"object": "embedding", "index": i, "embedding": [chance.uniform(-1, 1) for _ in range(999)]} for i in range(99)
    ]
    response = body(object="list", data=data, model="e", usage={"prompt_tokens": 9})
    passed, seen = drive(sample.reader(), [response[at : at + 5000] for at in range(0, len(response), 5000)])
    assert (passed, seen.usage) == (response, {"input_tokens": 9})


def test_a_skeleton_is_the_document_without_its_bulk() -> None:
    text = 'Say "so\\" ' * 9000
    document = {
        "a": text,
        "b": PICTURE[:200_000],
        "c": [1.5] * 9000,
        "d": ["\\", '"', "[1, 2"],
        "e": {"f": PICTURE[:9]},
    }
    raw = json.dumps(document).encode()
    for size in (7, 4096, 65_536, len(raw)):
        skimmer = Skimmer()
        for at in range(0, len(raw), size):
            skimmer.feed(raw[at : at + size])
        assert json.loads(skimmer.skeleton() or b"") == {**document, "b": "", "c": []}
    small = Skimmer(limit=1000)
    small.feed(raw)
    assert small.skeleton() is None


@pytest.mark.parametrize("comma", [",", ",\n        "])
def test_log_probabilities_are_dropped(comma: str) -> None:
    """In a response of some thousand tokens they exceed the buffer."""
    others = [{"token": token, "logprob": -1.5, "bytes": [91, 34]} for token in ("[", ' "]', "\\", '{"a": [', "e")]
    tokens = [{"token": "[", "logprob": -0.1, "bytes": [91], "top_logprobs": others * 4}] * 9_000
    choice = {"index": 0, "message": {"content": "a"}, "logprobs": {"content": tokens}, "finish_reason": "stop"}
    raw = json.dumps({"choices": [choice], "usage": PLAIN}, separators=(comma, ": ")).encode()
    assert len(raw) > 9 * 2**20
    sample = next(sample for sample in WHOLE if sample.format.name == "openai_chat")
    for size in (5_000, 300_000):
        reader = sample.format.reader(sample.parsed, streaming=False, hide_usage=False)
        passed, seen = drive(reader, [raw[at : at + size] for at in range(0, len(raw), size)])
        assert (passed == raw, seen.usage) == (True, {"input_tokens": 10, "output_tokens": 2})


# Errors


def reader_of(sample_id: str) -> ResponseReader:
    return next(sample for sample in SAMPLES if sample.id == sample_id).reader()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (chat, b'event: error\ndata: {"message": "Too busy", "code": 503}\n\n'),
        (chat, b"event:error\ndata: Too busy\n\n"),
        (chat, stream({"object": "error", "message": "Too busy"})),
        (google, b'event: error\ndata: {"code": 503}\n\n'),
        (lambda: reader_of("responses"), stream({"error": {"message": "Too busy"}})),
        (lambda: reader_of("cohere"), stream({"message": "Too busy"})),
        (lambda: reader_of("workers ai"), stream({"error": "Too busy"})),
    ],
)
def test_errors_are_failures_in_every_form(make: Any, error: bytes) -> None:
    for end in (b"", stream("[DONE]")):
        seen = same(make, error + end)
        assert (seen.failed, seen.delivered_bytes) == (True, 0)


def test_an_event_not_named_error_is_not_an_error() -> None:
    seen = same(chat, b"event: error\nevent: ping\n" + stream(chunk({"content": "a"}, "stop", usage=PLAIN), "[DONE]"))
    assert (seen.failed, seen.delivered_bytes) == (False, 1)


def test_text_that_is_not_an_event_is_text() -> None:
    seen = same(chat, b"\xef\xbb\xbf \nGood evening\nto you")
    assert (seen.empty, seen.delivered_bytes, seen.problem) == (
        False,
        len("Good eveningto you"),
        "no usage (2 unreadable)",
    )


# Audio, images, and lists


def test_audio_is_not_text() -> None:
    second = base64.b64encode(bytes(48_000)).decode()
    seen = same(lambda: reader_of("responses"), stream({"type": "response.output_audio.delta", "delta": second}))
    assert (seen.sound_seconds, seen.delivered_bytes) == (Decimal(1), 0)


def test_a_part_of_a_picture_counts_until_the_picture_has_come() -> None:
    wire = wire_format("openai", "images/generations")
    parsed = wire.parse("", "", body(model="gpt-image-1", prompt="A pier", stream=True, quality="low"))
    tokens = parsed.demand.fixed["output_tokens"]
    part, done = ({"type": f"image_generation.{what}", "b64_json": "QUJD"} for what in ("partial_image", "completed"))
    reader = lambda: wire.reader(parsed, streaming=True, hide_usage=False)  # noqa: E731
    assert same(reader, stream(part)).image_tokens_delivered == tokens // 4
    assert (
        same(
            reader, stream(part, part, {**done, "usage": {"input_tokens": 9, "output_tokens": 9}})
        ).image_tokens_delivered
        == 0
    )


def test_entries_of_a_list_pass_when_they_are_whole() -> None:
    wire = wire_format("google-ai-studio", PATH)
    reader = wire.reader(wire.parse(PATH, "", body(contents=[])), streaming=False, hide_usage=False)
    entries = [json.dumps(gemini(text)).encode() for text in "ab"]
    assert [reader.feed(b"[" + entries[0]), reader.feed(b",\r\n" + entries[1])] == [
        b"[" + entries[0],
        b",\r\n" + entries[1],
    ]
    assert reader.feed(b"\n]\n") == b"\n"
    assert reader.close()[0] == b"]\n"


def test_fields_without_an_event_are_not_kept_for_ever() -> None:
    reader, line = chat(), b"event: ping\n"
    passed = sum(len(reader.feed(line * 1000)) for _ in range(200))
    assert passed > 200_000 * len(line) - 2**21


# Content types that are wrong


def sniffed(sample: Sample, *, declared: bool) -> Sniffer:
    return Sniffer(
        lambda events: sample.format.reader(sample.parsed, streaming=events, hide_usage=False), declared=declared
    )


@pytest.mark.parametrize("before", [b"", b" \n", b"\xef\xbb\xbf", b": hello\n\n"])
def test_the_first_bytes_decide_how_a_response_is_read(before: bytes) -> None:
    for sample in SAMPLES + WHOLE:
        if sample.id == "speech" or (before.startswith(b":") and not sample.streaming):
            continue
        for declared in (True, False):
            for chunks in chunkings(before + sample.response):
                reader = sniffed(sample, declared=declared)
                passed, seen = drive(reader, chunks)
                assert passed == before + sample.response
                assert (seen.usage, reader.events) == (sample.usage, sample.streaming), sample.id


def test_an_ambiguous_response_is_read_as_declared() -> None:
    sample = next(sample for sample in WHOLE if sample.id == "speech")
    passed, seen = drive(sniffed(sample, declared=False), [sample.response])
    assert (passed, seen.usage) == (sample.response, sample.usage)
    assert drive(sniffed(SAMPLES[0], declared=True), [b"dat"])[0] == b"dat"
