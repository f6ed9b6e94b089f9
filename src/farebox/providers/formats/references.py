"""What a request refers to by an ID that the provider has handed out: files, items, containers.

A field with one of these names is a reference, wherever it is in a message; but not in arguments or results of tools,
nor in a schema: those are the caller's own data.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from farebox.providers.formats import bodies
from farebox.providers.formats.base import Reference

_KEYS: Final = {
    "file_id": "file",
    "file_ids": "file",
    "vector_store_id": "vector_store",
    "vector_store_ids": "vector_store",
    "container_id": "container",
    "previous_response_id": "response",
    "previous_message_id": "message",
    "fileSearchStoreNames": "vector_store",
    "file_search_store_names": "vector_store",
}
_OWN_WORDS: Final = frozenset({"args", "arguments", "input_schema", "metadata", "parameters", "response", "schema"})
"""Keys whose values are the caller's own."""
_CALLED: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
"""Types of blocks whose `input` is the caller's own."""
_OF_ANY_ITEM: Final = frozenset({"id", "type", "status", "role", "phase"})
"""Fields of an item that are not content. Neither is an empty field, as `result` may be."""
_URIS: Final = ("fileUri", "file_uri")
_GOOGLE_FILE: Final = re.compile(r"(?:^|/)files/([A-Za-z0-9_-]{1,128})$")
_GOOGLE_HOST: Final = "generativelanguage.googleapis.com"
_NEEDLES: Final = re.compile(
    rb"file_id|_store_id|container_id|_response_id|ileUri|file_uri|earchStore|search_store|achedContent|ached_content"
    rb"|\\u00[2-7][0-9a-fA-F]"
)
"""Parts of the names above, and an escape sign, since letters and marks of a name may be written as escapes."""
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_ID_MAX: Final = 256
_HANDED_MAX: Final = 128
"""Most IDs that are taken from one response."""


def hand_out(handed_out: dict[Reference, None], kind: str, object_id: object) -> None:
    """Note that a response shows something that the provider keeps under this ID."""
    if isinstance(object_id, str) and 0 < len(object_id) <= _ID_MAX and len(handed_out) < _HANDED_MAX:
        handed_out[Reference(kind, object_id)] = None


def may_refer(body: bytes) -> bool:
    """Whether the body may have a reference in its messages. Most have none, and are not searched further."""
    find = body.find  # `in` first raises and drops an exception
    if (find(b"_id") < 0 and find(b"earch") < 0 and find(b"ileUri") < 0 and find(b"file_uri") < 0) and (
        find(b"achedContent") < 0 and find(b"ached_content") < 0 and find(b"\\u00") < 0
    ):
        return False  # none of the needles: seven searches are faster than the regular expression
    return _NEEDLES.search(body) is not None


def references_in(content: object) -> Iterator[Reference]:
    """Every reference in a decoded value."""
    stack = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            called = value.get("type") in _CALLED
            for key, inner in value.items():
                if key in _KEYS:
                    yield from _named(_KEYS[key], inner)
                elif key in _URIS:
                    yield from _google_file(inner)
                # The variables of a stored prompt: the caller chooses their names.
                elif key == "variables" and isinstance(inner, dict):
                    stack.extend(inner.values())
                elif key not in _OWN_WORDS and not (called and key == "input"):
                    stack.append(inner)


def items_in(content: object) -> Iterator[Reference]:
    """The items of OpenAI's Responses that are given only by ID: the provider keeps their content."""
    for item in content if isinstance(content, list) else ():
        if isinstance(item, dict) and isinstance(item.get("id"), str) and is_named_only(item):
            yield Reference("item", item["id"])


def is_named_only(item: dict[str, Any]) -> bool:
    """Whether an item has nothing but its ID."""
    if item.get("type") == "reasoning":  # a summary is shown; the reasoning itself is kept at the provider
        return not item.get("encrypted_content") and not item.get("content")
    if item.get("type") == "item_reference":
        return True
    return not any(value for name, value in item.items() if name not in _OF_ANY_ITEM)


def container_in(container: object) -> Iterator[Reference]:
    """A container that is named by its ID, or by an object with its ID."""
    found = container.get("id") if isinstance(container, dict) else container
    if isinstance(found, str) and found:
        yield Reference("container", found)


def audio_in(messages: Iterable[object]) -> Iterator[Reference]:
    """Audio of the model's earlier responses, which the provider keeps."""
    for audio in messages:
        if isinstance(audio, dict) and isinstance(audio.get("id"), str):
            yield Reference("audio", audio["id"])


def compatible_cache_in(*extras: object) -> Iterator[Reference]:
    """The same for Google's fields in OpenAI's form, in either of Google's spellings."""
    stack = list(extras)
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key.lower().replace("_", "") == "cachedcontent":
                    yield from cache_in(inner)
                else:
                    stack.append(inner)


def cache_in(*names: object) -> Iterator[Reference]:
    """Google's cached contents, by name."""
    for name in names:
        if name is not None:
            yield Reference("cached_content", str(name).removeprefix("cachedContents/"))


def _google_file(uri: object) -> Iterator[Reference]:
    """A file kept by Google. Every address at its API, however it is spelled, counts as one."""
    if not isinstance(uri, str):
        return
    if found := _GOOGLE_FILE.search(uri):
        yield Reference("file", found[1])
    elif _GOOGLE_HOST in uri.lower() or uri.strip().lower().startswith("files/"):
        yield Reference("file", uri)


def _named(kind: str, value: object) -> Iterator[Reference]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str) and one:
            yield Reference(kind, one)


def of_body(body: bytes) -> tuple[Reference, ...]:
    """Every reference in a body of any form, each once. Raises InvalidRequest if it is not a JSON object: a provider
    may read what cannot be read here (a byte order mark, `NaN`, UTF-16)."""
    top: dict[str, Any] = bodies.decode(_OBJECT, body)
    inner = top.get("generateContentRequest")
    names = [top, inner] if isinstance(inner, dict) else [top]
    found = [
        *references_in([{key: value} for key, value in top.items()]),
        *items_in(top.get("input")),
        *items_in(top.get("items")),
        *container_in(top.get("container")),
        *(one for name in names for one in cache_in(name.get("cachedContent"), name.get("cached_content"))),
    ]
    if (conversation := top.get("conversation")) is not None:
        given = conversation.get("id") if isinstance(conversation, dict) else conversation
        found.append(Reference("conversation", str(given)))
    return tuple(dict.fromkeys(found))


def of_request(body: bytes, contents: Iterable[object]) -> tuple[Reference, ...]:
    """The references in a request's messages, each once."""
    return tuple(dict.fromkeys(references_in(list(contents)))) if may_refer(body) else ()
