"""Reading and adjusting requests."""

import base64
import contextlib
import json
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.pricing.model import Demand, FurtherModel, ImageInput
from farebox.providers.formats.base import InvalidRequest, ParsedRequest
from farebox.providers.formats.media import image_size
from tests.providers.samples import SAMPLES, WHOLE, body, wire_format

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480) + b"\x08\x02\0\0\0" + bytes(3000)
PNG64 = base64.b64encode(PNG).decode()
HUNDRED_K = base64.b64encode(bytes(75_000)).decode()
GEMINI = "v1beta/models/gemini-2.5-pro:generateContent"


def parse(slug: str, path: str, request: bytes, *, exact: bool = False) -> ParsedRequest:
    return wire_format(slug, path).parse(path, "application/json", request, exact=exact)


def chat(**fields: Any) -> ParsedRequest:
    return parse("openai", "chat/completions", body(**{"model": "m", "messages": [], **fields}))


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


# The demand of a request


def test_a_chat_request() -> None:
    request = body(
        model="gpt-4o",
        messages=[{"role": "system", "content": "Ü"}, {"role": "user", "content": "hi"}],
        tools=[{"type": "function", "function": {"name": "f"}}],
        n=3,
        max_tokens=7,
        max_completion_tokens=9,
        stream=True,
    )
    demand = Demand("gpt-4o", len(request), messages=2, tools=1, choices=3, output_max=9, clampable=True)
    assert parse("openai", "chat/completions", request) == ParsedRequest(
        "gpt-4o", True, demand, usage_requested=False, tools=("function",), may_refer=False
    )


def test_requested_usage_is_recognized() -> None:
    assert chat().usage_requested
    assert not chat(stream=True).usage_requested
    assert not chat(stream=True, stream_options=None).usage_requested
    assert not chat(stream=True, stream_options={"include_usage": False}).usage_requested
    assert chat(stream=True, stream_options={"include_usage": True}).usage_requested
    for slug in ("mistral", "groq", "perplexity-ai"):  # report it unrequested
        assert parse(slug, "chat/completions", body(model="m", messages=[], stream=True)).usage_requested


def test_choices_of_completions_count_for_every_prompt() -> None:
    for prompt, choices in (("a", 2), (["a", "b", "c"], 6), ([1, 2, 3], 2), ([[1, 2], [3]], 4), ([], 2)):
        assert parse("openai", "completions", body(model="m", prompt=prompt, n=2)).demand.choices == choices
    assert parse("openai", "completions", body(model="m", prompt="a", n=2, best_of=5)).demand.choices == 5


def test_other_formats() -> None:
    request = body(model="c", max_tokens=50, messages=[{"role": "user", "content": "hi"}], stream=True)
    assert parse("anthropic", "v1/messages", request) == ParsedRequest(
        "c", True, Demand("c", len(request), messages=1, output_max=50, clampable=True, limited_by="max_tokens")
    )
    request = body(model="g", input="hi", max_output_tokens=50)
    assert parse("openai", "responses", request) == ParsedRequest(
        "g",
        False,
        Demand(
            "g",
            len(request),
            messages=1,
            output_max=50,
            clampable=True,
            limited_by="max_output_tokens",
            output_min=16,
        ),
    )
    request = body(contents=[{"parts": [{"text": "hi"}]}], generationConfig={"maxOutputTokens": 5, "candidateCount": 2})
    assert parse("google-ai-studio", GEMINI, request) == ParsedRequest(
        "gemini-2.5-pro",
        False,
        Demand(
            "gemini-2.5-pro",
            len(request),
            messages=1,
            choices=2,
            output_max=5,
            clampable=True,
            limited_by="generationConfig.maxOutputTokens",
        ),
    )
    request = body(contents=[], generation_config={"max_output_tokens": 5, "candidate_count": 2})
    demand = parse("google-ai-studio", GEMINI, request).demand
    assert (demand.output_max, demand.choices) == (5, 2)
    request = body(model="e", input=["a", "b"])
    assert parse("openai", "embeddings", request).demand == Demand("e", len(request), messages=2, no_output=True)
    request = body(prompt="hi", max_tokens=4)
    assert parse("workers-ai", "run/@cf/meta/llama-3", request).demand == Demand(
        "@cf/meta/llama-3", len(request), messages=1, output_max=4, clampable=True, limited_by="max_tokens"
    )


@pytest.mark.parametrize(
    ("slug", "path", "fields", "name"),
    [
        ("openai", "chat/completions", {"model": "gpt-4o"}, "max_tokens"),
        ("openai", "chat/completions", {"model": "gpt-5"}, "max_completion_tokens"),
        ("openai", "chat/completions", {"model": "gpt-4o", "max_completion_tokens": 9}, "max_completion_tokens"),
        ("openai", "chat/completions", {"model": "gpt-5", "max_tokens": 9, "max_completion_tokens": 9}, ""),
        ("openai", "responses/compact", {"model": "gpt-5", "input": "hi"}, ""),
        (
            "aws-bedrock",
            "bedrock-runtime/us-east-1/model/meta.llama3-8b-instruct-v1:0/invoke",
            {"prompt": "hi"},
            "max_gen_len",
        ),
        (
            "aws-bedrock",
            "bedrock-runtime/us-east-1/model/amazon.nova-lite-v1:0/converse",
            {},
            "inferenceConfig.maxTokens",
        ),
        (
            "aws-bedrock",
            "bedrock-runtime/us-east-1/model/amazon.nova-lite-v1:0/converse",
            {"additionalModelRequestFields": {"thinking": {"type": "enabled"}}},
            "",
        ),
    ],
)
def test_the_parameter_that_limits_the_output_is_named(slug: str, path: str, fields: dict[str, Any], name: str) -> None:
    assert parse(slug, path, body(**{"messages": [], **fields})).demand.limited_by == name


def kinds(demand: Demand) -> list[tuple[str, int | None]]:
    return [(unseen.kind, unseen.uses) for unseen in demand.unseen]


GEMINI_FILE = {"fileData": {"fileUri": "https://x"}}
IN_BUCKET = {"fileData": {"fileUri": "gs://b/x"}}


