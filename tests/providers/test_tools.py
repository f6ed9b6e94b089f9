"""Where requests declare their tools, and which tools have costs that the response does not report."""

from typing import Any

import msgspec
import pytest

from farebox.providers.formats.base import InvalidRequest, ParsedRequest
from farebox.providers.formats.tools import DeclaredTool, Tool, of_generate, of_messages, of_responses
from tests.providers.samples import body, wire_format

GEMINI = "v1beta/models/gemini-2.5-flash:generateContent"


def parse(slug: str, path: str, **fields: Any) -> ParsedRequest:
    return wire_format(slug, path).parse(path, "application/json", body(**fields))


def responses(tools: list[Any], items: object = "x", most: int | None = None) -> tuple[Tool, ...]:
    return of_responses(msgspec.convert(tools, list[DeclaredTool]), items, most)


def messages(tools: list[Any], servers: object = None, contents: tuple[object, ...] = ()) -> tuple[Tool, ...]:
    return of_messages(msgspec.convert(tools, list[DeclaredTool]), servers, contents)


def generate(tools: list[dict[str, Any]]) -> tuple[Tool, ...]:
    return of_generate(msgspec.json.decode(msgspec.json.encode(tools), type=list[dict[str, msgspec.Raw]]))


def with_tools(kind: str, *tools: dict[str, Any]) -> list[dict[str, Any]]:
    """Input of the Responses API that declares tools."""
    return [{"type": kind, "role": "developer", "tools": list(tools)}, {"role": "user", "content": "Sort Acme's mail."}]


FUNCTION = {"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}
CUSTOM = {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "a"}}
NAMESPACE = {"type": "namespace", "name": "acme", "description": "Acme's", "tools": [FUNCTION, CUSTOM]}
TOOL_SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds", "parameters": {"type": "object"}}
LOCAL_SHELL = {"type": "shell", "environment": {"type": "local"}}
IMAGES = {"type": "image_generation", "output_format": "png"}
CODE = {"type": "code_interpreter", "container": {"type": "auto"}}

