"""A request's tools, wherever it declares them, and what each of them costs.

One table per wire format is the allow-list: a tool in it costs only tokens, or is counted in the response. Any other
runs at the provider for a price that the response does not report, so a request that declares it is not sent on the
operator's key. The kind of a tool is its `type` without the date at its end (`web_search_20260209` is a `web_search`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from farebox.pricing.model import UnseenInput
from farebox.providers.formats import bodies
from farebox.quoting import quoted
from farebox.usage import Quantity


class DeclaredTool(msgspec.Struct):
    """A tool as declared in OpenAI's and Anthropic's formats, as far as it affects the cost."""

    type: Any = None
    max_uses: Any = None
    model: Any = None
    environment: Any = None
    tools: Any = None


class ToolRule(msgspec.Struct, frozen=True):
    """How a kind of tool is billed."""

    hosted: bool = False
    """Whether the provider runs it, so that its results are read, and billed, as input."""
    meter: str = ""
    """The meter of its uses, which the response reports; empty for a tool that costs tokens only."""


class Tool(msgspec.Struct, frozen=True):
    """A tool that the request declares."""

    kind: str
    """Its kind, independent of the format: `function`, `web_search`, `web_fetch`, `url_context`, `mcp`, `file_search`,
    `code_execution`, `advisor`…
    """
    raw: str
    """Its name in the request."""
    hosted: bool = False
    """See Rule."""
    meter: str = ""
    """See Rule."""
    uses: int | None = None
    """How often at most it may run in this call; None if the request sets no limit."""
    model: str = ""
    """The model that it runs, if it names one."""
    unmetered: str | None = None
    """Why its cost cannot be determined; None if it can."""


_CLIENT: Final = ToolRule()
_HOSTED: Final = ToolRule(hosted=True)
_WEB_SEARCH: Final = ToolRule(hosted=True, meter="web_searches")

CHAT: Final[Mapping[str, ToolRule]] = {"function": _CLIENT, "custom": _CLIENT}
"""OpenAI's chat completions and compatible formats, Cohere, Workers AI."""

RESPONSES: Final[Mapping[str, ToolRule]] = {
    **CHAT,
    "namespace": _CLIENT,  # its own tools are checked one by one
    "tool_search": _CLIENT,  # finds tools that the request declares, wherever it runs
    "local_shell": _CLIENT,
    "shell": _CLIENT,  # in the caller's own environment: see `_hosted_shell`
    "apply_patch": _CLIENT,
    "computer": _CLIENT,
    "computer_use": _CLIENT,
    "computer_use_preview": _CLIENT,
    "web_search": _WEB_SEARCH,
    "web_search_preview": _WEB_SEARCH,
    "file_search": ToolRule(hosted=True, meter="storage_searches"),
    "mcp": _HOSTED,
}

RESEARCH: Final[Mapping[str, ToolRule]] = {
    **CHAT,
    "web_search": _WEB_SEARCH,
    "fetch_url": _HOSTED,
    "mcp": _HOSTED,
}
"""Perplexity's, in the form of Responses."""

MESSAGES: Final[Mapping[str, ToolRule]] = {
    "custom": _CLIENT,
    "bash": _CLIENT,
    "text_editor": _CLIENT,
    "memory": _CLIENT,
    "computer": _CLIENT,
    "computer_toolset": _CLIENT,
    "browser_toolset": _CLIENT,
    "tool_search_tool_bm25": _CLIENT,
    "tool_search_tool_regex": _CLIENT,
    "web_search": _WEB_SEARCH,
    "web_fetch": _HOSTED,
    "mcp_toolset": _HOSTED,
    "advisor": _HOSTED,
    "code_execution": _HOSTED,  # only together with a tool that makes it free: see `_charged_code`
}