@pytest.mark.parametrize(
    ("slug", "path", "fields", "wanted"),
    [
        ("openai", "responses", {"previous_response_id": "r"}, [("response", 1)]),
        ("openai", "responses", {"prompt": {"id": "p"}}, [("prompt", 1)]),
        ("openai", "responses", {"conversation": "c"}, [("conversation", 1)]),
        ("openai", "responses", {"input": [{"type": "item_reference", "id": "i"}]}, [("item", 1)]),
        ("openai", "responses", {"input": [{"id": "i"}]}, [("item", 1)]),
        ("openai", "responses", {"input": [{"type": None, "id": "i"}]}, [("item", 1)]),
        ("openai", "responses", {"input": user({"type": "input_file", "file_id": "f"})}, [("file", 1)]),
        ("openai", "responses", {"input": user({"type": "input_file", "file_url": "https://x"})}, [("url", 1)]),
        ("openai", "responses", {"tools": [{"type": "mcp"}], "max_tool_calls": 4}, [("mcp", None)]),
        ("openai", "responses", {"tools": [{"type": "file_search"}], "max_tool_calls": 4}, [("file_search", 4)]),
        ("openai", "responses", {"tools": [{"type": "web_search_preview"}]}, [("web_search", None)]),
        ("openai", "responses", {"tools": [{"type": "function", "name": "f"}]}, []),
        ("openai", "chat/completions", {"messages": user({"type": "file", "file": {"file_id": "f"}})}, [("file", 1)]),
        (
            "openai",
            "chat/completions",
            {"messages": user({"type": "file", "file": {"file_id": "f", "file_data": ""}})},
            [("file", 1)],
        ),
        ("openai", "chat/completions", {"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, [("audio", 1)]),
        ("openai", "chat/completions", {"messages": [], "model": "gpt-5-search-api"}, [("web_search", None)]),
        ("mistral", "v1/chat/completions", {"messages": user({"document_url": "https://x"})}, [("url", 1)]),
        ("mistral", "v1/chat/completions", {"messages": user({"input_audio": "https://x"})}, [("audio", 1)]),
        ("openrouter", "chat/completions", {"messages": user({"video_url": {"url": "https://x"}})}, [("video", 1)]),
        (
            "google-ai-studio",
            "v1beta/openai/chat/completions",
            {"messages": [], "extra_body": {"google": {"cached_content": "c"}}},
            [("cache", 1)],
        ),
        (
            "google-ai-studio",
            "v1beta/openai/chat/completions",
            {"messages": [], "extra_body": {"google": {"cachedContent": "c"}}},
            [("cache", 1)],
        ),
        ("google-ai-studio", GEMINI, {"cachedContent": "c/1"}, [("cache", 1)]),
        ("google-ai-studio", GEMINI, {"contents": [{"parts": [GEMINI_FILE]}]}, [("file", 1)]),
        ("google-ai-studio", GEMINI, {"systemInstruction": {"parts": [GEMINI_FILE]}}, [("file", 1)]),
        ("google-ai-studio", GEMINI, {"contents": [{"parts": [IN_BUCKET]}]}, [("bucket", 1), ("file", 1)]),
        ("google-ai-studio", GEMINI, {"tools": [{"urlContext": {}}]}, [("url_context", 1)]),
        ("google-ai-studio", GEMINI, {"tools": {"codeExecution": {}}}, [("code_execution", 1)]),
        ("anthropic", "v1/messages", {"container": "c"}, [("container", 1)]),
        ("anthropic", "v1/messages", {"mcp_servers": [{"url": "a"}, {"url": "b"}]}, [("mcp", None)]),
        (
            "anthropic",
            "v1/messages",
            {"tools": [{"type": "web_fetch_20250910", "max_uses": 2}]},
            [("web_fetch", 2)],
        ),
        ("perplexity-ai", "chat/completions", {"messages": [], "model": "sonar-deep-research"}, [("web_search", None)]),
    ],
)
def test_unseen_input_of_a_request(
    slug: str, path: str, fields: dict[str, Any], wanted: list[tuple[str, int | None]]
) -> None:
    request = {"model": "m", "messages": [], "contents": [], "input": "x"} | fields
    assert kinds(parse(slug, path, body(**request)).demand) == wanted


@pytest.mark.parametrize("data", [b"%PDF-1.7\n", b"\n%PDF-1.4\n", b"harbour " * 100 + b"%PDF-1.4\n"])
def test_a_pdf_is_recognized_whatever_its_declared_type(data: bytes) -> None:
    encoded = base64.b64encode(data + bytes(range(256)) * 40).decode()
    document = {"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": encoded}}
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}
    inline = [{"parts": [{"inlineData": {"mimeType": mime, "data": encoded}}]} for mime in ("text/plain", "audio/wav")]
    for slug, path, fields in (
        ("anthropic", "v1/messages", {"messages": user(document)}),
        ("openai", "chat/completions", {"messages": user(picture)}),
        *(("google-ai-studio", GEMINI, {"contents": [content]}) for content in inline),
    ):
        assert kinds(parse(slug, path, body(model="m", **fields)).demand) == [("pdf", 1)], slug
    archive = base64.b64encode(b"PK\x03\x04" + b"x" * 4000).decode()
    part = {"type": "file", "file": {"filename": "a.txt", "file_data": f"data:text/plain;base64,{archive}"}}
    assert kinds(parse("openai", "chat/completions", body(model="m", messages=user(part))).demand) == [("file", 1)]


