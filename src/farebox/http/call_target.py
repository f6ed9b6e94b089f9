"""What a data-plane URL names, and whose SDK is calling.

/v1/{account}/{gateway}/{provider}/…           a provider's own paths
/v1/{account}/{gateway}/compat/…               OpenAI form, `provider/model`
/v1/{account}/{gateway}                        universal: steps tried in order
/client/v4/accounts/{account}/ai/v1/…          REST form, the gateway named by a header
"""

import re

import msgspec

from farebox.gateway import DEFAULT_GATEWAY
from farebox.http.exchange import RequestHeaders
from farebox.http.provider_errors import Form
from farebox.http.router import tidy_path

REST_PREFIX = "/client/v4/accounts/"
_CODEX = re.compile(r"codex\b|codex[_-]", re.IGNORECASE)
"""What user agent and `originator` of Codex begin with, in all its forms."""


class Target(msgspec.Struct, frozen=True):
    """What a data-plane URL names."""

    account_id: str
    gateway_id: str
    slug: str
    """A provider's, or `compat`, `rest`, or empty for the universal endpoint."""
    path: str

    @property
    def form(self) -> Form:
        """Whose SDK is calling, by the path: it decides the shape of errors."""
        if self.slug == "anthropic" or self.path.endswith(("messages", "messages/count_tokens")):
            return "anthropic"
        if self.slug in ("google-ai-studio", "google") or ("models/" in self.path and ":" in self.path):
            return "google"
        return "openai"

    def form_for(self, headers: RequestHeaders) -> Form:
        """The same, where the client itself matters too."""
        form = self.form
        if form == "openai" and self.path.endswith(("responses", "responses/compact")):
            named = (headers.get("originator") or "", headers.get("user-agent") or "")
            form = "codex" if any(_CODEX.match(name) for name in named) else form
        return form


def target_of(path: str, headers: RequestHeaders) -> Target | None:
    """What the URL names; None if it is not a data-plane URL."""
    path = tidy_path(path)
    if path.startswith(REST_PREFIX):
        account_id, _, rest = path.removeprefix(REST_PREFIX).partition("/ai/v1/")
        gateway_id = headers.get("cf-aig-gateway-id") or DEFAULT_GATEWAY
        return Target(account_id, gateway_id, "rest", rest) if rest else None
    parts = path.split("/", 5)
    if len(parts) < 4 or parts[1] != "v1" or not parts[2] or not parts[3]:
        return None
    return Target(parts[2], parts[3], parts[4] if len(parts) > 4 else "", parts[5] if len(parts) > 5 else "")
