"""What requests for batches contain, the paths of batches at providers, and how descriptions say that they have
ended."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from farebox.providers.descriptions import GOOGLE, output_of_google
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest

MESSAGES: Final = "/v1/messages"
"""The endpoint of Anthropic's batches."""
HOURS_MAX: Final = 48
"""The longest duration that a request may set for a batch."""
FILES_MAX: Final = 16
"""Most files that the requests of one batch may be in."""


class BatchRequest(msgspec.Struct, frozen=True):
    """What a request for a batch asks for."""

    endpoint: str
    """The endpoint of its requests."""
    model: str = ""
    """The model of all its requests; empty if each names its own."""
    files: tuple[str, ...] = ()
    """IDs of the files that contain its requests."""
    requests: tuple[msgspec.Raw, ...] = ()
    """The requests in the body."""

    def lines(self) -> Iterator[bytes]:
        """The requests in the body, one per line."""
        for request in self.requests:
            yield bytes(request).replace(b"\n", b" ") + b"\n"  # a line break is white space in JSON


class Output(NamedTuple):
    """Where a batch's responses are."""

    path: str
    inside: bool = False
    """Whether they are in the description of the batch; otherwise they are lines of a file."""


class BatchForm(NamedTuple):
    """The form of one provider's batches."""

    folder: str
    """The path below which a batch's ID follows."""
    endpoints: tuple[str, ...]
    """Endpoints that the requests of a batch may use: others are billed by something that no line states. Empty: the
    path names the endpoint."""
    request: Callable[[bytes, str], BatchRequest]
    """Reads a body, given the model that the path names. Raises InvalidRequest."""
    ended: Callable[[Mapping[str, Any]], bool]
    output: Callable[[Mapping[str, Any]], Output | None]
    """Reads the description of a batch that has ended; None: there is no output."""
    cancel: str = "/cancel"
    content: str = "files/{}/content"
    """The path of a file's content, by its ID."""


class _OpenAI(msgspec.Struct):
    input_file_id: str
    endpoint: str


class _Anthropic(msgspec.Struct):
    requests: list[msgspec.Raw]


class _Mistral(msgspec.Struct):
    endpoint: str
    input_files: list[str] | None = None
    requests: list[msgspec.Raw] | None = None
    model: str | None = None
    agent_id: str | None = None
    timeout_hours: int = 24


class _Requests(msgspec.Struct):
    requests: list[msgspec.Raw]


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    """Google accepts its fields in either spelling."""

    requests: _Requests | None = None
    fileName: str | None = None
    file_name: str | None = None