TOKENS_ONLY = [
    ("openai", "responses", {"input": "x", "tools": [FUNCTION, CUSTOM, NAMESPACE, TOOL_SEARCH]}),
    ("openai", "responses", {"input": "x", "tools": [LOCAL_SHELL, {"type": "local_shell"}, {"type": "apply_patch"}]}),
    ("openai", "responses", {"input": "x", "tools": [{"type": "computer_use_preview"}, {"type": "computer"}]}),
    ("openai", "responses", {"input": with_tools("additional_tools", NAMESPACE, TOOL_SEARCH), "tools": []}),
    ("openai", "responses", {"input": with_tools("tool_search_output", FUNCTION)}),
    ("openai", "responses", {"input": with_tools("mcp_list_tools", {"name": "image_generation"})}),
    ("openai", "chat/completions", {"messages": [], "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("anthropic", "v1/messages", {"messages": [], "tools": [{"name": "mine", "input_schema": {}}, {"type": "custom"}]}),
    ("anthropic", "v1/messages", {"messages": [], "tools": [{"type": "bash_20250124"}, {"type": "memory_20250818"}]}),
    ("anthropic", "v1/messages", {"messages": [], "tools": [{"type": "text_editor_20250728"}]}),
    ("anthropic", "v1/messages", {"messages": [], "tools": [{"type": "tool_search_tool_bm25_20251119"}]}),
    ("anthropic", "v1/messages", {"messages": [], "tools": [{"type": "browser_toolset_20260801"}]}),
    ("google-ai-studio", GEMINI, {"contents": [], "tools": {"functionDeclarations": []}}),
    ("google-ai-studio", GEMINI, {"contents": [], "tools": [{"googleMaps": None, "computer_use": {}}]}),
    ("cohere", "v2/chat", {"messages": [], "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("workers-ai", "run/@cf/acme/m", {"messages": [], "tools": [{"name": "f", "parameters": {}}]}),
]

UNMETERED = [
    ("openai", "responses", {"input": "x", "tools": [IMAGES]}, "image_generation"),
    ("openai", "responses", {"input": "x", "tools": [CODE]}, "code_interpreter"),
    ("openai", "responses", {"input": "x", "tools": [{"type": "programmatic_tool_calling"}]}, "programmatic"),
    ("openai", "responses", {"input": "x", "tools": [{"type": "shell"}]}, "hosted shell"),
    ("openai", "responses", {"input": "x", "tools": [{"type": "shell_20261101"}]}, "hosted shell"),
    ("openai", "responses", {"input": "x", "tools": [{"type": "namespace-2026-11-01", "tools": [CODE]}]},
     "code_interpreter"),
    ("openai", "responses", {"input": "x", "tools": [{"type": "shell", "environment": {"type": "container_auto"}}]},
     "hosted shell"),
    ("openai", "responses", {"input": "x", "tools": [{**NAMESPACE, "tools": [FUNCTION, IMAGES]}]}, "image_generation"),
    ("openai", "responses", {"input": "x", "tools": [{"type": "namespace", "tools": [{**NAMESPACE, "tools": [CODE]}]}]},
     "code_interpreter"),
    ("openai", "responses", {"input": with_tools("additional_tools", IMAGES), "tools": []}, "image_generation"),
    ("openai", "responses", {"input": with_tools("additional_tools", {**NAMESPACE, "tools": [CODE]})},
     "code_interpreter"),
    ("openai", "responses", {"input": with_tools("tool_search_output", IMAGES)}, "image_generation"),
    ("openai", "responses", {"input": with_tools("an_item_of_tomorrow", IMAGES)}, "image_generation"),
    ("grok", "responses", {"input": "x", "tools": [{"type": "x_search"}]}, "x_search"),
    ("openrouter", "responses", {"input": "x", "tools": [{"type": "openrouter:web_search"}]}, "openrouter"),
    ("openrouter", "chat/completions", {"messages": [], "tools": [{"type": "openrouter:web_search"}]}, "openrouter"),
    ("groq", "chat/completions", {"messages": [], "tools": [{"type": "browser_search"}]}, "browser_search"),
    ("anthropic", "v1/messages", {"messages": [], "tools": [{"type": "xyz_20990101"}]}, "xyz_20990101"),
    ("anthropic", "v1/messages", {"messages": [], "tools": [{"type": "code_execution_20250825"}]}, "code_execution"),
    ("anthropic", "v1/messages", {"messages": [], "tools": [{"type": "code_execution_20260521"},
     {"type": "web_search_20250305"}]}, "code_execution"),
    ("anthropic", "v1/messages", {"messages": [{"role": "system", "content": [{"type": "tool_addition", "tool":
     {"type": "tool_definition", "definition": {"type": "xyz_20990101"}}}]}]}, "xyz_20990101"),
    ("google-ai-studio", GEMINI, {"contents": [], "tools": {"googleMaps": {}}}, "googleMaps"),
    ("google-ai-studio", GEMINI, {"contents": [], "tools": [{"enterprise_web_search": {}}]}, "enterprise_web_search"),
    ("cohere", "v2/chat", {"messages": [], "tools": [{"type": "web"}]}, "web"),
]  # fmt: skip


@pytest.mark.parametrize(("slug", "path", "fields"), TOKENS_ONLY)
def test_tools_that_cost_tokens_only_are_let_through(slug: str, path: str, fields: dict[str, Any]) -> None:
    parsed = parse(slug, path, model="m", **fields)
    assert parsed.unmetered is None
    assert not parsed.demand.allowed


@pytest.mark.parametrize(("slug", "path", "fields", "word"), UNMETERED)
def test_tools_of_unknown_cost_are_named_wherever_they_are_declared(
    slug: str, path: str, fields: dict[str, Any], word: str
) -> None:
    assert word in (parse(slug, path, model="m", **fields).unmetered or "")


def test_searches_are_found_wherever_they_are_declared() -> None:
    items = with_tools("additional_tools", {"type": "web_search", "search_context_size": "high"})
    assert parse("openai", "responses", model="m", input=items).demand.allowed == {"web_searches": 10}
    added = {
        "type": "tool_addition",
        "tool": {"type": "tool_definition", "definition": {"type": "web_search_20260318"}},
    }
    reference = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}}
    requested = [{"role": "system", "content": [added, reference]}]
    assert parse("anthropic", "v1/messages", model="m", messages=requested).demand.allowed == {"web_searches": 10}
    assert parse("google-ai-studio", GEMINI, contents=[], tools={"google_search": {}}).demand.allowed == {
        "web_searches": 10
    }


def test_tools_run_by_the_provider_have_a_maximum_number_of_uses() -> None:
    mcp = {"type": "mcp", "server_label": "acme", "server_url": "https://acme.example/mcp"}
    assert responses([{"type": "web_search_2025_08_26"}, mcp, FUNCTION], most=3) == (
        Tool("web_search", "web_search_2025_08_26", hosted=True, meter="web_searches", uses=3),
        Tool("mcp", "mcp", hosted=True),
        Tool("function", "function"),
    )
    fetch, advisor = {"type": "web_fetch_20260318", "max_uses": 2}, {"type": "advisor_20260301", "model": "opus"}
    assert messages([fetch, advisor, {"name": "mine", "max_uses": 7}]) == (
        Tool("web_fetch", "web_fetch_20260318", hosted=True, uses=2),
        Tool("advisor", "advisor_20260301", hosted=True, model="opus"),
        Tool("function", "custom"),
    )
    assert [tool.kind for tool in generate([{"urlContext": {}, "code_execution": {}}, {"fileSearch": {}}])] == [
        "url_context",
        "code_execution",
        "file_search",
    ]


def test_a_preset_brings_search_along() -> None:
    demand = parse("perplexity-ai", "v1/agent", model="perplexity/sonar", input="x", preset="low").demand
    assert demand.allowed == {"web_searches": 10}
    assert {unseen.kind for unseen in demand.unseen} == {"web_search", "web_fetch"}
    assert not parse("perplexity-ai", "v1/agent", model="perplexity/sonar", input="x").demand.allowed


def test_an_mcp_server_counts_once() -> None:
    server = {"type": "url", "name": "acme", "url": "https://acme.example/mcp"}
    assert [tool.raw for tool in messages([], [server])] == ["mcp_servers"]
    assert [tool.raw for tool in messages([{"type": "mcp_toolset"}], [server])] == ["mcp_toolset"]


def test_code_execution_is_free_with_a_newer_search_or_fetch() -> None:
    code = {"type": "code_execution_20260521"}
    for free in ("web_search_20260209", "web_fetch_20260318"):
        assert [tool.unmetered for tool in messages([code, {"type": free}])] == [None, None]


def test_unreadable_tools_are_refused_with_a_message() -> None:
    for wrong in (7, [7], {"type": "function"}):
        with pytest.raises(InvalidRequest, match="Expected"):
            parse("openai", "responses", model="m", input=[{"type": "additional_tools", "tools": wrong}])