@pytest.mark.parametrize("url", ["HTTPS://x/a.png", " https://x/a.png", "file-7q"])
def test_a_remote_image_is_an_image_however_its_url_is_written(url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    demand = parse("openai", "chat/completions", body(model="gpt-4o", messages=user(part))).demand
    assert demand.images == (ImageInput(None, None, "auto"),)


def test_each_content_of_a_batch_may_fill_a_window() -> None:
    request = {"requests": [{"content": {"parts": [GEMINI_FILE]}}] * 3}
    path = "v1beta/models/gemini-embedding-2:batchEmbedContents"
    assert kinds(parse("google-ai-studio", path, body(**request)).demand) == [("file", 3)]


def test_a_stored_prompt_without_a_model_is_priced_by_its_name() -> None:
    prompt = {"id": "pmpt_6812ab", "version": "2", "variables": {"city": "Rome"}}
    assert parse("openai", "responses", body(prompt=prompt)).model == "prompt:pmpt_6812ab"
    assert parse("openai", "responses", body(prompt=prompt, model="m")).demand.model == "m"
    assert parse("perplexity-ai", "v1/agent", body(preset="low", input="x")).demand.model == "preset:low"
    nameless: list[dict[str, Any]] = [
        {"prompt": {"id": 7}},
        {"prompt": {"id": "gpt-4o mini"}},
        {"prompt": {}},
        {"input": "x"},
    ]
    for unnamed in nameless:
        with pytest.raises(InvalidRequest, match="`model`"):
            parse("openai", "responses", body(**unnamed))


def test_google_lets_a_model_be_named_with_its_folder() -> None:
    named = {"model": "models/gemini-2.5-flash", "input": "x", "messages": []}
    for path in ("v1beta/openai/chat/completions", "v1beta/openai/embeddings"):
        parsed = parse("google-ai-studio", path, body(**named))
        assert (parsed.model, parsed.demand.model) == ("gemini-2.5-flash", "gemini-2.5-flash")
    assert parse("openai", "chat/completions", body(**named)).model == "models/gemini-2.5-flash"


def test_a_deferred_completion_is_not_metered() -> None:
    requested = body(model="grok-4", messages=[], deferred=True)
    assert "deferred" in (parse("grok", "chat/completions", requested).unmetered or "")
    assert parse("grok", "chat/completions", body(model="grok-4", messages=[], deferred=False)).unmetered is None


def test_a_compaction_takes_no_limit() -> None:
    requested = body(model="m", input=[{"type": "message", "role": "user", "content": "x"}], previous_response_id="r")
    demand = parse("openai", "responses/compact", requested).demand
    assert (demand.clampable, kinds(demand)) == (False, [("response", 1)])


@pytest.mark.parametrize(
    ("slug", "fields", "bounded"),
    [
        ("openai", {"model": "o3", "max_tokens": 1}, False),
        ("openai", {"model": "o3", "max_completion_tokens": 1}, True),
        ("openai", {"model": "o3"}, True),
        ("openai", {"model": "gpt-4o", "max_tokens": 1}, True),
        ("grok", {"model": "grok-4", "max_tokens": 1}, False),
        ("grok", {"model": "grok-4"}, False),
        ("grok", {"model": "grok-3", "max_tokens": 1}, True),
        ("perplexity-ai", {"model": "sonar-reasoning-pro", "max_tokens": 1}, False),
        ("mistral", {"model": "o3", "max_tokens": 1}, True),
    ],
)
def test_a_limit_that_hidden_reasoning_ignores_bounds_nothing(slug: str, fields: dict[str, Any], bounded: bool) -> None:
    demand = parse(slug, "chat/completions", body(messages=[], **fields)).demand
    assert demand.clampable == bounded
    assert bounded or demand.output_max is None


def test_searches_are_bounded() -> None:
    tool: dict[str, Any] = {"type": "web_search_20250305", "name": "web_search"}
    for declared, searches in ((tool, 10), ({**tool, "max_uses": 3}, 3), ({"name": "mine"}, None)):
        request = body(model="m", messages=[], tools=[declared])
        assert parse("anthropic", "v1/messages", request).demand.allowed.get("web_searches") == searches
    tools = [{"type": "web_search_preview"}, {"type": "file_search"}]
    allowed = parse("openai", "responses", body(model="m", input="x", tools=tools, max_tool_calls=4)).demand.allowed
    assert allowed == {"web_searches": 4, "storage_searches": 4}
    request = body(contents=[], tools=[{"google_search": {}}])
    assert parse("google-ai-studio", GEMINI, request).demand.allowed == {"web_searches": 10}


def test_with_a_thinking_budget_the_limit_is_not_lowered() -> None:
    request = {"model": "m", "messages": [], "max_tokens": 4096}
    enabled = body(**request, thinking={"type": "enabled", "budget_tokens": 2048})
    assert not parse("anthropic", "v1/messages", enabled).demand.clampable
    assert parse("anthropic", "v1/messages", body(**request, thinking={"type": "disabled"})).demand.clampable


# Attachments

ATTACHED = [
    ("openai", "chat/completions", "messages", {"type": "image_url", "image_url": {"url": "data:image/png;base64,%"}}),
    ("openai", "chat/completions", "messages", {"type": "image_url", "image_url": "data:image/png;base64,%"}),
    ("openai", "responses", "input", {"type": "input_image", "image_url": "data:image/png;base64,%"}),
    (
        "anthropic",
        "v1/messages",
        "messages",
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%"}},
    ),
    (
        "anthropic",
        "v1/messages",
        "messages",
        {
            "type": "tool_result",
            "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%"}}],
        },
    ),
    ("google-ai-studio", GEMINI, "contents", {"inlineData": {"mimeType": "image/png", "data": "%"}}),
    ("google-ai-studio", GEMINI, "contents", {"inline_data": {"mime_type": "image/png", "data": "%"}}),
    ("cohere", "v2/chat", "messages", {"type": "image_url", "image_url": {"url": "data:image/png;base64,%"}}),
]


def filled(value: Any, data: str) -> Any:
    return json.loads(json.dumps(value).replace("%", data))


@pytest.mark.parametrize(("slug", "path", "key", "part"), ATTACHED)
def test_an_image_is_not_held_as_text(slug: str, path: str, key: str, part: dict[str, Any]) -> None:
    inner = "parts" if key == "contents" else "content"
    text = {"text": "What is this?"} if key == "contents" else {"type": "text", "text": "What is this?"}
    request = body(**{"model": "m", key: [{"role": "user", inner: [text, filled(part, PNG64)]}]})
    parsed = parse(slug, path, request, exact=True)
    assert parsed.demand.images == (ImageInput(640, 480),)
    assert len("What is this?") < parsed.demand.text_bytes < 400
    assert "What is this?" in parsed.demand.text
    assert PNG64[:50] not in parsed.demand.text
    assert parsed.demand.files_bytes == parsed.demand.audio_seconds == len(parsed.demand.unseen) == 0


