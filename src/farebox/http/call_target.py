"""The data plane's URLs: which exist, what each names, and whose SDK is calling."""

import re
from typing import Final

import msgspec

from farebox.gateway import DATA_PLANE_PREFIX, DEFAULT_GATEWAY, gateway_path
from farebox.http.exchange import RequestHeaders
from farebox.http.provider_errors import Form
from farebox.http.router import tidy_path

REST_PREFIX: Final = "/client/v4/accounts/"
RUN: Final = "ai/run"
"""The slug for `/ai/run` with a model of a provider other than Workers AI; no URL segment looks like this."""
_GATEWAY: Final = gateway_path("{account_id}", "{gateway_id}")
_AI: Final = REST_PREFIX + "{account_id}/ai"
_REST: Final = f"{_AI}/v1"
_BY_HEADER: Final = "gateway by cf-aig-gateway-id"

MODEL_CALLS: Final = (
    (
        f"{_GATEWAY}/{{provider}}/{{path}}",
        "A provider's own API behind the gateway: method, path, query and body as the provider accepts them",
    ),
    (f"{_GATEWAY}/compat/chat/completions", "OpenAI's chat format; `model` is `provider/model`"),
    (f"{_GATEWAY}/compat/embeddings", "OpenAI's embeddings format; `model` is `provider/model`"),
    (_GATEWAY, "The universal endpoint: an array of steps, tried in order"),
    (f"{_AI}/run", f"Any model: `model`, and its `input`; {_BY_HEADER}"),
    (f"{_AI}/run/{{model}}", f"The model of the path; the body is its input; {_BY_HEADER}"),
    (f"{_REST}/chat/completions", f"OpenAI's chat format; {_BY_HEADER}"),
    (f"{_REST}/embeddings", f"OpenAI's embeddings format; {_BY_HEADER}"),
    (f"{_REST}/responses", f"OpenAI's Responses format; {_BY_HEADER}"),
    (f"{_REST}/messages", f"Anthropic's Messages format; {_BY_HEADER}"),
)
"""Path and summary of URLs that are called with POST."""
MODEL_LISTS: Final = (
    (f"{_GATEWAY}/compat/models", "The models that can be called, what each costs the account, and whether it can pay"),
    (f"{_GATEWAY}/compat/models/{{model}}", "One of them, by the name that the list has"),
    (f"{_REST}/models", f"The models that can be called; {_BY_HEADER}"),
    (f"{_REST}/models/{{model}}", f"One of them; {_BY_HEADER}"),
)
"""Path and summary of URLs that are read with GET."""

_GOOGLE_METHOD = re.compile(r"\w*(?:[cC]ontents?|[tT]okens|[pP]redict\w*|Operation)")
"""Methods after the colon of Google's paths; a colon alone is part of names such as `x:free`."""
_GOOGLE_METHOD_MAX = 64
"""More letters are no method: the time to compare them grows with their square."""
_CODEX = re.compile(r"codex\b|codex[_-]", re.IGNORECASE)
"""Matches the beginning of Codex's user agent and `originator`, in all its variants."""

LIMIT_STATUS = "farebox-limit-status"
"""A request header that states the status for limits for which waiting is useless."""
_WAITING = re.compile(r"(opencode|QwenCode)/")
"""Matches the beginning of the user agents of clients that wait silently after a 429, however long `Retry-After` is."""
_WAITED_FOR: Final = ("cohere", "deepgram", "elevenlabs", "fal", "replicate")
"""Providers whose own SDKs retry a 429 whatever its headers say, most of them after a silent wait."""
_HUGGING_FACE = "@huggingface/inference/"
"""The beginning of the user agent of Hugging Face's SDK for TypeScript."""


