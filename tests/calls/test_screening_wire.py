"""Findings in text that arrives in pieces, on the wire: byte by byte, in forms without an SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.calls.kit import differences, log_row, set_price, set_provider
from tests.calls.test_screening import CARD, dlp, screens
from tests.calls.upstream import Upstream, serving
from tests.support import Customer, Farebox, running_farebox

DIGITS = list(CARD.replace(" ", ""))


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def farebox(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("wire")) as served:
        for slug in ("openai", "anthropic", "cohere", "google-ai-studio", "workers-ai"):
            set_provider(served, slug, base_url=upstream.url)
            set_price(served, slug, "@cf/acme/m" if slug == "workers-ai" else "m")
        yield served


def chat(piece: str, index: int = 0) -> Any:
    return {"choices": [{"index": index, "delta": {"content": piece}}]}


def arguments(piece: str) -> Any:
    return {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 1, "function": {"arguments": piece}}]}}]}


def thinking(piece: str) -> Any:
    return {"type": "content_block_delta", "index": 1, "delta": {"type": "thinking_delta", "thinking": piece}}


def cohere(piece: str) -> Any:
    return {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": piece}}}}


def google(piece: str) -> Any:
    return {"candidates": [{"content": {"parts": [{"text": piece}]}}]}


def two_choices(piece: str) -> Any:
    both = {"index": 1, "delta": {"content": "and so on "}}
    return {"choices": [{"index": 0, "delta": {"content": piece}}, both]}


def stream(pieces: list[Any], end: str = "\n\n") -> bytes:
    return "".join(f"data: {json.dumps(piece)}{end}" for piece in pieces).encode()


ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50, "stream": True}
CASES = {
    "chat": ("openai/chat/completions", chat, "\n\n"),
    "chat, one line end": ("openai/chat/completions", chat, "\n"),
    "chat, carriage returns": ("openai/chat/completions", chat, "\r\n\r\n"),
    "tool arguments": ("openai/chat/completions", arguments, "\n\n"),
    "two choices": ("openai/chat/completions", two_choices, "\n\n"),
    "thinking": ("anthropic/v1/messages", thinking, "\n\n"),
    "cohere": ("cohere/v2/chat", cohere, "\n\n"),
    "google": ("google-ai-studio/v1beta/models/m:streamGenerateContent?alt=sse", google, "\n\n"),
    "workers": ("workers-ai/run/@cf/acme/m", lambda piece: {"response": piece}, "\n\n"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_number_in_pieces_is_found_and_no_piece_of_it_passes(farebox: Farebox, upstream: Upstream, case: str) -> None:
    path, event, end = CASES[case]
    customer = farebox.funded("5")
    screens(customer, dlp=dlp("RESPONSE"))
    before = ["some words "] * 70  # a window then ends within the number
    body = ASKED if "google" not in path else {"contents": [{"parts": [{"text": "Hi"}]}]}
    for after in ([". x"], [" x"] * 200):
        upstream.says(stream([event(piece) for piece in (*before, *DIGITS, *after)], end))
        received, whole = read(customer, path, body)
        assert event("4") not in events_of(received)
        assert event("1") not in events_of(received)
        assert "DLP policy violations" in received
        assert whole == ("cohere" not in path and "workers" not in path), (
            "their SDKs do not treat any event as an error"
        )
        assert (customer.balance.held, differences(farebox)) == (0, [])
    upstream.says(stream([event(piece) for piece in (*before, *DIGITS[:-1], "2", *after)], end))
    received, _ = read(customer, path, body)
    assert event("2") in events_of(received), "not a card number's check digit"
    assert received.count("some words") == len(before), "everything passes"
    upstream.says(stream([event(piece) for piece in (*DIGITS, "1", "1", "1", "1", "1", " x")], end))
    assert "violations" not in read(customer, path, body)[0], "a longer number is not a card number"


def test_a_number_after_an_escape_in_tool_arguments_is_found(farebox: Farebox, upstream: Upstream) -> None:
    customer = farebox.funded("5")
    screens(customer, dlp=dlp("RESPONSE"))
    for escape in (("\\", "n"), ("\\u00", "e9\\u", "003e"), ("\\\\", "t")):
        said = ['{"rows": "', *["card "] * 50, *escape, *DIGITS, '"}']
        upstream.says(stream([arguments(piece) for piece in (*said, *["x "] * 200)]))
        received, _ = read(customer, "openai/chat/completions", ASKED)
        assert "DLP policy violations" in received
        assert arguments("1") not in events_of(received)
        message = {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "".join(said)}}]}
        upstream.says(json.dumps({"choices": [{"message": message}]}).encode(), "application/json")
        url = f"{customer.gateway_url}/openai/chat/completions"
        blocked = httpx.post(url, json=ASKED | {"stream": False}, headers=customer.headers)
        assert (blocked.status_code, blocked.json()["internalCode"]) == (400, 2030), blocked.text[:300]
    assert (customer.balance.held, differences(farebox)) == (0, [])


def test_json_declared_as_a_form_is_read_as_json(farebox: Farebox, upstream: Upstream) -> None:
    customer = farebox.funded("5")
    screens(customer, dlp=dlp("REQUEST"))
    said = json.dumps(ASKED | {"messages": [{"role": "user", "content": CARD}]}).replace("4111", "\\u0034111").encode()
    headers = customer.headers | {"content-type": "application/x-www-form-urlencoded"}
    url = f"{customer.gateway_url}/openai/chat/completions"
    blocked = httpx.post(url, content=said, headers=headers)
    assert (blocked.status_code, blocked.json()["internalCode"]) == (400, 2029), blocked.text[:300]


def test_a_growing_array_and_a_document_of_any_size_are_judged_as_a_whole(farebox: Farebox, upstream: Upstream) -> None:
    customer = farebox.funded("5")
    screens(customer, dlp=dlp("RESPONSE"))
    url = f"{customer.gateway_url}/google-ai-studio/v1beta/models/m:streamGenerateContent"
    asked = {"contents": [{"parts": [{"text": "Hi"}]}]}
    for filler in ("", "word " * 300_000):
        pieces = [google(piece) for piece in (filler, *DIGITS, ".")]
        upstream.says(json.dumps(pieces).encode(), "application/json")
        blocked = httpx.post(url, json=asked, headers=customer.headers, timeout=60)
        assert (blocked.status_code, blocked.json()["internalCode"]) == (400, 2030), blocked.text[:300]
        assert blocked.json()["error"]["status"] == "INVALID_ARGUMENT"
    upstream.says(json.dumps([google("word " * 1_800_000)]).encode(), "application/json")
    too_large = httpx.post(url, json=asked, headers=customer.headers, timeout=60)
    assert (too_large.status_code, too_large.json()["internalCode"]) == (502, 2981), too_large.text[:300]
    screens(customer, dlp=dlp("RESPONSE", action="FLAG"))
    passed = httpx.post(url, json=asked, headers=customer.headers, timeout=60)
    assert (passed.status_code, len(passed.content)) == (200, len(upstream.response))
    assert log_row(customer, passed.headers["cf-aig-log-id"])["unscreened"] == ["RESPONSE: it is too large"]
    assert (customer.balance.held, differences(farebox)) == (0, [])


def events_of(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def read(customer: Customer, path: str, body: Any) -> tuple[str, bool]:
    """The part of a stream that arrived, and whether its connection ended cleanly."""
    received = ""
    with httpx.stream(
        "POST", f"{customer.gateway_url}/{path}", json=body, headers=customer.headers, timeout=60
    ) as response:
        assert response.status_code == 200, response.read()
        try:
            for text in response.iter_text():
                received += text
        except httpx.RemoteProtocolError:
            return received, False
    return received, True