@pytest.mark.parametrize(("slug", "path", "key", "part"), ATTACHED)
def test_an_image_outside_of_content_is_text(slug: str, path: str, key: str, part: dict[str, Any]) -> None:
    inner = "parts" if key == "contents" else "content"
    trick = filled(part, PNG64)
    request = body(**{"model": "m", key: [{"role": "user", inner: []}], "tools": [{"input_schema": trick}]})
    demand = parse(slug, path, request).demand
    assert (demand.images, demand.text_bytes) == ((), len(request))


def test_details_and_remote_images() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    assert chat(messages=user(part)).demand.images == (ImageInput(None, None, "low"),)
    item = {"type": "input_image", "file_id": "f", "detail": "high"}
    demand = parse("openai", "responses", body(model="m", input=user(item))).demand
    assert (demand.images, demand.unseen) == ((ImageInput(None, None, "high"),), ())
    screenshot = {"type": "computer_screenshot", "image_url": "data:image/png;base64," + PNG64}
    shot = {"type": "computer_call_output", "output": screenshot}
    assert parse("openai", "responses", body(model="m", input=[shot])).demand.images == (ImageInput(640, 480),)


def test_an_escaped_key_does_not_hide_an_image() -> None:
    request = body(model="m", messages=user({"type": "image_url", "image_url": {"url": "https://x"}}))
    hidden = request.replace(b"image_url", b"im\\u0061ge_url")
    assert parse("openai", "chat/completions", hidden).demand.images == (ImageInput(),)


