"""OpenAI's chat completions, as the demo provider answers them; and OpenAI's error shape."""

from collections.abc import Iterator

from farebox.demo_provider.directives import Directives
from farebox.demo_provider.prompt import (
    DemoRequest,
    Json,
    Prompt,
    ToolCall,
    count,
    json_object,
    last_user_text,
    model_in,
    object_in,
    objects,
    tool_call,
    words_in,
)
from farebox.demo_provider.responding import (
    FAILURE,
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

_FINISH = {"stop": "stop", "length": "length", "tool": "tool_calls"}
_ERRORS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
_DONE = b"data: [DONE]\n\n"


def error(status: int, message: str) -> Json:
    """OpenAI's error body."""
    kind, code = _ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


DIALECT = Dialect(error)


def forced_tool(body: Json, tools: list[Json]) -> ToolCall | None:
    """The tool call that `tool_choice` demands: any (`required`), or the named one."""
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        return tool_call(tools, (object_in(choice, "function") or choice).get("name"), "parameters")
    return tool_call(tools, None, "parameters") if choice == "required" else None


def _read(call: DemoRequest) -> Prompt:
    body = json_object(call.body)
    messages = objects(body, "messages")
    tools = objects(body, "tools")
    return Prompt(
        model=model_in(body),
        text=last_user_text(messages),
        input_tokens=words_in(messages) + words_in(tools),
        stream=body.get("stream") is True,
        max_tokens=count(body, "max_completion_tokens", "max_tokens"),
        choices=count(body, "n") or 1,
        tool=forced_tool(body, [object_in(tool, "function") or tool for tool in tools]),
        body=body,
    )


def _reply(prompt: Prompt, directives: Directives, mark: Mark) -> Reply:
    response = complete(prompt, directives)
    base: Json = {"id": f"chatcmpl-demo-{mark.serial}", "created": mark.created, "model": prompt.model}
    if prompt.stream:
        events = _events(prompt, directives, response, base)
        return Reply(
            headers=SSE_HEADERS, events=events, failure=sse(error(500, FAILURE)), input_tokens=prompt.input_tokens
        )
    choice: Json = {
        "message": _message(response, mark.serial),
        "logprobs": None,
        "finish_reason": _FINISH[response.finish],
    }
    body = base | {
        "object": "chat.completion",
        "choices": [{"index": i, **choice} for i in range(prompt.choices)],
        "system_fingerprint": "fp_demo",
    }
    return json_reply(
        prompt, with_usage(body, "usage", reported(_usage(response.counts), directives)), response.counts.output
    )


def _message(response: Completion, serial: int) -> Json:
    if response.tool is None:
        return {"role": "assistant", "content": response.text, "refusal": None}
    function = {"name": response.tool.name, "arguments": response.tool.text}
    calls = [{"id": f"call_demo_{serial}", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "refusal": None, "tool_calls": calls}


def _events(prompt: Prompt, directives: Directives, response: Completion, base: Json) -> Iterator[DemoEvent]:
    options = prompt.body.get("stream_options")
    asked = isinstance(options, dict) and options.get("include_usage") is True
    base = base | {"object": "chat.completion.chunk", "system_fingerprint": "fp_demo"}
    pending: Json = {"usage": None} if asked else {}

    def chunk(index: int, delta: Json, finish: str | None = None) -> bytes:
        return sse({**base, "choices": [{"index": index, "delta": delta, "finish_reason": finish}], **pending})

    choices = range(prompt.choices)
    for index in choices:
        opening = {"role": "assistant", "content": None if response.tool else ""}
        yield DemoEvent(chunk(index, opening), 0 if index else response.counts.reasoning)
    for delta, tokens in _deltas(response, base["id"]):
        for index in choices:
            yield DemoEvent(chunk(index, delta), tokens)
    for index in choices:
        yield DemoEvent(chunk(index, {}, _FINISH[response.finish]))
    usage = reported(_usage(response.counts), directives, stream=True)
    if asked and usage is not None:
        yield DemoEvent(sse({**base, "choices": [], "usage": usage}))
    yield DemoEvent(_DONE)


def _deltas(response: Completion, call_id: str) -> Iterator[tuple[Json, int]]:
    for piece in response.pieces:
        yield {"content": piece}, 1
    if response.tool is None:
        return
    function = {"name": response.tool.name, "arguments": ""}
    yield {"tool_calls": [{"index": 0, "id": f"call_{call_id}", "type": "function", "function": function}]}, 0
    text = response.tool.text
    middle = len(text) // 2
    yield {"tool_calls": [{"index": 0, "function": {"arguments": text[:middle]}}]}, 0
    yield {"tool_calls": [{"index": 0, "function": {"arguments": text[middle:]}}]}, response.tool.tokens


def _usage(counts: Counts) -> Json:
    return {
        "prompt_tokens": counts.input,
        "completion_tokens": counts.output,
        "total_tokens": counts.input + counts.output,
        "prompt_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


CHAT = DemoEndpoint(DIALECT, _read, _reply)
