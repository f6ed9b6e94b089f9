"""OpenAI's other endpoints, as the demo provider answers them: embeddings, moderations, images, speech, models."""

import base64
import hashlib
import math
import re
import struct
import zlib

from farebox.demo_provider.directives import Directives
from farebox.demo_provider.openai_chat import DIALECT
from farebox.demo_provider.prompt import (
    DEFAULT_MODEL,
    BadRequest,
    DemoRequest,
    Json,
    Prompt,
    count,
    json_object,
    model_in,
    read_models,
    words_in,
)
from farebox.demo_provider.responding import (
    Counts,
    DemoEndpoint,
    Mark,
    Reply,
    complete,
    json_reply,
    reported,
    with_usage,
)

_DIMENSIONS = 64
_BYTES_PER_SECOND = 32_000  # 16 kHz, 16 bit, one channel: the size of a recording gives its length
_AUDIO_TOKENS_PER_SECOND = 10
_CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors"),
    *("violence", "violence/graphic"),
)


def _read_input(call: DemoRequest) -> Prompt:
    """Embeddings, moderations and speech: the text, or texts, under `input`."""
    body = json_object(call.body)
    texts = _inputs(body)
    tokens = sum(words_in(text) if isinstance(text, str) else len(text) for text in texts)
    last = texts[-1] if texts else ""
    return Prompt(model=model_in(body), text=last if isinstance(last, str) else "", input_tokens=tokens, body=body)


def _inputs(body: Json) -> list[str | list[int]]:
    """The inputs one by one: each a text, or a list of tokens."""
    value = body.get("input")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise BadRequest("input is neither a text nor a list")
    if value and all(isinstance(item, int) for item in value):
        return [value]
    items = [str(item["text"]) if isinstance(item, dict) and "text" in item else item for item in value]
    if not all(isinstance(item, str | list) for item in items):
        raise BadRequest("input holds something that is neither a text nor a list of tokens")
    return items


def _embeddings(prompt: Prompt, directives: Directives, _mark: Mark) -> Reply:
    size = count(prompt.body, "dimensions") or _DIMENSIONS
    packed = prompt.body.get("encoding_format") == "base64"
    rows: list[Json] = []
    for index, text in enumerate(_inputs(prompt.body)):
        vector = _vector(repr(text), size)
        embedding = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if packed else vector
        rows.append({"object": "embedding", "index": index, "embedding": embedding})
    usage = reported({"prompt_tokens": prompt.input_tokens, "total_tokens": prompt.input_tokens}, directives)
    return json_reply(prompt, with_usage({"object": "list", "data": rows, "model": prompt.model}, "usage", usage))


def _vector(text: str, size: int) -> list[float]:
    """A vector of length one that depends on the text alone."""
    numbers = struct.unpack(f"<{size}h", hashlib.shake_128(text.encode()).digest(2 * size))
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / length for number in numbers]


def _moderations(prompt: Prompt, _directives: Directives, mark: Mark) -> Reply:
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    results = [result] * len(_inputs(prompt.body))
    return json_reply(prompt, {"id": f"modr-demo-{mark.serial}", "model": prompt.model, "results": results})


def _read_image(call: DemoRequest) -> Prompt:
    body = json_object(call.body)
    prompt = str(body.get("prompt") or "")
    return Prompt(
        model=model_in(body), text=prompt, input_tokens=words_in(prompt), choices=count(body, "n") or 1, body=body
    )


