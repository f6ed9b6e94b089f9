"""Coding agents in their non-interactive mode: the configuration and the command line of each."""

import json
from dataclasses import dataclass
from pathlib import Path

from bench.clients.place import MODEL

PROMPT = "Say hello, and nothing else."


@dataclass(frozen=True, slots=True)
class Start:
    """How to run an agent: the arguments of its program, and environment variables."""

    words: tuple[str, ...]
    variables: dict[str, str]


def codex(home: Path, base: str, token: str, prompt: str) -> Start:
    (home / "config.toml").write_text(f'model = "{MODEL}"\nopenai_base_url = "{base}/openai"\n')
    return Start(("exec", "--skip-git-repo-check", prompt), {"CODEX_HOME": str(home), "CODEX_API_KEY": token})


def claude_code(home: Path, base: str, token: str, prompt: str) -> Start:
    variables = {
        "ANTHROPIC_BASE_URL": f"{base}/anthropic",
        "ANTHROPIC_AUTH_TOKEN": token,
        "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return Start(("--print", "--model", MODEL, prompt), variables)


def gemini_cli(home: Path, base: str, token: str, prompt: str) -> Start:
    (home / ".gemini").mkdir()
    (home / ".gemini" / "settings.json").write_text('{"security": {"auth": {"selectedType": "gemini-api-key"}}}')
    variables = {"GEMINI_API_KEY": token, "GOOGLE_GEMINI_BASE_URL": f"{base}/google-ai-studio"}
    return Start(("--skip-trust", "--model", MODEL, "--prompt", prompt), variables)


def opencode(home: Path, base: str, token: str, prompt: str) -> Start:
    options = {"baseURL": f"{base}/openai", "apiKey": token}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "Farebox", "options": options, "models": {MODEL: {}}}
    config = {"provider": {"farebox": provider}, "autoupdate": False, "share": "disabled"}
    (home / "opencode.json").write_text(json.dumps(config))
    return Start(("run", "--model", f"farebox/{MODEL}", prompt), {"OPENCODE_DISABLE_MODELS_FETCH": "1"})


def qwen_code(home: Path, base: str, token: str, prompt: str) -> Start:
    variables = {"OPENAI_API_KEY": token, "OPENAI_BASE_URL": f"{base}/openai", "OPENAI_MODEL": MODEL}
    return Start(("--auth-type", "openai", "--prompt", prompt), variables)


def cline(home: Path, base: str, token: str, prompt: str) -> Start:
    settings = {"provider": "openai-compatible", "apiKey": token, "model": MODEL, "baseUrl": f"{base}/openai"}
    provider = {"settings": settings, "updatedAt": "2026-12-01T00:00:00.000Z", "tokenSource": "manual"}
    stored = {"version": 1, "lastUsedProvider": "openai-compatible", "providers": {"openai-compatible": provider}}
    folder = home / ".cline" / "data" / "settings"
    folder.mkdir(parents=True)
    (folder / "providers.json").write_text(json.dumps(stored))
    return Start(("--provider", "openai-compatible", "--model", MODEL, prompt), {})


def continue_cli(home: Path, base: str, token: str, prompt: str) -> Start:
    model = {"name": MODEL, "provider": "openai", "model": MODEL, "apiBase": f"{base}/openai", "apiKey": token}
    (home / "config.yaml").write_text(
        json.dumps({"name": "Farebox", "version": "1.0.0", "schema": "v1", "models": [model]})
    )
    return Start(("--config", str(home / "config.yaml"), "--print", prompt), {"CONTINUE_TELEMETRY_ENABLED": "0"})


def pi(home: Path, base: str, token: str, prompt: str) -> Start:
    model = {
        "id": MODEL,
        "name": MODEL,
        "contextWindow": 100_000,
        "maxTokens": 1_000,
        "input": ["text"],
        "reasoning": False,
    }
    provider = {"baseUrl": f"{base}/openai", "apiKey": token, "api": "openai-completions", "models": [model]}
    (home / "models.json").write_text(json.dumps({"providers": {"farebox": provider}}))
    words = ("--print", "--provider", "farebox", "--model", MODEL, "--no-session", prompt)
    return Start(words, {"PI_CODING_AGENT_DIR": str(home), "PI_OFFLINE": "1"})


def aider(home: Path, base: str, token: str, prompt: str) -> Start:
    quiet = ("--no-git", "--yes-always", "--no-check-update", "--no-show-model-warnings", "--analytics-disable")
    where = ("--openai-api-base", f"{base}/openai", "--openai-api-key", token)
    return Start(
        ("--model", f"openai/{MODEL}", *where, *quiet, "--message", prompt), {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    )