def test_audio_and_files_are_counted_apart() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": HUNDRED_K, "format": "wav"}}
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + HUNDRED_K}}
    demand = chat(messages=user(audio, pdf)).demand
    assert demand.audio_seconds == 19
    assert kinds(demand) == [("file", 1)]
    assert demand.text_bytes < 400
    item = {"type": "input_file", "file_data": "data:application/pdf;base64,JVBERi0" + HUNDRED_K}
    assert kinds(parse("openai", "responses", body(model="m", input=user(item))).demand) == [("pdf", 1)]
    block = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": HUNDRED_K}}
    assert kinds(parse("anthropic", "v1/messages", body(model="m", messages=user(block))).demand) == [("file", 1)]
    part = {"inlineData": {"mimeType": "video/mp4", "data": HUNDRED_K}}
    assert kinds(parse("google-ai-studio", GEMINI, body(contents=[{"parts": [part]}])).demand) == [("video", 1)]
    hidden = {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,JVBERi0" + HUNDRED_K}}
    assert kinds(chat(messages=user(hidden)).demand) == [("pdf", 1)]
    part = {"inlineData": {"mimeType": "text/plain", "data": HUNDRED_K}}
    demand = parse("google-ai-studio", GEMINI, body(contents=[{"parts": [part]}])).demand
    assert (demand.files_bytes, demand.unseen) == (75_000, ())
    assert demand.text_bytes < 400
    part = {"inlineData": {"mimeType": "audio/mp3", "data": HUNDRED_K}}
    assert parse("google-ai-studio", GEMINI, body(contents=[{"parts": [part]}])).demand.audio_seconds == 19


def test_text_in_a_data_url_that_is_not_base64_stays_text() -> None:
    request = body(
        model="m", messages=user({"type": "image_url", "image_url": {"url": "data:text/plain," + "x" * 500}})
    )
    assert parse("openai", "chat/completions", request).demand.text_bytes == len(request)


def test_image_sizes() -> None:
    assert image_size(PNG) == (640, 480)
    assert image_size(b"GIF89a" + struct.pack("<HH", 30, 20)) == (30, 20)
    exif = b"\xff\xe1" + struct.pack(">H", 5000) + bytes(4998)
    frame = b"\xff\xc2\x00\x11\x08" + struct.pack(">HH", 768, 1024)
    assert image_size(b"\xff\xd8" + exif + frame) == (1024, 768)
    assert image_size(b"\xff\xd8" + exif) == (None, None)
    webp = b"RIFF\0\0\0\0WEBP"
    assert image_size(webp + b"VP8X" + bytes(8) + (1023).to_bytes(3, "little") + (767).to_bytes(3, "little")) == (
        1024,
        768,
    )
    lossless = (1023 | 767 << 14).to_bytes(4, "little")
    assert image_size(webp + b"VP8L" + bytes(4) + b"\x2f" + lossless + bytes(9)) == (1024, 768)
    assert image_size(webp + b"VP8 " + bytes(10) + struct.pack("<HH", 1024, 768)) == (1024, 768)


@given(st.binary(max_size=60), st.sampled_from([b"", PNG[:12], b"GIF89a", b"\xff\xd8", b"RIFF\0\0\0\0WEBPVP8X"]))
def test_image_size_of_garbage(data: bytes, start: bytes) -> None:
    width, height = image_size(start + data)
    assert (width is None) == (height is None)
    assert width is None or width > 0


def test_inline_audio_has_the_length_that_its_bytes_tell() -> None:
    encoded = base64.b64encode((Path(__file__).parent / "audio" / "lame.mp3").read_bytes()).decode()

    def lengths(mime: str, data: str) -> tuple[int, int]:
        part = {"inlineData": {"mimeType": mime, "data": data}}
        demand = parse("google-ai-studio", GEMINI, body(contents=[{"parts": [part]}])).demand
        return demand.audio_seconds, demand.audio_seconds_max

    assert lengths("audio/mp3", encoded) == (3, 3)
    part = {"type": "input_audio", "input_audio": {"data": encoded, "format": "mp3"}}
    assert chat(messages=user(part, part)).demand.audio_seconds == 5
    samples = base64.b64encode(bytes(96_000)).decode()
    assert lengths("audio/L16;codec=pcm;rate=24000", samples) == (2, 2)
    assert lengths("audio/pcm", samples) == (3, 3)
    broken = encoded[:400] + "=" + encoded[400:]
    assert lengths("audio/mp3", broken) == (3, 15), "invalid base64: a more lenient reader may read all of it"


# Text for exact counting


def test_exact_text_has_all_the_model_reads_and_is_unescaped() -> None:
    request = body(
        model="gpt-4o",
        messages=[
            {"role": "user", "content": 'say "hi"\nthen stop'},
            {"role": "assistant", "tool_calls": [{"function": {"name": "get_x", "arguments": '{"deep": 1}'}}]},
            {"role": "tool", "content": [{"type": "text", "text": "tool said"}]},
        ],
        tools=[{"type": "function", "function": {"name": "get_x", "description": "Described."}}],
        response_format={"type": "json_schema", "json_schema": {"name": "schema_name"}},
        max_tokens=5,
    )
    text = parse("openai", "chat/completions", request, exact=True).demand.text
    for piece in ('say "hi"\nthen stop', "get_x", '{"deep": 1}', "tool said", "Described.", "schema_name"):
        assert piece in text
    assert "gpt-4o" not in text
    assert parse("openai", "chat/completions", request).demand.text == ""


def test_exact_text_of_other_formats() -> None:
    claude = body(
        model="m",
        system=[{"type": "text", "text": "Be kind."}],
        messages=[{"role": "assistant", "content": [{"type": "tool_use", "name": "t", "input": {"key_name": "val"}}]}],
    )
    text = parse("anthropic", "v1/messages", claude, exact=True).demand.text
    assert "Be kind." in text
    assert '{"key_name":"val"}' in text
    gemini = body(systemInstruction={"parts": [{"text": "Be kind."}]}, contents=[{"parts": [{"text": "hello"}]}])
    text = parse("google-ai-studio", GEMINI, gemini, exact=True).demand.text
    assert "Be kind." in text
    assert "hello" in text
    responses = body(model="m", instructions="Be kind.", input="hello")
    text = parse("openai", "responses", responses, exact=True).demand.text
    assert "Be kind." in text
    assert "hello" in text
    assert parse("openai", "embeddings", body(model="m", input=["a", [1, 22]]), exact=True).demand.text == "a\n1\n22"


# Requests that cannot be read

CHAT_PATH = ("openai", "chat/completions")
REFUSED = [
    (*CHAT_PATH, b"", "empty"),
    (*CHAT_PATH, b"{", "not valid JSON"),
    (*CHAT_PATH, b"\xff\xfe", "not valid JSON"),
    (*CHAT_PATH, b"[]", "Expected `object`"),
    (*CHAT_PATH, body(messages=[]), "`model`"),
    (*CHAT_PATH, body(model="", messages=[]), "$.model"),
    (*CHAT_PATH, body(model="x" * 300, messages=[]), "$.model"),
    (*CHAT_PATH, body(model=7, messages=[]), "$.model"),
    (*CHAT_PATH, body(model="m"), "`messages`"),
    (*CHAT_PATH, body(model="m", messages="hi"), "$.messages"),
    (*CHAT_PATH, body(model="m", messages=[], max_tokens=-1), "$.max_tokens"),
    (*CHAT_PATH, body(model="m", messages=[], max_tokens=1.5), "$.max_tokens"),
    (*CHAT_PATH, body(model="m", messages=[], max_tokens="9"), "$.max_tokens"),
    (*CHAT_PATH, body(model="m", messages=[], max_tokens=10**12), "$.max_tokens"),
    (*CHAT_PATH, body(model="m", messages=[], max_completion_tokens=-1), "$.max_completion_tokens"),
    (*CHAT_PATH, body(model="m", messages=[], n=0), "$.n"),
    (*CHAT_PATH, body(model="m", messages=[], n=129), "$.n"),
    (*CHAT_PATH, body(model="m", messages=[], stream="yes"), "$.stream"),
    (*CHAT_PATH, b'{"model":"m","messages":[],"x":' + b"[" * 10**5 + b"]" * 10**5 + b"}", "deeply"),
    ("openai", "completions", body(model="m"), "`prompt`"),
    ("openai", "responses", body(model="m", input=7), "$.input"),
    ("openai", "responses", body(model="m", input="x", max_output_tokens=-1), "$.max_output_tokens"),
    ("openai", "embeddings", body(model="m"), "`input`"),
    ("openai", "embeddings", body(model="m", input={}), "$.input"),
    ("openai", "images/generations", body(model="m", prompt="x", n=200), "$.n"),
    ("openai", "audio/speech", body(model="m"), "`input`"),
    ("anthropic", "v1/messages", body(model="m"), "`messages`"),
    ("anthropic", "v1/messages", body(model="m", messages=[], max_tokens="x"), "$.max_tokens"),
    ("google-ai-studio", GEMINI, body(contents="x"), "$.contents"),
    ("google-ai-studio", GEMINI, body(contents=[], generationConfig={"maxOutputTokens": -1}), "maxOutputTokens"),
    ("google-ai-studio", GEMINI, body(contents=[], generationConfig={"candidateCount": 0}), "candidateCount"),
    ("google-ai-studio", "v1/models/e:embedContent", body(), "$.content"),
    ("cohere", "v2/chat", body(model="m"), "`messages`"),
    ("cohere", "v2/rerank", body(model="m", query="q"), "`documents`"),
]


@pytest.mark.parametrize(("slug", "path", "request_body", "word"), REFUSED)
def test_an_unreadable_request_is_refused_with_a_message(slug: str, path: str, request_body: bytes, word: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(slug, path, request_body)
    assert word in str(refused.value)


@pytest.mark.parametrize("exact", [False, True])
def test_other_options_are_forwarded(exact: bool) -> None:
    odd = body(
        model="m",
        messages=[{"role": 7, "content": 7}, {}, {"content": [7, None, {"type": None, "image_url": 7, "source": "x"}]}],
        temperature="hot",
        stream_options={"x": 1},
        max_tokens=None,
        n=None,
        tools=[{"type": 7}],
        unknown={"a": [1]},
    )
    for slug, path in (CHAT_PATH, ("anthropic", "v1/messages"), ("cohere", "v2/chat"), ("workers-ai", "run/@cf/a/b")):
        assert parse(slug, path, odd, exact=exact).demand.messages == 3


@settings(max_examples=80, deadline=None)
@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["model", "messages", "input", "contents", "parts", "content", "source"]), inner
            )
        ),
        max_leaves=10,
    ).map(lambda value: json.dumps(value).encode())
)
def test_random_input_is_refused_or_read(request_body: bytes) -> None:
    for sample in SAMPLES + WHOLE:
        for exact in (False, True):
            try:
                parsed = sample.format.parse(sample.parsed.model, "application/json", request_body, exact=exact)
            except InvalidRequest:
                continue
            assert 0 <= parsed.demand.text_bytes <= len(request_body)


