"""Google's Gemini API, as the demo provider answers it."""

from collections.abc import Iterable, Iterator

from farebox.demo_provider.directives import Directives
from farebox.demo_provider.prompt import (
    DEFAULT_MODEL,
    DemoRequest,
    Json,
    Prompt,
    ToolCall,
    count,
    encode,
    json_object,
    last_user_text,
    object_in,
    objects,
    read_models,
    tool_call,
    words_in,
)
from farebox.demo_provider.responding import (
    FAILURE,
    JSON_HEADERS,
    SSE_HEADERS,
    Completion,
    Counts,
    DemoEndpoint,
    DemoEvent,
    Dialect,
    Mark,
    Reply,
    complete,
    json_reply,
    reported,
    sse,
    with_usage,
)

_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tool": "STOP"}
_ERRORS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_DECLARATIONS = ("functionDeclarations", "function_declarations")  # Google reads both spellings


def _error(status: int, message: str) -> Json:
    return {"error": {"code": status, "message": message, "status": _ERRORS.get(status, "UNKNOWN")}}


DIALECT = Dialect(_error)


def _read(call: DemoRequest) -> Prompt:
    """A request of generateContent, streamGenerateContent or countTokens: the path says which, and the model."""
    model, _, method = call.path.rpartition("/")[2].partition(":")
    body = json_object(call.body)
    body = object_in(body, "generateContentRequest") or body
    contents = objects(body, "contents")
    tools = objects(body, "tools")
    system = body.get("systemInstruction") or body.get("system_instruction")
    config = object_in(body, "generationConfig")
    return Prompt(
        model=model or DEFAULT_MODEL,
        text=last_user_text(contents, "parts"),
        input_tokens=words_in(system) + words_in(contents) + words_in(tools),
        stream=method == "streamGenerateContent",
        max_tokens=count(config, "maxOutputTokens", "max_output_tokens"),
        choices=count(config, "candidateCount", "candidate_count") or 1,
        tool=_forced_tool(body, tools),
        body={"array": "alt=sse" not in call.query.split("&")},
    )


def _forced_tool(body: Json, tools: list[Json]) -> ToolCall | None:
    config = object_in(object_in(body, "toolConfig"), "functionCallingConfig")
    if config.get("mode") != "ANY":
        return None
    functions = [function for tool in tools for key in _DECLARATIONS if key in tool for function in objects(tool, key)]
    allowed = config.get("allowedFunctionNames")
    name = allowed[0] if isinstance(allowed, list) and allowed else None
    return tool_call(functions, name, "parameters", "parametersJsonSchema")


def _reply(prompt: Prompt, directives: Directives, mark: Mark) -> Reply:
    response = complete(prompt, directives)
    if not prompt.stream:
        chunk = _chunk(prompt, mark, _parts(response), _FINISH[response.finish])
        body = with_usage(chunk, "usageMetadata", reported(_usage(response.counts), directives))
        return json_reply(prompt, body, response.counts.output)
    chunks = _chunks(prompt, directives, response, mark)
    failure = _error(503, FAILURE)
    if prompt.body["array"]:
        return Reply(
            headers=JSON_HEADERS,
            events=_as_array(chunks),
            failure=b",\r\n" + encode(failure) + b"]",
            input_tokens=prompt.input_tokens,
        )
    events = (DemoEvent(sse(chunk), tokens) for chunk, tokens in chunks)
    return Reply(headers=SSE_HEADERS, events=events, failure=sse(failure), input_tokens=prompt.input_tokens)


def _as_array(chunks: Iterable[tuple[Json, int]]) -> Iterator[DemoEvent]:
    lead = b"["
    for chunk, tokens in chunks:
        yield DemoEvent(lead + encode(chunk), tokens)
        lead = b",\r\n"
    yield DemoEvent(b"]")


def _chunks(prompt: Prompt, directives: Directives, response: Completion, mark: Mark) -> Iterator[tuple[Json, int]]:
    """One chunk per word; each reports the usage so far, and the last one also the finish reason."""
    counts = response.counts
    bodies = [[{"text": piece}] for piece in response.pieces] or [_parts(response)]
    delivered = (counts.output - counts.reasoning) // len(bodies)  # per chunk: a word for each choice, or the tool call
    for number, parts in enumerate(bodies, 1):
        so_far = Counts(
            counts.input, counts.cached, counts.cache_write, delivered * number + counts.reasoning, counts.reasoning
        )
        finish = _FINISH[response.finish] if number == len(bodies) else None
        chunk = _chunk(prompt, mark, parts, finish)
        usage = reported(_usage(so_far), directives, stream=True)
        yield with_usage(chunk, "usageMetadata", usage), delivered + (counts.reasoning if number == 1 else 0)


def _chunk(prompt: Prompt, mark: Mark, parts: list[Json], finish: str | None) -> Json:
    candidate: Json = {"content": {"parts": parts, "role": "model"}}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [{**candidate, "index": i} for i in range(prompt.choices)],
        "modelVersion": prompt.model,
        "responseId": f"demo-{mark.serial}",
    }


def _parts(response: Completion) -> list[Json]:
    if response.tool is None:
        return [{"text": response.text}]
    return [{"functionCall": {"name": response.tool.name, "args": response.tool.arguments}}]


def _usage(counts: Counts) -> Json:
    """Google's `candidatesTokenCount` does not include the reasoning, which is counted as thoughts."""
    usage = {
        "promptTokenCount": counts.input,
        "candidatesTokenCount": counts.output - counts.reasoning,
        "totalTokenCount": counts.input + counts.output,
    }
    if counts.cached:
        usage["cachedContentTokenCount"] = counts.cached
    if counts.reasoning:
        usage["thoughtsTokenCount"] = counts.reasoning
    return usage


def _count_reply(prompt: Prompt, directives: Directives, _mark: Mark) -> Reply:
    return json_reply(prompt, reported({"totalTokens": prompt.input_tokens}, directives) or {})


def _models_reply(prompt: Prompt, _directives: Directives, _mark: Mark) -> Reply:
    model = {
        "name": f"models/{prompt.model}",
        "displayName": "Farebox demo model",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
    return json_reply(prompt, model if prompt.body["one"] else {"models": [model]})


GENERATE = DemoEndpoint(DIALECT, _read, _reply)
COUNT_TOKENS = DemoEndpoint(DIALECT, _read, _count_reply)
MODELS = DemoEndpoint(DIALECT, read_models, _models_reply)
