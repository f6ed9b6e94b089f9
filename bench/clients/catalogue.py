"""The clients that are run, and their versions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.clients import agents
from bench.clients.agents import Start


@dataclass(frozen=True, slots=True)
class Client:
    name: str
    """The name of its function in probe.py, probe.mjs or agents.py."""
    kind: Literal["python", "node", "python agent", "node agent"]
    packages: tuple[str, ...]
    """Requirements for pip or npm; the first one is the client itself."""
    note: str = ""
    streams: bool = True
    program: str = ""
    """The name of an agent's program."""
    start: Callable[[Path, str, str, str], Start] | None = None
    missing: str = ""
    """Why the client is not run; empty if it is."""

    @property
    def key(self) -> str:
        """The unique name of the client on the command line."""
        return f"{'js' if self.kind == 'node' else 'py'}-{self.name}" if self.start is None else self.name

    @property
    def version(self) -> str:
        name, _, version = self.packages[0].replace("==", "@").rpartition("@")
        return f"{name} {version}"


def _python(name: str, *packages: str, note: str = "", streams: bool = True) -> Client:
    return Client(name, "python", packages, note, streams)


def _node(name: str, *packages: str, note: str = "", streams: bool = True) -> Client:
    return Client(name, "node", packages, note, streams)


_AI = "ai@7.0.173"

CLIENTS = (
    _python("openai", "openai==3.57.0"),
    _python("openai_responses", "openai==3.57.0", note=", Responses"),
    _python("anthropic", "anthropic==2.14.0"),
    _python("google_genai", "google-genai==3.6.1"),
    _python("groq", "groq==1.7.0"),
    _python("mistral", "mistralai==3.7.0"),
    _python("cohere", "cohere==7.3.1"),
    _python("cloudflare", "cloudflare==5.9.0", note=", `ai.run`", streams=False),
    _python("litellm", "litellm==1.110.2", note=", `openai/…`"),
    _python("litellm_anthropic", "litellm==1.110.2", note=", `anthropic/…`"),
    _python("langchain_openai", "langchain-openai==1.7.4"),
    _python("langchain_anthropic", "langchain-anthropic==1.7.10"),
    _python("langchain_google_genai", "langchain-google-genai==4.4.3"),
    _python("langchain_cloudflare", "langchain-cloudflare==0.4.3"),
    _python("pydantic_ai", "pydantic-ai-slim[openai]==2.68.0"),
    _python("openai_agents", "openai-agents==0.24.0"),
    _python("instructor", "instructor==1.17.0"),
    _python("llama_index", "llama-index-llms-openai-like==0.8.1"),
    _node("openai", "openai@7.59.0"),
    _node("openai_responses", "openai@7.59.0", note=", Responses"),
    _node("openai_agents", "@openai/agents@0.20.0", "openai@7.59.0"),
    _node("anthropic", "@anthropic-ai/sdk@1.15.0"),
    _node("google_genai", "@google/genai@3.3.0"),
    _node("groq", "groq-sdk@1.6.0"),
    _node("mistral", "@mistralai/mistralai@2.7.0"),
    _node("cohere", "cohere-ai@8.1.0"),
    _node("cloudflare", "cloudflare@7.3.0", note=", `ai.run`", streams=False),
    _node("langchain_openai", "@langchain/openai@1.6.0"),
    _node("ai_openai", "@ai-sdk/openai@4.0.118", _AI),
    _node("ai_anthropic", "@ai-sdk/anthropic@4.0.105", _AI),
    _node("ai_google", "@ai-sdk/google@4.0.121", _AI),
    _node("ai_compatible", "@ai-sdk/openai-compatible@3.0.92", _AI),
    _node("ai_openrouter", "@openrouter/ai-sdk-provider@3.1.0", _AI),
    _node("ai_gateway", "ai-gateway-provider@4.0.1", _AI, "@ai-sdk/openai@4.0.118", note=", universal endpoint"),
    _node("workers_ai", "workers-ai-provider@4.0.0", _AI),
    Client("codex", "node agent", ("@openai/codex@0.171.0",), program="codex", start=agents.codex),
    Client(
        "claude_code", "node agent", ("@anthropic-ai/claude-code@2.1.332",), program="claude", start=agents.claude_code
    ),
    Client("gemini_cli", "node agent", ("@google/gemini-cli@0.61.0",), program="gemini", start=agents.gemini_cli),
    Client("opencode", "node agent", ("opencode-ai@1.18.33",), program="opencode", start=agents.opencode),
    Client("qwen_code", "node agent", ("@qwen-code/qwen-code@0.24.4",), program="qwen", start=agents.qwen_code),
    Client("cline", "node agent", ("cline@3.0.65",), program="cline", start=agents.cline),
    Client("continue_cli", "node agent", ("@continuedev/cli@1.5.47",), program="cn", start=agents.continue_cli),
    Client("pi", "node agent", ("@mariozechner/pi-coding-agent@0.73.1",), program="pi", start=agents.pi),
    Client("aider", "python agent", ("aider-chat==0.86.2",), program="aider", start=agents.aider),
)

NOT_DRIVEN = {
    "@charmland/crush 0.96.1": "its npm package downloads the program from a host that could not be reached",
    "goose": "on neither npm nor PyPI: the packages of that name are by others",
    "mini-swe-agent 2.4.6": "goes on until the model calls its tool to submit, which the demo provider does not",
    "mistral-vibe 3.0.3": "needs Python 3.12",
}
"""Agents that were examined but have no row, and why."""