class _GoogleBatch(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None
    displayName: str | None = None
    display_name: str | None = None
    inputConfig: _Input | None = None
    input_config: _Input | None = None
    priority: str | int | None = None


class _Google(msgspec.Struct, forbid_unknown_fields=True):
    batch: _GoogleBatch


_OPENAI: Final = msgspec.json.Decoder(_OpenAI)
_ANTHROPIC: Final = msgspec.json.Decoder(_Anthropic)
_MISTRAL: Final = msgspec.json.Decoder(_Mistral)
_GOOGLE: Final = msgspec.json.Decoder(_Google)


def _request_of_openai(body: bytes, _: str) -> BatchRequest:
    request = bodies.decode(_OPENAI, body)
    return BatchRequest(request.endpoint, files=(request.input_file_id,))


def _request_of_anthropic(body: bytes, _: str) -> BatchRequest:
    return BatchRequest(MESSAGES, requests=tuple(bodies.decode(_ANTHROPIC, body).requests))


def _request_of_mistral(body: bytes, _: str) -> BatchRequest:
    request = bodies.decode(_MISTRAL, body)
    if request.agent_id is not None:
        raise InvalidRequest("On the operator's key, a batch uses a model, not an agent: name a `model`.")
    if not 0 < request.timeout_hours <= HOURS_MAX:
        raise InvalidRequest(f"On the operator's key, `timeout_hours` is 1 to {HOURS_MAX}.")
    if bool(request.input_files) == bool(request.requests) or len(request.input_files or ()) > FILES_MAX:
        raise InvalidRequest(f"A batch has either `input_files`, at most {FILES_MAX}, or `requests`.")
    files, requests = tuple(request.input_files or ()), tuple(request.requests or ())
    return BatchRequest(request.endpoint, request.model or "", files, requests)


def _request_of_google(body: bytes, model: str) -> BatchRequest:
    batch = bodies.decode(_GOOGLE, body).batch
    given = [config for config in (batch.inputConfig, batch.input_config) if config is not None]
    names = [name for config in given for name in (config.fileName, config.file_name) if name is not None]
    requests = [request for config in given if config.requests is not None for request in config.requests.requests]
    if len(given) != 1 or len(names) + bool(requests) != 1:
        raise InvalidRequest("A batch has either `requests` or a `fileName` in its `inputConfig`.")
    if batch.model not in (None, model, f"models/{model}"):
        raise InvalidRequest("The batch names a different model than the path.")
    files = tuple(name.removeprefix("files/") for name in names)
    return BatchRequest(f"v1beta/models/{model}:generateContent", model, files, tuple(requests))


def _ended_at_openai(batch: Mapping[str, Any]) -> bool:
    return batch.get("status") in ("completed", "failed", "expired", "cancelled")


def _ended_at_mistral(batch: Mapping[str, Any]) -> bool:
    return batch.get("status") in ("SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED")


def _ended_at_google(batch: Mapping[str, Any]) -> bool:
    metadata = batch.get("metadata")
    state = str(metadata.get("state")) if isinstance(metadata, dict) else ""
    return batch.get("done") is True or state.endswith(("_SUCCEEDED", "_FAILED", "_CANCELLED", "_EXPIRED"))


def _openai_output(batch: Mapping[str, Any]) -> Output | None:
    file_id = batch.get("output_file_id")
    return Output(f"files/{file_id}/content") if isinstance(file_id, str) and file_id else None


def _anthropic_output(batch: Mapping[str, Any]) -> Output | None:
    counts = batch.get("request_counts")
    none = isinstance(counts, dict) and counts.get("succeeded") == 0
    return None if none else Output(f"v1/messages/batches/{batch.get('id')}/results")


def _mistral_output(batch: Mapping[str, Any]) -> Output | None:
    file_id = batch.get("output_file")
    if isinstance(file_id, str) and file_id:
        return Output(f"files/{file_id}/content")
    none = batch.get("succeeded_requests") == 0
    return None if none else Output(f"batch/jobs/{batch.get('id')}?inline=true", inside=True)


def _google_output(batch: Mapping[str, Any]) -> Output | None:
    output = output_of_google(batch)
    if isinstance(name := output.get("responsesFile"), str) and name.startswith("files/"):
        return Output(f"v1beta/{name}:download?alt=media")
    return Output(f"v1beta/{batch.get('name')}", inside=True) if output.get("inlinedResponses") else None


_CHAT: Final = "/v1/chat/completions"
FORMS: Final[Mapping[str, BatchForm]] = {
    "openai": BatchForm(
        "batches",
        (_CHAT, "/v1/responses", "/v1/embeddings", "/v1/completions"),
        _request_of_openai,
        _ended_at_openai,
        _openai_output,
    ),
    "anthropic": BatchForm(
        "v1/messages/batches",
        (MESSAGES,),
        _request_of_anthropic,
        lambda batch: batch.get("processing_status") == "ended",
        _anthropic_output,
    ),
    "mistral": BatchForm(
        "batch/jobs",
        (_CHAT, "/v1/embeddings", "/v1/fim/completions"),
        _request_of_mistral,
        _ended_at_mistral,
        _mistral_output,
    ),
    GOOGLE: BatchForm(
        "v1beta/batches",
        (),
        _request_of_google,
        _ended_at_google,
        _google_output,
        ":cancel",
        "v1beta/files/{}:download?alt=media",
    ),
}
"""By the provider's slug, which is also the name of its form."""
RESULTS_URL: Final = "results_url"
"""The field with Anthropic's URL of the results, for which callers have no key."""


def batch_request(form: str, body: bytes, model: str) -> BatchRequest:
    """What the body of a request for a batch asks for; `model` is the model that its path names. Raises
    InvalidRequest."""
    return FORMS[form].request(body, model)


def may_be_output(provider: str, file: Mapping[str, Any]) -> bool:
    """Whether the file with this description (empty if it has not been read) may be the output of a batch."""
    if provider == "openai":
        return bool(file.get("purpose", "batch_output") == "batch_output")
    if provider == GOOGLE:
        return str(file.get("name", "files/batch-")).startswith("files/batch-")
    return provider == "mistral" and bool(file.get("source", "mistral") == "mistral")