def _images(prompt: Prompt, directives: Directives, mark: Mark) -> Reply:
    """One white pixel for each image, which counts as one output token unless `tokens=` says more."""
    output = prompt.choices * (1 if directives.tokens is None else directives.tokens)
    usage = {
        "input_tokens": prompt.input_tokens,
        "input_tokens_details": {"text_tokens": prompt.input_tokens, "image_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
        "total_tokens": prompt.input_tokens + output,
    }
    body: Json = {
        "created": mark.created,
        "data": [{"b64_json": _PIXEL}] * prompt.choices,
        "output_format": "png",
        "size": prompt.body.get("size") or "1024x1024",
        "quality": prompt.body.get("quality") or "low",
    }
    return json_reply(prompt, with_usage(body, "usage", reported(usage, directives)), output)


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\xff\xff")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


_PIXEL = base64.b64encode(_png()).decode()


def _speech(prompt: Prompt, _directives: Directives, _mark: Mark) -> Reply:
    """A WAV file with a tenth of a second of silence, whatever format was requested."""
    silence = bytes(_BYTES_PER_SECOND // 10)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, _BYTES_PER_SECOND, 2, 16)
    data = b"WAVE" + form + struct.pack("<4sI", b"data", len(silence)) + silence
    wav = struct.pack("<4sI", b"RIFF", len(data)) + data
    return Reply(headers=[("content-type", "audio/wav")], body=wav, input_tokens=prompt.input_tokens)


def _read_transcription(call: DemoRequest) -> Prompt:
    form = _form(call.headers.get("content-type") or "", call.body)
    if "file" not in form:
        raise BadRequest("the form has no file")
    prompt = form.get("prompt", b"").decode(errors="replace")
    return Prompt(
        model=form.get("model", b"").decode(errors="replace") or DEFAULT_MODEL,
        text=prompt,
        input_tokens=words_in(prompt) + _AUDIO_TOKENS_PER_SECOND * _seconds(form["file"]),
        body={
            "seconds": _seconds(form["file"]),
            "prompt_tokens": words_in(prompt),
            "format": form.get("response_format", b"json").decode(errors="replace"),
        },
    )


def _seconds(file: bytes) -> int:
    return -(-len(file) // _BYTES_PER_SECOND)


def _form(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form by name."""
    boundary = re.search(r'multipart/form-data;.*boundary="?([^";]+)', content_type)
    if boundary is None:
        raise BadRequest("the body is not a multipart form")
    fields: dict[str, bytes] = {}
    for part in body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        if name is not None:
            fields[name[1].decode(errors="replace")] = data.removesuffix(b"\r\n")
    return fields


def _transcription(prompt: Prompt, directives: Directives, _mark: Mark) -> Reply:
    response = complete(prompt, directives)
    if prompt.body["format"] == "text":
        return Reply(
            headers=[("content-type", "text/plain; charset=utf-8")],
            body=response.text.encode() + b"\n",
            input_tokens=prompt.input_tokens,
            output_tokens=response.counts.output,
        )
    body: Json = {"text": response.text}
    if prompt.body["format"] == "verbose_json":
        body |= {"task": "transcribe", "language": "english", "duration": float(prompt.body["seconds"]), "segments": []}
    usage = reported(_audio_usage(prompt, response.counts), directives)
    return json_reply(prompt, with_usage(body, "usage", usage), response.counts.output)


def _audio_usage(prompt: Prompt, counts: Counts) -> Json:
    """Whisper is billed by the second, later models by the token."""
    if prompt.model.startswith("whisper"):
        return {"type": "duration", "seconds": prompt.body["seconds"]}
    words = prompt.body["prompt_tokens"]
    return {
        "type": "tokens",
        "input_tokens": counts.input,
        "input_token_details": {"text_tokens": words, "audio_tokens": counts.input - words},
        "output_tokens": counts.output,
        "total_tokens": counts.input + counts.output,
    }


def _models(prompt: Prompt, _directives: Directives, mark: Mark) -> Reply:
    model = {"id": prompt.model, "object": "model", "created": mark.created, "owned_by": "farebox"}
    return json_reply(prompt, model if prompt.body["one"] else {"object": "list", "data": [model]})


EMBEDDINGS = DemoEndpoint(DIALECT, _read_input, _embeddings)
MODERATIONS = DemoEndpoint(DIALECT, _read_input, _moderations)
IMAGES = DemoEndpoint(DIALECT, _read_image, _images)
SPEECH = DemoEndpoint(DIALECT, _read_input, _speech)
TRANSCRIPTIONS = DemoEndpoint(DIALECT, _read_transcription, _transcription)
MODELS = DemoEndpoint(DIALECT, read_models, _models)