@pytest.mark.parametrize("depth", [500, 900, 990])
def test_nesting_just_below_the_decoders_bound(depth: int) -> None:
    nested = '{"content":[' * depth + '"x"' + "]}" * depth
    for slug, path, key in (
        ("openai", "chat/completions", "messages"),
        ("anthropic", "v1/messages", "messages"),
        ("openai", "responses", "input"),
    ):
        request = f'{{"model":"m","{key}":[{nested}]}}'.encode()
        for exact in (False, True):
            with contextlib.suppress(InvalidRequest):
                parse(slug, path, request, exact=exact)


# Changing a request

ODD = b'{ "model" : "m", "messages":[ {"role":"user","content":"\\u00fc  1.0"} ],"x":1.50, "max_tokens": %s }'


def test_limits_are_set_and_other_values_keep_their_bytes() -> None:
    wire = wire_format("openai", "chat/completions")
    changed = wire.limit_output(ODD.replace(b"%s", b"100"), 7)
    assert b'[ {"role":"user","content":"\\u00fc  1.0"} ]' in changed
    assert b"1.50" in changed
    assert json.loads(changed)["max_tokens"] == 7
    assert list(json.loads(changed)) == ["model", "messages", "x", "max_tokens"]


@pytest.mark.parametrize(
    ("slug", "fields", "names"),
    [
        ("openai", {"model": "gpt-4o"}, ["max_tokens"]),
        ("openai", {"model": "gpt-4o", "max_completion_tokens": None}, ["max_tokens"]),
        ("openai", {"model": "gpt-4o", "max_completion_tokens": 99}, ["max_completion_tokens"]),
        (
            "openai",
            {"model": "gpt-4o", "max_completion_tokens": 99, "max_tokens": 98},
            ["max_completion_tokens", "max_tokens"],
        ),
        ("openai", {"model": "o3-mini"}, ["max_completion_tokens"]),
        ("openai", {"model": "gpt-5-nano"}, ["max_completion_tokens"]),
        ("openrouter", {"model": "openai/gpt-5"}, ["max_completion_tokens"]),
        ("mistral", {"model": "o3"}, ["max_tokens"]),
        ("openai", {"model": "olmo"}, ["max_tokens"]),
    ],
)
def test_the_limit_has_the_name_that_the_model_knows(slug: str, fields: dict[str, Any], names: list[str]) -> None:
    wire = wire_format(slug, "chat/completions")
    changed = json.loads(wire.limit_output(body(messages=[], **fields), 7))
    assert sorted(key for key, value in changed.items() if value == 7) == names
    parsed = wire.parse("", "", body(**changed))
    assert parsed.demand.output_max == 7


@pytest.mark.parametrize(
    ("slug", "path", "fields"),
    [
        ("openai", "responses", {"model": "m", "input": "x", "max_output_tokens": 99}),
        ("anthropic", "v1/messages", {"model": "m", "messages": []}),
        ("google-ai-studio", GEMINI, {"contents": [], "generationConfig": {"temperature": 1.0, "maxOutputTokens": 9}}),
        ("google-ai-studio", GEMINI, {"contents": [], "generation_config": {"max_output_tokens": 9}}),
        ("google-ai-studio", GEMINI, {"contents": []}),
        ("cohere", "v2/chat", {"model": "m", "messages": []}),
        ("workers-ai", "run/@cf/a/b", {"prompt": "x"}),
    ],
)
def test_limits_of_other_formats(slug: str, path: str, fields: dict[str, Any]) -> None:
    wire = wire_format(slug, path)
    changed = wire.limit_output(body(**fields), 7)
    assert wire.parse(path, "", changed).demand.output_max == 7
    config = json.loads(changed).get("generationConfig", {})
    assert config.get("temperature") == fields.get("generationConfig", {}).get("temperature")


def test_a_limit_given_in_both_of_googles_spellings_is_lowered_in_both() -> None:
    both = {"generationConfig": {"maxOutputTokens": 99}, "generation_config": {"max_output_tokens": 9, "topK": 1}}
    changed = json.loads(wire_format("google-ai-studio", GEMINI).limit_output(body(contents=[], **both), 7))
    assert changed["generationConfig"] == {"maxOutputTokens": 7}
    assert changed["generation_config"] == {"maxOutputTokens": 7, "topK": 1}


def test_requesting_usage_keeps_other_stream_options() -> None:
    wire = wire_format("openai", "chat/completions")
    for options in (None, {}, {"include_obfuscation": False}, {"include_usage": False}):
        requested = wire.request_usage(body(model="m", messages=[], stream=True, stream_options=options))
        assert json.loads(requested)["stream_options"] == {**(options or {}), "include_usage": True}
        assert wire.parse("", "", requested).usage_requested
    assert json.loads(wire.request_usage(b'{"model":"m"}')) == {"model": "m", "stream_options": {"include_usage": True}}
    untouched = body(model="m", messages=[], stream=True)
    assert wire_format("mistral", "chat/completions").request_usage(untouched) == untouched


def test_the_model_is_replaced() -> None:
    for slug, path in (CHAT_PATH, ("openai", "responses"), ("openai", "embeddings"), ("anthropic", "v1/messages")):
        assert json.loads(wire_format(slug, path).replace_model(body(model="openai/m", x=1), "m")) == {
            "model": "m",
            "x": 1,
        }
    assert wire_format("google-ai-studio", GEMINI).replace_model(b'{"contents":[]}', "m") == b'{"contents":[]}'


