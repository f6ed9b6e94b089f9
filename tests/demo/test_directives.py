"""The effects of directives on a response, over plain HTTP."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import httpx2
import pytest

from farebox.clock import SystemClock
from farebox.demo_provider.delivery import GARBAGE
from farebox.demo_provider.directives import BadDirective, Directives, in_text, parse
from farebox.demo_provider.provider import RunningProvider

Until: TypeAlias = Callable[[Callable[[], bool]], Awaitable[None]]

CHAT = "/v1/chat/completions"


def chat_body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


async def directed(http: httpx2.AsyncClient, directives: str, **fields: Any) -> httpx2.Response:
    return await http.post(CHAT, json=chat_body(**fields), headers={"x-demo": directives})


def streamed(body: str) -> list[str]:
    return [line.removeprefix("data: ") for line in body.split("\n\n") if line]


def test_reading() -> None:
    assert parse("tokens=3, gap=2", "tokens=4 hang=1") == Directives(tokens=4, gap=2, hang=True)
    assert in_text("say demo: tokens=3, cut=1 please") == (" tokens=3, cut=1", "say   please")
    assert in_text("a democracy=1 of a demo: none") == ("", "a democracy=1 of a demo: none")
    for wrong in ("tokes=1", "tokens=-1", "tokens=", "usage=much", "status=200", "cut"):
        with pytest.raises(BadDirective):
            parse(wrong)


async def test_the_script_overrides_the_header_and_the_header_the_text(
    demo: RunningProvider, http: httpx2.AsyncClient
) -> None:
    queued = await http.post("/_demo/script", json={"answers": [{"directives": "tokens=3"}, {"directives": ""}]})
    assert queued.json() == {"queued": 2}
    lengths = []
    for headers in ({"x-demo": "tokens=5"}, {"x-demo": "tokens=5"}, {}):
        response = await http.post(CHAT, json=chat_body("hi demo: tokens=50"), headers=headers)
        lengths.append(response.json()["usage"]["completion_tokens"])
    assert lengths == [3, 5, 50]
    assert (await http.post("/_demo/script", json={"answers": [{"directives": "x=1"}]})).status_code == 400


async def test_a_misspelt_directive_is_refused(http: httpx2.AsyncClient) -> None:
    response = await directed(http, "tokns=5")
    assert response.status_code == 400
    assert "tokns" in response.json()["error"]["message"]


async def test_length_and_size(http: httpx2.AsyncClient) -> None:
    response = (await directed(http, "tokens=200")).json()
    assert response["usage"]["completion_tokens"] == len(response["choices"][0]["message"]["content"].split()) == 200
    response = (await directed(http, "tokens=200", max_tokens=150)).json()
    assert response["usage"]["completion_tokens"] == 150
    response = (await directed(http, "tokens=7 big=100000")).json()
    text = response["choices"][0]["message"]["content"]
    assert len(text) == 100_000
    assert response["usage"]["completion_tokens"] == len(text.split()) == 7


async def test_details_are_parts_of_the_usage(http: httpx2.AsyncClient) -> None:
    response = (await directed(http, "tokens=10 cached=1 cache_write=5 reasoning=4", text="a b c")).json()
    usage = response["usage"]
    assert usage["prompt_tokens"] == 3
    assert usage["prompt_tokens_details"] == {"cached_tokens": 1, "cache_write_tokens": 2, "audio_tokens": 0}
    assert usage["completion_tokens"] == 14
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 4
    usage = (await directed(http, "reasoning=4", max_tokens=6)).json()["usage"]
    assert usage["completion_tokens"] == 6


@pytest.mark.parametrize(
    ("lie", "expected"),
    [("none", None), ("negative", -2), ("absurd", 10**15 + 1), ("string", "1"), ("float", 1.5)],
)
async def test_false_usage(http: httpx2.AsyncClient, lie: str, expected: object) -> None:
    response = (await directed(http, f"usage={lie} tokens=1")).json()
    assert response.get("usage", {}).get("completion_tokens") == expected
    body = (await directed(http, f"usage={lie} tokens=1", stream=True, stream_options={"include_usage": True})).text
    usages = [json.loads(data).get("usage") for data in streamed(body)[:-1]]
    assert [usage["completion_tokens"] for usage in usages if usage] == ([expected] if lie != "none" else [])


async def test_a_stream_without_usage(http: httpx2.AsyncClient) -> None:
    response = await directed(http, "nousage_stream=1", stream=True, stream_options={"include_usage": True})
    assert '"usage":{' not in response.text
    assert response.text.endswith("data: [DONE]\n\n")
    for path, body in (
        ("/v1/messages", chat_body("hi", stream=True)),
        ("/v1/models/m:streamGenerateContent?alt=sse", {"contents": []}),
    ):
        response = await http.post(path, json=body, headers={"x-demo": "nousage_stream=1"})
        assert response.status_code == 200
        assert "usage" not in response.text


async def test_delay_and_gap(http: httpx2.AsyncClient) -> None:
    clock = SystemClock()
    started = clock.monotonic()
    await directed(http, "delay=100")
    assert clock.monotonic() - started >= 0.1
    started = clock.monotonic()
    await directed(http, "gap=30 tokens=2", stream=True)  # five events
    assert clock.monotonic() - started >= 4 * 0.03


async def received(http: httpx2.AsyncClient, directives: str, **fields: Any) -> tuple[bytes, bool]:
    """The part of the response that arrived, and whether it broke off."""
    arrived = b""
    try:
        async with http.stream("POST", CHAT, json=chat_body(**fields), headers={"x-demo": directives}) as response:
            async for chunk in response.aiter_raw():
                arrived += chunk
    except httpx2.RemoteProtocolError:
        return arrived, True
    return arrived, False


async def test_the_cut_directive_breaks_off_the_response(demo: RunningProvider, http: httpx2.AsyncClient) -> None:
    arrived, broken = await received(http, "cut=5", stream=True)
    assert broken
    assert len(streamed(arrived.decode())) == 5
    assert demo.app.journal.stats.tokens_out == 4  # the first event has no word
    arrived, broken = await received(http, "cut=1")
    assert broken
    assert arrived.startswith(b'{"id"')
    arrived, broken = await received(http, "end=5", stream=True)
    assert not broken
    assert len(streamed(arrived.decode())) == 5
    assert [entry["finished"] for entry in demo.app.journal.last()] == [False, False, False]
    stats = demo.app.journal.stats
    assert (stats.completed, stats.disconnects, stats.open) == (0, 0, 0)


async def test_garbage(http: httpx2.AsyncClient) -> None:
    response = await directed(http, "garbage=1")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.content == GARBAGE
    response = await directed(http, "garbage=1", stream=True)
    assert GARBAGE in response.content
    assert response.content.endswith(b"data: [DONE]\n\n")


async def test_a_failure_inside_a_success(http: httpx2.AsyncClient) -> None:
    response = await directed(http, "error_event=1")
    assert (response.status_code, response.json()["error"]["type"]) == (200, "server_error")
    events = streamed((await directed(http, "error_event=1", stream=True)).text)
    assert len(events) == 4
    assert "error" in json.loads(events[-1])


@pytest.mark.parametrize("stream", [True, False])
async def test_the_trickle_directive_changes_only_the_pace(http: httpx2.AsyncClient, stream: bool) -> None:
    async with http.stream(
        "POST", CHAT, json=chat_body(stream=stream), headers={"x-demo": "trickle=1 tokens=3"}
    ) as response:
        chunks = [chunk async for chunk in response.aiter_raw()]
    plain = await directed(http, "tokens=3", stream=stream)
    assert len(b"".join(chunks)) == len(plain.content)
    if stream:
        assert {len(chunk) for chunk in chunks} == {1}


async def test_waiting_ends_with_the_client(demo: RunningProvider, http: httpx2.AsyncClient, until: Until) -> None:
    stats = demo.app.journal.stats
    for number, directives in enumerate(("hang=1", "delay=60000", "gap=60000"), 1):
        with pytest.raises(httpx2.TimeoutException):
            await http.post(
                CHAT,
                json=chat_body(stream=True),
                headers={"x-demo": directives},
                timeout=httpx2.Timeout(0.1),
            )
        await until(lambda: stats.disconnects == number)  # noqa: B023 - awaited within its turn
        assert (stats.disconnects, stats.open, stats.completed) == (number, 0, 0)