GENERATE: Final[Mapping[str, ToolRule]] = {
    "function_declarations": _CLIENT,
    "computer_use": _CLIENT,
    "google_search": _WEB_SEARCH,
    "google_search_retrieval": _WEB_SEARCH,
    "code_execution": _HOSTED,
    "url_context": _HOSTED,
    "file_search": _HOSTED,  # searching is free, and what it finds is input like any other
    "mcp_servers": _HOSTED,
}
"""Google's, by the field of a tool, in either of its spellings."""

_KINDS: Final[Mapping[str, str]] = {
    "web_search_preview": "web_search",
    "google_search": "web_search",
    "google_search_retrieval": "web_search",
    "computer_use": "computer",
    "computer_use_preview": "computer",
    "computer_toolset": "computer",
    "function_declarations": "function",
    "custom": "function",
    "fetch_url": "web_fetch",
    "mcp_toolset": "mcp",
    "mcp_servers": "mcp",
    "tool_search_tool_bm25": "tool_search",
    "tool_search_tool_regex": "tool_search",
}
"""Names of one kind in several forms."""

_DATE: Final = re.compile(r"[_-](?P<year>\d{4})[_-]?(?P<rest>\d{2}[_-]?\d{2})$")
_DATED_MAX: Final = 100
"""A longer name is not a known tool's, and is not searched for a date."""
_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_LISTINGS: Final = frozenset({"mcp_list_tools"})
"""Input items whose `tools` are a server's answer, not declarations."""
_FREE_CODE_FROM: Final = "20260209"
"""From this version on, Anthropic's search and fetch include the running of code."""


def of_chat(tools: Iterable[DeclaredTool] | None) -> tuple[Tool, ...]:
    """The tools of a chat completion, or of another form that knows functions only."""
    return tuple(_tool(CHAT, tool) for tool in tools or ())


def of_responses(
    tools: Iterable[DeclaredTool] | None, items: object, most: int | None, rules: Mapping[str, ToolRule] = RESPONSES
) -> tuple[Tool, ...]:
    """The tools of OpenAI's Responses, including those in input items (`additional_tools`, `tool_search_output`) and
    those inside namespaces. `most`: the request's `max_tool_calls`. Raises InvalidRequest.
    """
    found = [tool for outer in tools or () for tool in _flatten(outer)]
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and item.get("tools") and item.get("type") not in _LISTINGS:
            found.extend(tool for outer in _declared(item["tools"]) for tool in _flatten(outer))
    # Calls of an MCP server are not among those that `max_tool_calls` is documented to count.
    return tuple(_tool(rules, tool, _hosted_shell(tool), None if _name(tool) == "mcp" else most) for tool in found)


def of_messages(tools: Iterable[DeclaredTool] | None, servers: object, contents: Iterable[object]) -> tuple[Tool, ...]:
    """The tools of Anthropic's Messages: `tools`, `mcp_servers`, and those that a message adds (`tool_addition`).

    Raises InvalidRequest.
    """
    found = list(tools or ())
    found.extend(_declared(list(_additions(contents))))
    charged = _charged_code(found)
    known = [_tool(MESSAGES, tool, charged if _name(tool) == "code_execution" else None) for tool in found]
    if isinstance(servers, list) and not any(tool.kind == "mcp" for tool in known):
        known.extend(Tool("mcp", "mcp_servers", hosted=True) for _ in servers)
    return tuple(known)


def of_generate(tools: Iterable[Mapping[str, msgspec.Raw]]) -> tuple[Tool, ...]:
    """The tools of Google's generateContent."""
    return tuple(
        _by_rule(GENERATE, _HUMP.sub("_", field).lower(), field)
        for tool in tools
        for field, value in tool.items()
        if bodies.given(value)
    )


def names(tools: Iterable[Tool]) -> tuple[str, ...]:
    """The tools' names: by kind, and as in the request, with and without their date."""
    different = dict.fromkeys((tool.kind, tool.raw) for tool in tools)
    return tuple(dict.fromkeys(name for kind, raw in different for name in (kind, raw, _undated(raw))))