# Forms, images, speech


def form(*fields: tuple[str, bytes, str]) -> bytes:
    out = b""
    for name, content, filename in fields:
        extra = f'; filename="{filename}"\r\nContent-Type: audio/wav' if filename else ""
        out += f'--XX\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"
    return out + b"--XX--\r\n"


FORM = "multipart/form-data; boundary=XX"


def two_models(after_boundary: str, disposition: str) -> bytes:
    """A form whose first `model` is cheap, and in which some parsers find an expensive one."""
    expensive = f"--XX{after_boundary}\r\nContent-Disposition: {disposition}\r\n\r\nexpensive\r\n--XX--\r\n"
    return form(("model", b"cheap", "")).removesuffix(b"--XX--\r\n") + expensive.encode()


def test_a_transcription() -> None:
    wire = wire_format("openai", "audio/transcriptions")
    sound = b"--X\r\n" + bytes(5000)
    request = form(("model", b"whisper-1", ""), ("file", sound, "a.mp3"), ("prompt", b"Names: Ada", ""))
    parsed = wire.parse("", FORM, request, exact=True)
    assert parsed.model == "whisper-1"
    assert parsed.demand.text_bytes == len(request) - len(sound)
    assert (parsed.demand.audio_seconds, parsed.demand.audio_seconds_max) == (2, 7)
    assert parsed.demand.text == "Names: Ada"
    assert wire.parse("", 'multipart/form-data; boundary="XX"; charset=x', request).model == "whisper-1"
    assert wire.parse("", FORM, wire.replace_model(request, "whisper-2")).model == "whisper-2"
    assert wire.replace_model(request, "whisper-1") == request


def test_audio_elsewhere_is_held_for_as_long_as_the_provider_takes_it_or_not_metered() -> None:
    request = form(("model", b"voxtral-mini-latest", ""), ("file_url", b"https://example.com/a.mp3", ""))
    there = wire_format("mistral", "audio/transcriptions").parse("", FORM, request)
    assert (there.unmetered, there.demand.audio_seconds_max) == (None, 10_800)
    assert "not in the form" in (wire_format("groq", "audio/transcriptions").parse("", FORM, request).unmetered or "")


@pytest.mark.parametrize(
    ("content_type", "request_body", "word"),
    [
        ("multipart/form-data", form(("model", b"m", "")), "boundary"),
        ("application/json", b'{"model":"m"}', "boundary"),
        (FORM, b"", "boundary"),
        (FORM, form(("file", b"x", "a.mp3")), "`model`"),
        (FORM, form(("model", b"m", ""))[:-8], "cut short"),
        (FORM, form(("model", b"cheap", ""), ("model", b"expensive", "")), "more than once"),
        (FORM, form(*[("x", b"", "")] * 300), "more than 256"),
        ("multipart/form-data; xboundary=XX; boundary=YY", form(("model", b"cheap", "")), "boundary"),
        ("multipart/form-data; boundary=XX; boundary=YY", form(("model", b"cheap", "")), "boundary"),
        ("multipart/form-data; boundary*=UTF-8''YY; boundary=XX", form(("model", b"cheap", "")), "boundary"),
        (FORM, b"\r\n" + form(("model", b"cheap", "")), "boundary"),
        (FORM, two_models("", "form-data; name=model"), "more than once"),
        (FORM, two_models("", 'form-data; name="model" x'), "plain name"),
        (FORM, two_models("", 'form-data; name="mod\\"el"'), "plain name"),
        (FORM, two_models("", 'form-data; name="mod\\el"'), "plain name"),
        (FORM, two_models("", "form-data; name*=utf-8''model"), "plain name"),
        (FORM, two_models("", 'form-data; name="x"; name="model"'), "plain name"),
        (FORM, two_models("", 'form-data;\r\n name="model"'), "plain name"),
        (FORM, two_models("", 'form-data; name="x"\r\nContent-Disposition: form-data; name="model"'), "plain name"),
        (FORM, two_models("", 'form-data; name="model"\r\nX-Other: y; name="x"'), "more than once"),
        (FORM, two_models(" ", 'form-data; name="model"'), "line break"),
    ],
)
def test_forms_that_are_refused(content_type: str, request_body: bytes, word: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        wire_format("openai", "audio/transcriptions").parse("", content_type, request_body)
    assert word in str(refused.value)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([b"--XX", b"\r\n", b"\r\n\r\n", b"--", b'name="model"', b"\n", b"a"]), max_size=12))
def test_garbage_forms(pieces: list[bytes]) -> None:
    for path in ("audio/transcriptions", "images/edits"):
        try:
            wire_format("openai", path).parse("", FORM, b"--XX" + b"".join(pieces))
        except InvalidRequest:
            continue


def test_image_generation_is_bounded_by_size_and_quality() -> None:
    def tokens(**fields: Any) -> Any:
        demand = parse("openai", "images/generations", body(model="gpt-image-1", prompt="x", **fields)).demand
        assert demand.no_output
        assert demand.fixed["output_tokens"] == demand.fixed["output_image_tokens"]
        return demand.fixed["output_tokens"]

    assert tokens(size="1024x1024", quality="low") == 272
    assert tokens(size="1536x1024", quality="medium") == 1584
    assert tokens(size="1024x1536", quality="high", n=2) == 12_480
    assert tokens() == tokens(size="auto", quality="auto") == 6240
    assert tokens(size="256x256", quality="low") == 272
    assert tokens(stream=True, partial_images=2) == 6440


