"""OpenAI's responses, as the demo provider answers them."""

from collections.abc import Iterator

from farebox.demo_provider.directives import Directives
from farebox.demo_provider.openai_chat import DIALECT, forced_tool
from farebox.demo_provider.prompt import (
    DemoRequest,
    Json,
    Prompt,
    count,
    json_object,
    last_user_text,
    model_in,
    objects,
    words_in,
)
from farebox.demo_provider.responding import (
    FAILURE,
    SSE_HEADERS,
    Completion,
    Counts,
    DemoEndpoint,
    DemoEvent,
    Mark,
    Reply,
    complete,
    json_reply,
    named_sse,
    reported,
)

_FAILURE = named_sse({"type": "error", "code": "server_error", "message": FAILURE, "param": None, "sequence_number": 3})


def _read(call: DemoRequest) -> Prompt:
    body = json_object(call.body)
    content = body.get("input")
    tools = objects(body, "tools")
    return Prompt(
        model=model_in(body),
        text=content if isinstance(content, str) else last_user_text(objects(body, "input")),
        input_tokens=words_in(body.get("instructions")) + words_in(content) + words_in(tools),
        stream=body.get("stream") is True,
        max_tokens=count(body, "max_output_tokens"),
        tool=forced_tool(body, [tool for tool in tools if tool.get("type") == "function"]),
        body=body,
    )


def _reply(prompt: Prompt, directives: Directives, mark: Mark) -> Reply:
    response = complete(prompt, directives)
    if prompt.stream:
        events = _events(prompt, directives, response, mark)
        return Reply(headers=SSE_HEADERS, events=events, failure=_FAILURE, input_tokens=prompt.input_tokens)
    usage = reported(_usage(response.counts), directives)
    return json_reply(prompt, _response(prompt, mark, response, usage), response.counts.output)


def _events(prompt: Prompt, directives: Directives, response: Completion, mark: Mark) -> Iterator[DemoEvent]:
    started = _response(prompt, mark, None, None)
    ended = _response(prompt, mark, response, reported(_usage(response.counts), directives, stream=True))
    frames = [
        ({"type": "response.created", "response": started}, response.counts.reasoning),
        ({"type": "response.in_progress", "response": started}, 0),
        *(_text_events(response, mark) if response.tool is None else _tool_events(response, mark)),
        ({"type": f"response.{ended['status']}", "response": ended}, 0),
    ]
    for number, (data, tokens) in enumerate(frames):
        yield DemoEvent(named_sse({**data, "sequence_number": number}), tokens)


def _text_events(response: Completion, mark: Mark) -> Iterator[tuple[Json, int]]:
    item = _item(response, mark)
    place: Json = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    opening = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": opening}, 0
    yield {"type": "response.content_part.added", **place, "part": _part("")}, 0
    for piece in response.pieces:
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}, 1
    yield {"type": "response.output_text.done", **place, "text": response.text, "logprobs": []}, 0
    yield {"type": "response.content_part.done", **place, "part": _part(response.text)}, 0
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}, 0


def _tool_events(response: Completion, mark: Mark) -> Iterator[tuple[Json, int]]:
    item = _item(response, mark)
    place: Json = {"item_id": item["id"], "output_index": 0}
    opening = {**item, "status": "in_progress", "arguments": ""}
    text: str = item["arguments"]
    middle = len(text) // 2
    yield {"type": "response.output_item.added", "output_index": 0, "item": opening}, 0
    yield {"type": "response.function_call_arguments.delta", **place, "delta": text[:middle]}, 0
    yield {"type": "response.function_call_arguments.delta", **place, "delta": text[middle:]}, response.counts.output
    done = {"type": "response.function_call_arguments.done", **place, "name": item["name"], "arguments": text}
    yield done, 0
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}, 0


def _response(prompt: Prompt, mark: Mark, response: Completion | None, usage: Json | None) -> Json:
    """The response object: as it begins (no response yet) or as it ends."""
    short = response is not None and response.finish == "length"
    return {
        "id": f"resp_demo_{mark.serial}",
        "object": "response",
        "created_at": mark.created,
        "status": "in_progress" if response is None else "incomplete" if short else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if short else None,
        "instructions": prompt.body.get("instructions"),
        "max_output_tokens": prompt.max_tokens,
        "model": prompt.model,
        "output": [] if response is None else [_item(response, mark)],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": prompt.body.get("tool_choice") or "auto",
        "tools": prompt.body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "metadata": {},
    }


def _item(response: Completion, mark: Mark) -> Json:
    status = "incomplete" if response.finish == "length" else "completed"
    if response.tool is None:
        content = [_part(response.text)]
        name = f"msg_demo_{mark.serial}"
        return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}
    return {
        "id": f"fc_demo_{mark.serial}",
        "type": "function_call",
        "status": status,
        "call_id": f"call_demo_{mark.serial}",
        "name": response.tool.name,
        "arguments": response.tool.text,
    }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(counts: Counts) -> Json:
    return {
        "input_tokens": counts.input,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.cache_write},
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.input + counts.output,
    }


RESPONSES = DemoEndpoint(DIALECT, _read, _reply)