class CallTarget(msgspec.Struct, frozen=True):
    """What a data-plane URL names."""

    account_id: str
    gateway_id: str
    slug: str
    """A provider's slug, `compat`, `rest` or RUN; empty for the universal endpoint."""
    path: str
    """The provider's own path, that of a common format, or for RUN the model (empty: the body names it)."""
    api_host: bool = False
    """Whether the path is one of Cloudflare's API host: such requests contain no provider key."""

    @property
    def form(self) -> Form:
        """Whose SDK is calling, judged by the path: it determines the format of errors."""
        if self.api_host and (self.slug == RUN or self.path.startswith("run/")):
            return "run"
        if self.slug in ("aws-bedrock", "bedrock") and "/model/" in self.path:
            return "bedrock"
        if (
            self.slug == "anthropic"
            or "publishers/anthropic/" in self.path
            or (self.path.endswith(("messages", "messages/count_tokens")) and "threads/" not in self.path)
        ):
            return "anthropic"
        if self.slug in ("google-ai-studio", "google") or _is_google(self.path):
            return "google"
        if not self.slug:
            return "universal"
        if self.slug == "cohere":
            return "cohere"
        if self.slug == "workers-ai" and self.path.startswith("run/"):
            return "workers"
        return "responses" if self.path.endswith(("responses", "responses/compact")) else "openai"

    def form_for(self, headers: RequestHeaders) -> Form:
        """The same, also considering the client itself."""
        form = self.form
        if form == "responses":
            named = (headers.get("originator") or "", headers.get("user-agent") or "")
            form = "codex" if any(_CODEX.match(name) for name in named) else form
        if form == "google" and (headers.get("user-agent") or "").startswith("GeminiCLI"):
            form = "gemini-cli"
        if form == "openai" and (headers.get("user-agent") or "").startswith(_HUGGING_FACE):
            form = "hugging-face"
        return form


def waits_in_silence(target: CallTarget | None, headers: RequestHeaders) -> bool:
    """Whether the client retries every 429 without telling its user: known by the provider's path or the client's name,
    or stated by a header."""
    if target is not None and target.slug in _WAITED_FOR:
        return True
    return headers.get(LIMIT_STATUS) == "403" or _WAITING.match(headers.get("user-agent") or "") is not None


def target_of(path: str, headers: RequestHeaders) -> CallTarget | None:
    """What the URL names; None if it is not a data-plane URL."""
    path = tidy_path(path)
    if path.startswith(REST_PREFIX):
        account_id, _, rest = path.removeprefix(REST_PREFIX).partition("/ai/")
        first, _, rest = rest.partition("/")
        gateway_id = headers.get("cf-aig-gateway-id") or DEFAULT_GATEWAY
        if first == "v1":
            return CallTarget(account_id, gateway_id, "rest", rest, api_host=True) if rest else None
        if first != "run":
            return None
        if rest.startswith("@"):
            return CallTarget(account_id, gateway_id, "workers-ai", f"run/{rest}", api_host=True)
        return CallTarget(account_id, gateway_id, RUN, rest, api_host=True)
    parts = path.split("/", 5)
    if len(parts) < 4 or parts[1] != "v1" or not parts[2] or not parts[3]:
        return None
    return CallTarget(parts[2], parts[3], parts[4] if len(parts) > 4 else "", parts[5] if len(parts) > 5 else "")


def is_data_plane(path: str) -> bool:
    """Whether a request is for the data plane: `/v1/…`, or `/client/v4/accounts/{account_id}/ai/`, `v1/…` or `run…`."""
    if path.startswith(DATA_PLANE_PREFIX) and "//" not in path:
        return len(path) > len(DATA_PLANE_PREFIX)
    path = tidy_path(path)
    if path.startswith(REST_PREFIX):
        rest = path.find("/", len(REST_PREFIX))
        return path.startswith(("/ai/v1/", "/ai/run/"), rest) or path[rest:] == "/ai/run"
    return path.startswith(DATA_PLANE_PREFIX)


def _is_google(path: str) -> bool:
    """Whether a path ends in a method of Google's form."""
    head, _, method = path.rpartition(":")
    before, _, name = head.rpartition("/")
    if not name or not before.endswith("models") or len(method) > _GOOGLE_METHOD_MAX:
        return False
    return _GOOGLE_METHOD.fullmatch(method) is not None
