"""The paths about stored provider objects at each provider."""

import re
from typing import Final, TypeAlias

from farebox.providers import google
from farebox.providers.objects import Does, Kind, ObjectForm, ObjectRoute

Table: TypeAlias = tuple[tuple[Kind, str, str, Does], ...]
_ID: Final = r"(?P<id>[A-Za-z0-9_-]{1,128})"
_VERSION: Final = r"v1(beta|alpha)?/"
_RESPONSE: Final = rf"(?!(?:compact|input_tokens)$){_ID}"

_ANTHROPIC: Final[Table] = (
    ("file", "POST", r"files", "create"),
    ("file", "GET", r"files", "list"),
    ("file", "GET", rf"files/{_ID}", "read"),
    ("file", "DELETE", rf"files/{_ID}", "delete"),
    ("file", "GET", rf"files/{_ID}/content", "content"),
    ("batch", "POST", r"messages/batches", "create"),
    ("batch", "GET", r"messages/batches", "list"),
    ("batch", "GET", rf"messages/batches/{_ID}", "read"),
    ("batch", "POST", rf"messages/batches/{_ID}/cancel", "cancel"),
    ("batch", "DELETE", rf"messages/batches/{_ID}", "delete"),
    ("batch", "GET", rf"messages/batches/{_ID}/results", "content"),
)


_OPENAI: Final[Table] = (
    ("response", "GET", rf"responses/{_RESPONSE}", "read"),
    ("response", "DELETE", rf"responses/{_RESPONSE}", "delete"),
    ("response", "POST", rf"responses/{_RESPONSE}/cancel", "cancel"),
    ("response", "GET", rf"responses/{_RESPONSE}(?P<sub>/input_items)", "read"),
    ("conversation", "POST", r"conversations", "create"),
    ("conversation", "GET", rf"conversations/{_ID}", "read"),
    ("conversation", "POST", rf"conversations/{_ID}", "change"),
    ("conversation", "DELETE", rf"conversations/{_ID}", "delete"),
    ("conversation", "GET", rf"conversations/{_ID}(?P<sub>/items(/[A-Za-z0-9_-]{{1,128}})?)", "read"),
    ("conversation", "POST", rf"conversations/{_ID}(?P<sub>/items)", "change"),
    ("conversation", "DELETE", rf"conversations/{_ID}(?P<sub>/items/[A-Za-z0-9_-]{{1,128}})", "change"),
    ("file", "POST", r"files", "create"),
    ("file", "GET", r"files", "list"),
    ("file", "GET", rf"files/{_ID}", "read"),
    ("file", "DELETE", rf"files/{_ID}", "delete"),
    ("file", "GET", rf"files/{_ID}/content", "content"),
    ("batch", "POST", r"batches", "create"),
    ("batch", "GET", r"batches", "list"),
    ("batch", "GET", rf"batches/{_ID}", "read"),
    ("batch", "POST", rf"batches/{_ID}/cancel", "cancel"),
    ("video", "GET", r"videos", "list"),
    ("video", "GET", rf"videos/{_ID}", "read"),
    ("video", "DELETE", rf"videos/{_ID}", "delete"),
    ("video", "GET", rf"videos/{_ID}/content", "content"),
)


_MISTRAL: Final[Table] = (
    ("file", "POST", r"files", "create"),
    ("file", "GET", r"files", "list"),
    ("file", "GET", rf"files/{_ID}", "read"),
    ("file", "DELETE", rf"files/{_ID}", "delete"),
    ("file", "GET", rf"files/{_ID}/content", "content"),
    ("file", "GET", rf"files/{_ID}/url", "content"),
    ("batch", "POST", r"batch/jobs", "create"),
    ("batch", "GET", r"batch/jobs", "list"),
    ("batch", "GET", rf"batch/jobs/{_ID}", "read"),
    ("batch", "POST", rf"batch/jobs/{_ID}/cancel", "cancel"),
    ("batch", "DELETE", rf"batch/jobs/{_ID}", "delete"),
)


_GOOGLE: Final[Table] = (
    ("file", "POST", rf"upload/{_VERSION}files", "create"),
    ("file", "GET", rf"{_VERSION}files", "list"),
    ("file", "GET", rf"{_VERSION}files/{_ID}", "read"),
    ("file", "DELETE", rf"{_VERSION}files/{_ID}", "delete"),
    ("file", "GET", rf"(download/)?{_VERSION}files/{_ID}:download", "content"),
    ("batch", "POST", rf"{_VERSION}models/(?P<model>[\w.-]+):batchGenerateContent", "create"),
    ("batch", "GET", rf"{_VERSION}batches", "list"),
    ("batch", "GET", rf"{_VERSION}batches/{_ID}", "read"),
    ("batch", "POST", rf"{_VERSION}batches/{_ID}:cancel", "cancel"),
    ("batch", "DELETE", rf"{_VERSION}batches/{_ID}", "delete"),
    ("cached_content", "GET", rf"{_VERSION}cachedContents", "list"),
    ("cached_content", "GET", rf"{_VERSION}cachedContents/{_ID}", "read"),
    ("cached_content", "DELETE", rf"{_VERSION}cachedContents/{_ID}", "delete"),
    ("video", "GET", rf"{_VERSION}models/veo-[\w.-]+/operations/{_ID}", "read"),
)


def _routes(table: Table, form: ObjectForm, prefix: str = "") -> tuple[ObjectRoute, ...]:
    return tuple(
        ObjectRoute(method, re.compile(prefix + path, re.ASCII), kind, does, form) for kind, method, path, does in table
    )


def object_routes(prefix: str, *kinds: Kind) -> tuple[ObjectRoute, ...]:
    """OpenAI's paths for these kinds of objects, below a prefix."""
    return _routes(tuple(entry for entry in _OPENAI if entry[0] in kinds), "openai", prefix)


ANTHROPIC: Final = _routes(_ANTHROPIC, "anthropic", "v1/")
MISTRAL: Final = _routes(_MISTRAL, "mistral")
GOOGLE: Final = _routes(_GOOGLE, "google-ai-studio")


XAI_VIDEOS: Final = (ObjectRoute("GET", re.compile(rf"videos/{_ID}", re.ASCII), "video", "read"),)
VERTEX: Final = (
    ObjectRoute(
        "POST",
        re.compile(
            rf"v1(?:beta1)?/projects/{google.PROJECT}/locations/{google.LOCATION}/publishers/google/models/"
            rf"(?P<model>{google.MODEL}):fetchPredictOperation",
            re.ASCII,
        ),
        "video",
        "read",
        "google-vertex-ai",
    ),
)


REPLICATE: Final = (
    ObjectRoute("GET", re.compile(rf"predictions/{_ID}", re.ASCII), "prediction", "read"),
    ObjectRoute("POST", re.compile(rf"predictions/{_ID}/cancel", re.ASCII), "prediction", "cancel"),
)
_FAL: Final = rf"queue/[\w.-]+/[\w.-]+/requests/{_ID}"
FAL: Final = (
    ObjectRoute("GET", re.compile(_FAL, re.ASCII), "prediction", "read"),
    ObjectRoute("GET", re.compile(rf"{_FAL}(?P<sub>/status(/stream)?)", re.ASCII), "prediction", "read"),
    ObjectRoute("PUT", re.compile(rf"{_FAL}/cancel", re.ASCII), "prediction", "cancel"),
)
