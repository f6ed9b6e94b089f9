"""Generates parts of docs/providers.md: the URL, key, prices and paths of each provider. The text around them is
written by hand."""

import re
from collections.abc import Iterator
from pathlib import Path

from farebox.pricing.list_ids import LIST_IDS
from farebox.pricing.supplement import shipped
from farebox.providers import aws, azure, google
from farebox.providers.catalogue import PROVIDERS
from farebox.providers.formats import fal
from farebox.providers.provider import FREE, Provider, Route
from farebox.providers.unpaid_paths import UNPAID
from farebox.providers.websockets.paths import SOCKET_PATHS

PAGE = Path(__file__).parents[2] / "docs/providers.md"
_OWNED = r"[\w.-]+/[\w.-]+"
_NAMES = (
    (fal.MODEL, "{model}"),
    (rf"{_OWNED}/)?predictions", "{owner}/{name}/)?predictions"),
    (rf"{_OWNED}(/versions(/[\w.-]+)?)?", "{owner}/{name}(/versions(/{version})?)?"),
    (azure.RESOURCE, "{resource}"),
    (azure.DEPLOYMENT, "{deployment}"),
    (aws.REGION, "{region}"),
    (google.PROJECT, "{project}"),
    (google.LOCATION, "{location}"),
    (google.MODEL, "{model}"),
    (aws.MODEL, "{model}"),
    (r"models(/[\w.:@-]+(/[\w.:-]+){0,3})?", "models(/{model})?"),
    (r"(models|tunedModels)/[\w.-]+", "models/{model}"),
    (r"(models|tunedModels)(/[\w.-]+)?", "models(/{model})?"),
    (r"@[a-z]+/[\w.-]+/[\w.-]+", "{model}"),
    (r"[\w.:-]+", "{model}"),
    (r"[\w.-]+", "{model}"),
    (r"[\w-]{1,128}", "{id}"),
    (r"[\w-]+", "{model}"),
    (r"\w+", "{voice}"),
    (r"\d+", "{version}"),
)
"""Patterns of names in paths, and their placeholders."""
_BLOCK = "<!-- `{slug}`, written by `make docs` -->\n{text}<!-- its end -->"


def providers_page() -> str:
    """docs/providers.md with the data of each provider from the table; missing providers are added at the end."""
    page = PAGE.read_text()
    for provider in PROVIDERS:
        block = _BLOCK.format(slug=provider.slug, text=_block(provider))
        pattern = _BLOCK.format(slug=re.escape(provider.slug), text=".*?")
        if not re.search(pattern, page, re.DOTALL):
            page += f"\n## {provider.name}\n\n{_BLOCK.format(slug=provider.slug, text='')}\n"
        page = re.sub(pattern, lambda _, block=block: block, page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def _block(provider: Provider) -> str:
    lines = ["", "| | |", "| --- | --- |"]
    names = ", ".join(f"`{name}`" for name in (provider.slug, *provider.aliases))
    lines.append(f"| name | {names} |")
    lines.append(f"| base URL | {_base_url(provider)} |")
    lines.append(f"| key | {_key(provider)} |")
    lines.append(f"| prices | {_prices(provider)} |")
    if provider.chat_path:
        lines.append(f"| on `compat` | {'chat, embeddings' if provider.embeddings_path else 'chat'} |")
    lines += ["", "| path | read as |", "| --- | --- |"]
    lines += [f"| `{path}` | {read} |" for path, read in _paths(provider)]
    if provider.objects:
        lines += ["", "| path on the operator's key, for objects of the account | action |", "| --- | --- |"]
        lines += [f"| `{path}` | {does} |" for path, does in _kept(provider)]
    if refused := [unpaid for unpaid in UNPAID if unpaid.slug == provider.slug]:
        lines += ["", "| refused on the operator's key | reason |", "| --- | --- |"]
        lines += [f"| `{unpaid.shown}` | {unpaid.why} |" for unpaid in refused]
    return "\n".join(lines) + "\n\n"


def _base_url(provider: Provider) -> str:
    return f"`{provider.base_url}`" if provider.base_url else "the operator's own: `farebox provider set --base-url`"


def _key(provider: Provider) -> str:
    plain = provider.key_header == "authorization"
    header = f"`authorization: {provider.scheme}`" if plain else f"`{provider.key_header}`"
    return header + (f"; the operator's is for a {' and a '.join(provider.bound)}" if provider.bound else "")


def _prices(provider: Provider) -> str:
    listed = LIST_IDS.get(provider.slug)
    if provider.slug == "demo":
        return "its own"
    if listed:
        return f"genai-prices `{listed}`"
    own = "the operator's own: `farebox price set`"
    return f"the supplement; {own}" if shipped().models(provider.slug) else own


def _paths(provider: Provider) -> Iterator[tuple[str, str]]:
    shown: dict[str, str] = {}
    for route in provider.routes:
        for path in _spellings(route):
            shown.setdefault(path, "free" if route[2] is FREE else f"`{getattr(route[2], 'name', '')}`")
    yield from shown.items()
    for socket in SOCKET_PATHS:
        if socket.slug == provider.slug:
            unread = f"only with a key of the account's own: {socket.why}"
            yield f"WebSocket {socket.shown}", unread if socket.kind == "unread" else f"`{socket.kind}`"


def _kept(provider: Provider) -> Iterator[tuple[str, str]]:
    for route in provider.objects:
        path = route.pattern.pattern.replace(azure.RESOURCE, "{resource}").replace("(?:v1/)?", "(v1/)")
        path = path.replace("v1(?:beta1)?", "v1").replace(google.LOCATION, "{location}")
        path = path.replace(google.PROJECT, "{project}").replace(r"veo-[\w.-]+", "veo-{model}")
        path = re.sub(r"\(\?!.*?\)\$?\)|\(\?!.*?\)(?=\()", "", path)
        path = re.sub(r"\(\?P<id>.*?\)", "{id}", path)
        path = re.sub(r"\(\?P<sub>(.*)\)$", r"\1", path).replace("[A-Za-z0-9_-]{1,128}", "{item}")
        path = path.replace("(/{item})?", "(/{item})").replace("v1(beta|alpha)?", "v1beta")
        path = re.sub(r"\(\?P<model>.*?\)", "{model}", path).replace("(download/)?", "(download/)")
        path = path.replace(_OWNED, "{owner}/{app}")
        yield f"{route.method} {path}", f"{route.kind}: {route.does}"


def _spellings(route: Route) -> Iterator[str]:
    text = route[1].pattern
    for pattern, name in _NAMES:
        text = text.replace(pattern, name)
    text = text.replace("(?:", "(").replace("v1(beta|alpha)?", "v1beta").replace("v1(beta1)?", "v1")
    for path in _alternatives(text):
        yield f"{route[0]} {path}"


def _alternatives(text: str) -> list[str]:
    """All strings that match a pattern of literals, alternatives in parentheses and `?`."""
    pieces, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "|" and not depth:
            pieces.append(text[start:at])
            start = at + 1
    if pieces:
        return [path for piece in (*pieces, text[start:]) for path in _alternatives(piece)]
    group = re.search(r"\((?:[^()]|\([^()]*\))*\)\??", text)
    if group is None:
        return [text]
    optional = group[0].endswith("?")
    inside = [*([""] if optional else []), *_alternatives(group[0].removesuffix("?")[1:-1])]
    return [text[: group.start()] + one + rest for one in inside for rest in _alternatives(text[group.end() :])]