def unmetered(tools: Iterable[Tool]) -> str | None:
    """Why the cost of one of these tools cannot be determined; None if all can be metered."""
    return next((tool.unmetered for tool in tools if tool.unmetered), None)


def counted(tools: Iterable[Tool], each: int, *, shared: bool = False) -> dict[str, Quantity]:
    """The most that the response may count of each meter. `each`: assumed uses of a tool without a limit; `shared`:
    the tools of one meter share one bound instead of having one each.
    """
    most: dict[str, Quantity] = {}
    for tool in tools:
        if tool.meter:
            uses = each if tool.uses is None else tool.uses
            most[tool.meter] = max(most.get(tool.meter, 0), uses) if shared else most.get(tool.meter, 0) + uses
    return most


def unseen(tools: Iterable[Tool], *, uses: int | None = None) -> tuple[UnseenInput, ...]:
    """The unseen input from tools that run at the provider. `uses`: assumed for a tool without a limit."""
    found = (
        UnseenInput(tool.kind, uses=uses if tool.uses is None else tool.uses)
        for tool in tools
        if tool.hosted or tool.kind == "tool_search"
    )
    return tuple(dict.fromkeys(found))


def _tool(
    rules: Mapping[str, ToolRule], tool: DeclaredTool, charged: str | None = None, most: int | None = None
) -> Tool:
    raw = "custom" if tool.type is None else str(tool.type)  # a function of the caller's own
    model = tool.model if isinstance(tool.model, str) else ""
    own = tool.max_uses if isinstance(tool.max_uses, int) and tool.max_uses >= 0 else None
    return _by_rule(rules, _undated(raw), raw, charged, most if own is None else own, model)


def _by_rule(
    rules: Mapping[str, ToolRule],
    name: str,
    raw: str,
    charged: str | None = None,
    uses: int | None = None,
    model: str = "",
) -> Tool:
    rule = rules.get(name)
    if rule is None:
        charged = f"what the tool {quoted(raw)} costs is not in the response"
    rule = rule or _CLIENT
    return Tool(
        _KINDS.get(name, name),
        raw,
        rule.hosted,
        rule.meter,
        uses if rule.hosted else None,
        model,
        charged,
    )


def _flatten(tool: DeclaredTool) -> Iterator[DeclaredTool]:
    """A tool, and the tools inside it if it is a namespace."""
    yield tool
    if _name(tool) == "namespace" and tool.tools:
        for inner in _declared(tool.tools):
            yield from _flatten(inner)


def _declared(tools: object) -> list[DeclaredTool]:
    return bodies.convert(tools, list[DeclaredTool])


def _additions(contents: Iterable[object]) -> Iterator[object]:
    """Definitions inside messages. An addition may also refer to a tool declared elsewhere, which
    is not a definition.
    """
    for content in contents:
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict) and block.get("type") == "tool_addition":
                added = block.get("tool")
                if isinstance(added, dict) and added.get("definition"):
                    yield added["definition"]


def _name(tool: DeclaredTool) -> str:
    return _undated(str(tool.type))


def _undated(name: str) -> str:
    return name if len(name) > _DATED_MAX else _DATE.sub("", name)


def _hosted_shell(tool: DeclaredTool) -> str | None:
    """A shell costs nothing if the caller runs its commands; in a container of the provider it is billed by time."""
    local = isinstance(tool.environment, dict) and tool.environment.get("type") == "local"
    if _name(tool) != "shell" or local:
        return None
    return 'what a hosted shell costs is not in the response: use a `shell` with `"environment": {"type": "local"}`'


def _charged_code(tools: list[DeclaredTool]) -> str | None:
    """Code execution is billed by a container's running time, but is free together with newer
    search and fetch tools.
    """
    for tool in tools:
        dated = _DATE.search(str(tool.type)) if _name(tool) in ("web_search", "web_fetch") else None
        if dated and dated["year"] + dated["rest"] >= _FREE_CODE_FROM:
            return None
    return (
        "what the tool `code_execution` costs is not in the response, unless a newer web search or fetch is next to it"
    )