def test_images_of_later_models_match_their_published_prices() -> None:
    def tokens(model: str, usd: str, size: str, quality: str) -> None:
        """The tokens at 30 USD per million."""
        demand = parse("openai", "images/generations", body(model=model, prompt="x", size=size, quality=quality)).demand
        published = Decimal(usd) / 30 * 1_000_000
        assert published <= demand.fixed["output_tokens"] <= published * Decimal("1.5")

    tokens("gpt-image-2", "0.211", "1024x1024", "high")
    tokens("gpt-image-2-2026-04-21", "0.053", "1024x1024", "medium")
    tokens("gpt-image-2", "0.222", "2560x1440", "high")
    tokens("gpt-image-2", "0.401", "3840x2160", "high")
    tokens("gpt-image-2.5-flare", "0.00588", "1024x1024", "low")
    tokens("gpt-image-2.5-flare", "0.09366", "1024x1024", "xhigh")
    tokens("gpt-image-2.5-sunburst", "0.40026", "3840x2160", "max")


def test_open_options_of_an_image_request_are_held_at_the_maximum() -> None:
    def demand(**fields: Any) -> Demand:
        return parse("openai", "images/generations", body(model="gpt-image-2.5-flare", prompt="x", **fields)).demand

    assert demand(size="1024x1024").fixed["output_tokens"] == 1760
    assert demand(size="1024x1024").allowed["output_tokens"] == 7040
    assert demand(size="1024x1024", quality="medium").allowed == {}
    animation = demand(size="1024x1024", quality="medium", output_format="gif", frame_count=4)
    assert (animation.fixed["output_tokens"], animation.allowed["output_tokens"]) == (440, 4 * 440)
    assert demand(size="1024x1024", quality="medium", output_format="gif").allowed["output_tokens"] == 9 * 440


def test_the_model_that_writes_an_svg_is_billed_in_addition_to_the_image() -> None:
    request = {"model": "gpt-image-2.6-flare", "prompt": "x", "output_format": "svg"}
    named = parse("openai", "images/generations", body(**request, svg={"model": "gpt-6-sol"}))
    assert (named.demand.further_models, named.unmetered) == ((FurtherModel("gpt-6-sol"),), None)
    assert "svg.model" in (parse("openai", "images/generations", body(**request)).unmetered or "")
    form_of_it = form(
        ("model", b"gpt-image-2.6-flare", ""), ("output_format", b"svg", ""), ("svg[model]", b"gpt-6-sol", "")
    )
    assert wire_format("openai", "images/edits").parse("", FORM, form_of_it).demand.further_models == (
        FurtherModel("gpt-6-sol"),
    )


def test_workers_ai_transcribes_recordings_in_three_forms() -> None:
    sound = (Path(__file__).parent / "audio" / "lame.mp3").read_bytes()
    path = "run/@cf/openai/whisper"
    for request in (sound, body(audio=list(sound)), body(audio=base64.b64encode(sound).decode())):
        demand = parse("workers-ai", path, request).demand
        assert (demand.audio_seconds, demand.audio_seconds_max, demand.no_output) == (3, 3, True)
    with pytest.raises(InvalidRequest, match="audio"):
        parse("workers-ai", path, body(audio=[256]))


@pytest.mark.parametrize(
    "more",
    [
        {"queueRequest": True},
        {"options": {"queueRequest": True}},
        {"requests": [{"prompt": "x"}] * 50},
        {"request_id": "somebody's"},
    ],
)
def test_queued_work_is_not_metered(more: dict[str, Any]) -> None:
    assert "queued" in (parse("workers-ai", "run/@cf/a/b", body(prompt="x", **more)).unmetered or "")
    assert parse("workers-ai", "run/@cf/a/b", body(prompt="x", queueRequest=False)).unmetered is None


def test_image_edits_as_a_form() -> None:
    wire = wire_format("openai", "images/edits")
    request = form(
        ("model", b"gpt-image-1", ""),
        ("prompt", b"more cat", ""),
        ("image[]", PNG, "a.png"),
        ("image[]", PNG, "b.png"),
        ("n", b"2", ""),
        ("quality", b"low", ""),
        ("size", b"1024x1024", ""),
    )
    demand = wire.parse("", FORM, request, exact=True).demand
    assert demand.images == (ImageInput(640, 480), ImageInput(640, 480))
    assert demand.text_bytes == len(request) - 2 * len(PNG)
    assert demand.text == "more cat"
    assert demand.fixed["output_tokens"] == 544
    assert wire.parse("", FORM, wire.replace_model(request, "x")).model == "x"
    for n in (b"0", b"129", b"-1", b"x", b"\xc2\xb2"):
        with pytest.raises(InvalidRequest):
            wire.parse("", FORM, form(("model", b"m", ""), ("n", n, "")))


def test_speech_counts_characters_not_bytes() -> None:
    demand = parse("openai", "audio/speech", body(model="tts-1", input="Grüße")).demand
    assert demand.fixed == {"input_characters": 5}
    assert demand.no_output


@pytest.mark.parametrize(("text", "tokens"), [("Grüße dir", 36), ("07:45 %", 16 * 6 + 4), ("こんにちは", 80)])
def test_speech_is_held_for_what_its_text_can_take(text: str, tokens: int) -> None:
    """A digit counts as a word, an ideograph as a syllable; 250 tokens are for pauses."""
    demand = parse("openai", "audio/speech", body(model="gpt-4o-mini-tts", input=text)).demand
    assert demand.allowed == {"output_tokens": 250 + tokens, "output_audio_tokens": 250 + tokens}


def test_rerank_searches() -> None:
    def searches(*documents: str) -> Any:
        return parse("cohere", "v2/rerank", body(model="m", query="q", documents=documents)).demand.fixed[
            "rerank_searches"
        ]

    assert searches("a") == 1
    assert searches(*["a"] * 101) == 2
    assert searches("long" * 30_000) == 3


@pytest.mark.parametrize(
    ("slug", "response", "metered"),
    [("openai", "json", True), ("openai", "text", False), ("groq", "json", False), ("groq", "verbose_json", True)],
)
def test_audio_that_cannot_be_counted_needs_a_response_that_tells_its_length(
    slug: str, response: str, metered: bool
) -> None:
    for audio in (b"wvpk" + bytes(5_000), b"OggS" + bytes(5_000)):
        request = form(
            ("model", b"whisper-1", ""), ("response_format", response.encode(), ""), ("file", audio, "a.flac")
        )
        parsed = wire_format(slug, "audio/transcriptions").parse("", FORM, request)
        assert (parsed.unmetered is None) == metered
