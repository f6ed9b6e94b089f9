"""Recorded exchanges with model providers, from the tests of public repositories.

They are not part of this repository: they are read from clones at the commits and in the folders named here. The clones
are in bench/.recordings, where missing ones are created.
"""

import base64
import hashlib
import json
import pickle
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from farebox.providers.catalogue import PROVIDERS, format_of, upstream_path
from farebox.providers.formats.base import ParsedRequest, WireFormat
from farebox.providers.provider import Plain, Provider
from farebox.providers.reading import Place, read_as

FOLDER = Path(__file__).parent / ".recordings"
BODY_MAX = 4 * 2**20
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Source:
    """A repository, and the commit and folders that are read."""

    name: str
    url: str
    commit: str
    license: str


SOURCES = (
    Source(
        "pydantic-ai",
        "https://github.com/pydantic/pydantic-ai",
        "4fda38988f2939fa6ea9cdefcf120693e10ef491",
        "MIT",
    ),
    Source(
        "openllmetry",
        "https://github.com/traceloop/openllmetry",
        "93429cfb9767e6b51db6cb35f6b70f758117669a",
        "Apache-2.0",
    ),
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request to a provider, and its response."""

    provider: str
    """The provider's slug at Farebox."""
    path: str
    """Path and query after the provider's base URL."""
    content_type: str
    request: bytes
    response_type: str
    response: bytes
    place: Place
    wire: WireFormat
    parsed: ParsedRequest


def clone(source: Source) -> Path:
    """A clone that has the commit, created if it is missing."""
    folder = FOLDER / source.name
    if not folder.exists():
        FOLDER.mkdir(exist_ok=True)
        command = ["git", "clone", "--quiet", "--no-checkout", "--filter=blob:none", source.url, str(folder)]
        subprocess.run(command, check=True)
    return folder


def exchanges() -> Iterator[tuple[str, Exchange]]:
    """Each recorded model call that Farebox can meter, once, with the name of its source."""
    seen: set[bytes] = set()
    for source in SOURCES:
        for recorded in _cached(source, clone(source)):
            exchange = _exchange(*recorded)
            key = hashlib.sha256(b"\0".join((recorded[0].encode(), recorded[2]))).digest()
            if exchange is not None and key not in seen:
                seen.add(key)
                yield source.name, exchange


_Recorded = tuple[str, str, bytes, str, bytes]
"""URI, content type, body, content type of the response, its body."""


def _cached(source: Source, folder: Path) -> list[_Recorded]:
    """The exchanges of a source, cached next to the clones, because reading the files takes minutes."""
    kept = FOLDER / f"{source.name}-{source.commit[:12]}.pickle"
    if kept.exists():
        recorded: list[_Recorded] = pickle.loads(kept.read_bytes())
        return recorded
    recorded = list(_read(source, folder))
    FOLDER.mkdir(exist_ok=True)
    kept.write_bytes(pickle.dumps(recorded))
    return recorded


def _read(source: Source, folder: Path) -> Iterator[_Recorded]:
    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True).stdout

    for line in git("ls-tree", "-r", "-z", "--long", source.commit).decode().split("\0"):
        about, _, path = line.partition("\t")
        if "/cassettes/" not in path or not path.endswith((".yaml", ".yml")):
            continue
        size = about.split()[3]
        if size.isdecimal() and int(size) <= BODY_MAX:  # a clone may lack large files
            yield from _of_cassette(git("cat-file", "blob", about.split()[2]))


def _of_cassette(text: bytes) -> Iterator[_Recorded]:
    try:
        found = yaml.load(text, _LOADER)
    except yaml.YAMLError:
        return
    for interaction in (found or {}).get("interactions") or () if isinstance(found, dict) else ():
        request, response = interaction.get("request") or {}, interaction.get("response") or {}
        status = (response.get("status") or {}).get("code")
        if request.get("method") != "POST" or status != 200:
            continue
        body = _body(request)
        if body:
            yield (
                request["uri"],
                _header(request, "content-type"),
                body,
                _header(response, "content-type"),
                _body(response),
            )


def _body(message: dict[str, Any]) -> bytes:
    if message.get("parsed_body") is not None:
        return json.dumps(message["parsed_body"], ensure_ascii=False, default=str).encode()
    body: Any = message.get("body")
    if isinstance(body, dict):
        body = body.get("string") or (base64.b64decode(body["base64_string"]) if body.get("base64_string") else b"")
    return body.encode() if isinstance(body, str) else body or b""


def _header(message: dict[str, Any], name: str) -> str:
    for key, value in (message.get("headers") or {}).items():
        if key.lower() == name:
            return str(value[0] if isinstance(value, list) else value)
    return "application/json"


_BY_HOST = {
    urlsplit(provider.base_url).hostname: provider
    for provider in reversed(PROVIDERS)
    if provider.base_url.startswith("https://") and "{" not in urlsplit(provider.base_url).netloc
}


def _exchange(uri: str, content_type: str, body: bytes, response_type: str, response: bytes) -> Exchange | None:
    url = urlsplit(uri)
    provider = _BY_HOST.get(url.hostname or "")
    if provider is None or not response:
        return None
    path = _path(provider, url.path)
    wire = format_of(provider, "POST", path)
    if isinstance(wire, Plain):
        return None
    place = Place(provider.slug, "POST", path, content_type)
    try:
        parsed = read_as(wire, body, place, None, False).parsed
    except Exception:  # noqa: BLE001 - whatever Farebox would refuse
        return None
    if parsed is None or parsed.unmetered:
        return None
    query = f"?{url.query}" if url.query else ""
    return Exchange(provider.slug, path + query, content_type, body, response_type, response, place, wire, parsed)


def _path(provider: Provider, path: str) -> str:
    base = urlsplit(provider.base_url).path.strip("/")
    return upstream_path(provider, path.strip("/").removeprefix(base).strip("/"))
