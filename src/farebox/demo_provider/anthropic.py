"""Anthropic's messages, as the demo provider answers them."""

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
    objects,
    read_models,
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
    named_sse,
    reported,
    with_usage,
)

_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _error(status: int, message: str) -> Json:
    kind = _ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_demo"}


DIALECT = Dialect(_error)


def _read(call: DemoRequest) -> Prompt:
    body = json_object(call.body)
    messages = objects(body, "messages")
    tools = objects(body, "tools")
    return Prompt(
        model=model_in(body),
        text=last_user_text(messages),
        input_tokens=words_in(body.get("system")) + words_in(messages) + words_in(tools),
        stream=body.get("stream") is True,
        max_tokens=count(body, "max_tokens"),
        tool=_forced_tool(body, tools),
        body=body,
    )


def _forced_tool(body: Json, tools: list[Json]) -> ToolCall | None:
    choice = body.get("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") not in ("any", "tool"):
        return None
    return tool_call(tools, choice.get("name"), "input_schema")


def _reply(prompt: Prompt, directives: Directives, mark: Mark) -> Reply:
    response = complete(prompt, directives)
    if prompt.stream:
        failure = named_sse(_error(529, FAILURE))
        events = _events(prompt, directives, response, mark)
        return Reply(headers=SSE_HEADERS, events=events, failure=failure, input_tokens=prompt.input_tokens)
    message = _message(prompt, mark) | {"content": [_block(response, mark)], "stop_reason": _FINISH[response.finish]}
    usage = reported(_usage(response.counts), directives)
    return json_reply(prompt, with_usage(message, "usage", usage), response.counts.output)


def _message(prompt: Prompt, mark: Mark) -> Json:
    return {
        "id": f"msg_demo_{mark.serial}",
        "type": "message",
        "role": "assistant",
        "model": prompt.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _block(response: Completion, mark: Mark) -> Json:
    if response.tool is None:
        return {"type": "text", "text": response.text}
    return {
        "type": "tool_use",
        "id": f"toolu_demo_{mark.serial}",
        "name": response.tool.name,
        "input": response.tool.arguments,
    }


def _events(prompt: Prompt, directives: Directives, response: Completion, mark: Mark) -> Iterator[DemoEvent]:
    usage = _usage(response.counts)
    # Like the real API: the first event already reports an output token, and the figure of the last event replaces it.
    first = reported(usage | {"output_tokens": min(1, response.counts.output)}, directives, stream=True)
    message = with_usage(_message(prompt, mark), "usage", first)
    yield DemoEvent(named_sse({"type": "message_start", "message": message}), response.counts.reasoning)
    empty: Json = {"text": ""} if response.tool is None else {"input": {}}
    block = _block(response, mark) | empty
    yield DemoEvent(named_sse({"type": "content_block_start", "index": 0, "content_block": block}))
    yield DemoEvent(named_sse({"type": "ping"}))
    for delta, tokens in _deltas(response):
        yield DemoEvent(named_sse({"type": "content_block_delta", "index": 0, "delta": delta}), tokens)
    yield DemoEvent(named_sse({"type": "content_block_stop", "index": 0}))
    stop = {"stop_reason": _FINISH[response.finish], "stop_sequence": None}
    last = with_usage({"type": "message_delta", "delta": stop}, "usage", reported(usage, directives, stream=True))
    yield DemoEvent(named_sse(last))
    yield DemoEvent(named_sse({"type": "message_stop"}))


def _deltas(response: Completion) -> Iterator[tuple[Json, int]]:
    for piece in response.pieces:
        yield {"type": "text_delta", "text": piece}, 1
    if response.tool is not None:
        text = response.tool.text
        middle = len(text) // 2
        yield {"type": "input_json_delta", "partial_json": text[:middle]}, 0
        yield {"type": "input_json_delta", "partial_json": text[middle:]}, response.tool.tokens


def _usage(counts: Counts) -> Json:
    """Anthropic's `input_tokens` does not include tokens read from or written to the cache."""
    usage: Json = {
        "input_tokens": counts.input - counts.cached - counts.cache_write,
        "cache_creation_input_tokens": counts.cache_write,
        "cache_read_input_tokens": counts.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": counts.cache_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": counts.output,
        "service_tier": "standard",
    }
    if counts.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": counts.reasoning}
    return usage


def _count_reply(prompt: Prompt, directives: Directives, _mark: Mark) -> Reply:
    return json_reply(prompt, reported({"input_tokens": prompt.input_tokens}, directives) or {})


def _models_reply(prompt: Prompt, _directives: Directives, _mark: Mark) -> Reply:
    model = {
        "type": "model",
        "id": prompt.model,
        "display_name": "Farebox demo model",
        "created_at": "2026-01-01T00:00:00Z",
    }
    if prompt.body.get("one"):
        return json_reply(prompt, model)
    return json_reply(prompt, {"data": [model], "has_more": False, "first_id": prompt.model, "last_id": prompt.model})


MESSAGES = DemoEndpoint(DIALECT, _read, _reply)
COUNT_TOKENS = DemoEndpoint(DIALECT, _read, _count_reply)
MODELS = DemoEndpoint(DIALECT, read_models, _models_reply)
